"""Mattes from mask files that lie beside the pictures (`--matte masks:DIR`), as MVImgNet and many NeRF datasets hold them.

The mask of picture `7/a001/001.jpg` is `DIR/7/a001/001.jpg.png` or `DIR/7/a001/001.png`. Any PNG will do: grey, colour (its
brightness counts), with alpha (which then is the mask), 1, 8 or 16 bits, or labels 0 and 1. A mask of another size is
resized softly: MVImgNet's have half the pictures' size, and a hard threshold of the enlarged mask would leave stairs that
the training pictures of renders do not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from datasets.pictures import decode_png
from preprocess.cutout import MatteError, check_picture, cut_out
from turntable import files, framing

ASPECT_TOLERANCE = 0.02
"""Relative: how much more a mask may be scaled along one side than along the other. 1080 lines are 533.3 of 948 columns."""


@dataclass(frozen=True)
class MaskFiles:
    """Takes the matte of the picture called `name` from a folder."""

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise MatteError("missing-mask", f"--matte masks:{self.folder}: no such folder")

    @property
    def identity(self) -> dict[str, str]:
        """What decides the mattes, for the record of a run."""
        return {"matte": "masks"}

    def __call__(self, picture: np.ndarray, name: str | None = None) -> np.ndarray:
        """(H, W, 3 or 4) uint8 -> (H, W, 4) uint8 straight alpha. The mask counts also where the picture has a matte."""
        check_picture(picture)
        path = self.path(name)
        try:
            alpha = grey(decode_png(path.read_bytes()))
        except ValueError as error:
            raise MatteError("bad-mask", f"{path}: {error}; the mask cannot be read, make it again") from error
        return cut_out(picture, _checked(fitted(alpha, picture.shape[1], picture.shape[0], path), path))

    def path(self, name: str | None) -> Path:
        """The mask file of picture `name`, which is relative to the folder of all pictures."""
        if not name:
            raise MatteError(
                "missing-mask", f"--matte masks:{self.folder}: the picture has no name to find its mask by"
            )
        candidates = (f"{name}.png", str(PurePosixPath(name).with_suffix(".png")))
        for candidate in candidates:
            if (path := files.inside(self.folder, candidate)).is_file():
                return path
        raise MatteError(
            "missing-mask",
            f"--matte masks:{self.folder}: no mask for {name}, neither {' nor '.join(dict.fromkeys(candidates))}; "
            "add it, or let a network find the object (--matte rembg:u2net)",
        )


def grey(mask: np.ndarray) -> np.ndarray:
    """A decoded mask of any kind -> (H, W) uint8, 255 is the object."""
    if mask.dtype == np.uint16:
        mask = (mask / 257).round().astype(np.uint8)
    if mask.ndim == 3:
        mask = mask[..., 3] if framing.has_matte(mask) else cv2.cvtColor(mask[..., :3], cv2.COLOR_RGB2GRAY)
    return mask * 255 if mask.max() == 1 else mask  # labels: 0 and 1


def fitted(alpha: np.ndarray, width: int, height: int, path: Path) -> np.ndarray:
    """(h, w) uint8 -> (height, width): linear between pixel centres when growing, area filter when shrinking."""
    across, down = width / alpha.shape[1], height / alpha.shape[0]
    if abs(across / down - 1) > ASPECT_TOLERANCE:
        raise MatteError(
            "bad-mask",
            f"{path}: a mask of {alpha.shape[1]}×{alpha.shape[0]} for a picture of {width}×{height} pixels, another shape; "
            "is it turned, or of another picture?",
        )
    if across == down == 1:
        return alpha
    return cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR if across > 1 else cv2.INTER_AREA)


def _checked(alpha: np.ndarray, path: Path) -> np.ndarray:
    if framing.matte_box(alpha) is None:
        raise MatteError("no-subject", f"{path}: the mask is empty")
    if alpha.min() == 255:
        raise MatteError("no-matte", f"{path}: the mask covers the whole picture, which cuts nothing out")
    return alpha
