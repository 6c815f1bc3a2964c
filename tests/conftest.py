"""Fixtures that every room's tests share."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def hear_interrupts() -> None:
    """A shell has its background jobs ignore Ctrl-C, and they hand that down: what tests start must hear it again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


hear_interrupts()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models beside the project; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "objaverse" / "object-paths.json.gz").exists():
        pytest.skip("needs ../shared with its real models, which is not here")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB that can really be filled; skips where mounting one is not allowed."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"needs a mounted tmpfs to fill ({mount.stderr.strip() or 'mount failed'})")
    yield folder
    subprocess.run(["umount", folder], check=True)
