"""A dry run's arithmetic, on trials made up so that the answer is plain."""

from __future__ import annotations

from render.estimate import Plan, Trial, prediction, spread
from turntable.jobs import ItemError

STAGES = {"load": 1.0, "render": 3.0, "write": 2.0}


def test_what_grows_with_the_views_and_what_does_not() -> None:
    trial = Trial("a", 3, STAGES, view_bytes=300, other_bytes=1000)
    assert trial.seconds(3) == 6 and trial.seconds(30) == 33
    assert trial.size(3) == 1300 and trial.size(30) == 4000


def test_a_prediction_counts_workers_failures_and_start() -> None:
    trials = [Trial(uid, 3, STAGES, 3_000_000, 1_000_000) for uid in "ab"]
    said = prediction(trials, [], Plan(assets=3600, views=3, workers=2, gpus=2, start_s=0))
    # 3600 assets of 6 s on two workers: 3 hours on 2 GPUs; 4 MB each.
    assert "3 hours (3 hours to 3 hours), 6 GPU hours" in said and "14.4 GB" in said
    assert "load 17 %, render 50 %, write 33 %" in said
    half = prediction(trials, [ItemError("empty", "x: nothing"), ItemError("crash", "y")], Plan(3600, 3, 2, 0, 0))
    assert "2 of 4 assets rendered" in half and "empty: x: nothing" in half and "90 minutes" in half


def test_nothing_rendered_predicts_nothing() -> None:
    assert "nothing can be predicted" in prediction([], [ItemError("empty", "x")], Plan(10, 3, 1, 0, 0))


def test_trials_are_spread_over_the_list() -> None:
    assert spread(3, 5) == [0, 1, 2] and spread(100, 5) == [10, 30, 50, 70, 90]
