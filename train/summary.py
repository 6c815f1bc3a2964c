"""What the figures of many objects come to: means with intervals, by row and by class, as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from train import metrics

Rows = dict[str, dict[str, dict[str, float]]]
"""Row name -> figure -> mean, low and high."""


SHOWN = ("psnr", "ssim", "chamfer", "f@0.05", "f@0.1", "normals", "iou32", "iou64", "iou128")
"""The figures of a table that has room for intervals."""


@dataclass(frozen=True)
class Judged:
    """One object's figures."""

    uid: str
    category: str
    """The class that it counts for."""
    figures: dict[str, dict[str, float]]
    """Row name -> figure -> value."""
    empty: dict[str, bool] = field(default_factory=dict)
    """Model -> whether it gave no surface."""


def rows(objects: Sequence[Judged]) -> Rows:
    """Means over objects with their bootstrap intervals."""
    rng = np.random.default_rng(0)
    found: Rows = {}
    for name in dict.fromkeys(name for item in objects for name in item.figures):
        found[name] = {}
        for column in metrics.COLUMNS:
            values = [item.figures[name][column] for item in objects if column in item.figures.get(name, {})]
            if values:
                found[name][column] = vars(metrics.bootstrap(values, rng))
    return found


def differences(objects: Sequence[Judged], first: str, others: Sequence[str]) -> Rows:
    """How much larger each figure of other models is than the first's, object by object: their means with bootstrap intervals.

    Objects differ far more than models do, so that intervals of two means overlap where one model is better on nearly every object.
    """
    paired = []
    for item in objects:
        base = item.figures[first]
        found = {
            f"{other} minus {first}": {name: item.figures[other][name] - value for name, value in base.items()}
            for other in others
        }
        paired.append(Judged(item.uid, item.category, found))
    return rows(paired)


def summarise(objects: Sequence[Judged]) -> dict[str, Any]:
    """Over all objects and by class: rows, differences of models, number of objects, number of empty surfaces by model."""
    by_class = {name: [item for item in objects if item.category == name] for name in _classes(objects)}
    models = list(dict.fromkeys(name for item in objects for name in item.empty))
    return {
        "rows": rows(objects),
        "differences": differences(objects, models[0], models[1:]) if len(models) > 1 else {},
        "objects": len(objects),
        "empty_surfaces": {name: sum(item.empty.get(name, False) for item in objects) for name in models},
        "classes": {name: {"objects": len(some), "rows": rows(some)} for name, some in by_class.items()},
    }


def _classes(objects: Sequence[Judged]) -> list[str]:
    return sorted({item.category for item in objects})


def table(found: Rows) -> str:
    """Rows as aligned text: means; a dash where a method has no such figure."""
    width = max(len(name) for name in found)
    columns = [column for column in metrics.COLUMNS if any(column in row for row in found.values())]
    widths = {column: max(len(column) + 2, 9) for column in columns}
    lines = [" " * width + "".join(f"{column:>{widths[column]}}" for column in columns)]
    for name, row in found.items():
        cells = (f"{_mean(row, column):>{widths[column]}}" for column in columns)
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def markdown(found: Rows, columns: Sequence[str] = SHOWN) -> str:
    """Rows as a Markdown table, means with their intervals."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | " + " | ".join(_with_interval(row, column) for column in columns) + " |")
    return "\n".join(lines)


def _with_interval(row: dict[str, dict[str, float]], column: str) -> str:
    if column not in row or not math.isfinite(row[column]["mean"]):
        return "–"
    digits = 2 if column.startswith("psnr") else 3
    mean, low, high = (f"{row[column][part]:.{digits}f}" for part in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _mean(row: dict[str, dict[str, float]], column: str) -> str:
    if column not in row or not math.isfinite(row[column]["mean"]):
        return "-"
    return f"{row[column]['mean']:.{2 if column.startswith('psnr') else 3}f}"


def class_rows(summary: dict[str, Any]) -> Rows:
    """The models' rows of each class, its number of objects in the name."""
    return {
        f"{name} ({part['objects']}), {model}": part["rows"][model]
        for name, part in summary["classes"].items()
        for model in summary["empty_surfaces"]
    }


def text(summary: dict[str, Any]) -> str:
    """The whole summary as text: the table, empty surfaces, and what the models do on each class."""
    parts = [table(summary["rows"])]
    for name, count in summary["empty_surfaces"].items():
        if count:
            parts.append(f"{name}: {count} of {summary['objects']} surfaces were empty at this level")
    if summary["differences"]:
        parts += ["object by object, with 95 % intervals", markdown(summary["differences"])]
    if len(summary["classes"]) > 1:
        parts += ["by class (few objects each: no claims)", table(class_rows(summary))]
    return "\n".join(parts)


def text_with_intervals(summary: dict[str, Any]) -> str:
    """The whole summary in Markdown, every mean with its 95 % bootstrap interval."""
    parts = [markdown(summary["rows"])]
    if summary["differences"]:
        parts += ["Object by object:", markdown(summary["differences"])]
    if len(summary["classes"]) > 1:
        parts += ["By class (few objects each: no claims):", markdown(class_rows(summary))]
    return "\n\n".join(parts)
