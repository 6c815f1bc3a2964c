"""Work in parts that fit into memory: where a part does not, it is halved and tried again; results are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from turntable.errors import UserError

Result = TypeVar("Result")
_NO_MEMORY = ("not enough memory", "can't allocate memory", "bad allocation", "bad_alloc", "_STATUS_ALLOC_FAILED")
"""What a RuntimeError says when memory ran out on the CPU, or in cuDNN and cuBLAS."""


class NoMemoryError(UserError):
    """Not even the smallest part fits."""

    reason = "out-of-memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def in_parts(work: Callable[[int, int], Result], count: int, at_once: int) -> Iterator[Result]:
    """`work(start, stop)` over range(count), at most `at_once` items a call, in order.

    A call that runs out of memory is made again with half as many items, and so are those after it. `work` must give each item
    the same result whatever else is in its part. Raises `NoMemoryError` when a single item does not fit.
    """
    start = 0
    while start < count:
        stop = min(start + at_once, count)
        done, result = _tried(work, start, stop)
        if done:
            yield result  # type: ignore[misc]
            start = stop
        elif stop - start == 1:
            raise NoMemoryError(
                "out of memory, and nothing left to halve; free some of the device's memory, choose --device cpu, or ask for less"
            )
        else:
            at_once = (stop - start) // 2


def _tried(work: Callable[[int, int], Result], start: int, stop: int) -> tuple[bool, Result | None]:
    try:
        return True, work(start, stop)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: while the exception lives, so do the tensors of every frame it came through.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False, None
