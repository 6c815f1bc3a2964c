"""The tiny model learns a scene whose pictures are exact: two coloured boxes, cast ray by ray."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model import mesh
from model.lrm import LRM, SIZES, camera_numbers
from model.volume import Occupancy, render, render_view
from turntable import cameras, framing, geometry

BOXES = [
    # centre, half sides, colour of the faces across x, y, z
    ((0.0, 0.0, -0.35), (0.55, 0.4, 0.12), ((0.8, 0.2, 0.2), (0.6, 0.1, 0.1), (0.9, 0.4, 0.3))),
    ((0.3, 0.1, 0.2), (0.15, 0.15, 0.45), ((0.2, 0.3, 0.8), (0.1, 0.2, 0.6), (0.4, 0.5, 0.9))),
]
LENS = cameras.intrinsics_from_fov(45.0)
SIZE = 64


def cast(pose: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE, 4) uint8 picture of the boxes. Slabs; the nearest hit's face has its own colour."""
    origins, directions = cameras.rays(cameras.pixel_centres(SIZE, SIZE).reshape(-1, 2), pose, LENS)
    picture, nearest = np.zeros((SIZE * SIZE, 4)), np.full(SIZE * SIZE, np.inf)
    for centre, half, colours in BOXES:
        walls = np.stack([(np.array(centre) + sign * np.array(half) - origins) / directions for sign in (-1, 1)])
        enter = walls.min(0)
        near, far, face = enter.max(1), walls.max(0).min(1), enter.argmax(1)
        seen = (near < far) & (near < nearest)
        picture[seen] = np.c_[np.array(colours)[face[seen]], np.ones(seen.sum())]
        nearest[seen] = near[seen]
    return (picture.reshape(SIZE, SIZE, 4) * 255).round().astype(np.uint8)


def true_solid() -> np.ndarray:
    """(32, 32, 32) bool: voxels that a box touches."""
    centres = geometry.voxel_centres(32)
    inside = [np.all(np.abs(centres - c) <= np.array(h) + 1 / 32, axis=1) for c, h, _ in BOXES]
    return np.any(inside, axis=0).reshape(32, 32, 32)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10 * math.log10(np.square(a - b).mean())


@pytest.mark.slow
def test_tiny_learns_two_boxes_from_twelve_views():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    poses = [
        cameras.look_at(cameras.spherical_position(rng.uniform(0, 360), rng.uniform(-15, 60), 2.7)) for _ in range(15)
    ]
    poses[0] = cameras.look_at(cameras.spherical_position(20, 20, 2.7))
    canonical = cameras.canonical_from_world(poses[0])
    poses_canonical = [cameras.compose(canonical, pose) for pose in poses]
    views = [cast(pose) for pose in poses]
    lrm = LRM(SIZES["tiny"])
    framed, lens = framing.frame(views[0], LENS, 128)
    image = torch.from_numpy(framing.on_background(framed)).permute(2, 0, 1)[None]
    camera = camera_numbers(*(torch.tensor(a, dtype=torch.float32)[None] for a in (poses_canonical[0], lens)))
    hull = geometry.visual_hull([v[..., 3] for v in views[:12]], np.stack(poses[:12]), np.stack([LENS] * 12))
    turn = torch.tensor(canonical[:, :3].T.copy(), dtype=torch.float32)
    occupancy = Occupancy(torch.from_numpy(hull)[None], turn[None])
    rays = [cameras.rays(cameras.pixel_centres(SIZE, SIZE).reshape(-1, 2), p, LENS) for p in poses_canonical[:12]]
    origins, directions = (torch.tensor(np.concatenate(part), dtype=torch.float32) for part in zip(*rays, strict=True))
    colours = torch.from_numpy(np.concatenate([framing.on_background(v).reshape(-1, 3) for v in views[:12]]))
    alphas = torch.from_numpy(np.concatenate([v[..., 3].reshape(-1) for v in views[:12]]) / 255).float()
    outside = torch.from_numpy(geometry.voxel_centres(64)[~hull.reshape(-1)]) @ turn

    optimiser = torch.optim.AdamW(lrm.parameters(), 3e-3, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    steps = 500
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.randint(len(origins), (2048,), generator=generator)
        planes = lrm.planes(image, camera)
        seen = render(lrm.field, planes, origins[chosen][None], directions[chosen][None], 48, 1.0, occupancy, generator)
        empty = lrm.field.density(planes, outside[torch.randint(len(outside), (1024,), generator=generator)][None])
        loss = (seen.colour[0] - colours[chosen]).square().mean() + 0.1 * (
            seen.opacity[0] - alphas[chosen]
        ).square().mean()
        loss = loss + 0.1 * (1 - torch.exp(-0.1 * empty)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lrm.parameters(), 1.0)
        optimiser.step()

    with torch.no_grad():
        planes = lrm.planes(image, camera)
    held_out = [
        psnr(render_view(lrm.field, planes, p, LENS, SIZE, 96).colour.numpy(), framing.on_background(v))
        for p, v in zip(poses_canonical[12:], views[12:], strict=True)
    ]
    white = np.mean([psnr(np.ones((SIZE, SIZE, 3)), framing.on_background(v)) for v in views[12:]])
    body = mesh.transformed(mesh.extract(lrm.field, planes, 128), cameras.invert(canonical))
    solid = geometry.coarsen(geometry.solid_grid(body.vertices, body.faces), 32)
    overlap = geometry.iou(solid, true_solid())
    print(f"held out {np.mean(held_out):.2f} dB (white {white:.2f}), IoU {overlap:.3f}")
    # Seeds and learning rates differ by a few dB (this one reaches 22.7 dB and 0.83); a broken gradient or camera
    # stays below 15 dB.
    assert np.mean(held_out) > white + 8.5
    assert overlap > 0.72
