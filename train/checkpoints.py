"""A run's state on disk: complete or absent, tensors as safetensors, never pickle.

    <run>/model.safetensors                 the newest model, what `--checkpoint <run>` loads
    <run>/checkpoints/step-00001000/
        model.safetensors                   weights and configuration (model.checkpoints)
        optimiser.safetensors               AdamW's moments, named after their parameters
        state.json                          step, seconds trained, skipped steps, objects drawn

A checkpoint folder is written under a temporary name and renamed; a run that is killed while saving keeps the one before.
Data order and random samples depend on the seed and the number of draws alone, so nothing else needs saving for an exact continuation.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.checkpoints import FILE_NAME, CheckpointError, load_model, save_model, write_tensors
from model.lrm import LRM
from turntable.files import atomic_path, disk_errors, read_json, write_json

KEPT = 2
"""Checkpoints kept: the newest, and the one before it in case a disk loses the newest."""


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Optimiser steps taken."""
    seconds: float = 0.0
    """Seconds spent training, over all the runs that continued one another."""
    skipped: int = 0
    """Steps not taken because loss or gradient was not finite."""
    draws: int = 0
    """Objects drawn, by all ranks together: where the data order goes on (datasets.order)."""


def save(run: Path, lrm: LRM, optimiser: torch.optim.Optimizer, progress: Progress, extra: dict[str, Any]) -> None:
    """Writes a checkpoint, makes it the run's newest model, and removes all but the last `KEPT`."""
    folder = run / "checkpoints" / f"step-{progress.step:08d}"
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with disk_errors(folder):
            temporary.mkdir(parents=True)
            save_model(temporary / FILE_NAME, lrm, extra)
            write_tensors(temporary / "optimiser.safetensors", _moments(lrm, optimiser))
            write_json(temporary / "state.json", asdict(progress))
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    with atomic_path(run / FILE_NAME) as newest:
        newest.unlink(missing_ok=True)
        os.link(folder / FILE_NAME, newest)
    for old in finished(run)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def finished(run: Path) -> list[Path]:
    """The run's complete checkpoint folders, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def resume(run: Path, lrm: LRM, optimiser: torch.optim.Optimizer) -> Progress:
    """Loads the newest checkpoint of `run`, which has one. Raises CheckpointError naming what does not fit."""
    folder = finished(run)[-1]
    saved = load_model(folder / FILE_NAME)
    if saved.config != lrm.config:
        raise CheckpointError(f"{folder}: holds a model of another size; give the run's own --model or another --out")
    lrm.load_state_dict(saved.state_dict())
    try:
        moments = load_file(folder / "optimiser.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / 'optimiser.safetensors'}: cannot be read ({error})") from error
    _restore_moments(folder, lrm, optimiser, moments)
    return Progress(**read_json(folder / "state.json"))


def _moments(lrm: LRM, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in lrm.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value.detach().contiguous()
    return tensors


def _restore_moments(
    folder: Path, lrm: LRM, optimiser: torch.optim.Optimizer, moments: dict[str, torch.Tensor]
) -> None:
    parameters = dict(lrm.named_parameters())
    for entry, value in moments.items():
        name, _, key = entry.rpartition("/")
        if name not in parameters:
            raise CheckpointError(
                f"{folder}: optimiser.safetensors names {name}, which the model has not; a run that an older version of"
                " Turntable began can be used, but not continued"
            )
        # AdamW keeps its step count on the CPU, its moments beside the parameter.
        place = value if key == "step" else value.to(parameters[name].device)
        optimiser.state[parameters[name]][key] = place
