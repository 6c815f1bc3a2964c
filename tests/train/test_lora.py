"""Low-rank adapters: they begin as nothing, nothing else moves, and what a run writes is an ordinary model."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from datasets.shards import ShardSet
from model.checkpoints import CheckpointError, load_model, save_model
from model.lrm import LRM, SIZES
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import write_captures
from train import checkpoints, lora
from train.assembly import build_trainer
from train.loop import Trainer
from train.lrm import train
from train.optimiser import OptimiserConfig
from train.settings import TrainConfig
from turntable.errors import UserError

MOVED = OptimiserConfig(lora=4, lora_scale=2.0, average=0.5, layer_decay=0.8)
FREE = ("upsampler.", "field.")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three objects and a model to begin from."""
    pytest.importorskip("peft", reason="needs peft, of the extra train")
    folder = tmp_path_factory.mktemp("lora")
    write_captures(folder / "captures", 3, views=6, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    torch.manual_seed(3)
    save_model(folder / "init.safetensors", LRM(SIZES["tiny"]), {})
    return folder


def config(place: Path, out: Path, **changes: object) -> TrainConfig:
    made = TrainConfig(
        place / "shards", out, init=place / "init.safetensors", optimiser=MOVED, steps=8, batch=2, micro_batch=1, rays=64,
        samples=12, render_size=64, threads=1,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def trainer_of(made: TrainConfig) -> Trainer:
    return build_trainer(made, ShardSet(made.shards), [0, 1, 2])


def planes(lrm: LRM) -> torch.Tensor:
    """Of one made-up picture."""
    generator = torch.Generator().manual_seed(0)
    image, camera = torch.rand(1, 3, 128, 128, generator=generator), torch.randn(1, 16, generator=generator)
    with torch.no_grad():
        return lrm.planes(image, camera)


def test_adapters_begin_as_nothing_and_are_few(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = config(place, tmp_path / "run", steps=1)
    lrm = trainer_of(made).state.lrm
    assert planes(lrm).equal(planes(load_model(place / "init.safetensors")))
    layers = lora.adapted_layers(lrm)
    # An attention has three linear layers, an MLP two; an encoder's block has one attention, a decoder's two.
    assert len(layers) == 2 * (3 + 2) + 2 * (6 + 2)
    with caplog.at_level(logging.INFO):
        train(made)
    narrow = sum(4 * sum(lrm.get_submodule(layer).weight.shape) for layer in layers)  # type: ignore[arg-type, misc]
    free = sum(p.numel() for name, p in lrm.named_parameters() if name.startswith(FREE))
    assert narrow < 0.03 * sum(p.numel() for p in lrm.parameters())
    assert f"({(narrow + free) / 1e6:.2f} M trained)" in caplog.text


def test_nothing_but_adapters_upsampler_and_field_moves(place: Path, tmp_path: Path) -> None:
    trainer = trainer_of(config(place, tmp_path))
    before = {name: value.clone() for name, value in trainer.state.lrm.state_dict().items()}
    batches = trainer.batches(0)
    for _ in range(3):
        trainer.step(batches)
    for name, value in trainer.state.lrm.state_dict().items():
        assert value.equal(before[name]) != (".lora_" in name or name.startswith(FREE)), name


def test_what_is_written_is_an_ordinary_model(place: Path, tmp_path: Path) -> None:
    """The weights', and their average's, which is the average of the adapters."""
    trainer = trainer_of(config(place, tmp_path))
    state, batches = trainer.state, trainer.batches(0)
    for _ in range(5):
        trainer.step(batches)
    trainer.save(best=True)
    adapted = planes(state.lrm)
    assert (adapted - planes(load_model(place / "init.safetensors"))).abs().max() > 100 * tolerance(adapted)
    newest = checkpoints.finished(tmp_path)[-1]
    assert (planes(load_model(newest)) - adapted).abs().max() < tolerance(adapted)
    assert state.average is not None
    state.lrm.load_state_dict(state.lrm.state_dict() | state.average.values)
    averaged, snapshot = planes(state.lrm), trainer.snapshot()
    assert snapshot is not None
    for lrm in (load_model(tmp_path), load_model(tmp_path / "best.safetensors"), snapshot):
        assert (planes(lrm) - averaged).abs().max() < tolerance(averaged)
    assert (averaged - adapted).abs().max() > 100 * tolerance(averaged)


def tolerance(values: torch.Tensor) -> float:
    """W x + B A x and (W + B A) x differ by rounding, 6e-8 of the largest term, in each of four blocks' layers."""
    return 2e-5 * float(values.abs().max())


def test_a_killed_run_resumed_equals_one_that_was_not(place: Path, tmp_path: Path) -> None:
    """To the last bit: weights, average, adapters, moments."""
    train(config(place, tmp_path / "whole"))
    trainer = trainer_of(config(place, tmp_path / "cut"))
    batches = trainer.batches(0)
    for _ in range(6):
        trainer.step(batches)
        if trainer.progress.step == 5:
            trainer.save()  # one more step is lost with the process
    train(config(place, tmp_path / "cut", resume=True))
    whole, cut = (checkpoints.finished(tmp_path / name)[-1] for name in ("whole", "cut"))
    for name in ("model", "average", "adapters", "optimiser"):
        first, second = (load_file(folder / f"{name}.safetensors") for folder in (whole, cut))
        assert first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first), name


def test_a_frozen_encoder_gets_no_adapters(place: Path, tmp_path: Path) -> None:
    lrm = trainer_of(config(place, tmp_path, optimiser=replace(MOVED, freeze="encoder"))).state.lrm
    assert {layer.partition(".")[0] for layer in lora.adapted_layers(lrm)} == {"decoder"}
    assert not any(parameter.requires_grad for parameter in lrm.encoder.parameters())


def test_what_cannot_be_is_refused(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--freeze encoder-decoder"):
        OptimiserConfig(lora=4, freeze="encoder-decoder")
    with pytest.raises(ValueError, match="lora ≥ 0"):
        OptimiserConfig(lora=-1)
    with pytest.raises(ValueError, match="--lora adapts a trained model; name it with --init"):
        config(place, tmp_path, init=None)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[train\]"):
        trainer_of(config(place, tmp_path))


def test_adapters_that_do_not_fit_are_named(place: Path, tmp_path: Path) -> None:
    trainer = trainer_of(config(place, tmp_path))
    trainer.save()
    file = checkpoints.finished(tmp_path)[-1] / lora.FILE_NAME
    good = load_file(file)
    name = next(name for name in good if "lora_B" in name)
    for tensors, complaint in (
        (good | {name: good[name][:, :2]}, rf"{name} is \(\d+, 2\)"),
        (good | {name: good[name] * torch.nan}, f"{name} is not finite"),
        ({key: good[key] for key in good if key != name}, f"missing {name}"),
    ):
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
        with pytest.raises(CheckpointError, match=complaint):
            checkpoints.resume(tmp_path, trainer.state)
    file.unlink()
    with pytest.raises(CheckpointError, match="begun without --lora"):
        checkpoints.resume(tmp_path, trainer.state)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["ddp", "fsdp"])
def test_two_processes_continue_what_one_began(place: Path, tmp_path: Path, sharing: str) -> None:
    trainer = trainer_of(config(place, tmp_path / "one"))
    batches = trainer.batches(0)
    for _ in range(8):
        trainer.step(batches)
        if trainer.progress.step == 3:
            trainer.save()
            shutil.copytree(tmp_path / "one/checkpoints", tmp_path / "two/checkpoints")
    trainer.save()
    words = f"""--shards {place}/shards --out {tmp_path}/two --init {place}/init.safetensors --lora 4 --lora-scale 2 --average 0.5
        --layer-decay 0.8 --steps 8 --batch 2 --rays 64 --samples 12 --render-size 64 --threads 1 --device cpu --sharing {sharing}"""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "train.lrm"]
    done = subprocess.run(
        [*start, *words.split(), "--resume"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (checkpoints.finished(tmp_path / name)[-1] for name in ("one", "two"))
    assert one.name == two.name == "step-00000008"
    for name in ("model", "average", "adapters"):
        first, second = (load_file(folder / f"{name}.safetensors") for folder in (one, two))
        apart = {key: float((first[key] - second[key]).abs().max() / scale_of(first[key])) for key in first}
        # As in test_distributed: sums in another order, and Adam, for which the last bit of a gradient near 0 is a whole step.
        assert max(apart.values()) < 5e-3, (name, max(apart, key=lambda key: apart[key]))


def scale_of(tensor: torch.Tensor) -> float:
    return max(float(tensor.std(correction=0)), 1e-3)
