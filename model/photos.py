"""Reading the pictures that people have: any mode, orientation and depth, as 8-bit sRGB. Files are not trusted."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from turntable.errors import UserError

MAX_PIXELS = 64_000_000
"""More than a picture from a good camera has; beyond it decoding is refused, since a small file can claim any size."""


class PictureError(UserError):
    """A file that is no picture, a damaged one, or one that is too large."""

    reason = "unreadable"


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) or, where the file has transparency, (H, W, 4) uint8 sRGB with straight alpha, turned as its EXIF data says.

    Of an animation the first frame is read. The size is taken from the header and limited before anything is decoded.
    """
    if path.is_dir():
        raise PictureError(f"{path}: a folder, not a picture; name the pictures in it")
    try:
        with _opened(path) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{path}: {width}×{height} pixels, more than {MAX_PIXELS:,}; make it smaller first")
            return _eight_bit(ImageOps.exif_transpose(picture), path)
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


def _eight_bit(picture: Image.Image, path: Path) -> np.ndarray:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # 16-bit grey. PIL's own conversion to 8 bits clips instead of scaling.
        grey = (np.asarray(picture).astype(np.int64) / 257).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode == "F":
        raise PictureError(f"{path}: a floating-point picture, whose range is unknown; save it with 8 or 16 bits")
    transparent = "A" in picture.getbands() or "transparency" in picture.info
    return np.asarray(picture.convert("RGBA" if transparent else "RGB"))
