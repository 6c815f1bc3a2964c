"""The files of rembg's networks: where rembg expects each, from where it comes, by which MD5 it is known.

rembg itself says so: its sessions' own `download_models` is asked, with a listener in the place of the downloader. What is
missing is fetched by `datasets.download` (resumed, limited in size), checked, and laid where rembg looks for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.download import DownloadError, Policy, obtain
from preprocess.cutout import MatteError

POLICY = Policy(tries=3, max_bytes=2 << 30)
"""The largest of rembg's networks has about 1 GB."""
_asking = threading.Lock()


@dataclass(frozen=True)
class ModelFile:
    """One file of a network."""

    path: Path
    """Where rembg expects it; the environment variable U2NET_HOME chooses the folder."""
    url: str
    md5: str | None
    """rembg publishes MD5 sums; of a few networks (sam, bria-rmbg) none. MODEL_CHECKSUM_DISABLED, which is rembg's, hides them all."""


def files_of(session_class: Any) -> list[ModelFile]:
    """The files that a session class of rembg stands on, which need not be there."""
    asked: list[ModelFile] = []

    class Listener:
        @staticmethod
        def retrieve(url: str, known_hash: str | None, fname: str, path: str, **_: Any) -> None:
            asked.append(ModelFile(Path(path) / fname, url, known_hash and known_hash.removeprefix("md5:")))

    module: Any = sys.modules[session_class.__module__]
    with _asking:
        downloader, module.pooch = module.pooch, Listener
        try:
            session_class.download_models()
        finally:
            module.pooch = downloader
    return asked


def bring(file: ModelFile, how: str) -> None:
    """Has `file` lie in its place, whole and checked. Raises MatteError; `how` is what was asked for."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    with file.path.with_name(f".{file.path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of one machine want the same file
        if not file.path.exists():
            _fetch(file, how)
        elif file.md5 and (found := md5(file.path)) != file.md5:
            raise MatteError(
                "no-model",
                f"--matte {how}: {file.path} has the MD5 {found}, rembg expects {file.md5}; delete it to have it fetched "
                f"again from {file.url}",
            )


def _fetch(file: ModelFile, how: str) -> None:
    mirror, _, name = file.url.rpartition("/")
    arrived = file.path.with_name(f"{file.path.name}.unchecked")
    expected = f"MD5 {file.md5}" if file.md5 else "rembg publishes no checksum of it"
    try:
        obtain(mirror, name, arrived, POLICY)
    except DownloadError as error:
        raise MatteError(
            "no-model",
            f"--matte {how}: {file.path.name} is not in {file.path.parent} and could not be fetched ({error}); put the "
            f"file there ({expected}, from {file.url}), or name the folder that has it by U2NET_HOME",
        ) from error
    found = md5(arrived)
    if file.md5 and found != file.md5:
        arrived.unlink()
        raise MatteError(
            "no-model",
            f"--matte {how}: {file.url} gave a file with the MD5 {found}, rembg expects {file.md5}; not kept",
        )
    arrived.replace(file.path)


def md5(path: Path) -> str:
    """Hexadecimal MD5 of a file's content, to compare with what rembg publishes; it guards against accidents only."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
