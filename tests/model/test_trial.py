"""Kernels that are wrong, or fail, are found out before they are used; right ones are used."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from torch import Tensor

from model import trial
from model.triplane import Table

NUMBER = itertools.count()


def plain(table: Table) -> trial.Sums:
    light = table.rows.square()
    return light, light.sum(dim=1), light.mean(dim=1)


def fails(table: Table) -> trial.Sums:
    raise RuntimeError("no kernel\nfor this device")


def wrong_value(table: Table) -> trial.Sums:
    light, opacity, depth = plain(table)
    return light, opacity * 1.02, depth


def no_number(table: Table) -> trial.Sums:
    light, opacity, depth = plain(table)
    return light * float("nan"), opacity, depth


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        return rows.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        return gradient * 0.97


def wrong_gradient(table: Table) -> trial.Sums:
    return plain(Table(WrongGradient.apply(table.rows), table.resolution))


@pytest.fixture
def table() -> Table:
    return Table(torch.rand(12, 4, generator=torch.Generator().manual_seed(0)), 2)


def test_kernels_that_agree_are_used(table: Table) -> None:
    assert trial.fault(("kind", next(NUMBER)), table, plain, plain) is None


@pytest.mark.parametrize(
    ("kernels", "says"),
    [
        (fails, "RuntimeError: no kernel for this device"),
        (wrong_value, "opacity is off by 2"),
        (no_number, "light is off by nan"),
        (wrong_gradient, "gradient of the planes is off by 3"),
    ],
)
def test_kernels_that_do_not_are_said_and_not_asked_again(table, kernels, says, caplog) -> None:
    kind = ("kind", next(NUMBER))
    with caplog.at_level(logging.WARNING):
        assert says in (trial.fault(kind, table, plain, kernels) or "")
        assert says in (trial.fault(kind, table, plain, plain) or "")
    assert len(caplog.records) == 1 and "not used on cpu" in caplog.text
