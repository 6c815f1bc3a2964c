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
"""Right cameras give both figures of an `Agreement` above this in every view of the renders tried, wrong ones far below."""
FIRST = ("lvis_class", "class", "name", "creator", "licence", "source", "source_url", "gates", "checks", "doubts")
"""What of a record is shown unasked."""
_MOST_CHARACTERS = 20_000


def view_html(
    opened: StoredObject, view: int, surface: str, found: Sequence[Agreement], depth_distance: float | None
) -> str:
    """Figures of one view, and of all: `found` is one a view, `surface` what they were found with, `depth_distance` within which
    95 % of the depth pass lies from it."""
    worst = min(range(len(found)), key=lambda k: min(found[k].on_matte, found[k].covered))
    rows = [
        ["camera", where(opened.world_from_camera[view], opened.intrinsics[view])],
        [f"{surface} on the matte", f"{100 * found[view].on_matte:.1f} %"],
        ["matte under them", f"{100 * found[view].covered:.1f} %"],
        ["worst view", f"{worst}: {100 * found[worst].on_matte:.1f} %, {100 * found[worst].covered:.1f} %"],
    ]
    if depth_distance is not None:
        rows.append(["depth from the surface", f"95 % within {depth_distance:.3f}"])
    rows += [[str(name), str(value)] for name, value in opened.view_records[view].items()]
    doubtful = min(found[worst].on_matte, found[worst].covered) < DOUBTFUL
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
    known = [[name, str(opened.record[name])] for name in FIRST if opened.record.get(name)]
    size = f"{len(opened.world_from_camera)} views of {', '.join(map(str, opened.sizes))} pixels"
    whole = json.dumps(opened.record, indent=1, ensure_ascii=False)[:_MOST_CHARACTERS]
    folded = f"<details><summary>record</summary><pre>{html.escape(whole)}</pre></details>"
    return _styled(report.table((opened.uid, size), known) + folded)


def small(text: str) -> str:
    """Plain text as HTML."""
    return _styled(html.escape(text))


def warning(text: str) -> str:
    """Plain text as HTML in red."""
    return f'<div style="color:#c03020;padding:0 1em;overflow-wrap:anywhere">{html.escape(text)}</div>'


def _styled(inside: str) -> str:
    style = "font-size:0.8em;padding:0 1em;overflow-wrap:anywhere;text-align:left"
    return f'<div style="{style}">{inside}</div>'
