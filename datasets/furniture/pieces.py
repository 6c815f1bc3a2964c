"""What every piece of furniture is drawn with: balanced random choices, and the list of parts that it becomes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from datasets.furniture.materials import Material
from datasets.furniture.shapes import Solid

Option = TypeVar("Option")


def stream(*key: object) -> np.random.Generator:
    """A random generator that depends on nothing but `key`."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


class Draw:
    """The choices of the piece `number` of its kind.

    Named choices are balanced: among every n pieces in a row each of n options occurs once, in an order drawn from the seed, so
    that even a small set shows every style. Whatever the set's size, piece `number` is the same.
    """

    def __init__(self, seed: int, kind: str, number: int) -> None:
        self._key = (seed, kind)
        self._number = number
        self.rng = stream(seed, kind, number)

    def pick(self, name: str, options: Sequence[Option]) -> Option:
        """One of `options`, balanced over the pieces that make this choice."""
        block, place = divmod(self._number, len(options))
        return options[int(stream(*self._key, name, block).permutation(len(options))[place])]

    def any(self, options: Sequence[Option]) -> Option:
        """One of `options`, each equally likely."""
        return options[int(self.rng.integers(len(options)))]

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return float(self.rng.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return bool(self.rng.uniform() < probability)


@dataclass
class Piece:
    """A piece of furniture in the making: metres, +z up, front at -y."""

    lvis_class: str
    """LVIS's name of what it is."""
    name: str
    """Title in plain words."""
    parts: list[tuple[Material, Solid]] = field(default_factory=list)

    def add(self, material: Material, *solids: Solid) -> None:
        """Solids of one material."""
        self.parts += [(material, solid) for solid in solids]

    def pair(self, material: Material, *solids: Solid) -> None:
        """Solids and their mirror images, left and right."""
        for solid in solids:
            self.add(material, solid, solid.mirrored())

    def bounds(self) -> np.ndarray:
        """(2, 3) lowest and highest coordinates."""
        vertices = np.concatenate([solid.vertices for _, solid in self.parts])
        return np.stack([vertices.min(0), vertices.max(0)])

    def grounded(self) -> Piece:
        """The piece standing on z = 0, its bounding box centred on the z axis."""
        low, high = self.bounds()
        x, y = -(low + high)[:2] / 2
        return Piece(self.lvis_class, self.name, [(m, s.moved(x, y, -low[2])) for m, s in self.parts])
