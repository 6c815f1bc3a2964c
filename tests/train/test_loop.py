"""The schedule, the order of the data and the decay groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.lrm import LRM, SIZES
from train.history import History, read_history
from train.optimiser import adamw
from train.schedule import Progress, Schedule


def test_the_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    schedule = Schedule(learning_rate=1.0, warmup_steps=10, steps=1000, final_share=0.1)
    assert schedule.learning_rate_at(Progress(step=0)) == pytest.approx(0.1, rel=1e-3)
    assert schedule.learning_rate_at(Progress(step=500)) == pytest.approx(0.55)
    assert schedule.learning_rate_at(Progress(step=1000)) == pytest.approx(0.1)


def test_a_run_ends_by_whichever_comes_first() -> None:
    schedule = Schedule(learning_rate=1.0, warmup_steps=0, steps=100, minutes=1)
    assert schedule.done(Progress(step=50, seconds=0)) == 0.5
    assert schedule.done(Progress(step=50, seconds=45)) == 0.75
    assert schedule.done(Progress(step=300, seconds=0)) == 1
    with pytest.raises(ValueError, match="--steps or --minutes"):
        Schedule(learning_rate=1.0, warmup_steps=0)


def test_decay_spares_norms_biases_and_positions() -> None:
    lrm = LRM(SIZES["tiny"])
    names = {id(p): n for n, p in lrm.named_parameters()}
    decayed, spared = (
        [names[id(p)] for p in group["params"]] for group in adamw(lrm, 1e-3, 0.05, (0.9, 0.95)).param_groups
    )
    assert not [n for n in decayed if n.endswith("bias") or "norm" in n.split(".")[-2] or "position" in n]
    assert len(decayed) + len(spared) == len(names)
    assert any("attention" in n or "attn" in n for n in decayed)


def test_history_drops_what_came_after_the_checkpoint_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": s, "psnr": 1.0}) + "\n" for s in (20, 40, 60)) + '{"step": 80, "ps')
    history = History(path, step=40)
    history.append(60, {"psnr": 2.0})
    assert read_history(path) == [{"step": 20, "psnr": 1.0}, {"step": 40, "psnr": 1.0}, {"step": 60, "psnr": 2.0}]
