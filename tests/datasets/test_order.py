"""The order of draws: every object as often as it should be, the same everywhere, continued exactly, disjoint over ranks."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets.order import Draw, Order, permutation, uniform
from train.loop import Draws


def first(order: Order, count: int, start: int = 0, rank: int = 0, world: int = 1) -> list[Draw]:
    return list(itertools.islice(order.draws(start, rank, world), count))


SHARDS = np.repeat(np.arange(10), 7)
ORDERS = {
    "plain": Order(70, 3),
    "weighted": Order(70, 3, weights=np.linspace(0.1, 4, 70)),
    "windowed": Order(70, 3, shards=SHARDS, window=2),
    "pools": Order(70, 3, np.linspace(0.1, 4, 70), SHARDS, (SHARDS >= 6).astype(int), 2),
}


def test_the_bits_are_those_of_pcg64_on_any_machine() -> None:
    """Literal values: another numpy, or another machine, must give the same."""
    assert permutation(8, 5, 1).tolist() == [7, 6, 1, 5, 4, 2, 0, 3]
    assert uniform(2, 5, 1).tolist() == [0.7742041803738812, 0.47072268318809307]


def test_without_weights_every_object_comes_once_an_epoch() -> None:
    for name in ("plain", "windowed"):
        drawn = first(ORDERS[name], 210)
        epochs = [[d.number for d in drawn if d.epoch == epoch] for epoch in range(3)]
        assert all(sorted(epoch) == list(range(70)) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2] and {d.repeat for d in drawn} == {0}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("start", [0, 1, 69, 70, 71, 200])
def test_continued_is_as_if_never_broken_off(name: str, start: int) -> None:
    whole = first(ORDERS[name], 300)
    assert first(ORDERS[name], 300 - start, start) == whole[start:]


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("world", [2, 3, 70, 71])
def test_ranks_share_the_order_out_without_overlap(name: str, world: int) -> None:
    whole = first(ORDERS[name], 6 * world, 10)
    parts = [first(ORDERS[name], 6, 10, rank, world) for rank in range(world)]
    assert sorted(itertools.chain(*parts)) == sorted(whole)
    # Draw p is rank p mod world's, wherever the run was continued.
    assert all(part == whole[(rank - 10) % world :: world] for rank, part in enumerate(parts))


def test_another_world_size_goes_on_with_the_same_steps() -> None:
    """8 objects a step by 4 ranks, then by 2: each step sees what it would have seen."""
    order = ORDERS["weighted"]

    def steps(world: int, start: int, count: int) -> list[list[Draw]]:
        ranks = [first(order, 8 // world * count, start, rank, world) for rank in range(world)]
        each = 8 // world
        return [sorted(d for rank in ranks for d in rank[s * each : (s + 1) * each]) for s in range(count)]

    assert steps(4, 0, 5) + steps(2, 40, 5) == steps(1, 0, 10)


def test_weights_are_kept_in_every_epoch_to_a_draw_and_exactly_in_the_long_run() -> None:
    weights = np.linspace(0.1, 4, 70)
    wanted = weights / weights.sum() * 70
    total = np.zeros(70)
    for epoch in range(400):
        counts = np.bincount(ORDERS["weighted"].epoch(epoch)[0], minlength=70)
        assert (np.abs(counts - wanted) < 1).all()
        total += counts
    # Each epoch rounds up or down: a Bernoulli variable, of standard deviation at most 0.5 / sqrt(400) = 0.025.
    assert np.abs(total / 400 - wanted).max() < 5 * 0.025


def test_repeats_number_the_draws_of_one_object() -> None:
    for epoch in range(3):
        numbers, repeats = ORDERS["weighted"].epoch(epoch)
        for number, count in Counter(numbers.tolist()).items():
            assert sorted(repeats[numbers == number]) == list(range(count))
        assert repeats.max() >= 1


def test_a_window_keeps_to_few_shards_at_a_time() -> None:
    numbers, _ = ORDERS["windowed"].epoch(0)
    windows = [set(SHARDS[numbers[k : k + 14]]) for k in range(0, 70, 14)]
    assert all(len(shards) == 2 for shards in windows) and set.union(*windows) == set(range(10))
    assert (np.diff(SHARDS[numbers[:14]]) != 0).sum() > 3  # and mixes the objects of those


def test_sets_are_mixed_evenly_over_the_whole_epoch() -> None:
    pools = (np.arange(4000) >= 3000).astype(int)
    weights = np.where(pools == 1, 3 / 1000, 1 / 3000)  # the small set three times for the large one's once
    order = Order(4000, 1, weights, np.arange(4000) // 50, pools, 4)
    numbers, _ = order.epoch(0)
    of_small = pools[numbers].reshape(-1, 40).mean(axis=1)
    assert of_small.mean() == pytest.approx(0.75, abs=0.001)
    assert np.abs(of_small - 0.75).max() <= 1.5 / 40  # a stretch of 40 is off by a draw at either end


@pytest.mark.parametrize(
    "arguments", [(0, 1), (3, 1, np.ones(2)), (2, 1, np.array([1, 0.0])), (2, 1, None, None, None, 1)]
)
def test_orders_that_make_no_sense_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError):
        Order(*arguments)


class Echo(torch.utils.data.Dataset):
    def __getitem__(self, draw: Draw) -> torch.Tensor:
        return torch.tensor(draw)

    def __len__(self) -> int:
        return 70


def test_the_number_of_loader_processes_changes_nothing_and_may_change_between_runs() -> None:
    def batches(workers: int, start: int, count: int) -> list[list[list[int]]]:
        sampler = Draws(ORDERS["pools"], start, rank=1, world=2)
        loader = DataLoader(Echo(), batch_size=4, sampler=sampler, num_workers=workers)
        return [batch.tolist() for batch in itertools.islice(loader, count)]

    whole = batches(0, 0, 12)
    assert batches(2, 0, 12) == whole
    assert batches(2, 5 * 8, 7) == whole[5:]  # five steps of four by two ranks are behind
