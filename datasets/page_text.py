"""What the page of `datasets.browse` says in words: an object's record, a view's figures. Records are others' text: escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

import numpy as np

from datasets.objects import StoredObject
from datasets.overlays import Agreement
from turntable import cameras, report

DOUBTFUL = 0.95
"""Right cameras fit better than this in every view tried, of renders and of videos; wrong ones reach 0.2 to 0.9 in the worst."""
FIRST = ("lvis_class", "class", "name", "creator", "licence", "source", "source_url", "path", "mattes", "doubts")
"""What of a record is shown unasked: whose the object is,"""
JUDGED = ("figures", "up", "left_out", "upscaling")
"""and what preprocessing measured of it."""
_MOST_CHARACTERS, _MOST_OF_A_VALUE = 20_000, 600


def view_html(
    opened: StoredObject,
    view: int,
    surface: str,
    found: Agreement,
    fit: Sequence[float],
    depth_distance: float | None,
) -> str:
    """Figures of a view: `found` with what `surface` names, `fit` of every view in [0, 1], and `depth_distance`, within which
    95 % of the depth pass lies from the surface."""
    worst = int(np.argmin(fit))
    rows = [
        ["camera", where(opened.world_from_camera[view], opened.intrinsics[view])],
        [f"{surface} on the matte", f"{100 * found.on_matte:.1f} %"],
        ["matte under them", f"{100 * found.covered:.1f} %"],
        ["worst view", f"{worst}: {100 * fit[worst]:.1f} %"],
    ]
    if depth_distance is not None:
        rows.append(["depth from the surface", f"95 % within {depth_distance:.3f}"])
    rows += [[str(name), str(value)] for name, value in opened.view_records[view].items()]
    doubtful = fit[worst] < DOUBTFUL
    note = warning(f"Cameras, mattes and {surface} disagree, most in view {worst}.") if doubtful else ""
    return note + _styled(report.table(("view", str(view)), rows))


def where(pose: np.ndarray, lens: np.ndarray) -> str:
    """A camera in words."""
    x, y, z = pose[:, 3]
    azimuth, elevation = np.rad2deg(np.arctan2(x, -y)) % 360, cameras.elevation_deg(pose)
    fov = np.rad2deg(2 * np.arctan(0.5 / lens[0]))
    return (
        f"azimuth {azimuth:.1f}°, elevation {elevation:.1f}°, distance {np.linalg.norm((x, y, z)):.3f}, fov {fov:.1f}°"
    )


def record_html(opened: StoredObject) -> str:
    """What is known of an object: what matters most as a table, the whole record folded away."""
    known = [[name, _plain(opened.record[name])] for name in FIRST + JUDGED if opened.record.get(name)]
    size = f"{len(opened.world_from_camera)} views of {', '.join(map(str, opened.sizes))} pixels"
    whole = json.dumps(opened.record, indent=1, ensure_ascii=False)[:_MOST_CHARACTERS]
    folded = f"<details><summary>record</summary><pre>{html.escape(whole)}</pre></details>"
    return _styled(f"<b>{html.escape(opened.uid)}</b>" + report.table(("", size), known) + folded)


def _plain(value: object) -> str:
    """A JSON value in words."""
    parts = [f"{name} {inner}" for name, inner in value.items()] if isinstance(value, dict) else [str(value)]
    return "; ".join(parts)[:_MOST_OF_A_VALUE]


def small(text: str) -> str:
    """Plain text as HTML."""
    return _styled(html.escape(text))


def warning(text: str) -> str:
    """Plain text as HTML in red."""
    return f'<div style="color:#c03020;font-size:0.9em;padding:0 1em;overflow-wrap:anywhere">{html.escape(text)}</div>'


def _styled(inside: str) -> str:
    style = "font-size:0.8em;padding:0 1em;overflow-wrap:break-word;text-align:left"
    return f'<div style="{style}">{inside}</div>'
