"""What a step is said to take follows from two measurements; and a real one comes close."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import write_captures
from train.plan import Plan, Step, advice

GIB = 2.0**30
PLAN = Plan({"encoder": 10}, Step(1.0, 4 * GIB), Step(1.5, 6 * GIB), loading=0.1, cache=0.0)


def test_time_and_memory_grow_by_the_object() -> None:
    assert PLAN.step(8, 8) == Step(pytest.approx(4.5), 18 * GIB)
    assert PLAN.step(8, 2) == Step(pytest.approx(6.0), 6 * GIB)
    assert (PLAN.most_at_once(3.9 * GIB), PLAN.most_at_once(4 * GIB), PLAN.most_at_once(10 * GIB)) == (0, 1, 4)


def test_the_advice_fits() -> None:
    step = PLAN.step(8, 8)
    assert "fits" in advice(PLAN, step, 24 * GIB, 8)[0] and "does not" not in advice(PLAN, step, 24 * GIB, 8)[0]
    assert "--micro-batch 4 does" in advice(PLAN, step, 12 * GIB, 8)[0]
    assert "not even one" in advice(PLAN, step, 3 * GIB, 8)[0]


def test_a_plan_comes_close_and_writes_nothing(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", 4, views=4, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=tmp_path / "captures", out=tmp_path / "shards"))
    command = [sys.executable, "-m", "train.lrm", "--shards", str(tmp_path / "shards"), "--out", str(tmp_path / "run")]
    more = ["--threads", "1", "--rays", "256", "--render-size", "64", "--device", "cpu", "--plan"]
    said = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, check=True).stdout
    assert "predicted    4 objects a step, 4 at once" in said and "fits" in said
    assert not (tmp_path / "run").exists()
