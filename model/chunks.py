"""Work on many points a chunk at a time, with or without gradients, and with smaller chunks where memory runs out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
T = TypeVar("T")


def default_chunk(device: torch.device) -> int:
    """Points at a time: on a CPU what its caches and the reuse of memory like, on a GPU enough to keep it busy."""
    return 1 << 16 if device.type == "cpu" else 1 << 21


def in_chunks(work: Callable[[slice], T], count: int, chunk: int) -> Iterator[T]:
    """`work` on slices of range(count), `chunk` long. When the GPU's memory runs out it goes on with half, and says so.

    Results must not depend on where the slices end. A CPU's shortage is not caught: the system does not report it in time.
    """
    start = 0
    while start < count:
        try:
            result = work(slice(start, min(start + chunk, count)))
        except torch.OutOfMemoryError:
            if min(chunk, count - start) == 1:
                raise
            result = None
        # Outside the except clause, whose traceback keeps the failed attempt's tensors alive.
        if result is None:
            chunk = (min(chunk, count - start) + 1) // 2
            _log.warning("out of memory: going on with chunks of %d", chunk)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield result
        start += chunk


class Evaluable(Protocol):
    """What points are evaluated by: a `torch.nn.Module` such as `TriplaneField`."""

    def parameters(self) -> Iterable[Tensor]:
        """What gradients may be asked for, besides the table's."""


Evaluate = Callable[[Any, Tensor, Tensor], tuple[Tensor, ...]]
"""(table, points (M, 3), owners (M,)) -> tensors with M rows. The table is a dataclass whose `rows` may want gradients."""


def evaluated(
    field: Evaluable, evaluate: Evaluate, table: Any, points: Tensor, owners: Tensor, chunk: int
) -> tuple[Tensor, ...]:
    """`evaluate(table, points, owners)` of more points than activations are to be kept for.

    Up to `chunk` points are evaluated plainly. Of more, nothing is kept but the results: the backward pass evaluates each chunk
    again, with gradients, and goes backward through it at once.
    """
    wanted = [table.rows, points, *field.parameters()]
    graded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in wanted)
    if graded and len(points) > chunk:
        return _Recomputed.apply(evaluate, table, chunk, owners, *wanted)
    if len(points) == 0:
        return evaluate(table, points, owners)
    parts = in_chunks(lambda part: evaluate(table, points[part], owners[part]), len(points), chunk)
    return _joined(list(parts))


class _Recomputed(torch.autograd.Function):
    """Chen et al. 2016, "Training deep nets with sublinear memory cost", with chunks that can shrink in the backward pass too."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, evaluate: Evaluate, table: Any, chunk: int, owners: Tensor, *wanted: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.evaluate, ctx.table, ctx.chunk = evaluate, dataclasses.replace(table, rows=None), chunk
        ctx.save_for_backward(owners, *wanted)
        points = wanted[1]
        return _joined(list(in_chunks(lambda part: evaluate(table, points[part], owners[part]), len(points), chunk)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        owners, rows, points, *parameters = ctx.saved_tensors
        asked = ctx.needs_input_grad[4:]

        def of(part: slice) -> list[Tensor | None]:
            leaves = [rows.detach().requires_grad_(asked[0]), points[part].detach().requires_grad_(asked[1])]
            with torch.enable_grad(), torch.autocast(points.device.type, enabled=False):
                results = ctx.evaluate(dataclasses.replace(ctx.table, rows=leaves[0]), leaves[1], owners[part])
            inputs = [tensor for tensor, needed in zip([*leaves, *parameters], asked, strict=True) if needed]
            pairs = [(r, g[part]) for r, g in zip(results, gradients, strict=True) if r.requires_grad]
            outputs, weights = zip(*pairs, strict=True)
            found = iter(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))
            return [next(found) if needed else None for needed in asked]

        total: list[Tensor | None] = [None] * len(asked)
        at_points = []
        for part in in_chunks(of, len(points), ctx.chunk):
            at_points.append(part[1])
            part[1] = None
            total = [_sum(a, b) for a, b in zip(total, part, strict=True)]
        if asked[1]:
            total[1] = torch.cat(at_points)  # type: ignore[arg-type]
        return (None, None, None, None, *total)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a.add_(b)


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))
