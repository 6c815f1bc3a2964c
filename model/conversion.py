"""Tensors under other names: a table says where in somebody else's file each of our tensors lies.

A table is data, names to names. Nothing is computed with the numbers: rows of a fused matrix are taken apart or laid together,
and dimensions put in our order. So what a file must hold follows from a table and our shapes, and is told in the file's names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from model.tensors import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """Where one of our tensors comes from."""

    names: tuple[str, ...]
    """Their tensors; several are laid under one another."""
    rows: tuple[int, int, int] = (0, 1, 1)
    """(a, b, n): of a single tensor's rows, in n equal parts, those from a to b."""
    layout: Literal["same", "batch", "planes"] = "same"
    """batch: theirs has a leading dimension of 1 that ours has not. planes: theirs is (3, W, t, t), ours (3 · t², W)."""

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Our tensor, out of theirs."""
        first, last, parts = self.rows
        if self.layout == "batch":
            return tensors[self.names[0]][0]
        if self.layout == "planes":
            return tensors[self.names[0]].flatten(2).transpose(1, 2).flatten(0, 1)
        if parts > 1:
            whole = tensors[self.names[0]]
            # A copy: two parameters must not share memory.
            return whole[len(whole) * first // parts : len(whole) * last // parts].clone()
        return torch.cat([tensors[name] for name in self.names]) if len(self.names) > 1 else tensors[self.names[0]]

    def shapes(self, ours: Shape) -> dict[str, Shape]:
        """The shapes that their tensors must have for ours to have this one."""
        if self.layout == "batch":
            return {self.names[0]: (1, *ours)}
        if self.layout == "planes":
            side = math.isqrt(ours[0] // 3)
            return {self.names[0]: (3, ours[1], side, side)}
        first, last, parts = self.rows
        return {name: (ours[0] * parts // (last - first) // len(self.names), *ours[1:]) for name in self.names}


Table = dict[str, Origin]
"""Our name -> where it comes from."""


def origin(*names: str, rows: tuple[int, int, int] = (0, 1, 1)) -> Origin:
    """Short for `Origin`."""
    return Origin(names, rows)


def both(ours: str, theirs: str) -> Table:
    """Weight and bias of a layer."""
    return {f"{ours}.{part}": origin(f"{theirs}.{part}") for part in ("weight", "bias")}


def own_names(network: nn.Module) -> Table:
    """The table of a file that names everything as we do."""
    return {name: origin(name) for name in network.state_dict()}


def load(
    network: nn.Module, tensors: Mapping[str, Tensor], table: Table, file: Path, unused: Iterable[str] = ()
) -> None:
    """Makes `tensors` the parameters of `network`: each must be there, of the right shape, finite, and used.

    Anything else is a CheckpointError. The network may be on the device `meta` (`model.lrm.without_weights`): it takes the
    tensors over, in its own precision. `unused` names tensors that the published network has without using them.
    """
    ours = network.state_dict()
    expected: dict[str, Shape] = {}
    for name, where in table.items():
        expected |= where.shapes(tuple(ours[name].shape))
    wrong = misfits({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected, set(unused))
    if wrong:
        raise CheckpointError(
            f"{file}: does not fit the network that its own configuration describes: {len(wrong)} tensors"
            f" ({'; '.join(wrong[:5])}); it is another model's checkpoint or a damaged one"
        )
    broken = [name for name in expected if not torch.isfinite(tensors[name]).all()]
    if broken:
        raise CheckpointError(
            f"{file}: {', '.join(broken[:5])} ({len(broken)} tensors) are not finite; its training diverged"
        )
    taken = {name: where.take(tensors).to(ours[name].dtype).contiguous() for name, where in table.items()}
    network.load_state_dict(taken, assign=True)


def misfits(found: Mapping[str, Shape], expected: Mapping[str, Shape], unused: set[str]) -> list[str]:
    """What is missing, unexpected or misshaped, a sentence each."""
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in found]
    problems += [
        f"unexpected {name} {shape}" for name, shape in found.items() if name not in expected and name not in unused
    ]
    return problems + [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]


class Sizes:
    """The shapes in a file, for inferring a network's sizes from them; what is not there is named."""

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        self.file = file
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def of(self, name: str, dimensions: int) -> Shape:
        """The shape of a tensor that must be there with so many dimensions."""
        shape = self.shapes.get(name)
        if shape is None or len(shape) != dimensions or min(shape) < 1:
            found = "is missing" if shape is None else f"is {shape}"
            raise CheckpointError(
                f"{self.file}: {name} {found}, expected {dimensions} dimensions that the network's sizes follow from;"
                " it is another model's checkpoint or a damaged one"
            )
        return shape

    def count(self, prefix: str) -> int:
        """How many numbered parts there are below `prefix`: one more than the largest number."""
        numbers = [name[len(prefix) :].partition(".")[0] for name in self.shapes if name.startswith(prefix)]
        return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)

    def square(self, name: str, tokens: int) -> int:
        """The side of a square of so many tokens."""
        side = math.isqrt(max(tokens, 0))
        if side < 1 or side * side != tokens:
            raise CheckpointError(f"{self.file}: {name} has {tokens} places, which are no square")
        return side

    def check(self, settings: Mapping[str, object], expected: Mapping[str, object], where: str) -> None:
        """Compares what a configuration file states with what the tensors say; a field that it lacks is no contradiction."""
        wrong = [
            f"{name} is {settings[name]!r} there, {value!r} here"
            for name, value in expected.items()
            if name in settings and settings[name] != value
        ]
        if wrong:
            raise CheckpointError(
                f"{self.file}: contradicts {where} beside it: {'; '.join(wrong)}; the two files belong to different models"
            )
