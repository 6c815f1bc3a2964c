"""Between a model and what fine-tuning made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.checkpoints import load_checkpoint
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import uid_of, write_captures
from train.assembly import development_objects
from train.blend import SHARES, Blend, blend_run, blended, choose
from train.checkpoints import to_use
from train.development import DevelopmentConfig
from train.history import read_history
from train.lrm import train
from train.optimiser import OptimiserConfig
from train.settings import TrainConfig


def blend(share: float, psnr: float, solid: float) -> Blend:
    return Blend("best.safetensors", share, {"psnr": psnr, "solid": solid})


START = blend(0, 19.0, 0.37)


@pytest.mark.parametrize(
    ("by", "others", "share"),
    [
        ("solid", [(0.2, 19.1, 0.36), (0.6, 19.0, 0.35), (1, 18.9, 0.34)], 0.6),  # the last has lost pictures
        ("psnr", [(0.2, 19.1, 0.36), (0.6, 19.0, 0.35), (1, 18.9, 0.34)], 0.2),
        ("psnr", [(0.2, 19.2, 0.38), (1, 18.9, 0.34)], 0),  # better in one thing, worse in another
        ("solid", [(1, 18.0, 0.5)], 0),
    ],
)
def test_the_best_that_is_nowhere_worse_is_chosen(
    by: str, others: list[tuple[float, float, float]], share: float
) -> None:
    assert choose([blend(*other) for other in others], START, by).share == share


def test_weights_are_blended_and_counts_are_not() -> None:
    start = {"weight": torch.tensor([0.0, 2.0]), "count": torch.tensor(3)}
    tuned = {"weight": torch.tensor([1.0, 0.0]), "count": torch.tensor(9)}
    found = blended(start, tuned, 0.25)
    assert found["weight"].tolist() == [0.25, 1.5] and found["count"] == 9


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A model of two objects, tuned on a third, judged on a fourth."""
    folder = tmp_path_factory.mktemp("blend")
    write_captures(folder / "captures", 4, views=5, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    uids = [uid_of(number, 1) for number in range(4)]
    for name, listed in {"first": uids[:2], "second": uids[2:3], "dev": uids[3:]}.items():
        (folder / f"{name}.txt").write_text("\n".join(listed) + "\n")
    began = TrainConfig(
        folder / "shards", folder / "init", uids=folder / "first.txt", steps=30, rays=64, samples=12, render_size=64, threads=1,
        device="cpu",
    )  # fmt: skip
    train(began)
    tuned = replace(
        began, out=folder / "tuned", init=folder / "init", uids=folder / "second.txt", steps=20,
        development=DevelopmentConfig(folder / "dev.txt", dev_every=10), optimiser=OptimiserConfig(3e-4, average=0.9),
    )  # fmt: skip
    train(tuned)
    return tuned


def test_a_run_is_blended_and_used_as_it_was_judged(run: TrainConfig) -> None:
    chosen = blend_run(run)
    log = [line["development_psnr"] for line in read_history(run.out / "log.jsonl") if "development_psnr" in line]
    assert chosen.figures["psnr"] >= max(log) - 1e-5  # the start and the tuned model are among what is tried
    assert chosen.share in (0.0, *SHARES)
    assert to_use(run.out) == run.out / "blended.safetensors"
    lrm, extra = load_checkpoint(to_use(run.out))
    assert extra["blend"] == chosen.share
    assert development_objects(run, lrm.config).figures(lrm) == pytest.approx(chosen.figures, abs=1e-4)
    start, tuned = (load_checkpoint(path)[0].state_dict() for path in (run.init, run.out / chosen.tuned))  # type: ignore[arg-type]
    expected = blended(start, tuned, chosen.share)
    assert all(torch.equal(value, expected[name]) for name, value in lrm.state_dict().items())


def test_it_begins_where_the_run_did(run: TrainConfig) -> None:
    began, _ = load_checkpoint(run.init)  # type: ignore[arg-type]
    line = next(line for line in read_history(run.out / "log.jsonl") if "development_psnr" in line)
    assert development_objects(run, began.config).figures(began)["psnr"] == pytest.approx(
        line["development_psnr"], abs=1e-4
    )
