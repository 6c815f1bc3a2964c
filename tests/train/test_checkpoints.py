"""A run's state survives: exactly, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from model.checkpoints import CheckpointError
from model.lrm import LRM, SIZES
from train import checkpoints
from train.checkpoints import State
from train.optimiser import Average, adamw
from train.schedule import Progress


def trained(seed: int = 0, steps: int = 3) -> tuple[LRM, torch.optim.AdamW]:
    torch.manual_seed(seed)
    lrm = LRM(SIZES["tiny"])
    optimiser = adamw(lrm, 1e-3, 0.05, (0.9, 0.95))
    for step in range(steps):
        one_step(lrm, optimiser, step)
    return lrm, optimiser


def one_step(lrm: LRM, optimiser: torch.optim.AdamW, step: int) -> float:
    generator = torch.Generator().manual_seed(step)
    image, camera = torch.rand(1, 3, 128, 128, generator=generator), torch.randn(1, 16, generator=generator)
    loss = lrm.planes(image, camera).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def test_a_resumed_run_goes_on_exactly(tmp_path: Path) -> None:
    lrm, optimiser = trained()
    average = Average(lrm.named_parameters(), 0.9)
    checkpoints.save(tmp_path, State(lrm, optimiser, Progress(3, 1.5, 1), average), {})
    other, other_optimiser = trained(seed=9, steps=0)
    state = State(other, other_optimiser, Progress(), Average(other.named_parameters(), 0.9))
    checkpoints.resume(tmp_path, state)
    assert state.progress == Progress(3, 1.5, 1)
    assert all(torch.equal(state.average.values[name], value) for name, value in average.values.items())
    for step in range(3, 6):
        assert one_step(lrm, optimiser, step) == one_step(other, other_optimiser, step)


def test_only_the_newest_are_kept_and_the_run_names_the_newest(tmp_path: Path) -> None:
    lrm, optimiser = trained(steps=1)
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, State(lrm, optimiser, Progress(step)), {})
    assert [p.name for p in checkpoints.finished(tmp_path)] == ["step-00000002", "step-00000003"]
    newest = checkpoints.finished(tmp_path)[-1] / "model.safetensors"
    assert (tmp_path / "model.safetensors").samefile(newest)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, small_disk: Path) -> None:
    lrm, optimiser = trained(steps=1)
    run = small_disk / "run"
    checkpoints.save(run, State(lrm, optimiser, Progress(1)), {})
    (small_disk / "ballast").write_bytes(b"0" * (room(small_disk) - 1_000_000))
    with pytest.raises(OSError, match="free some space") as caught:
        checkpoints.save(run, State(lrm, optimiser, Progress(2)), {})
    assert type(caught.value).__name__ == "DiskFullError"
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000001"]
    state = State(*trained(seed=5, steps=0), Progress())
    checkpoints.resume(run, state)
    assert state.progress.step == 1


def room(folder: Path) -> int:
    figures = os.statvfs(folder)
    return figures.f_bavail * figures.f_frsize


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    lrm, optimiser = trained(steps=1)
    checkpoints.save(tmp_path, State(lrm, optimiser, Progress(1)), {})
    folder = checkpoints.finished(tmp_path)[-1]
    (folder / "optimiser.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"optimiser\.safetensors"):
        checkpoints.resume(tmp_path, State(lrm, optimiser, Progress()))
