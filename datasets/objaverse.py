"""The asset catalogue: Objaverse 1.0's ids, LVIS classes, licences and files, from a local cache and, where it lacks one, a mirror.

The cache is laid out as the `objaverse` package lays out its own, so either reads what the other downloaded:

    object-paths.json.gz            uid -> glbs/000-023/<uid>.glb
    lvis-annotations.json.gz        LVIS class -> uids
    metadata/000-023.json.gz        uid -> Sketchfab's record, one file for each folder of glbs
    glbs/000-023/<uid>.glb

Only that layout and the address are the package's. Its loaders are not called: they download without timeout, retry, resume
or check, list the whole cache after every file, know no mirror, and fix the cache's place when they are imported.
"""

from __future__ import annotations

import difflib
import gzip
import json
import logging
import re
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from datasets.catalogue import UNKNOWN_LICENCE, Asset, CatalogueError
from datasets.selection import EVERYTHING, Account, Check, Facts, Filters, checks, facts_of
from datasets.spool import Spool
from turntable import files
from turntable.download import DownloadError, HashMismatch, Policy, TooLarge, limited, obtain
from turntable.errors import UserError

log = logging.getLogger(__name__)

DEFAULT_CACHE = Path("~/.objaverse/hf-objaverse-v1")
PUBLIC_MIRROR = "https://huggingface.co/datasets/allenai/objaverse/resolve/main"
_OBJECT_PATH = re.compile(r"glbs/([\w-]+)/[\w-]+\.glb", re.ASCII)
"""No dots, no further slashes: a hostile table cannot lead out of the cache."""


Reduce = Callable[[dict[str, Any]], dict[str, Any]]
"""A table -> what is kept of it."""


class _Stated(NamedTuple):
    """What we keep of a record of Sketchfab's: a hundredth of it. There may be 800,000 in memory."""

    licence: str
    name: str
    creator: str
    source_url: str


