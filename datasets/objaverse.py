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
import re
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.catalogue import UNKNOWN_LICENCE, Asset, CatalogueError
from datasets.download import DownloadError, Policy, obtain
from turntable.errors import UserError

DEFAULT_CACHE = Path("~/.objaverse/hf-objaverse-v1")
PUBLIC_MIRROR = "https://huggingface.co/datasets/allenai/objaverse/resolve/main"
_OBJECT_PATH = re.compile(r"glbs/([\w-]+)/[\w-]+\.glb", re.ASCII)
"""No dots, no further slashes: a hostile table cannot lead out of the cache."""


class Objaverse:
    """Objects in `cache`, completed from `mirror` as they are asked for. May be shared by threads and processes."""

    source = "objaverse"

    def __init__(self, cache: Path, mirror: str | None = None, policy: Policy | None = None) -> None:
        self.cache = Path(cache).expanduser()
        self.mirror = mirror or PUBLIC_MIRROR
        """A directory of the same layout, or an http(s) URL below which the layout lies."""
        self._policy = policy or Policy()
        self._lock = threading.RLock()
        self._tables: dict[str, dict[str, Any]] = {}

    def select(
        self, uids: Sequence[str] | None, classes: Sequence[str] = (), licences: Sequence[str] = ()
    ) -> list[str]:
        """The uids, without repetition and in the order given (sorted when `uids` is None), that are of `classes` and `licences`.

        An empty filter lets all pass. Given uids that the catalogue does not know are kept: whoever asks for their file
        gets a `CatalogueError` to report by name. A selection that leaves nothing is a `UserError`.
        """
        known = self._paths()
        if uids is None:
            uids = sorted(known if not classes else set().union(*(self._of_class(c) for c in classes)) & known.keys())
        wanted = {uid for name in classes for uid in self._of_class(name)}
        chosen = [u for u in dict.fromkeys(uids) if not classes or u in wanted or u not in known]
        if licences and chosen:
            found = {u: self.asset(u).licence for u in chosen if u in known}
            seen = ", ".join(sorted(set(found.values())))
            chosen = [u for u in chosen if found.get(u, licences[0]) in licences]
        if not chosen:
            filters = f"classes {list(classes) or 'any'}, licences {list(licences) or 'any'}"
            hint = f"; the licences among them are {seen}" if licences and uids else ""
            raise UserError(f"{self.cache}: no asset is left of {len(uids)} ({filters}){hint}; widen the selection")
        return chosen

    def asset(self, uid: str) -> Asset:
        """The record of one object."""
        folder = self._folder(uid)
        record = self._metadata(folder).get(uid)
        if record is None:
            raise CatalogueError(f"{uid}: not in metadata/{folder}.json.gz of {self.cache}", "not-found")
        return Asset(uid=uid, lvis_class=self._class_of().get(uid), **record)

    def fetch(self, uid: str) -> Path:
        """The object's .glb in the cache, downloaded if it is not there. A file that exists is returned as it is."""
        self._folder(uid)
        return self._obtain(self._paths()[uid])

    def release(self, uid: str) -> None:
        """Nothing: the cache keeps what it has."""

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
        return self._table("object-paths.json.gz", _as_it_is)

    def _metadata(self, folder: str) -> dict[str, dict[str, str]]:
        return self._table(f"metadata/{folder}.json.gz", _asset_fields)

    def _of_class(self, name: str) -> list[str]:
        classes = self._table("lvis-annotations.json.gz", _as_it_is)
        if name not in classes:
            near = ", ".join(difflib.get_close_matches(name, classes, n=4, cutoff=0.5))
            raise UserError(
                f"class {name!r}: not among the {len(classes)} LVIS classes of {self.cache}"
                + (near and f"; near: {near}")
            )
        return classes[name]

    def _class_of(self) -> dict[str, str]:
        classes = self._table("lvis-annotations.json.gz", _as_it_is)
        with self._lock:
            if "class of uid" not in self._tables:
                self._tables["class of uid"] = {uid: name for name, uids in classes.items() for uid in uids}
            return self._tables["class of uid"]

    def _table(self, relative: str, reduce: Any) -> dict[str, Any]:
        """A gzipped JSON object of the cache, reduced to what we keep of it, read once."""
        with self._lock:
            if relative not in self._tables:
                path = self._obtain(relative)
                try:
                    self._tables[relative] = reduce(json.loads(gzip.decompress(path.read_bytes())))
                except (EOFError, OSError, ValueError, AttributeError, zlib.error) as error:
                    raise CatalogueError(
                        f"{path}: not a gzipped JSON table ({error!r}); delete it to have it downloaded again",
                        "download",
                    ) from error
            return self._tables[relative]

    def _obtain(self, relative: str) -> Path:
        path = self.cache / relative
        if path.exists():
            return path
        try:
            return obtain(self.mirror, relative, path, self._policy)
        except DownloadError as error:
            raise CatalogueError(
                f"{relative}: not in the cache {self.cache} and not to be had from its mirror ({error}). Name a cache that "
                "holds it (--cache DIR), another mirror (--mirror DIR-or-URL), or make furniture without any download: "
                "python -m datasets.procedural --out DIR --count 24 --seed 0",
                "not-found" if error.missing else "download",
            ) from error


def _as_it_is(table: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"a JSON object was expected, found {type(table).__name__}")
    return table


def _asset_fields(table: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Sketchfab's records -> the fields of `Asset`, which are a hundredth of them."""
    reduced = {}
    for uid, record in _as_it_is(table).items():
        user = record.get("user") or {}
        reduced[uid] = {
            "licence": str(record.get("license") or UNKNOWN_LICENCE),
            "name": str(record.get("name") or ""),
            "creator": str(user.get("displayName") or user.get("username") or ""),
            "source_url": str(record.get("viewerUrl") or record.get("uri") or ""),
        }
    return reduced
