"""Means by row and by class."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.evaluate import names
from train.summary import Judged, summarise, text, text_with_intervals


def test_rows_are_means_over_the_objects_that_have_them() -> None:
    objects = [
        Judged("a", "chair", {"model": {"psnr": 20.0, "iou32": 0.2}, "extra": {"iou32": 0.5}}, {"model": False}),
        Judged("b", "sofa", {"model": {"psnr": 30.0, "iou32": float("nan")}}, {"model": True}),
    ]
    summary = summarise(objects)
    assert summary["rows"]["model"]["psnr"]["mean"] == 25
    assert summary["rows"]["model"]["iou32"]["mean"] == 0.2
    assert summary["rows"]["extra"]["iou32"]["mean"] == 0.5
    assert summary["empty_surfaces"] == {"model": 1}
    assert summary["classes"]["sofa"]["rows"]["model"]["psnr"]["mean"] == 30
    said = text(summary)
    assert "model: 1 of 2 surfaces were empty" in said and "chair (1), model" in said


def test_models_are_compared_object_by_object() -> None:
    """The second model is better by 1 dB on every object; the objects themselves lie 20 dB apart."""
    objects = [
        Judged(str(k), "chair", {name: {"psnr": 10.0 + k + more} for name, more in models.items()}, dict.fromkeys(models, False))
        for models in ({"before": 0.0, "after": 1.0},)
        for k in range(20)
    ]  # fmt: skip
    summary = summarise(objects)
    found = summary["differences"]["after minus before"]["psnr"]
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((1, 1, 1))
    rows = summary["rows"]
    assert rows["before"]["psnr"]["high"] > rows["after"]["psnr"]["low"]  # which the two means do not tell
    assert "| after minus before | 1.00 [1.00, 1.00] | –" in text_with_intervals(summary)
    assert summarise(objects)["classes"]["chair"]["rows"]["after"]["psnr"]["mean"] == 20.5


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("runs/x",), ["model"]),
        (("runs/x", "runs/y/"), ["x", "y"]),
        (("a/run", "b/run"), ["a/run", "b/run"]),
        (("openlrm:mix-base-1.1", "triposr"), ["openlrm:mix-base-1.1", "triposr"]),
        (("a", "a"), ["a (1)", "a (2)"]),
    ],
)
def test_models_are_called_by_what_tells_them_apart(paths: tuple[str, ...], expected: list[str]) -> None:
    assert names(tuple(map(Path, paths))) == expected
