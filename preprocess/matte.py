"""Mattes: what of a picture is the object. Training pictures and the photo given to `model.reconstruct` go through `matte`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from turntable import framing
from turntable.errors import UserError


class MatteError(UserError):
    """A picture without a usable matte, or a way to make one that does not exist."""


def _own_alpha(picture: np.ndarray) -> np.ndarray:
    """The picture's own alpha channel."""
    if framing.has_matte(picture):
        return picture
    found = "no alpha channel" if picture.shape[2] == 3 else "an alpha channel that is opaque everywhere"
    raise MatteError(
        f"the picture has {found}, which is no matte; cut the object out, or choose another --matte than 'alpha' "
        f"(there is {', '.join(sorted(MATTES))})"
    )


MATTES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"alpha": _own_alpha}
"""Name for --matte -> function from an RGB(A) picture without a true matte, or with one, to RGBA."""


def find(how: str) -> Callable[[np.ndarray], np.ndarray]:
    """The way of making mattes called `how`."""
    if how not in MATTES:
        raise MatteError(f"--matte {how}: no such way to find the object; there is {', '.join(sorted(MATTES))}")
    return MATTES[how]


def matte(picture: np.ndarray, how: str) -> np.ndarray:
    """(H, W, 3 or 4) uint8 sRGB -> (H, W, 4) uint8 straight alpha. A true matte that the picture has is kept as it is."""
    make = find(how)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise MatteError(f"a picture must be (H, W, 3 or 4) uint8, got {picture.shape} {picture.dtype}")
    return picture if framing.has_matte(picture) else make(picture)
