"""The official weights of Real-ESRGAN: where they are, what they are checked against, where they are kept.

They are downloaded once, into `$TURNTABLE_CACHE/weights` (`~/.cache/turntable/weights` without that variable). A machine without
a network takes files that somebody laid there; what lies there is checked all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from turntable import download, files
from turntable.errors import UserError

RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"
PATIENCE = download.Policy(tries=3)


class WeightsError(UserError):
    """Weights that cannot be had or are not what they should be."""


@dataclass(frozen=True)
class Official:
    """One published file."""

    release: str
    """Tag of the release that it belongs to."""
    file: str
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal digits."""


# The releases state no checksums. These are what others found: x4plus and x2plus as in the PKGBUILD of python-realesrgan 0.2.2.4
# (Arch Linux User Repository), general-x4v3 as the Hugging Face hub states it for jhj0517/realesr-general-x4v3.
OFFICIAL = {
    "realesrgan-x4plus": Official(
        "v0.1.0",
        "RealESRGAN_x4plus.pth",
        67_040_989,
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
    ),
    "realesrgan-x2plus": Official(
        "v0.2.1",
        "RealESRGAN_x2plus.pth",
        67_061_725,
        "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
    ),
    "realesr-general-x4v3": Official(
        "v0.2.5.0",
        "realesr-general-x4v3.pth",
        4_885_111,
        "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
    ),
}
"""Name for --upscale -> its weights."""


def obtain(weights: Official, folder: Path, releases: str = RELEASES, policy: download.Policy = PATIENCE) -> Path:
    """The file of `weights` in `folder`, checked; downloaded from `releases` where it is not there."""
    target = folder / weights.file
    try:
        if not target.exists():
            limits = download.limited(policy, weights.size)
            download.obtain(releases, f"{weights.release}/{weights.file}", target, limits, weights.sha256)
        elif (found := files.sha256(target)) != weights.sha256:
            raise WeightsError(f"{target}: its SHA-256 is {found}; delete it, or put the right file in its place")
    except (download.DownloadError, WeightsError) as error:
        raise WeightsError(
            f"{error}. Expected: {folder}/{weights.file}, {weights.size} bytes, SHA-256 {weights.sha256}, from "
            f"{releases}/{weights.release}/{weights.file}; a copy of it may be laid there by hand"
        ) from error
    return target
