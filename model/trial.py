"""Whether the fused kernels can be believed where they run: tried once on a few real rays, beside the plain path.

What a compiler makes of a kernel differs from GPU to GPU and from version to version, and a wrong answer looks like an answer. So
before the first use on a device, for each kind of field, values and gradients of both paths are compared.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from model.triplane import Table

_log = logging.getLogger(__name__)

Sums = tuple[Tensor, ...]
Path = Callable[[Table], Sums]
"""Renders the rays of the trial from a table."""
RAYS = 64
"""Of each object, at most."""
TOLERANCE = 5e-3
"""Relative to the largest value or gradient: TF32 products and the paths' different cuts stay below it, a wrong term does not."""
_FOUND: dict[Hashable, str | None] = {}
"""Of each kind of field on each device: what is wrong with the kernels there, or None."""


def fault(kind: Hashable, table: Table, plain: Path, fused: Path) -> str | None:
    """Why the kernels are not to be used for fields of this kind, or None. Asked of the device once, then remembered."""
    if kind not in _FOUND:
        _FOUND[kind] = _compare(table, plain, fused)
        if _FOUND[kind]:
            _log.warning("fused kernels are not used on %s: %s; please report it", table.rows.device, _FOUND[kind])
    return _FOUND[kind]


def _compare(table: Table, plain: Path, fused: Path) -> str | None:
    expected = _values_and_gradient(table, plain)
    try:
        found = _values_and_gradient(table, fused)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or a driver may raise: it is said, and the plain path is there
        return f"they fail ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    names = ("light", "opacity", "depth", "gradient of the planes")
    for name, value, true in zip(names, found, expected, strict=True):
        worst = float((value - true).abs().max() / true.abs().max().clamp(min=1e-6))
        if not worst <= TOLERANCE:
            return f"their {name} is off by {worst:.1%} on {RAYS} rays"
    return None


def _values_and_gradient(table: Table, path: Path) -> list[Tensor]:
    rows = table.rows.detach().requires_grad_()
    with torch.enable_grad():
        sums = path(dataclasses.replace(table, rows=rows))
        (gradient,) = torch.autograd.grad(sum(part.sum() for part in sums), rows)  # type: ignore[arg-type]
    return [*(part.detach() for part in sums), gradient]
