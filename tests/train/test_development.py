"""Objects that judge on the way: what is kept as the best, when a run stops, when it warns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from datasets.shards import ShardSet
from model.checkpoints import load_model
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import write_captures
from train import checkpoints
from train.assembly import build_trainer
from train.development import Development, DevelopmentConfig, Verdict, falls_apart
from train.history import read_history
from train.losses import LossWeights
from train.lrm import train
from train.schedule import Progress
from train.settings import TrainConfig

DevBy = Literal["psnr", "solid"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_captures(folder / "captures", 4, views=6, resolution=48, seed=3)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    (folder / "dev.txt").write_text(ShardSet(folder / "shards").uids[0] + "\n")
    return folder


def settings(place: Path, out: Path, by: DevBy, **changes: object) -> TrainConfig:
    config = TrainConfig(
        place / "shards", out, steps=40, rays=32, samples=8, render_size=48, threads=1,
        weights=LossWeights(empty=0, solid=0.1), development=DevelopmentConfig(place / "dev.txt", 10, by),
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


def judge(config: TrainConfig) -> Development:
    shards = ShardSet(config.shards)
    development = build_trainer(config, shards, [1, 2, 3]).development
    assert development is not None
    return development


@pytest.mark.parametrize("by", ["psnr", "solid"])
def test_the_best_is_kept_by_the_figure_that_was_named(place: Path, tmp_path: Path, by: DevBy) -> None:
    config = settings(place, tmp_path / "run", by)
    train(config)
    lines = [line for line in read_history(tmp_path / "run/log.jsonl") if "development_psnr" in line]
    assert [line["step"] for line in lines] == [0, 10, 20, 30, 40]  # what it begins from is judged as well
    found = judge(config).figures(load_model(tmp_path / "run" / checkpoints.BEST_NAME))
    best = max(line["development_psnr"] for line in lines), min(line["development_solid"] for line in lines)
    # The same weights, the same rays and points: the same figures.
    assert found[by] == pytest.approx(best[0] if by == "psnr" else best[1], rel=1e-6)


def test_figures_are_the_same_every_time_and_of_what_is_trained_on(place: Path, tmp_path: Path) -> None:
    config = settings(place, tmp_path / "run", "psnr")
    lrm = build_trainer(config, ShardSet(config.shards), [1, 2, 3]).state.lrm
    told, untold = judge(config), judge(replace(config, weights=LossWeights()))
    assert told.figures(lrm) == told.figures(lrm) and list(told.figures(lrm)) == told.names == ["psnr", "solid"]
    assert list(untold.figures(lrm)) == untold.names == ["psnr"]


def test_judging_by_a_loss_that_is_not_trained_on_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--dev-by solid.*--solid"):
        settings(place, tmp_path / "run", "solid", weights=LossWeights())


@pytest.mark.parametrize(("by", "figures"), [("psnr", [20.0, 22.0, 21.0, 22.0]), ("solid", [0.5, 0.3, 0.4, 0.3])])
def test_patience_runs_out_after_judgements_in_vain(
    place: Path, tmp_path: Path, by: DevBy, figures: list[float]
) -> None:
    config = settings(place, tmp_path / "run", by)
    development = replace(judge(config), config=replace(config.development, patience=2))
    progress, kept, verdicts = Progress(), [], []
    for figure in figures:
        kept.append(development.learn({"psnr": figure, "solid": figure}, progress))
        verdicts.append(development.verdict(progress))
    assert kept == [True, True, False, False]  # as good is not better
    assert verdicts == [Verdict.GO_ON, Verdict.GO_ON, Verdict.GO_ON, Verdict.STOP]
    assert development.best(progress) == ("22.00 dB" if by == "psnr" else "solid loss 0.3000")


@pytest.mark.parametrize(
    ("held_out", "seen", "expected"),
    [
        ([18, 20, 19.4, 19.3, 19.2], [15, 16, 18, 19, 21, 22], True),
        ([18, 20, 19.4, 19.8, 19.2], [15, 16, 18, 19, 21, 22], False),  # one of the last three is near the best
        ([18, 20, 19.4, 19.3, 19.2], [15, 16, 22, 21, 19, 18], False),  # training gets worse too: another matter
        ([20, 19, 18], [15, 16, 18, 19, 21, 22], False),  # too early to tell
    ],
)
def test_falling_apart_is_told_from_noise(held_out: list[float], seen: list[float], expected: bool) -> None:
    assert falls_apart(held_out, seen) is expected
