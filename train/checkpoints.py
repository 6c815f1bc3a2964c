"""A run's state on disk: complete or absent, tensors as safetensors, never pickle.

    <run>/model.safetensors                 the newest model, what `--checkpoint <run>` loads: the average where one is kept
    <run>/best.safetensors                  the model that did best on the development objects, where there are any
    <run>/blended.safetensors               of a run of train.furniture: between what it began from and what it became (train.blend)
    <run>/checkpoints/step-00001000/
        model.safetensors                   weights and configuration (model.checkpoints)
        average.safetensors                 their moving average, a model like it
        adapters.safetensors                of a run with LoRA: what these two hold added up (train.lora)
        optimiser.safetensors               AdamW's moments, named after their parameters; of a sharded run each process'
                                            part, optimiser-000-of-002.safetensors …, cut along dimension 0
        state.json                          step, seconds trained, skipped steps, objects drawn

A checkpoint folder is written under a temporary name and renamed; a run that is killed while saving keeps the one before.
Data order and random samples depend on the seed and the number of draws alone, so nothing else needs saving for an exact continuation,
and a run may be continued by another number of processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoints import FILE_NAME, CheckpointError, load_checkpoint, load_model, save_model, write_tensors
from model.lrm import LRM
from train import lora
from train.distributed import ALONE, World, any_failed, part, part_like, wait_for_all, whole
from train.optimiser import Average
from train.schedule import Progress
from turntable.files import atomic_path, disk_errors, read_json, write_json

AVERAGE_NAME = "average.safetensors"
BEST_NAME = "best.safetensors"
BLENDED_NAME = "blended.safetensors"
KEPT = 2
"""Checkpoints kept: the newest, and the one before it in case a disk loses the newest."""
_PART = re.compile(r"optimiser-(\d{3})-of-(\d{3})\.safetensors")


@dataclass
class State:
    """What a run consists of, and a checkpoint holds."""

    lrm: LRM
    optimiser: torch.optim.Optimizer
    progress: Progress
    average: Average | None = None


def save(run: Path, state: State, extra: dict[str, Any], world: World = ALONE, best: bool = False) -> None:
    """Writes a checkpoint, makes it the run's newest model (and its best, if `best`), and removes all but the last `KEPT`.

    Every process calls it; a failure of one is an error of all.
    """
    folder = run / "checkpoints" / f"step-{state.progress.step:08d}"
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        with together(folder):
            if world.first:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
        with together(folder):
            _write(temporary, state, {**extra, "step": state.progress.step}, world)
        with together(folder):
            if world.first:
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if world.first:
        newest = folder / (FILE_NAME if state.average is None else AVERAGE_NAME)
        _link(newest, run / FILE_NAME)
        if best:
            _link(newest, run / BEST_NAME)
        for old in finished(run)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    wait_for_all()


@contextlib.contextmanager
def together(path: Path) -> Iterator[None]:
    """What every process does by itself and all must have done: if any fails, every one raises."""
    failure: BaseException | None = None
    try:
        with disk_errors(path):
            yield
    except Exception as error:  # raised below, once the others know
        failure = error
    if any_failed(failure is not None):
        raise failure or CheckpointError(f"{path}: another process could not write its part; its own message says why")


def _write(folder: Path, state: State, extra: dict[str, Any], world: World) -> None:
    """Everything of a checkpoint into `folder`."""
    weights = gathered(dict(state.lrm.state_dict()), world)
    averaged = {} if state.average is None else gathered(state.average.values, world)
    if world.first:
        save_model(folder / FILE_NAME, state.lrm, extra, lora.merged(state.lrm, weights))
        write_json(folder / "state.json", asdict(state.progress))
        if averaged:
            save_model(folder / AVERAGE_NAME, state.lrm, extra, lora.merged(state.lrm, {**weights, **averaged}))
        if lora.adapted_layers(state.lrm):
            lora.write(folder, state.lrm, weights, averaged)
    moments = _moments(state)
    sharded = any(value is not part(value) for value in moments.values())
    if sharded or world.first:
        name = f"optimiser-{world.rank:03d}-of-{world.size:03d}" if sharded else "optimiser"
        parts = {name: part(value).detach().contiguous() for name, value in moments.items()}
        write_tensors(folder / f"{name}.safetensors", parts)


def gathered(tensors: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """Whole tensors on the CPU, for the first process; nothing for the others, who must call it too. One at a time, so that no
    device holds a whole model that it was spared."""
    found = {}
    for name, tensor in tensors.items():
        complete = whole(tensor.detach())
        if world.first:
            found[name] = complete.cpu().contiguous()
    return found


def _link(file: Path, name: Path) -> None:
    with atomic_path(name) as newest:
        newest.unlink(missing_ok=True)
        os.link(file, newest)


def finished(run: Path) -> list[Path]:
    """The run's complete checkpoint folders, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def to_use(run: Path) -> Path:
    """The model of a run to go on with: blended, else the best, else the newest. A file is itself."""
    chosen = [run / name for name in (BLENDED_NAME, BEST_NAME) if (run / name).is_file()]
    return chosen[0] if chosen else run


