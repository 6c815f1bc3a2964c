"""Published models, and our own, by name: where they are, and where they are kept once they are here.

Files are downloaded into `$TURNTABLE_CACHE/weights` (`~/.cache/turntable/weights` without that variable), each checked
against a known SHA-256 or the one that the Hugging Face hub states. A machine without a network takes files that somebody laid there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from turntable import download
from turntable.errors import UserError

HUB = "https://huggingface.co"
PATIENCE = download.Policy(tries=3, max_bytes=16 << 30)


class HubError(UserError):
    """A published model that cannot be had."""


@dataclass(frozen=True)
class Repository:
    """Files of one repository on the hub."""

    name: str
    """owner/name."""
    files: tuple[str, ...]
    licence: str | None = None
    """SPDX identifier of the weights."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of files of which it is known; of the others the hub's own word is taken."""


def _openlrm(name: str) -> Repository:
    return Repository(f"zxhezexin/openlrm-{name}", ("config.json", "model.safetensors"), "CC-BY-NC-4.0")


PUBLISHED: dict[str, Repository] = {
    **{
        f"openlrm:{data}-{size}-1.1": _openlrm(f"{data}-{size}-1.1")
        for data in ("obj", "mix")
        for size in ("small", "base", "large")
    },
    "triposr": Repository(
        "stabilityai/TripoSR",
        ("config.yaml", "model.ckpt"),
        "MIT",
        # Of its revision 5b521936, the only one of the weights.
        {
            "config.yaml": "74ca708ce086bf68e97709ea6b3d91f14717921c04691e84043f0eb8fcc68e62",
            "model.ckpt": "429e2c6b22a0923967459de24d67f05962b235f79cde6b032aa7ed2ffcd970ee",
        },
    ),
}
"""Name for --checkpoint -> what it stands for."""


DEFAULT = "turntable:furniture"
"""The model that comes with the project: what --checkpoint is where it is left out."""
BUNDLED: dict[str, Path] = {DEFAULT: Path(__file__).parent / "weights" / "furniture.safetensors"}
"""Name for --checkpoint -> a file that is here already."""


def obtain(repository: Repository) -> Path:
    """The folder with the repository's files, downloaded where they are not there yet.

    `$HF_ENDPOINT` names another hub, as it does for Hugging Face's own programs.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository.name) or ".." in repository.name:
        raise HubError(f"{repository.name!r}: neither a folder that is there nor an owner/name on the Hugging Face hub")
    hub = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    folder = download.weights_folder() / repository.name.replace("/", "--")
    for file in repository.files:
        relative = f"{repository.name}/resolve/main/{file}"
        if (folder / file).exists():
            continue
        try:
            download.obtain(hub, relative, folder / file, PATIENCE, repository.sha256.get(file))
        except download.DownloadError as error:
            raise HubError(
                f"{error}. Expected: {folder / file}, from {hub}/{relative}; a copy of it may be laid there by hand"
            ) from error
    return folder
