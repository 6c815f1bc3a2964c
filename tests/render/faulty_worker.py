"""A render worker whose Blender fails in ways that no file made by hand brings about for sure: it dies, hangs, eats memory."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from render import importers, worker

FAULTS = (".segfault", ".hang", ".glutton")
_MOST = 6 << 30
"""Bytes at which the glutton gives up, should nobody stop it: the machine has others to feed."""


def _segfault(path: Path) -> None:
    ctypes.string_at(0)


def _hang(path: Path) -> None:
    while True:
        time.sleep(1)


def _glutton(path: Path) -> None:
    eaten = [bytearray(b"x") * (64 << 20) for _ in range(_MOST // (64 << 20)) if not time.sleep(0.02)]
    raise AssertionError(f"{len(eaten)} bites and no limit")


if __name__ == "__main__":
    importers.IMPORTERS.update(zip(FAULTS, (_segfault, _hang, _glutton), strict=True))
    worker.main()
