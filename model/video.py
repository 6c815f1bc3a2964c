"""Pictures of a reconstruction: cameras on a ring around it, the turntable video, the preview."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.volume import Field, Occupancy, Rendering, planar_depth, render_view
from turntable import cameras
from turntable.files import atomic_path


def ring(count: int, elevation_deg: float, distance: float, canonical_from_upright: np.ndarray) -> list[np.ndarray]:
    """`count` cameras (3, 4) in the canonical frame, evenly around the upright object, the first in front."""
    return [
        cameras.compose(
            canonical_from_upright,
            cameras.look_at(cameras.spherical_position(360 * index / count, elevation_deg, distance)),
        )
        for index in range(count)
    ]


def render_ring(
    field: Field,
    planes: Tensor,
    poses: Sequence[np.ndarray],
    intrinsics: np.ndarray,
    size: int,
    samples: int,
    occupancy: Occupancy | None = None,
) -> Iterable[Rendering]:
    """One rendering a camera, made as it is asked for."""
    return (render_view(field, planes, pose, intrinsics, size, samples, occupancy=occupancy) for pose in poses)


def picture(rendering: Rendering) -> np.ndarray:
    """A rendering (H, W, …) -> (H, W, 3) uint8."""
    return (rendering.colour.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def normal_picture(rendering: Rendering, world_from_camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: normals in the camera's frame as colours, from differences of the depth; white where there is nothing."""
    depth = planar_depth(rendering.depth, intrinsics).cpu().numpy()
    height, width = depth.shape
    points = cameras.camera_directions(cameras.pixel_centres(width, height), np.asarray(intrinsics)) * depth[..., None]
    normals = np.cross(np.gradient(points, axis=0), np.gradient(points, axis=1))
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    opacity = rendering.opacity.cpu().numpy()[..., None]
    shown = (normals * 0.5 + 0.5) * opacity + (1 - opacity)
    return (shown.clip(0, 1) * 255).round().astype(np.uint8)


def write_video(path: Path, frames: Iterable[np.ndarray], size: int, fps: int = 24) -> None:
    """Writes frames (size, size, 3) uint8 as .mp4: H.264 in yuv420p, which every browser plays. `size` must be even."""
    import imageio_ffmpeg

    if size % 2:
        raise ValueError(f"a video's side must be even, got {size}")
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            (size, size),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=2,
            output_params=["-f", "mp4", "-movflags", "+faststart", "-crf", "18"],
        )
        writer.send(None)
        try:
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
        finally:
            writer.close()
