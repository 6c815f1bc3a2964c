"""Parts that do not fit are halved, and nothing else changes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from model.memory import NoMemoryError, in_parts
from tests.conftest import ROOT


def limited(most: int, calls: list[int]):
    """Squares of a range, on a device that holds so many numbers."""

    def work(start: int, stop: int) -> torch.Tensor:
        calls.append(stop - start)
        if stop - start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.arange(start, stop) ** 2

    return work


@pytest.mark.parametrize("most", [1, 3, 5, 100])
@pytest.mark.parametrize("at_once", [1, 8, 1000])
def test_results_are_the_same_however_small_the_parts(most, at_once):
    calls: list[int] = []
    found = torch.cat(list(in_parts(limited(most, calls), 37, at_once)))
    assert torch.equal(found, torch.arange(37) ** 2)
    # What did not fit once is not tried again.
    failed = [size for size in calls if size > most]
    assert len(failed) == len(set(failed)) <= 6


def test_what_cannot_be_halved_says_so():
    with pytest.raises(NoMemoryError, match="nothing left to halve") as raised:
        list(in_parts(limited(0, []), 4, 4))
    assert raised.value.reason == "out-of-memory"


def test_other_errors_are_not_taken_for_it():
    def work(start: int, stop: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_parts(work, 4, 4))


def test_nothing_to_do_is_nothing():
    assert list(in_parts(limited(1, []), 0, 4)) == []


TRUE_LIMIT = """
import resource, torch
from model.memory import in_parts
torch.set_num_threads(1)
torch.zeros(8) @ torch.zeros(8, 8)
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
calls = []
def work(start, stop):
    calls.append(stop - start)
    return torch.ones(stop - start, 1 << 24).sum(dim=1)  # 64 MiB an item
assert torch.cat(list(in_parts(work, 16, 16))).tolist() == [float(1 << 24)] * 16
print(calls)
"""


def test_memory_that_is_really_full_is_recognised():
    """A process that may have 1 GiB, and work that wants that much at once."""
    done = subprocess.run([sys.executable, "-c", TRUE_LIMIT], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout)
    assert calls[0] == 16 and calls[-1] <= 8
