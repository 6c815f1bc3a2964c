"""Mattes: what of a picture is the object. Training pictures and the photo given to `model.reconstruct` go the same ways.

alpha                          the picture's own alpha channel
rembg:NAME                     a network of rembg: u2net, u2netp, isnet-general-use, birefnet-general, …
rembg:u2net_custom=FILE.onnx   a network of your own in the form of one of rembg's (u2net_custom, dis_custom, ben_custom)
rembg:sam=X0,Y0,X1,Y1          Segment Anything; the box around the object in shares of the picture's width and height
masks:DIR                      mask files beside the pictures

matter = find("rembg:u2net")   # nothing is loaded yet
matter.identity                # loads what is needed; raises MatteError where that cannot be had
rgba = matter(picture, "7/a001/001.jpg")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from preprocess.cutout import MatteError, check_picture
from preprocess.masks import MaskFiles
from preprocess.sessions import Device, Rembg
from turntable import framing

__all__ = ["Device", "MatteError", "Matter", "find", "matte"]
WAYS = "alpha, rembg:NAME, masks:DIR"


class Matter(Protocol):
    """A way of making mattes. It may be called from several threads."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the mattes (network, SHA-256 of its files, version), for the record of a run."""

    def __call__(self, picture: np.ndarray, name: str | None = None) -> np.ndarray:
        """(H, W, 3 or 4) uint8 sRGB -> (H, W, 4) uint8 straight alpha, or MatteError with its `reason`.

        `name` is the picture's path relative to the folder of all pictures; `masks:DIR` finds the mask by it.
        """


class OwnAlpha:
    """The picture's own alpha channel."""

    @property
    def identity(self) -> dict[str, str]:
        """What decides the mattes."""
        return {"matte": "alpha"}

    def __call__(self, picture: np.ndarray, name: str | None = None) -> np.ndarray:
        check_picture(picture)
        if framing.has_matte(picture):
            return picture
        found = "no alpha channel" if picture.shape[2] == 3 else "an alpha channel that is opaque everywhere"
        raise MatteError(
            "no-matte",
            f"the picture has {found}, which is no matte; cut the object out, or have it found:"
            " --matte rembg:u2net (a network), --matte masks:DIR (mask files)",
        )


def check(how: str) -> None:
    """Raises MatteError for a way that cannot be: an unknown name, a file or folder that is not there. Loads nothing."""
    find(how)


def find(how: str, device: Device = "cpu") -> Matter:
    """The way called `how`. Nothing is loaded before its `identity` or its first picture; `device` is where a network runs."""
    way, _, argument = how.partition(":")
    if how == "alpha":
        return OwnAlpha()
    if way == "masks" and argument:
        return MaskFiles(Path(argument))
    if way == "rembg" and argument:
        name, _, given = argument.partition("=")
        return Rembg(name, given, device)
    raise MatteError("unknown", f"--matte {how}: no such way to find the object; there is {WAYS}")


def matte(picture: np.ndarray, how: str, name: str | None = None, device: Device = "cpu") -> np.ndarray:
    """`find(how, device)(picture, name)`."""
    return find(how, device)(picture, name)