def resume(run: Path, state: State) -> dict[str, Any]:
    """Loads the newest checkpoint of `run`, which has one, into `state` -> what else its header says (`save`'s `extra`).

    Raises CheckpointError naming what does not fit.
    """
    folder = finished(run)[-1]
    saved, extra = load_checkpoint(folder / FILE_NAME)
    if saved.config != state.lrm.config:
        raise CheckpointError(f"{folder}: holds a model of another size; give the run's own --model or another --out")
    values = {} if state.average is None else state.average.values
    adapters, averaged_adapters = lora.read(folder, state.lrm, values)
    weights = saved.state_dict() | adapters
    with torch.no_grad():
        for name, value in state.lrm.state_dict().items():
            value.copy_(part_like(weights[name], value))
        if state.average is not None:
            if not (folder / AVERAGE_NAME).is_file():
                raise CheckpointError(f"{folder}: keeps no average; continue it with --average 0")
            averaged = load_model(folder / AVERAGE_NAME).state_dict() | averaged_adapters
            for name, value in values.items():
                value.copy_(part_like(averaged[name].float(), value))
    _restore_moments(folder, state)
    state.progress = _progress(folder / "state.json")
    return extra


def _progress(file: Path) -> Progress:
    try:
        return Progress(**read_json(file))
    except TypeError as error:
        raise CheckpointError(f"{file}: states another progress than this version keeps ({error})") from error


def _moments(state: State) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in state.lrm.named_parameters():
        for key, value in state.optimiser.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value.detach()
    return tensors


def _restore_moments(folder: Path, state: State) -> None:
    parameters = dict(state.lrm.named_parameters())
    for entry, value in _moments_in(folder):
        name, _, key = entry.rpartition("/")
        if name not in parameters:
            raise CheckpointError(
                f"{folder}: optimiser.safetensors names {name}, which the model has not; a run that an older version of"
                " Turntable began can be used, but not continued"
            )
        # AdamW keeps its step count on the CPU, its moments beside the parameter.
        state.optimiser.state[parameters[name]][key] = value if key == "step" else part_like(value, parameters[name])


def _moments_in(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the moments in a checkpoint, each whole, whoever wrote a part of it."""
    files = [folder / "optimiser.safetensors"]
    parts = sorted(file for file in folder.iterdir() if _PART.fullmatch(file.name))
    if parts:
        match = _PART.fullmatch(parts[0].name)
        assert match is not None
        count = int(match[2])
        files = [folder / f"optimiser-{rank:03d}-of-{count:03d}.safetensors" for rank in range(count)]
    with contextlib.ExitStack() as stack:
        try:
            opened = [stack.enter_context(safe_open(file, "pt")) for file in files]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder}: {', '.join(file.name for file in files)}: cannot be read ({error})"
            ) from error
        for name in opened[0].keys():  # noqa: SIM118 - no dict
            tensors = [file.get_tensor(name) for file in opened]
            # A copy: what is read is a view of the file.
            yield name, tensors[0].clone() if name.endswith("/step") else torch.cat(tensors)
