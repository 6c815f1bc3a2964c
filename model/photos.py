"""Reading the pictures that people have: any mode, orientation and depth, as 8-bit sRGB. Files are not trusted."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from turntable.errors import UserError

MAX_PIXELS = 64_000_000
"""More than a picture from a good camera has; beyond it decoding is refused, since a small file can claim any size."""
LONGEST_SIDE = 4096
"""Pixels: a larger picture is scaled down to it as it is read. The largest network takes 512, of the object alone."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class PictureError(UserError):
    """A file that is no picture, a damaged one, or one that is too large."""

    reason = "unreadable"


@dataclass(frozen=True)
class Photo:
    """A picture that has been read."""

    picture: np.ndarray
    """(H, W, 3) or, where the file has transparency, (H, W, 4) uint8 sRGB with straight alpha, turned as its EXIF data says."""
    notes: tuple[str, ...] = ()
    """What has been done to it, a sentence each."""


def read_picture(path: Path) -> np.ndarray:
    """The picture of `read_photo`, in its own size."""
    return read_photo(path, None).picture


def read_photo(path: Path, longest_side: int | None = LONGEST_SIDE) -> Photo:
    """A picture from a file; of an animation the first frame. Larger ones are scaled down to `longest_side` (None: they are not).

    The size is taken from the header and limited before anything is decoded.
    """
    if _URL.match(str(path)):
        raise PictureError(f"{path}: a URL; download the picture and name the file")
    if path.is_dir():
        raise PictureError(f"{path}: a folder, not a picture; name the pictures in it")
    try:
        with _opened(path) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{path}: {width}×{height} pixels, more than {MAX_PIXELS:,}; make it smaller first")
            return _read(picture, path, longest_side)
    except FileNotFoundError:
        raise PictureError(f"{path}: no such picture") from None
    except Image.DecompressionBombError as error:
        raise PictureError(f"{path}: more than {MAX_PIXELS:,} pixels ({error}); make it smaller first") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{path}: not a picture that can be read ({error}); PNG, JPEG and WebP are") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, PictureError):
            raise
        # What decoders raise of damaged files; PIL's PNG reader raises SyntaxError.
        raise PictureError(f"{path}: a damaged picture ({error}); copy or save it again") from error


def _opened(path: Path) -> Image.Image:
    """The picture with its header read. Our own limit is below PIL's, whose refusal names no size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _read(picture: Image.Image, path: Path, longest_side: int | None) -> Photo:
    notes = []
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} frames")
    size = picture.size
    longest = longest_side or max(size)
    # A JPEG is decoded at half, a quarter or an eighth of its size where that is still large enough.
    picture.draft(None, (longest, longest))
    turned = _eight_bit(ImageOps.exif_transpose(picture), path)
    if max(turned.size) > longest:
        turned.thumbnail((longest, longest), Image.Resampling.BICUBIC, reducing_gap=2.0)
    if max(size) > longest:
        notes.append(f"scaled down from {size[0]}×{size[1]} pixels")
    return Photo(np.array(turned), tuple(notes))


def _eight_bit(picture: Image.Image, path: Path) -> Image.Image:
    """Any mode as RGB, or as RGBA where there is transparency."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # 16-bit grey. PIL's own conversion to 8 bits clips instead of scaling. 16-bit colours PIL reads by their higher byte.
        grey = (np.asarray(picture).astype(np.int64) / 257).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode == "F":
        raise PictureError(f"{path}: a floating-point picture, whose range is unknown; save it with 8 or 16 bits")
    # Not by a band called A: LAB has one too.
    transparent = picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info
    return picture.convert("RGBA" if transparent else "RGB")
