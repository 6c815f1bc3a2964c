"""Files that are either complete or absent: write under a temporary name, check, rename.

A folder may also be a URL that fsspec knows (`s3://bucket/captures`): `location` makes it a `upath.UPath`, which has the
methods of `Path` that are used here and is typed as one. A file for such a place is made here and uploaded whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

from turntable.errors import DiskFullError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_URL = re.compile(r"[a-z][a-z0-9+.-]*(://|::)")
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2"}
"""Stores that show an object once it is there as a whole, and have no folders to make."""
_UPLOAD_WAITS = (1.0, 5.0)
"""Seconds between one try to upload a file and the next."""


class UploadError(UserError):
    """A file that could not be brought to its URL."""


def location(text: str) -> Path:
    """What a user names: a path of this machine, or a URL that fsspec knows (then a `upath.UPath`)."""
    if not _URL.match(text):
        return Path(text)
    try:
        from upath import UPath

        path = UPath(text)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{text}: cannot be opened ({error}); install the package that it needs, or name a folder"
        ) from error
    return cast(Path, path)


def is_local(path: Path) -> bool:
    """Whether `path` is a path of this machine, not a URL."""
    return isinstance(path, Path)


def local_folder(out: Path, name: str) -> Path:
    """Where files of a run into `out` lie that must be on this machine: in it, or for a URL in a temporary folder."""
    if is_local(out):
        return out / name
    return Path(tempfile.gettempdir()) / f"turntable-{name}" / re.sub(r"\W+", "-", str(out))


def log_folder(out: Path) -> Path:
    """Where the logs of a run into `out` are; programs print into files of this machine."""
    return local_folder(out, "logs")


def upload(source: Path, target: Path) -> None:
    """Brings a finished file of this machine to a URL, where it then is as a whole or, after an `UploadError`, not at all."""
    for wait in (*_UPLOAD_WAITS, None):
        try:
            return _put(source, target)
        except Exception as error:  # each store has errors of its own
            if wait is None or isinstance(error, PermissionError):
                raise UploadError(f"{target}: cannot be written ({type(error).__name__}: {error})") from error
            time.sleep(wait)


def _put(source: Path, target: Any) -> None:
    system = target.fs
    if target.protocol in _OBJECT_STORES:
        system.put_file(str(source), target.path)
        return
    system.makedirs(target.parent.path, exist_ok=True)
    temporary: Any = temporary_path(target)
    try:
        system.put_file(str(source), temporary.path)
        system.mv(temporary.path, target.path)
    except BaseException:
        # What hindered the upload may hinder this too; readers never see temporary names.
        with contextlib.suppress(Exception):
            system.rm_file(temporary.path)
        raise


def listing(folder: Path) -> set[str]:
    """Names of all files below `folder`, relative to it and with slashes. One look, however many files there are."""
    if is_local(folder):
        root = str(folder)
        return {
            os.path.join(parent, name)[len(root) + 1 :].replace(os.sep, "/")  # noqa: PTH118 - a million of them
            for parent, _, names in os.walk(root)
            for name in names
        }
    remote: Any = folder
    remote.fs.invalidate_cache()
    root = remote.fs._strip_protocol(remote.path).rstrip("/") + "/"
    try:
        return {path.removeprefix(root) for path in remote.fs.find(root)}
    except FileNotFoundError:
        return set()


def read_all(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    """The contents of many small files below `folder`, by name; from a URL as many at once as its store allows."""
    if is_local(folder):
        return {name: (folder / name).read_bytes() for name in names}
    remote: Any = folder
    root = remote.path.rstrip("/")
    paths = {remote.fs._strip_protocol(f"{root}/{name}"): name for name in names}
    return {paths[path]: content for path, content in remote.fs.cat(list(paths)).items()} if paths else {}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns "no space left", "quota exceeded" and "file too large" into `DiskFullError` naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and not isinstance(error, DiskFullError):
            raise DiskFullError(
                error.errno, f"{path}: {os.strerror(error.errno)}; free some space and run the same command again"
            ) from error
        raise


def temporary_path(path: Path) -> Path:
    """The name under which `path` is written. It starts with a dot and ends in `.tmp`: globs for finished files never see it."""
    return path.with_name(f".{path.name}.tmp")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed to `path`, else removed.

    A temporary file that a killed process left behind is replaced by the next write of the same file. For a URL the temporary
    path is one of this machine, uploaded on success.
    """
    if not is_local(path):
        with tempfile.TemporaryDirectory(prefix="turntable-") as scratch, disk_errors(Path(scratch)):
            finished = Path(scratch) / path.name
            yield finished
            upload(finished, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with disk_errors(path):
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically replaces `path` by `content`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Atomically replaces `path` by `text` in UTF-8; what of a file's name is no UTF-8 becomes \\udcff and the like."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Atomically replaces `path` by `value` as indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`; a missing or malformed file is a `UserError` that names it."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, refused when it would leave `folder` (absolute, `..` or through a link)."""
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{relative!r} leads out of {folder}; refused")
    return folder / relative


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Makes `folder` and keeps a second run out of it for as long as this process has it open."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another run is writing here; wait for it, or use another --out") from None
        yield
