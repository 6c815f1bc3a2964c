"""The order in which training draws objects: endless, the same on every machine, continued exactly from any place.

A draw is a number: draw p is a function of the objects, their weights and the seed alone. Rank r of a world of w processes
takes the draws p with p mod w = r, whatever loader processes it has, so that no two ranks ever take the same draw and the
state of a run is one number, the draws taken by all ranks together. A run continued with another world size goes on at the
same draw: nothing is lost or taken twice, and where the batches of all ranks together are as large as before, every step
sees the objects that it would have seen.

An epoch is as many draws as there are objects. Without weights each is drawn once; with weights an object is drawn as often
as its share says, rounded up or down by a fresh random number an epoch (systematic resampling), so that no object is more
than one draw from its share in any epoch.

Objects whose pictures lie far away are best drawn near their neighbours: with a window of n shards, an epoch goes through
the shards in random order, n at a time, and shuffles the objects of those n. Several sets (pools) keep their windows apart
and are mixed evenly, each at its own rate over every stretch of an epoch.

Random bits come from PCG64 itself, whose stream numpy promises to keep; what `numpy.random.Generator` makes of them may change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """One draw."""

    number: int
    """Which object, in the order given."""
    epoch: int
    repeat: int = 0
    """How many of this epoch's draws of the same object went before: views and rays are to differ."""


def _bits(count: int, *seed: int) -> np.ndarray:
    """`count` random uint64 that depend on `seed` alone."""
    return np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)


def permutation(count: int, *seed: int) -> np.ndarray:
    """The numbers 0 … count - 1 in an order that depends on `seed` alone."""
    return np.argsort(_bits(count, *seed), kind="stable")


def uniform(count: int, *seed: int) -> np.ndarray:
    """`count` float64 in [0, 1) that depend on `seed` alone."""
    return (_bits(count, *seed) >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True)
class Order:
    """An endless order of draws. Arrays are of one entry an object."""

    objects: int
    seed: int
    weights: np.ndarray | None = None
    """(O,) positive: how often an object is drawn, relative to the others. None: all equally often."""
    shards: np.ndarray | None = None
    """(O,) int: the shard that holds it; needed with a window."""
    pools: np.ndarray | None = None
    """(O,) int: the set it belongs to. None: all to one."""
    window: int = 0
    """Shards of a pool that are shuffled together; 0: all."""

    def __post_init__(self) -> None:
        for name in ("weights", "shards", "pools"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != (self.objects,):
                raise ValueError(f"{name}: one for each of {self.objects} objects, got {np.shape(values)}")
        if self.objects < 1 or self.window < 0 or (self.window and self.shards is None):
            raise ValueError(
                f"an order needs objects, and their shards for a window; got {self.objects}, window {self.window}"
            )
        if self.weights is not None and not (np.isfinite(self.weights).all() and (self.weights > 0).all()):
            raise ValueError("weights must be positive and finite")

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers and repeats, (objects,) int64 each, of one epoch in their order."""
        drawn = self._drawn(epoch)
        repeats = np.arange(len(drawn)) - np.searchsorted(drawn, drawn)  # `drawn` is sorted
        order = self._shuffled(drawn, epoch)
        return drawn[order], repeats[order]

    def draws(self, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Draw]:
        """Rank `rank`'s draws, from the first at or after draw `start` of all ranks, for ever."""
        position = start + (rank - start) % world
        epoch = -1
        while True:
            if position // self.objects != epoch:
                epoch = position // self.objects
                numbers, repeats = self.epoch(epoch)
            place = position % self.objects
            yield Draw(int(numbers[place]), epoch, int(repeats[place]))
            position += world

    def _drawn(self, epoch: int) -> np.ndarray:
        """The numbers drawn in an epoch, ascending."""
        if self.weights is None:
            return np.arange(self.objects)
        edges = np.cumsum(self.weights) * (self.objects / np.sum(self.weights))
        # Kitagawa 1996: evenly spaced points with one random offset; an object is drawn for every point in its stretch.
        marks = np.arange(self.objects) + uniform(1, self.seed, epoch, 0)[0]
        return np.minimum(np.searchsorted(edges, marks, side="right"), self.objects - 1)

    def _shuffled(self, drawn: np.ndarray, epoch: int) -> np.ndarray:
        """Places of `drawn` in the order in which they are drawn."""
        order = permutation(len(drawn), self.seed, epoch, 1)
        if self.window == 0:
            return order
        assert self.shards is not None
        pool = np.zeros(self.objects, np.int64) if self.pools is None else np.asarray(self.pools)
        shuffled = drawn[order]
        when = np.empty(len(drawn))
        for name in np.unique(pool):
            mine = np.flatnonzero(pool[shuffled] == name)
            held_by = np.asarray(self.shards)[shuffled[mine]]
            there = np.unique(held_by)
            turn = permutation(len(there), self.seed, epoch, 2, int(name)) // self.window
            by_window = mine[np.argsort(turn[np.searchsorted(there, held_by)], kind="stable")]
            when[by_window] = (np.arange(len(mine)) + 0.5) / max(len(mine), 1)
        return order[np.argsort(when, kind="stable")]
