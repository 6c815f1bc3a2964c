"""The evaluation's pictures and page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datasets.samples import TargetView
from model import drawing
from train import methods
from train.summary import Rows, class_rows
from turntable import cameras, framing, report
from turntable.files import write_text

_SHOWN_VIEWS = 4


def object_picture(truth: methods.Truth, answers: dict[str, methods.Reconstruction]) -> np.ndarray:
    """One object's sheet: the input and true views above; below, of each model, its pictures, their error and its mesh in grey.

    (H, W, 3) uint8.
    """
    chosen = np.linspace(0, len(truth.judged) - 1, min(_SHOWN_VIEWS, len(truth.judged))).round().astype(int)
    true = [_bytes(truth.judged[i].rgb) for i in chosen]
    blank = np.full_like(true[0], 255)
    sheet = [_bytes(framing.on_background(truth.input_rgba)), *true]
    captions = ["input", *["true"] * len(true)]
    for name, answer in answers.items():
        predicted = [_bytes(answer.judged[i]) for i in chosen]
        error = [_bytes(1 - np.abs(answer.judged[i] - truth.judged[i].rgb)) for i in chosen]
        mesh = [_mesh_picture(answer, truth, truth.judged[i]) for i in chosen]
        sheet += [blank, *predicted, blank, *error, blank, *mesh]
        captions += [name, *[""] * len(true), "error", *[""] * len(true), "mesh", *[""] * len(true)]
    return report.contact_sheet(sheet, len(true) + 1, captions)


def _mesh_picture(answer: methods.Reconstruction, truth: methods.Truth, view: TargetView) -> np.ndarray:
    """The extracted mesh from a judged view's camera; white where there is none."""
    size = len(view.rgb)
    if answer.surface is None:
        return np.full((size, size, 3), 255, np.uint8)
    world_from_canonical = cameras.invert(truth.input_view.canonical_from_world)
    pose = cameras.compose(world_from_canonical, view.world_from_camera)
    return drawing.shown(answer.surface, pose, view.intrinsics, size, plain=True)


def write_page(path: Path, result: dict[str, Any], pictures: list[np.ndarray]) -> None:
    """`report.html`: the protocol, the table with intervals, how models differ, their rows by class, and a figure an object."""
    summary = result["summary"]
    models = list(summary["empty_surfaces"])
    figures = [
        report.figure(picture, f"{item['uid']} · {item['class']} · {_short(item['figures'], models)}")
        for item, picture in zip(result["objects"], pictures, strict=True)
    ]
    intro = f"<p>{summary['objects']} objects; means with 95 % bootstrap intervals. {result['protocol']}</p>"
    tables = [_table(summary["rows"])]
    if summary["differences"]:
        tables += ["<h2>Object by object</h2>", _table(summary["differences"])]
    if len(summary["classes"]) > 1:
        tables += ["<h2>By class</h2><p>Few objects each: no claims.</p>", _table(class_rows(summary))]
    write_text(path, report.page("Turntable: evaluation", intro, *tables, *figures))


def _table(rows: Rows) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body = [[name, *(_interval(row.get(column)) for column in columns)] for name, row in rows.items()]
    return report.table(["", *columns], body)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def _interval(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "–"
    return f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _short(figures: dict[str, dict[str, float]], models: list[str]) -> str:
    shown = ("psnr", "f@0.05", "iou32", "iou64")
    return " · ".join(
        f"{model}: " + ", ".join(f"{name} {figures[model][name]:.3g}" for name in shown if name in figures[model])
        for model in models
    )
