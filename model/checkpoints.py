"""Our checkpoints: one safetensors file that carries the network's configuration and where it came from.

The file's metadata (safetensors allows strings only) holds `format`, `version`, `config` and `extra`, the last two as JSON.
Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import torch

from model.lrm import LRM, LRMConfig, config_from_json
from turntable.errors import UserError
from turntable.files import atomic_path

FORMAT = "turntable-lrm"
VERSION = 1
FILE_NAME = "model.safetensors"
"""What a run's folder calls its model."""


class CheckpointError(UserError):
    """A file that is not a whole checkpoint of ours, or one of another network."""


def save_model(path: Path, lrm: LRM, extra: dict[str, Any]) -> None:
    """Writes the network to `path` (.safetensors), complete or not at all. `extra` is JSON: step, licences, typical camera …"""
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(dataclasses.asdict(lrm.config)),
        "extra": json.dumps(extra),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in lrm.state_dict().items()}
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, complete or not at all. A full disk is an OSError, as from any other writer."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            # The library reports what the system said in words only.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), str(error), str(path)) from error


def load_model(path: Path, device: torch.device | str = "cpu") -> LRM:
    """The network in `path`, a file or a folder that holds `model.safetensors`, in evaluation mode."""
    return load_checkpoint(path, device)[0]


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[LRM, dict[str, Any]]:
    """The network in `path` and its `extra`."""
    file = find_checkpoint(path)
    config, extra = _metadata(file)
    lrm = LRM(config, load_weights=False)
    _fill(lrm, file)
    return lrm.to(device).eval(), extra


def find_checkpoint(path: Path) -> Path:
    """The checkpoint's file: `path` itself, or the model in the folder `path`."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint; give a .safetensors file or the folder of a training run")
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = [file.name for file in found]
        raise CheckpointError(
            f"{path}: holds no {FILE_NAME}, and {len(found)} other .safetensors files {names}; name one"
        )
    return found[0]


def _metadata(file: Path) -> tuple[LRMConfig, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            metadata = tensors.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: {_what(file)}, not a whole safetensors file ({error}); train or copy it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: a safetensors file, but not a checkpoint of ours (format {metadata.get('format')!r}, expected {FORMAT!r})"
        )
    if metadata.get("version") != str(VERSION):
        raise CheckpointError(f"{file}: checkpoint version {metadata.get('version')}, this code reads {VERSION}")
    try:
        return config_from_json(json.loads(metadata["config"])), json.loads(metadata["extra"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: the configuration in it cannot be read ({error!r}); was it written by a newer version?"
        ) from error


def _what(file: Path) -> str:
    """What a file's first bytes look like."""
    with file.open("rb") as handle:
        head = handle.read(64)
    if not head:
        return "an empty file"
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return "a pickle (PyTorch's own format), which is never loaded"
    if head.lstrip()[:1] == b"<":
        return "an HTML page"
    return f"{file.stat().st_size} bytes"


def _fill(lrm: LRM, file: Path) -> None:
    """Copies every tensor of `file` into `lrm`; each must be there, expected and of the right shape."""
    from safetensors.torch import load_file

    found, expected = load_file(file), lrm.state_dict()
    problems = [f"missing {name} {tuple(t.shape)}" for name, t in expected.items() if name not in found]
    problems += [f"unexpected {name} {tuple(t.shape)}" for name, t in found.items() if name not in expected]
    problems += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(t.shape)}"
        for name, t in expected.items()
        if name in found and found[name].shape != t.shape
    ]
    if problems:
        raise CheckpointError(
            f"{file}: does not fit the network that its own configuration describes: {len(problems)} tensors"
            f" ({'; '.join(problems[:5])}); it is another model's checkpoint or a damaged one"
        )
    broken = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{file}: {', '.join(broken[:5])} ({len(broken)} tensors) are not finite; its training diverged"
        )
    lrm.load_state_dict(found)
