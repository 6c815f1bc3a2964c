"""Fine-tuning on categories: who is drawn how often, what is never trained on, and that nothing gets worse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.captures import capture_path, write_capture
from datasets.categories import read_categories
from datasets.shards import ShardSet
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import make_capture, uid_of
from train import checkpoints
from train.furniture import FurnitureConfig, category_objects, training, training_list, tune
from train.history import read_history
from train.losses import LossWeights
from train.lrm import train
from train.settings import TrainConfig
from turntable.errors import UserError

CLASSES = ["stool", "stool", "stool", "couch", "teapot", "stool"]


def write_shards(folder: Path, classes: list[str], seed: int) -> Path:
    for number, name in enumerate(classes):
        capture = make_capture(uid_of(number, seed), 1000 * seed + number, 5, 64)
        capture = replace(capture, record={**capture.record, "lvis_class": name})
        write_capture(capture_path(folder / "captures", capture.uid), capture)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    return folder / "shards"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two categories and others, a model to begin from, and lists."""
    folder = tmp_path_factory.mktemp("furniture")
    shards = write_shards(folder / "own", CLASSES, 1)
    general = write_shards(folder / "general", ["teapot", "owl"], 2)
    (folder / "seats.toml").write_text('name = "seats"\n[categories]\nchair = ["stool"]\nsofa = ["couch"]\n')
    (folder / "dev.txt").write_text(uid_of(5, 1) + "\n")
    (folder / "judge.txt").write_text(uid_of(2, 1) + "\n")
    train(TrainConfig(general, folder / "init", steps=20, rays=64, samples=12, render_size=64, threads=1))
    assert len(ShardSet(shards)) == 6
    return folder


def config(place: Path, out: Path, **changes: object) -> FurnitureConfig:
    made = FurnitureConfig(
        shards=place / "own/shards", init=place / "init", out=out, categories=place / "seats.toml",
        dev_uids=place / "dev.txt", judge_uids=place / "judge.txt", general=place / "general/shards",
        steps=20, dev_every=10, threads=1, weights=LossWeights(depth=0.0),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_categories_are_drawn_equally_often_and_what_judges_is_not_trained_on(place: Path, tmp_path: Path) -> None:
    settings = config(place, tmp_path)
    kinds = category_objects(settings, read_categories(settings.categories))
    lines = dict([*line.split(), "1"][:2] for line in training_list(settings, kinds))
    assert {uid: float(weight) for uid, weight in lines.items()} == {
        uid_of(0, 1): 0.5, uid_of(1, 1): 0.5, uid_of(3, 1): 1.0, uid_of(0, 2): 1.0, uid_of(1, 2): 1.0,
    }  # fmt: skip


def test_a_category_without_an_object_is_named(place: Path, tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text('name = "m"\n[categories]\nchair = ["stool"]\nbed = ["bunk_bed"]\n')
    settings = config(place, tmp_path / "run", categories=tmp_path / "more.toml")
    with pytest.raises(UserError, match="no object to train on of bed"):
        tune(settings)


def test_it_keeps_the_best_and_says_before_and_after(place: Path, tmp_path: Path) -> None:
    """A learning rate that ruins everything leaves the model that it began from."""
    settings = config(place, tmp_path / "run", learning_rate=0.5)
    assert tune(settings) == 0
    judged = [
        line["development_psnr"] for line in read_history(settings.out / "log.jsonl") if "development_psnr" in line
    ]
    assert len(judged) >= 2 and max(judged[1:]) < judged[0]
    best = checkpoints.load_model(settings.out / "best.safetensors").state_dict()
    began = checkpoints.load_model(place / "init").state_dict()
    assert all(best[name].equal(began[name]) for name in began)
    rows = json.loads((settings.out / "report/before-after.json").read_bytes())
    assert set(rows) == {"chair (1), before", "chair (1), after", "all (1), before", "all (1), after"}
    assert rows["all (1), before"]["psnr"] == rows["all (1), after"]["psnr"]


def test_adapters_are_the_trainer_s(place: Path, tmp_path: Path) -> None:
    assert training(config(place, tmp_path, lora=8), tmp_path / "list.txt").optimiser.lora == 8
