"""A photo as the network takes it: its object found, framed as training pictures were, and its camera placed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from model.lrm import LRM
from model.placement import supposed_camera
from preprocess.matte import Device, matte
from turntable import cameras, framing
from turntable.errors import UserError

BORDER = 2
"""Pixels: an object that comes as near as this to a border of its picture may go on beyond it."""
SMALLEST = 64
"""Pixels: of a smaller object the network sees mostly interpolation."""


@dataclass(frozen=True)
class Photograph:
    """What is known of how the pictures were taken, and how their object is found."""

    matte: str = "alpha"
    """How the object is found: `alpha`, `rembg:u2net`, `rembg:u2net_custom=FILE.onnx`, `masks:DIR`, …; see `preprocess.matte`."""
    matte_device: Device = "cpu"
    """Where a matting network runs."""
    fov: float | None = None
    """Degrees, horizontal field of view of the whole picture. None: as the training pictures typically had."""
    distance: float | None = None
    """Object units (the object's bounding sphere has radius 1) from the camera to the object's centre. None: typical."""
    elevation: float | None = None
    """Degrees by which the camera looks down on the object; the result is turned upright by it. None: typical, 0 where the
    checkpoint does not say."""

    def __post_init__(self) -> None:
        if self.fov is not None and not 0 < self.fov < 180:
            raise ValueError(f"fov must lie in (0, 180) degrees, got {self.fov}")
        if self.distance is not None and not 1 < self.distance < 1e4:
            raise ValueError(
                f"distance must be above 1, the radius of the object's bounding sphere, got {self.distance}"
            )
        if self.elevation is not None and not -90 <= self.elevation <= 90:
            raise ValueError(f"elevation must lie in [-90, 90] degrees, got {self.elevation}")


@dataclass(frozen=True)
class Framed:
    """A picture as the network takes it."""

    rgba: np.ndarray
    """(S, S, 4) uint8."""
    intrinsics: np.ndarray
    """(4,) of the framed picture, normalised."""
    canonical_from_camera: np.ndarray
    """(3, 4), the camera at (0, -d, 0)."""
    elevation: float
    """Degrees by which the camera is taken to look down on the object."""
    original: np.ndarray
    """(H, W, 3 or 4) uint8, the whole picture, no larger than 512 pixels a side: to be looked at."""
    notes: tuple[str, ...] = ()
    """What has been done to the picture, and what is doubtful about it, a sentence each."""

    @property
    def distance(self) -> float:
        """Object units."""
        return float(np.linalg.norm(self.canonical_from_camera[:, 3]))

    @property
    def upright_from_canonical(self) -> np.ndarray:
        """(3, 4): the turn that stands the object upright."""
        return upright_from_canonical(self.elevation)


def find_object(picture: np.ndarray, photograph: Photograph, name: str | None = None) -> np.ndarray:
    """(H, W, 3 or 4) uint8 -> (H, W, 4) with a true matte, or a MatteError. `name` is the file's, by which a mask is found."""
    rgba = matte(picture, photograph.matte, name, photograph.matte_device)
    return without_faint_islands(rgba) if photograph.matte.startswith("rembg:") else rgba


def without_faint_islands(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) without those connected parts of the matte that are nowhere half opaque, if any other part is.

    Networks leave such traces of what they were not sure of. They can hardly be seen, but the frame is laid around them too.
    """
    alpha = rgba[..., 3]
    parts, count = ndimage.label(alpha >= framing.LEAST_ALPHA)
    highest = np.concatenate([[0], ndimage.maximum(alpha, parts, np.arange(1, count + 1))]) if count else np.zeros(1)
    faint = (highest < 128)[parts] & (parts > 0)
    if not faint.any() or highest.max() < 128:
        return rgba
    return np.where(faint[..., None], 0, rgba).astype(np.uint8)


def check_camera(photograph: Photograph, lrm: LRM) -> None:
    """Refuses a camera for a network that is told none."""
    if not lrm.config.decoder.camera_width and (photograph.fov, photograph.distance) != (None, None):
        raise UserError(
            "this checkpoint's network is not told a camera, and takes every picture to be taken from the same distance;"
            " leave --fov and --distance out"
        )


def frame_object(rgba: np.ndarray, photograph: Photograph, lrm: LRM, extra: dict[str, Any]) -> Framed:
    """Cuts the square around a matted object, (H, W, 4) uint8, and places the camera.

    Of the lens and the distance the missing one follows from the given one, since the framed object always fills the same share.
    """
    check_camera(photograph, lrm)
    height, width = rgba.shape[:2]
    # Without a field of view only the square matters, so the whole picture's intrinsics may be anything.
    lens = cameras.intrinsics_from_fov(photograph.fov or 50.0, width / height)
    try:
        framed, intrinsics = framing.frame(rgba, lens, lrm.config.encoder.image_size, lrm.config.fill)
    except ValueError as error:
        raise NoSubjectError(f"{error}: every pixel of the picture is transparent") from error
    distance = photograph.distance
    if photograph.fov is None or distance is None:
        typical = supposed_camera(extra)
        if photograph.fov is None:
            focal = typical.focal * (1.0 if distance is None else distance / typical.distance)
            intrinsics = np.array([focal, focal, 0.5, 0.5])
        if distance is None:
            distance = typical.distance
            if photograph.fov is not None:
                distance = max(distance * intrinsics[0] / typical.focal, 1.05)
    elevation = typical_elevation(extra) if photograph.elevation is None else photograph.elevation
    pose = canonical_camera(intrinsics, distance)
    return Framed(framed, intrinsics, pose, elevation, small(rgba), doubts(rgba[..., 3]))


def typical_elevation(extra: dict[str, Any]) -> float:
    """Degrees from which a checkpoint's training pictures looked down; 0 where it does not say."""
    value = extra.get("camera_elevation", 0.0)
    if not isinstance(value, int | float) or not -90 <= value <= 90:
        raise UserError(f"the checkpoint's camera_elevation is {value!r}, no angle; give --elevation")
    return float(value)


def small(picture: np.ndarray, longest_side: int = 512) -> np.ndarray:
    """(H, W, 3 or 4) uint8 -> the same, no larger than so many pixels a side."""
    factor = longest_side / max(picture.shape[:2])
    if factor >= 1:
        return picture
    height, width = (max(round(side * factor), 1) for side in picture.shape[:2])
    if picture.shape[2] == 4:
        return framing.resize(picture, width, height)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


class NoSubjectError(UserError):
    """A matte with nothing in it."""

    reason = "no-subject"


def doubts(alpha: np.ndarray) -> tuple[str, ...]:
    """What an (H, W) uint8 matte lets one fear: that it is no cut-out of a whole object."""
    opaque = alpha > 127
    strips = {
        "top": opaque[:BORDER],
        "bottom": opaque[-BORDER:],
        "left": opaque[:, :BORDER],
        "right": opaque[:, -BORDER:],
    }
    found = []
    touched = [name for name, strip in strips.items() if strip.any()]
    if len(touched) == 4:
        found.append("the object touches all four borders: the matte may be the background, or the picture a detail")
    elif touched:
        found.append(f"the object touches the {' and '.join(touched)} border: what lies beyond is not reconstructed")
    box = framing.matte_box(alpha)
    height, width = alpha.shape
    longer = 0 if box is None else round(max((box[2] - box[0]) * width, (box[3] - box[1]) * height))
    if 0 < longer < SMALLEST:
        found.append(f"the object is only {longer} pixel{'s' * (longer > 1)} large: nothing is known of its details")
    return tuple(found)


def canonical_camera(intrinsics: np.ndarray, distance: float) -> np.ndarray:
    """(3, 4): the camera at (0, -distance, 0) that sees the object's centre in the middle of the framed picture.

    Where the framed picture's principal point is not its middle, the camera does not look straight at the centre.
    """
    towards = cameras.camera_directions(np.array([0.5, 0.5]), intrinsics)
    pose = np.concatenate([np.eye(3), -distance * (towards / np.linalg.norm(towards))[:, None]], axis=1)
    return cameras.compose(cameras.canonical_from_world(pose), pose)


def upright_from_canonical(elevation_deg: float) -> np.ndarray:
    """(3, 4): the turn about x that lifts the camera from (0, -d, 0) to its elevation, and so stands the object upright."""
    angle = np.deg2rad(elevation_deg)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0, 0], [0, c, s, 0], [0, -s, c, 0]])
