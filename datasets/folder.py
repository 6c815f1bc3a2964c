"""The asset catalogue of a user's own folder: every file of a known suffix below it, with what a metadata file says of each.

An asset's uid comes from its path below the folder alone (`chairs/Red chair.obj` -> `chairs-Red-chair-obj-e36235a7`): the same in
every run and wherever the folder lies, until the file is moved or renamed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from datasets.catalogue import UNKNOWN_LICENCE, Asset, CatalogueError
from datasets.metadata_file import read_metadata
from turntable.errors import UserError
from turntable.files import inside, sha256

log = logging.getLogger(__name__)

SLUG_LENGTH = 48
"""Characters of the path that a uid keeps, its end first: the name says more than the folders above."""
NAMED = 3
"""Paths that a line in the log names before it says how many more there are."""


class Folder:
    """Files below `folder` whose suffix (lower case, with its dot) is one of `suffixes`. May be shared by threads.

    Hidden files and folders are passed over, links to folders are not followed (they may lead in circles). A pattern of
    `include` and `exclude` is a glob for a whole relative path, in which * also matches /, or for a file's name alone.
    """

    source = "folder"

    def __init__(
        self,
        folder: Path,
        suffixes: Sequence[str],
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        metadata: Path | None = None,
    ) -> None:
        self.folder = folder
        self._files: dict[str, str] = {}
        """uid -> path below `folder`, in the order of the paths."""
        for relative in _assets_below(folder, suffixes, include, exclude):
            other = self._files.setdefault(uid_of(relative), relative)
            if other != relative:
                raise UserError(f"{folder}: {relative} and {other} have the same uid by chance; rename one of them")
        self._records = read_metadata(metadata) if metadata else {}
        if metadata:
            self._compare_with(metadata)
        _tell("have the same content as another file", [f"{copy} (as {first})" for copy, first in self.duplicates()])

    def uids(self) -> list[str]:
        """All uids, in the order of their paths."""
        return list(self._files)

    def asset(self, uid: str) -> Asset:
        """What the metadata file says of it; its name is the file's where it says none."""
        relative = self._path(uid)
        shown = printable(relative)
        plain = Asset(uid, None, UNKNOWN_LICENCE, Path(shown).stem, "", "", shown)
        return replace(plain, **self._records.get(relative, {}))

    def fetch(self, uid: str) -> Path:
        """The file itself, in its place."""
        relative = self._path(uid)
        try:
            path = inside(self.folder, relative)
        except UserError as error:
            raise CatalogueError(
                f"{self.folder}/{relative}: a link that leads out of {self.folder}; put the file itself there",
                "outside",
            ) from error
        if not path.is_file():
            raise CatalogueError(f"{path}: no such file any more", "not-found")
        return path

    def release(self, uid: str) -> None:
        """Nothing: the files are the user's."""

    def duplicates(self) -> list[tuple[str, str]]:
        """(path, path of the first file with the same content) of each file that is not the first."""
        root = self.folder.resolve()
        local = [r for r in self._files.values() if (root / r).is_file() and (root / r).resolve().is_relative_to(root)]
        # Meshes of one topology are all of one size: only those that also begin alike are read as a whole.
        same = _twins(_twins(local, lambda r: (root / r).stat().st_size), lambda r: _start(root / r))
        first: dict[str, str] = {}
        found = [(r, first.setdefault(sha256(root / r), r)) for r in same]
        return [(relative, original) for relative, original in found if relative != original]

    def _path(self, uid: str) -> str:
        if uid not in self._files:
            raise CatalogueError(f"{uid}: none of the {len(self._files)} assets of {self.folder}", "not-found")
        return self._files[uid]

    def _compare_with(self, metadata: Path) -> None:
        listed = set(self._files.values())
        _tell(f"of {metadata} are no assets of {self.folder}", sorted(self._records.keys() - listed))
        _tell(f"are not in {metadata}: their licence is {UNKNOWN_LICENCE}", sorted(listed - self._records.keys()))


def uid_of(relative: str) -> str:
    """The uid of a path below the folder: its letters and digits, readable, and eight digits of its hash, which make it unique.

    Accents are dropped, other scripts have only the hash; letters keep their case.
    """
    raw = os.fsencode(relative)
    plain = unicodedata.normalize("NFKD", relative).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", plain)[-SLUG_LENGTH:].strip("-")
    return f"{slug or 'asset'}-{hashlib.sha256(raw).hexdigest()[:8]}"


def printable(relative: str) -> str:
    """The path as text that any file can hold: bytes that are no UTF-8 become \\xff and the like."""
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def _assets_below(folder: Path, suffixes: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Relative paths, sorted. None at all is a `UserError` that says what there is instead."""
    if not folder.is_dir():
        kind = "a file, not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {kind}; give the folder of your assets ({' '.join(suffixes)})")
    files = sorted(_files_below(folder))
    assets = [f for f in files if Path(f).suffix.lower() in suffixes]
    chosen = [f for f in assets if (not include or _matches(f, include)) and not _matches(f, exclude)]
    if not chosen:
        found = (
            f"{len(assets)} assets in it, none of which --include {list(include)} and --exclude {list(exclude)} leave"
            if assets
            else f"{len(files)} files in it, none of which is an asset"
        )
        raise UserError(f"{folder}: {found}; what is read: {' '.join(suffixes)}")
    return chosen


def _start(path: Path) -> bytes:
    """A digest of the first 64 KiB."""
    with path.open("rb") as handle:
        return hashlib.sha256(handle.read(1 << 16)).digest()


def _twins(files: Iterable[str], key: Callable[[str], Hashable]) -> list[str]:
    """Those files of which another has the same key."""
    groups: dict[Hashable, list[str]] = {}
    for file in files:
        groups.setdefault(key(file), []).append(file)
    return [file for group in groups.values() if len(group) > 1 for file in group]


def _files_below(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield (Path(where) / name).relative_to(folder).as_posix()


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    name = relative.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(relative, p) or fnmatch.fnmatchcase(name, p) for p in patterns)


def _tell(what: str, paths: Sequence[str]) -> None:
    """One line in the log: how many, and the first few by name."""
    if paths:
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        log.info("%d %s: %s%s", len(paths), what, ", ".join(printable(p) for p in paths[:NAMED]), more)