class Objaverse:
    """Objects in `cache`, completed from `mirror` as they are asked for. May be shared by threads and processes."""

    source = "objaverse"

    def __init__(
        self,
        cache: Path,
        mirror: str | None = None,
        policy: Policy | None = None,
        spool: Spool | None = None,
        asset_bytes: int | None = None,
    ) -> None:
        self.cache = Path(cache).expanduser()
        self.mirror = mirror or PUBLIC_MIRROR
        """A directory of the same layout, or an http(s) URL below which the layout lies."""
        self._policy = policy or Policy()
        self._asset_policy = limited(self._policy, asset_bytes)
        self._spool = spool
        """Where objects that the cache lacks are kept until they are released; None: in the cache, for good."""
        self._lock = threading.RLock()
        self._tables: dict[str, dict[str, Any]] = {}
        self._stated: dict[str, _Stated] = {}
        self._folders: set[str] = set()
        """Folders of which `_stated` holds all records."""

    def select(self, uids: Sequence[str] | None, filters: Filters = EVERYTHING) -> list[str]:
        """The uids, without repetition and in the order given (sorted when `uids` is None), that pass `filters`.

        Given uids that the catalogue does not know are kept: whoever asks for their file gets a `CatalogueError` to report
        by name. A selection that leaves nothing is a `UserError` that says which filter left out how many.
        """
        known = self._paths()
        of_classes = {uid for name in filters.classes for uid in self._of_class(name)}
        if uids is None:
            uids = sorted(of_classes & known.keys() if filters.classes else known)
        uids, account = list(dict.fromkeys(uids)), Account()
        asked: list[Check] = checks(filters)
        chosen = uids
        if filters.classes:
            option = f"--classes {' '.join(filters.classes)}"
            chosen = [u for u in uids if u not in known or account.passes(u, [(option, of_classes.__contains__)])]
        if asked:
            failing = self._failing([u for u in chosen if u in known], asked, account)
            chosen = [u for u in chosen if u not in failing]
        if not chosen:
            raise UserError(f"{self.cache}: {account.text(len(uids), chosen)}; widen the selection")
        if filters.active:
            log.info("%s", account.text(len(uids), chosen))
        return chosen

    def _failing(self, uids: Sequence[str], asked: list[Check], account: Account) -> set[str]:
        """Those of `uids` that do not pass. One file of records is in memory at a time, of which what passes is kept in short."""
        folders: dict[str, list[str]] = {}
        for uid in uids:
            folders.setdefault(self._folder(uid), []).append(uid)
        failing = set()
        for folder, members in tqdm(folders.items(), desc="reading metadata", unit="file", disable=len(folders) < 10):
            # What the file does not have is kept: whoever asks for its record is told.
            for uid, (stated, facts) in self._load(f"metadata/{folder}.json.gz", partial(_read, members)).items():
                account.licences[facts.licence] += 1
                if account.passes(facts, asked):
                    self._stated[uid] = stated
                else:
                    failing.add(uid)
        return failing

    def asset(self, uid: str) -> Asset:
        """The record of one object."""
        folder = self._folder(uid)
        with self._lock:
            if uid not in self._stated and folder not in self._folders:
                self._stated |= self._load(f"metadata/{folder}.json.gz", _read_all)
                self._folders.add(folder)
            stated = self._stated.get(uid)
        if stated is None:
            raise CatalogueError(f"{uid}: not in metadata/{folder}.json.gz of {self.cache}", "not-found")
        return Asset(uid=uid, lvis_class=self._class_of().get(uid), **stated._asdict())

    def fetch(self, uid: str, sha256: str | None = None) -> Path:
        """The object's .glb, downloaded if the cache lacks it. A file that exists is returned as it is.

        `sha256` is its content's, where the caller knows it; another content is refused, and not kept if it was downloaded.
        """
        self._folder(uid)
        relative = self._paths()[uid]
        path = self.cache / relative
        if sha256 and path.exists() and files.sha256(path) != sha256:
            raise CatalogueError(f"{path}: its SHA-256 is not {sha256}; delete it to have it again", "hash-mismatch")
        if path.exists():
            return path
        place = self._spool.place(_once(path.name, sha256)) if self._spool else path
        return self._obtain(relative, place, self._asset_policy, sha256)

    def release(self, uid: str, sha256: str | None = None) -> None:
        """Deletes what the same `fetch` downloaded, if the catalogue was told to keep nothing; never what the cache had."""
        if self._spool and uid in self._paths():
            self._spool.drop(_once(Path(self._paths()[uid]).name, sha256))

    def _folder(self, uid: str) -> str:
        """The folder of glbs that holds `uid`, which is also its metadata file's name."""
        if uid not in self._paths():
            raise CatalogueError(f"{uid}: no such uid among the {len(self._paths())} of {self.cache}", "not-found")
        relative: Any = self._paths()[uid]
        match = _OBJECT_PATH.fullmatch(relative) if isinstance(relative, str) else None
        if not match:
            raise CatalogueError(
                f"{uid}: {self.cache}/object-paths.json.gz gives its path as {relative!r}, expected glbs/<folder>/<uid>.glb; "
                "refused",
                "not-found",
            )
        return match[1]

    def _paths(self) -> dict[str, str]:
        return self._table("object-paths.json.gz", _named_by_uids)

    def _of_class(self, name: str) -> list[str]:
        classes = self._table("lvis-annotations.json.gz", dict)
        if name not in classes:
            near = ", ".join(difflib.get_close_matches(name, classes, n=4, cutoff=0.5))
            raise UserError(
                f"class {name!r}: not among the {len(classes)} LVIS classes of {self.cache}"
                + (near and f"; near: {near}")
            )
        return classes[name]

    def _class_of(self) -> dict[str, str]:
        classes = self._table("lvis-annotations.json.gz", dict)
        with self._lock:
            if "class of uid" not in self._tables:
                self._tables["class of uid"] = {uid: name for name, uids in classes.items() for uid in uids}
            return self._tables["class of uid"]

    def _table(self, relative: str, reduce: Reduce) -> dict[str, Any]:
        """A table of the cache, read once and kept."""
        with self._lock:
            if relative not in self._tables:
                self._tables[relative] = self._load(relative, reduce)
            return self._tables[relative]

    def _load(self, relative: str, reduce: Reduce) -> dict[str, Any]:
        """A gzipped JSON object of the cache, reduced to what is asked for."""
        path = self.cache / relative
        self._obtain(relative, path, self._policy)
        try:
            return reduce(_as_it_is(json.loads(gzip.decompress(path.read_bytes()))))
        except (EOFError, OSError, ValueError, AttributeError, zlib.error) as error:
            raise CatalogueError(
                f"{path}: not a gzipped JSON table ({error!r}); delete it to have it downloaded again", "download"
            ) from error

    def _obtain(self, relative: str, path: Path, policy: Policy, sha256: str | None = None) -> Path:
        """`path`, downloaded if it is not there."""
        if path.exists():
            return path
        try:
            return obtain(self.mirror, relative, path, policy, sha256)
        except (HashMismatch, TooLarge) as error:
            raise CatalogueError(str(error), reason_of(error)) from error
        except DownloadError as error:
            raise CatalogueError(
                f"{relative}: not in the cache {self.cache} and not to be had from its mirror ({error}). Name a cache that "
                "holds it (--cache DIR), another mirror (--mirror DIR-or-URL), or make furniture without any download: "
                "python -m datasets.procedural --out DIR --count 24 --seed 0",
                reason_of(error),
            ) from error


def reason_of(error: DownloadError) -> str:
    """The reason that a run counts a failed download by."""
    if isinstance(error, HashMismatch):
        return "hash-mismatch"
    if isinstance(error, TooLarge):
        return "bad-asset"
    return "not-found" if error.missing else "download"


def _once(name: str, sha256: str | None) -> str:
    """A file's name among those that are deleted after use: whoever asks with another hash has a file of its own."""
    return f"{sha256}-{name}" if sha256 else name


def _as_it_is(table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"a JSON object was expected, found {type(table).__name__}")
    return table


def _named_by_uids(table: dict[str, Any]) -> dict[str, Any]:
    """Refused where a name is no uid: names of files are made from them."""
    for uid in table:
        if not re.fullmatch(r"[\w-]+", uid, re.ASCII):
            raise ValueError(f"{uid[:80]!r} is no uid")
    return table


def _read_all(table: dict[str, Any]) -> dict[str, _Stated]:
    return {uid: _stated(record) for uid, record in table.items()}


def _read(uids: Sequence[str], table: dict[str, Any]) -> dict[str, tuple[_Stated, Facts]]:
    """What is kept of the records of `uids`, and what filters ask of them."""
    kept = {uid: (table[uid], _stated(table[uid])) for uid in uids if uid in table}
    return {uid: (stated, facts_of(record, stated.licence)) for uid, (record, stated) in kept.items()}


def _stated(record: dict[str, Any]) -> _Stated:
    user = record.get("user") or {}
    return _Stated(
        licence=sys.intern(str(record.get("license") or UNKNOWN_LICENCE)),
        name=str(record.get("name") or ""),
        creator=sys.intern(str(user.get("displayName") or user.get("username") or "")),
        source_url=str(record.get("viewerUrl") or record.get("uri") or ""),
    )
