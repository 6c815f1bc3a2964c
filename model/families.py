"""What a published family of models is to us: how its files are told apart, what network they hold, where each tensor goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.conversion import Sizes, Table
from model.lrm import LRMConfig
from model.tensors import CheckpointError
from turntable.files import read_json

Extra = dict[str, Any]
MAX_SETTINGS_BYTES = 1 << 16
"""A larger configuration file is none."""


@dataclass(frozen=True)
class Family:
    """One published layout of files."""

    name: str
    mark: str
    """A tensor that only this family's files have, under this name."""
    describe: Callable[[Sizes, Path], tuple[LRMConfig, Extra]]
    """The network that the tensors in a file, and the configuration files in its folder, describe; and a checkpoint's `extra`."""
    table: Callable[[LRMConfig, dict[str, Tensor]], Table]
    """Where each tensor of that network lies in the file."""
    unused: tuple[str, ...] = ()
    """Tensors of the published network that take no part in it."""


def read_settings(file: Path) -> dict[str, Any]:
    """What a JSON or YAML file says by name, or nothing where there is no such file. Plain values only: no objects are built."""
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_SETTINGS_BYTES:
        raise CheckpointError(f"{file}: {file.stat().st_size:,} bytes, more than a configuration has; refused")
    content = read_json(file) if file.suffix == ".json" else _read_yaml(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds no settings by name")
    return content


def _read_yaml(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file}: not a readable YAML file ({reason[:200]})") from error
