"""Where exported objects go: a folder each, or tars of bounded size. What has its name is complete."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from datasets.exported import Files
from turntable.errors import UserError
from turntable.files import disk_errors, temporary_path

_END_OF_TAR = bytes(1024)


class Destination(Protocol):
    """Where objects' files go, one object after the other."""

    def present(self) -> set[str]:
        """The uids of finished objects."""

    def add(self, uid: str, files: Files) -> None:
        """Takes up one object, as a whole or not at all."""

    def close(self) -> None:
        """Finishes what is begun."""


@dataclass(frozen=True)
class Folders:
    """A folder an object."""

    root: Path
    witness: str
    """A file that every object's folder has."""

    def present(self) -> set[str]:
        """Also clears what a killed run left."""
        for leftover in self.root.glob(".*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return {path.parent.name for path in self.root.glob(f"*/{self.witness}")}

    def add(self, uid: str, files: Files) -> None:
        """Written under a temporary name and renamed."""
        temporary = temporary_path(self.root / uid)
        try:
            with disk_errors(self.root / uid):
                for name, content in files.items():
                    (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                    (temporary / name).write_bytes(content)
                temporary.rename(self.root / uid)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def close(self) -> None:
        """Nothing is left open."""


class Tars:
    """`objects-000000.tar` and so on: entries `<uid>.<name>`, an object's one after the other; no clock and no owner in them."""

    def __init__(self, root: Path, tar_bytes: float) -> None:
        self.root, self.tar_bytes = root, tar_bytes
        self._file: BinaryIO | None = None

    def paths(self) -> list[Path]:
        """Every finished tar, in order."""
        return sorted(self.root.glob("objects-*.tar"))

    def present(self) -> set[str]:
        """Also clears what a killed run left."""
        for leftover in self.root.glob(".objects-*.tar.tmp"):
            leftover.unlink()
        uids: set[str] = set()
        for path in self.paths():
            try:
                with tarfile.open(path, "r:") as tar:
                    uids |= {name.partition(".")[0] for name in tar.getnames()}
            except (tarfile.TarError, OSError) as error:
                raise UserError(f"{path}: cannot be read ({error}); delete it and export again") from error
        return uids

    def add(self, uid: str, files: Files) -> None:
        """Appends to the tar in hand, or begins one."""
        file = self._file = self._file or temporary_path(self._next()).open("wb")
        before = file.tell()
        try:
            with disk_errors(self._next()):
                for name, content in files.items():
                    file.write(_entry(f"{uid}.{name}", content))
                file.flush()
        except BaseException:
            with contextlib.suppress(OSError):  # the file's own buffer may fail once more over a full disk
                file.seek(before)
            os.ftruncate(file.fileno(), before)
            raise
        if file.tell() >= self.tar_bytes:
            self.close()

    def close(self) -> None:
        """Gives the tar in hand its name, if an object is in it; where that cannot be written either, it is dropped."""
        file, self._file = self._file, None
        if file is None:
            return
        path, temporary = self._next(), temporary_path(self._next())
        try:
            with disk_errors(path), file:
                empty = file.tell() == 0
                file.write(_END_OF_TAR)
                file.flush()
                os.fsync(file.fileno())
            if not empty:
                temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _next(self) -> Path:
        numbers = [int(path.stem.removeprefix("objects-")) for path in self.paths() if path.stem[8:].isdigit()]
        return self.root / f"objects-{max(numbers, default=-1) + 1:06d}.tar"


def _entry(name: str, content: bytes) -> bytes:
    """A header and its content, padded to whole blocks."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    buffer = io.BytesIO()
    buffer.write(info.tobuf(tarfile.GNU_FORMAT))
    buffer.write(content)
    buffer.write(bytes(-len(content) % tarfile.BLOCKSIZE))
    return buffer.getvalue()
