"""One lens for all views of an object: pictures taken again by cameras at the same places that look at the object's centre.

A camera that only turns and zooms sees nothing new, so old and new picture are related by a homography, exactly. Layouts
that know a single set of intrinsics for an object (OpenLRM's) need it where the stored ones differ from view to view, as
they do for squares cut from video frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from turntable import cameras

SAME_LENS = 1e-6
"""Intrinsics (normalised) that differ by less are one lens: a thousandth of a pixel in a picture of 1000."""
FILL = 0.95
"""Share of the shared picture's half side that the farthest corner of any matte's box reaches."""
_FINEST = 2
"""Samples a pixel and axis at least. OpenCV places samples on a grid of 1/32 pixel of the old picture; their mean does better."""


@dataclass(frozen=True)
class SharedLens:
    """New cameras of one lens, and where each of their pictures lies in the old one."""

    world_from_camera: np.ndarray
    """(V, 3, 4); positions as they were."""
    intrinsics: np.ndarray
    """(4,), normalised, of every view."""
    old_from_new: np.ndarray
    """(V, 3, 3) homographies: homogeneous uv of the new picture -> of the old one."""


def one_lens(intrinsics: np.ndarray) -> bool:
    """Whether (V, 4) intrinsics are the same for all views."""
    return bool(np.ptp(intrinsics, axis=0).max() < SAME_LENS)


def share_lens(world_from_camera: np.ndarray, intrinsics: np.ndarray, matte_boxes: np.ndarray) -> SharedLens:
    """The shared lens for (V, 3, 4) poses, (V, 4) intrinsics and (V, 4) matte boxes (zeros: nothing there to keep in sight).

    Principal point in the middle, square pixels, and the longest focal length with which every matte's box stays inside its
    picture. Raises ValueError when a camera sits at the centre or looks away from it.
    """
    poses = np.stack([facing_centre(pose) for pose in world_from_camera])
    reach = [
        _reach(old, new, lens, box)
        for old, new, lens, box in zip(world_from_camera, poses, intrinsics, matte_boxes, strict=True)
    ]
    if max(reach) <= 0:
        raise ValueError("every matte is empty")
    focal = FILL * 0.5 / max(reach)
    shared = np.array([focal, focal, 0.5, 0.5])
    homographies = [
        np.linalg.inv(_directions(lens)) @ old[:, :3].T @ new[:, :3] @ _directions(shared)
        for old, new, lens in zip(world_from_camera, poses, intrinsics, strict=True)
    ]
    return SharedLens(poses, shared, np.stack(homographies))


def facing_centre(world_from_camera: np.ndarray) -> np.ndarray:
    """(3, 4) pose at the same place that looks at the object's centre, its up as near the old one's as can be."""
    canonical_from_world = cameras.canonical_from_world(world_from_camera)
    if world_from_camera[:, 2] @ world_from_camera[:, 3] <= 0:
        raise ValueError("a camera looks away from the object's centre")
    # The canonical camera's axes, as columns: right is +x, up is +z, back is -y.
    canonical_from_camera = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    rotation = canonical_from_world[:, :3].T @ canonical_from_camera
    return np.concatenate([rotation, world_from_camera[:, 3:]], axis=1)


def _directions(intrinsics: np.ndarray) -> np.ndarray:
    """(3, 3): homogeneous uv -> direction in the camera's frame with z = -1; `cameras.camera_directions` as a matrix."""
    fx, fy, cx, cy = intrinsics
    return np.array([[1 / fx, 0, -cx / fx], [0, -1 / fy, cy / fy], [0, 0, -1]])


def _reach(old: np.ndarray, new: np.ndarray, lens: np.ndarray, box: np.ndarray) -> float:
    """Largest tangent, to any side, at which the new camera sees a matte's box; 0 without a matte."""
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64)
    if x1 <= x0:
        return 0.0
    corners = np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]])
    seen = cameras.camera_directions(corners, lens) @ (new[:, :3].T @ old[:, :3]).T
    if (seen[:, 2] >= 0).any():
        raise ValueError("a matte reaches behind the camera that would look at the object's centre")
    return float(np.abs(seen[:, :2] / seen[:, 2:]).max())


def take(rgba: np.ndarray, old_from_new: np.ndarray, size: int) -> np.ndarray:
    """(S, S, 4) uint8 picture -> (size, size, 4) as the new camera sees it; transparent where the old picture ends.

    Cubic, on premultiplied colour, with enough samples a pixel that nothing aliases where the new picture is coarser.
    """
    old_side = rgba.shape[0]
    fine = size * max(_FINEST, int(np.ceil(_shrinkage(old_from_new) * old_side / size)))
    premultiplied = rgba.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    pixels = _pixels_from_uv(old_side) @ old_from_new @ np.linalg.inv(_pixels_from_uv(fine))
    warped = cv2.warpPerspective(
        premultiplied,
        pixels,
        (fine, fine),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    warped = cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)
    alpha = warped[..., 3:]
    straight = np.where(alpha > 0.5, warped[..., :3] * (255 / np.maximum(alpha, 0.5)), 0)
    return np.concatenate([straight, alpha], axis=-1).clip(0, 255).round().astype(np.uint8)


def _pixels_from_uv(side: int) -> np.ndarray:
    """(3, 3): homogeneous uv -> OpenCV's pixel coordinates, in which the first pixel's centre is 0 and not 0.5."""
    return np.array([[side, 0, -0.5], [0, side, -0.5], [0, 0, 1.0]])


def _shrinkage(old_from_new: np.ndarray) -> float:
    """How much of the old picture's side a step of the new one's covers at most, at its middle and corners."""
    spots = np.array([[u, v, 1.0] for u in (0.0, 0.5, 1.0) for v in (0.0, 0.5, 1.0)])
    step = 1e-3

    def seen(points: np.ndarray) -> np.ndarray:
        mapped = points @ old_from_new.T
        return mapped[:, :2] / mapped[:, 2:]

    steps = [np.linalg.norm(seen(spots + step * axis) - seen(spots), axis=1) for axis in np.eye(3)[:2]]
    return float(np.max(steps) / step)
