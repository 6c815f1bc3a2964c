"""Values on a cubic lattice of which only a few points are ever looked at, in blocks that are made when first touched.

Points and cells are int32 arrays (3, …) of their i, j and k. Cell (i, j, k) has its lowest corner at point (i, j, k).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BLOCK = 8
"""Points along a block's side. Small blocks waste little memory around a surface, large ones need a smaller table."""

CORNERS = np.indices((2, 2, 2), np.int32).reshape(3, 8)
"""(3, 8): from a cell's lowest corner to each of its corners, the last axis fastest."""


class SparseGrid:
    """A float32 for every point with 0 ≤ i, j, k < side; NaN until it is set."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._blocks = -(-side // BLOCK)
        self._table = np.full(self._blocks**3, -1, np.int32)
        self._origins = np.zeros((3, 0), np.int32)
        self._values = np.zeros(0, np.float32)

    def get(self, points: np.ndarray) -> np.ndarray:
        """(3, …) -> (…)."""
        slots = self._slots(points)
        return self._values[slots]

    def set(self, points: np.ndarray, values: np.ndarray | float) -> None:
        """Points (3, …) get values (…), or all one value."""
        slots = self._slots(points)
        self._values[slots] = values

    def unset(self, points: np.ndarray) -> np.ndarray:
        """(3, …) -> (3, M): those that have no value, each once."""
        missing = self._unset(self._slots(points))
        self._values[missing] = np.nan
        return self._points(missing)

    def largest_around(self, points: np.ndarray) -> np.ndarray:
        """(3, N) -> (N,) the largest value that is set among each point and its six neighbours."""
        largest = self.get(points)
        for step in np.concatenate([np.eye(3, dtype=np.int32), -np.eye(3, dtype=np.int32)]):
            largest = np.fmax(largest, self.get((points + step[:, None]).clip(0, self.side - 1)))
        return largest

    def highest(self) -> float:
        """The largest of all values; -inf when none is set."""
        return float(np.nanmax(self._values[: self._used], initial=-np.inf))

    @property
    def _used(self) -> int:
        """How many values the blocks hold."""
        return self._origins.shape[1] * BLOCK**3

    def _slots(self, points: np.ndarray) -> np.ndarray:
        """(3, …) -> (…) indices into `_values`, which may be a new array: blocks that are missing are made."""
        i, j, k = points
        place = ((i >> 3) * self._blocks + (j >> 3)) * self._blocks + (k >> 3)
        block = self._table[place]
        if (block < 0).any():
            self._make(place[block < 0])
            block = self._table[place]
        return (block.astype(np.int64) << 9) | ((i & 7) << 6) | ((j & 7) << 3) | (k & 7)

    def _points(self, slots: np.ndarray) -> np.ndarray:
        """(N,) indices into `_values` -> (3, N)."""
        within = np.stack([slots >> 6 & 7, slots >> 3 & 7, slots & 7])
        return self._origins[:, slots >> 9] + within.astype(np.int32)

    def _unset(self, slots: np.ndarray) -> np.ndarray:
        """Those of the slots that hold no value, ascending and each once; they are left holding infinity."""
        # Marked and then collected: quicker than to sort them.
        self._values[slots[np.isnan(self._values[slots])]] = np.inf
        return np.flatnonzero(self._values[: self._used] == np.inf)

    def _make(self, places: np.ndarray) -> None:
        """New blocks at some places of the table, each any number of times."""
        self._table[places] = -2
        made = np.flatnonzero(self._table == -2)
        self._table[made] = self._origins.shape[1] + np.arange(len(made))
        before = self._used
        origins = np.stack(np.unravel_index(made, (self._blocks,) * 3)).astype(np.int32) * BLOCK
        self._origins = np.concatenate([self._origins, origins], axis=1)
        if self._used > len(self._values):
            room = np.empty(max(self._used, 2 * before), np.float32)
            room[:before] = self._values[:before]
            self._values = room
        self._values[before : self._used] = np.nan


class Lattice(SparseGrid):
    """A function's values at the points of a lattice, evaluated when first asked for, each once."""

    def __init__(self, side: int, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """`function`: (3, N) points -> (N,) float32, finite."""
        super().__init__(side)
        self._function = function

    def get(self, points: np.ndarray) -> np.ndarray:
        """(3, …) -> (…)."""
        slots = self._slots(points)
        asked = self._unset(slots)
        if len(asked):
            self._values[asked] = self._function(self._points(asked))
        return self._values[slots]

    def corners(self, cells: np.ndarray) -> np.ndarray:
        """(3, N) cells -> (2, 2, 2, N) values at their corners."""
        return self.get(cells[:, None] + CORNERS[..., None]).reshape(2, 2, 2, -1)
