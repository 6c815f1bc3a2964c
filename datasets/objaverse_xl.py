"""The asset catalogue of Objaverse-XL: single files from GitHub, Thingiverse, the Smithsonian and Sketchfab, checked by hash.

The layout of the annotations and of the Sketchfab part is the `objaverse` package's. Its download functions are not called: they
clone whole repositories, know no timeout, resume or size limit, and keep a file of another hash as if it were the one.

    <cache>/github/github.parquet …           annotations
    <cache>/xl-objects/ab/<sha256>.obj        files of GitHub, Thingiverse, the Smithsonian
    <cache>/hf-objaverse-v1/                  Objaverse 1.0, which holds the files of Sketchfab
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from datasets.annotations import (
    GITHUB,
    Entry,
    Location,
    Source,
    large_file_location,
    location,
    pointed_at,
    sketchfab_uid,
)
from datasets.catalogue import UNKNOWN_LICENCE, Asset, CatalogueError
from datasets.objaverse import PUBLIC_MIRROR, Objaverse, reason_of
from datasets.spool import Spool
from turntable.download import DownloadError, HashMismatch, Policy, limited, obtain
from turntable.errors import UserError

DEFAULT_CACHE = Path("~/.objaverse")
ANNOTATIONS = Location("huggingface.co", "datasets/allenai/objaverse-xl/resolve/main")
"""Below it: <source>/<source>.parquet."""


class ObjaverseXL:
    """The files `entries` (uid -> file), kept in `cache`. A uid is the SHA-256 of the content. May be shared by threads."""

    source = "objaverse-xl"

    def __init__(
        self,
        entries: dict[str, Entry],
        cache: Path = DEFAULT_CACHE,
        mirror: str | None = None,
        policy: Policy | None = None,
        spool: Spool | None = None,
        asset_bytes: int | None = None,
    ) -> None:
        self.cache = Path(cache).expanduser()
        self.mirror = mirror
        """A folder, or an http(s) URL, below which each host has a folder of its name; None: the hosts themselves."""
        self._entries = entries
        self._policy = limited(policy or Policy(), asset_bytes)
        self._spool = spool
        objaverse = f"{mirror.rstrip('/')}/{PUBLIC_MIRROR.removeprefix('https://')}" if mirror else None
        self._sketchfab = Objaverse(self.cache / "hf-objaverse-v1", objaverse, policy, spool, asset_bytes)

    def asset(self, uid: str) -> Asset:
        """What the annotations say of it, and for files of Sketchfab what Objaverse's own record says."""
        entry = self._entry(uid)
        if name := sketchfab_uid(entry):
            record = self._sketchfab.asset(name)
            licence = record.licence if entry.licence == UNKNOWN_LICENCE else entry.licence
            return replace(record, uid=uid, licence=licence, source_url=entry.identifier)
        owner = GITHUB.fullmatch(entry.identifier)
        place = location(entry)
        name = PurePosixPath(place.path).stem if place and entry.source != "thingiverse" else ""
        return Asset(uid, None, entry.licence, name, owner[1] if owner else "", entry.identifier)

    def fetch(self, uid: str) -> Path:
        """The file, downloaded and its hash checked if it is not here."""
        entry = self._entry(uid)
        if name := sketchfab_uid(entry):
            return self._sketchfab.fetch(name, sha256=uid)
        path = self.cache / "xl-objects" / uid[:2] / f"{uid}{entry.suffix}"
        if path.exists():
            return path
        place = location(entry)
        if place is None:
            raise CatalogueError(f"{uid}: {entry.identifier!r} is no address of {entry.source}; refused", "not-found")
        target = self._spool.place(path.name) if self._spool else path
        try:
            return self._obtain(uid, entry, place, target)
        except DownloadError as error:
            raise CatalogueError(f"{entry.identifier}: {error}", reason_of(error)) from error

    def release(self, uid: str) -> None:
        """Deletes what `fetch` downloaded, where the catalogue was told to keep nothing; never what the cache had."""
        if uid not in self._entries:
            return
        entry = self._entries[uid]
        if name := sketchfab_uid(entry):
            self._sketchfab.release(name, sha256=uid)
        elif self._spool:
            self._spool.drop(f"{uid}{entry.suffix}")

    def _entry(self, uid: str) -> Entry:
        if uid not in self._entries:
            raise CatalogueError(
                f"{uid}: not among the {len(self._entries)} files chosen from the annotations", "not-found"
            )
        return self._entries[uid]

    def _obtain(self, uid: str, entry: Entry, place: Location, target: Path) -> Path:
        """The file at `place`; where GitHub has a pointer to its large-file store there, the file in that."""
        try:
            return obtain(_base(self.mirror, place.host), place.path, target, self._policy, sha256=uid)
        except HashMismatch as mismatch:
            pointer = pointed_at(mismatch.start) if entry.source == "github" else None
            if pointer is None:
                raise
            if pointer != uid:
                raise HashMismatch(f"a Git LFS pointer to other content ({pointer})", mismatch.start) from mismatch
        place = large_file_location(entry)
        return obtain(_base(self.mirror, place.host), place.path, target, self._policy, sha256=uid)


def obtain_annotations(
    sources: Sequence[Source], cache: Path, mirror: str | None = None, policy: Policy | None = None
) -> list[Path]:
    """The annotation tables of `sources`, downloaded where the cache lacks them."""
    paths = []
    for source in sources:
        path = Path(cache).expanduser() / source / f"{source}.parquet"
        base = f"{_base(mirror, ANNOTATIONS.host)}/{ANNOTATIONS.path}"
        try:
            paths.append(path if path.exists() else obtain(base, f"{source}/{path.name}", path, policy or Policy()))
        except DownloadError as error:
            raise UserError(
                f"{path}: not here and not to be had ({error}); name a table that you have (--annotations FILE.parquet) "
                "or a mirror (--mirror DIR-or-URL)"
            ) from error
    return paths


def _base(mirror: str | None, host: str) -> str:
    return f"{mirror.rstrip('/')}/{host}" if mirror else f"https://{host}"
