"""Files that are needed once: each run has a folder of its own below one place, and the next run clears what a killed one left.

A lock that every living run shares tells whether any is left: whoever gets it alone may clear the place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO

from turntable.files import disk_errors


class Spool:
    """Places for files in `folder`, which is made when the first is asked for and is gone after `close`. May be shared by threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own: Path | None = None
        self._lock_file: IO[bytes] | None = None
        self._guard = threading.Lock()
        if folder.is_dir():
            self._open()
            self.close()

    def place(self, name: str) -> Path:
        """Where a file of this name may be written; it is not there before."""
        with self._guard:
            if self._own is None:
                self._open()
                self._own = Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
            return self._own / name

    def drop(self, name: str) -> None:
        """Deletes the file of this name and what there is of its download, if either is there."""
        with self._guard:
            if self._own:
                for path in (self._own / name, self._own / f"{name}.part"):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Deletes all that this run put there, and the folder when no other run uses it."""
        with self._guard:
            if self._own:
                shutil.rmtree(self._own, ignore_errors=True)
                self._own = None
            if self._lock_file:
                if _alone(self._lock_file):
                    self._clear()
                    with contextlib.suppress(OSError):  # not empty: somebody else keeps things there
                        (self.folder / ".lock").unlink()
                        self.folder.rmdir()
                self._lock_file.close()
                self._lock_file = None

    def _open(self) -> None:
        """Takes the lock that all runs share, and clears the place where there is none."""
        while True:
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = (self.folder / ".lock").open("ab")
            if _alone(lock):
                self._clear()
            fcntl.flock(lock, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), (self.folder / ".lock").stat()):
                    self._lock_file = lock
                    return
            lock.close()  # the last of the other runs has just deleted it

    def _clear(self) -> None:
        for path in self.folder.glob("run-*"):
            shutil.rmtree(path, ignore_errors=True)


def _alone(lock: IO[bytes]) -> bool:
    """Whether no other run has the lock; it is ours alone then."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
