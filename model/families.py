"""What a published family of models is to us: how its files are told apart, what network they hold, where each tensor goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.conversion import Sizes, Table
from model.lrm import LRMConfig

Extra = dict[str, Any]


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
