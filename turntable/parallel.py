"""Work on several items at a time, results in the items' order."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Generator[Result, None, None]:
    """`work` of every item, in order, at most 2 × `threads` of them ahead of whoever takes the results.

    Close the generator when leaving early, so that nothing more is begun.
    """
    # Threads, not processes: decoding, resizing and encoding leave the interpreter's lock, results need not be copied,
    # and a process that is killed while it hands over a result of megabytes leaves a pool waiting for ever.
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        rest = iter(items)
        ahead = collections.deque(pool.submit(work, item) for item in itertools.islice(rest, 2 * threads))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(work, item) for item in itertools.islice(rest, 1))
    finally:
        pool.shutdown(cancel_futures=True)
