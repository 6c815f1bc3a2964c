"""Checkpoints: ours, one safetensors file that carries the network's configuration and where it came from; and other people's.

Our file's metadata (safetensors allows strings only) holds `format`, `version`, `config` and `extra`, the last two as JSON.
Version 2 is written; version 1, whose encoder had transformers' names, is read. Published models are read in the
layouts of their own (`model.openlrm`, `model.triposr`), from a folder or by name. Nothing but tensors is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import conversion, hub, openlrm, triposr
from model.conversion import Sizes, Table
from model.encoder_weights import UNUSED, renamed, transformers_table
from model.families import Extra, Family
from model.lrm import LRM, config_from_json, without_weights
from model.tensors import SUFFIXES, CheckpointError, read_tensors
from turntable.files import atomic_path

__all__ = [
    "CheckpointError",
    "find_checkpoint",
    "load_checkpoint",
    "load_model",
    "obtain_checkpoint",
    "save_model",
    "write_tensors",
]

FORMAT = "turntable-lrm"
VERSION = 2
READ = ("1", "2")
"""Versions of our own format that are read."""
FILE_NAME = "model.safetensors"
"""What a run's folder calls its model."""
FAMILIES: tuple[Family, ...] = (openlrm.FAMILY, triposr.FAMILY)


def save_model(
    path: Path,
    lrm: LRM,
    extra: dict[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the network to `path` (.safetensors), complete or not at all. `extra` is JSON: step, licences, typical camera …

    `weights` take the place of the network's own: a moving average of them, what was gathered of a sharded one's, or the same in
    half precision. They are read as float32 whatever they are written as.
    """
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(dataclasses.asdict(lrm.config)),
        "extra": json.dumps(extra),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (weights or lrm.state_dict()).items()}
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, complete or not at all. A full disk is an OSError, as from any other writer."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        temporary.touch()
        readers = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata)
            temporary.chmod(readers)  # The library keeps its files to their owner, whatever the umask says.
        except SafetensorError as error:
            # The library reports what the system said in words only.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), str(error), str(path)) from error


def load_model(path: Path | str, device: torch.device | str = "cpu") -> LRM:
    """As `load_checkpoint`, the network alone; in evaluation mode."""
    return load_checkpoint(path, device)[0]


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> tuple[LRM, Extra]:
    """The network in `path` and its `extra`: a file, a folder, or the name of a published model (`model.hub.PUBLISHED`)."""
    published = _published(path)
    file = obtain_checkpoint(path)
    tensors, metadata = read_tensors(file)
    if metadata.get("format") == FORMAT:
        lrm, extra = _load_own(file, tensors, metadata)
    else:
        lrm, extra = _load_foreign(file, tensors, metadata.get("format"))
    if published is not None:
        extra |= {"name": str(path), "licences": [published.licence]}
    return lrm.to(device).eval(), extra


def _published(path: Path | str) -> hub.Repository | None:
    """The published model of that name. What lies here under the name goes before."""
    return hub.PUBLISHED.get(str(path)) if not Path(path).exists() else None


def obtain_checkpoint(path: Path | str) -> Path:
    """The checkpoint's file; that of a published model is downloaded where it is not here yet."""
    published = _published(path)
    if published is not None:
        return find_checkpoint(hub.obtain(published))
    return find_checkpoint(hub.BUNDLED.get(str(path), Path(path)))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint's file: `path` itself, or the model in the folder `path`."""
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise CheckpointError(f"{path}: not a file of tensors; those end in {', '.join(SUFFIXES)}")
        return path
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such checkpoint; give a .safetensors file, the folder of a training run, a folder with a published"
            f" model's files, or one of the names {', '.join([*hub.BUNDLED, *hub.PUBLISHED])}"
        )
    for name in (FILE_NAME, "model.ckpt"):
        if (path / name).is_file():
            return path / name
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = [file.name for file in found]
        raise CheckpointError(
            f"{path}: holds no {FILE_NAME}, and {len(found)} other .safetensors files {names}; name one"
        )
    return found[0]


def _load_own(file: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[LRM, Extra]:
    version = metadata.get("version")
    if version not in READ:
        raise CheckpointError(f"{file}: checkpoint version {version}, this code reads {' and '.join(READ)}")
    try:
        config, extra = config_from_json(json.loads(metadata["config"])), json.loads(metadata["extra"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: the configuration in it cannot be read ({error!r}); was it written by a newer version?"
        ) from error
    lrm = without_weights(config)
    if version == "1":
        tensors = renamed(tensors, config.encoder.kind, _ENCODER_1)
        conversion.load(lrm, tensors, _table_1(lrm), file, [_ENCODER_1 + name for name in UNUSED])
    else:
        conversion.load(lrm, tensors, conversion.own_names(lrm), file)
    return lrm, extra


_ENCODER_1 = "encoder.network."


def _table_1(lrm: LRM) -> Table:
    """Version 1: the encoder was transformers' own, everything else is called the same."""
    encoder = lrm.config.encoder
    table = {name: where for name, where in conversion.own_names(lrm).items() if not name.startswith("encoder.")}
    return table | transformers_table(encoder.kind, encoder.layers, "encoder.", _ENCODER_1)


def _load_foreign(file: Path, tensors: dict[str, Tensor], stated: str | None) -> tuple[LRM, Extra]:
    """`stated` is the format that the file names, which Hugging Face's libraries call "pt" whatever is in it."""
    family = next((family for family in FAMILIES if family.mark in tensors), None)
    if family is None:
        known = " or ".join(family.name for family in FAMILIES)
        raise CheckpointError(
            f"{file}: not a checkpoint of ours (format {stated!r}, ours is {FORMAT!r}), nor one in the layout of {known}: it has"
            f" no tensor called {' or '.join(family.mark for family in FAMILIES)} (it has {', '.join(list(tensors)[:3])}, …)"
        )
    try:
        config, extra = family.describe(Sizes(file, tensors), file.parent)
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{file}: the configuration beside it cannot be read ({error})") from error
    except ValueError as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(f"{file}: {error}") from error
    lrm = without_weights(config)
    conversion.load(lrm, tensors, family.table(config, tensors), file, family.unused)
    return lrm, {"family": family.name, **extra}
