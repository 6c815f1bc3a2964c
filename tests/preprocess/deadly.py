"""A command of preprocessing whose objects may take their process down with them, as no file made by hand does for sure."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from preprocess.filling import Command, Filling, Views
from tests.preprocess.test_filling import Discs


@dataclass(frozen=True, kw_only=True)
class DeadlyConfig(Filling):
    """Discs, by uid."""

    uids: tuple[str, ...]
    """`…segfault` and `…refused` end their process every time, `…once` the first time; `…slow` takes its time, `…waits` for the file
    `go` among the marks."""
    marks: Path
    """Folder in which is noted what was loaded, a file a time."""

    FREE = Filling.FREE | {"uids", "marks"}


class DeadlyDiscs(Discs):
    """Discs that kill."""

    def __init__(self, config: DeadlyConfig) -> None:
        super().__init__(config.uids)
        self._marks = config.marks

    def load(self, uid: str) -> Views:
        times = len(list(self._marks.glob(f"{uid}.*")))
        (self._marks / f"{uid}.{times}.{os.getpid()}").touch()
        if uid.endswith("segfault") or (uid.endswith("once") and not times):
            os.kill(os.getpid(), signal.SIGSEGV)
        if uid.endswith("refused"):
            raise MemoryError
        if uid.endswith("slow"):
            time.sleep(0.3)
        while uid.endswith("waits") and not (self._marks / "go").exists():
            time.sleep(0.02)
        return super().load(uid)


COMMAND = Command("tests.preprocess.deadly", DeadlyConfig, DeadlyDiscs)
