"""Configuration goes to JSON and comes back the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from turntable import config


@dataclass(frozen=True)
class Inner:
    folder: Path | None = None
    span: tuple[float, float] = (1.0, 2.0)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    path: Path = Path("a/b")
    name: str = "a/b"
    nested: tuple[tuple[float, ...], ...] = ((1.0,), (2.0, 3.0))


def test_resolved_and_restored_are_inverse() -> None:
    for value in (Outer(), Outer(Inner(Path("x"), (0.5, 1.0)), Path("c"), "c", ())):
        assert config.restored(Outer, json.loads(json.dumps(config.resolved(value)))) == value
