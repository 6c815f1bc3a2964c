"""The files of rembg's networks: where rembg expects each, from where it comes, by which checksum it is known.

rembg itself says so: its sessions' own `download_models` is asked, with a listener in the place of the downloader. What is
missing is fetched by `turntable.download` (resumed, limited in size), checked, and laid where rembg looks for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.cutout import MatteError
from turntable.download import DownloadError, Policy, obtain

POLICY = Policy(tries=3, max_bytes=2 << 30)
"""The largest of rembg's networks has about 1 GB."""
_asking = threading.Lock()


@dataclass(frozen=True)
class ModelFile:
    """One file of a network."""

    path: Path
    """Where rembg expects it; the environment variable U2NET_HOME chooses the folder."""
    url: str
    checksum: str | None
    """`md5:…` or `sha256:…`, as rembg publishes it; of sam's it publishes none.

    rembg's own variable MODEL_CHECKSUM_DISABLED hides them all."""


def files_of(session_class: Any) -> list[ModelFile]:
    """The files that a session class of rembg stands on, which need not be there."""
    asked: list[ModelFile] = []

    class Listener:
        @staticmethod
        def retrieve(url: str, known_hash: str | None, fname: str, path: str, **_: Any) -> None:
            asked.append(ModelFile(Path(path) / fname, url, known_hash))

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
        elif file.checksum and (found := checksum(file.path, like=file.checksum)) != file.checksum:
            raise MatteError(
                "no-model",
                f"--matte {how}: {file.path} is {found}, rembg expects {file.checksum}; delete it to have it fetched again "
                f"from {file.url}",
            )


def _fetch(file: ModelFile, how: str) -> None:
    mirror, _, name = file.url.rpartition("/")
    arrived = file.path.with_name(f"{file.path.name}.unchecked")
    expected = file.checksum or "rembg publishes no checksum of it"
    try:
        obtain(mirror, name, arrived, POLICY)
    except DownloadError as error:
        raise MatteError(
            "no-model",
            f"--matte {how}: {file.path.name} is not in {file.path.parent} and could not be fetched ({error}); put the "
            f"file there ({expected}, from {file.url}), or name the folder that has it by U2NET_HOME",
        ) from error
    if file.checksum and (found := checksum(arrived, like=file.checksum)) != file.checksum:
        arrived.unlink()
        raise MatteError(
            "no-model",
            f"--matte {how}: {file.url} gave a file that is {found}, rembg expects {file.checksum}; not kept",
        )
    arrived.replace(file.path)


def checksum(path: Path, like: str) -> str:
    """A file's checksum by the algorithm that another one, `md5:…` or `sha256:…`, was made with. MD5 guards against accidents only."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as handle:
        return f"{algorithm}:{hashlib.file_digest(handle, algorithm).hexdigest()}"
