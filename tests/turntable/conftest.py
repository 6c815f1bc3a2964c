"""Fixtures of the tests of jobs and runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.turntable.servants import SERVANT
from turntable.jobs import Limits, Worker


@pytest.fixture
def servant(tmp_path: Path) -> Callable[..., Worker]:
    """Makes workers that do what a job says."""
    script = tmp_path / "servant.py"
    script.write_text(SERVANT)

    def make(*arguments: str, **limits: float) -> Worker:
        return Worker([sys.executable, str(script), *arguments], tmp_path / "worker.log", Limits(**limits))  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
def _this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts that lie elsewhere run the code beside these tests, not an installed one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
