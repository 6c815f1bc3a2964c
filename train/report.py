"""The evaluation's pictures and page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from train import methods
from turntable import framing, report
from turntable.files import write_text

_SHOWN_VIEWS = 4


def object_picture(truth: methods.Truth, answer: methods.Reconstruction) -> np.ndarray:
    """One object's sheet: the input and true views above, the model's pictures and their error below. (H, W, 3) uint8."""
    chosen = np.linspace(0, len(truth.judged) - 1, min(_SHOWN_VIEWS, len(truth.judged))).round().astype(int)
    true = [_bytes(truth.judged[i].rgb) for i in chosen]
    predicted = [_bytes(answer.judged[i]) for i in chosen]
    error = [_bytes(1 - np.abs(answer.judged[i] - truth.judged[i].rgb)) for i in chosen]
    blank = np.full_like(true[0], 255)
    first = [_bytes(framing.on_background(truth.input_rgba)), blank, blank]
    sheet = [picture for row in zip(first, (true, predicted, error), strict=True) for picture in (row[0], *row[1])]
    columns = len(true) + 1
    names = ["input", *["true"] * len(true), "", *["model"] * len(true), "", *["error"] * len(true)]
    return report.contact_sheet(sheet, columns, names)


def write_page(path: Path, result: dict[str, Any], pictures: list[np.ndarray]) -> None:
    """`report.html`: the protocol, the table with intervals, and a figure an object."""
    rows = result["summary"]["rows"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body = [[name, *(_interval(row.get(column)) for column in columns)] for name, row in rows.items()]
    figures = [
        report.figure(picture, f"{item['uid']} · {item['class']} · {_short(item['figures']['model'])}")
        for item, picture in zip(result["objects"], pictures, strict=True)
    ]
    intro = f"<p>{result['summary']['objects']} objects; means with 95 % bootstrap intervals. {result['protocol']}</p>"
    write_text(path, report.page("Turntable: evaluation", intro, report.table(["", *columns], body), *figures))


def _bytes(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def _interval(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "–"
    return f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _short(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {figures[name]:.3g}" for name in ("psnr", "f@0.05", "iou32", "iou64") if name in figures)
