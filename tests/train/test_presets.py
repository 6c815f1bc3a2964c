"""Presets: valid, given fields win, and their arithmetic is of what is so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from model.lrm import LRM, SIZES
from preprocess.captures import PreprocessConfig, preprocess
from tests.conftest import ROOT
from tests.datasets.synthetic import write_captures
from train.lrm import train
from train.presets import GIB, KEPT, MOST, PRESETS, Preset, PresetName, recipe_of
from train.recipes import RECIPES
from train.settings import StepSize, TrainConfig, choose, step_size


def config(name: PresetName | None, **changes: object) -> TrainConfig:
    return replace(TrainConfig(Path("s"), Path("o"), preset=name), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "preset"), PRESETS.items())
def test_a_preset_is_a_valid_run_that_fits(name: PresetName, preset: Preset) -> None:
    made = config(name)
    assert made.size == preset.model
    assert step_size(made, 1000) == StepSize(preset.batch, preset.micro_batch, preset.rays)
    assert step_size(made, 1000, 8) == StepSize(8 * preset.batch, preset.micro_batch, preset.rays)
    assert (choose(made, "views"), choose(made, "samples")) == (preset.views, preset.samples)
    assert made.recipe.learning_rate == RECIPES[preset.model].learning_rate
    assert preset.needed() <= MOST * preset.memory


@pytest.mark.parametrize(("name", "preset"), PRESETS.items())
@pytest.mark.parametrize("objects", [1, 3, 5, 7])
def test_few_objects_take_no_more_memory(name: PresetName, preset: Preset, objects: int) -> None:
    """They get more rays, but never more at a time than the preset's objects have."""
    step = step_size(config(name), objects)
    assert step.batch % step.micro_batch == 0 and step.batch == min(objects, preset.batch)
    assert step.rays >= preset.rays
    assert step.micro_batch <= preset.micro_batch
    assert step.micro_batch * step.rays <= preset.micro_batch * preset.rays


def test_what_is_given_wins() -> None:
    made = config("8gb", model="base", batch=6, rays=64, views=2)
    assert made.size == "base" and choose(made, "views") == 2
    assert step_size(made, 1000) == StepSize(6, 1, 64)
    assert step_size(replace(made, micro_batch=3), 1000) == StepSize(6, 3, 64)
    assert choose(made, "samples") == PRESETS["8gb"].samples
    assert config(None).size == "tiny" and config(None).recipe == RECIPES["tiny"]
    assert recipe_of("tiny", "8gb").warmup_steps == RECIPES["tiny"].warmup_steps


def test_what_a_step_keeps_is_what_was_measured() -> None:
    """Of the model that is quickly looked at; sizes of what autograd saves do not depend on the machine."""
    lrm = LRM(SIZES["tiny"])
    own = {p.untyped_storage().data_ptr() for p in [*lrm.parameters(), *lrm.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage  # keeps it, so that no other is put in its place
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        lrm.planes(torch.rand(2, 3, 128, 128), torch.randn(2, 16))
    # Positions and the attention's seeds are kept once, not an object; the table is rounded to a hundredth of a GiB.
    assert sum(storage.nbytes() for storage in saved.values()) / 2 / GIB == pytest.approx(KEPT["tiny"], rel=0.1)


def test_the_documentation_says_the_same() -> None:
    text = (ROOT / "docs/training.md").read_text()
    for name, preset in PRESETS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.strip("| ").split("|")]
        steps = f"{preset.batch}, {preset.micro_batch} at a time"
        rays = f"{preset.views} × {preset.rays:,} × {preset.samples}"
        assert cells[1:4] == [preset.model, steps, rays], row
        assert cells[-1] == f"{preset.needed():.1f} of {preset.memory:g}", row


def test_a_plan_says_what_the_preset_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_captures(tmp_path / "captures", 4, views=4, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=tmp_path / "captures", out=tmp_path / "shards"))
    here = {"shards": tmp_path / "shards", "out": tmp_path / "run", "render_size": 64, "threads": 1, "plan": True}
    assert train(config("cpu", **here)) == 0
    said = capsys.readouterr().out
    assert "preset       cpu: --model tiny --batch 4" in said
    assert re.search(r"predicted    4 objects a step, 4 at once", said)
    assert not caplog.records
    train(config("8gb", **here, model="tiny", micro_batch=1, rays=16, samples=8))
    assert "--model tiny wins over the preset's model" in caplog.text
    assert "predicted    4 objects a step, 1 at once" in capsys.readouterr().out
