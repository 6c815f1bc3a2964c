"""Configuration goes to JSON and comes back the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from turntable import config
from turntable.errors import UserError
from turntable.files import read_json, write_json


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


def test_a_folder_begun_before_a_field_was_there_is_continued(tmp_path: Path) -> None:
    config.claim_folder(tmp_path, Outer())
    before = read_json(tmp_path / "config.json")
    del before["config"]["inner"]["span"], before["config"]["name"]
    write_json(tmp_path / "config.json", before)
    with pytest.raises(UserError, match="inner was"):
        config.claim_folder(tmp_path, Outer(Inner(span=(1.0, 3.0))))
    config.claim_folder(tmp_path, Outer())
    before["config"]["gone"] = 1
    write_json(tmp_path / "config.json", before)
    with pytest.raises(UserError, match="gone was 1, is None"):
        config.claim_folder(tmp_path, Outer())


def test_another_command_s_folder_is_called_that(tmp_path: Path) -> None:
    config.claim_folder(tmp_path, Outer())
    with pytest.raises(UserError, match="written by another command"):
        config.claim_folder(tmp_path, Inner())
