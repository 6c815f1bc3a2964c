"""Previews: the rendered field and the drawn mesh show the same thing from the same side, the right way up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model import drawing, occupancy, preview, volume
from model.lrm import LRM
from model.photograph import Photograph, find_object, frame_object
from model.pipeline import Model, Reconstruction, Source, Stages, SurfaceSettings, surface
from tests.model.test_reconstruct import SMALL, TYPICAL
from turntable import cameras

LEVEL = 0.6


@pytest.fixture(scope="module")
def result() -> Reconstruction:
    """Random planes, cut where the density is above its usual: lumps that look different from every side."""
    torch.manual_seed(3)
    lrm = LRM(SMALL).eval()
    y, x = np.mgrid[:90, :120]
    rgba = np.zeros((90, 120, 4), np.uint8)
    rgba[np.hypot(x - 60, y - 45) < 40] = (200, 30, 30, 255)
    known = Photograph(elevation=35.0)
    framed = frame_object(find_object(rgba, known), known, lrm, TYPICAL)
    planes = 3 * torch.randn(1, 3, 4, 8, 8)
    settings = SurfaceSettings(48, LEVEL, floaters=0, texture=0, project_photo=False)
    return surface(Model(lrm, TYPICAL, ""), Source("x", rgba), framed, planes, settings, Stages())


@pytest.mark.parametrize("camera", range(5))
def test_the_mesh_is_drawn_where_the_field_is_seen(result, camera):
    poses, lenses = preview.preview_cameras(result.framed, 1.0)
    body = occupancy.occupied(result.field, result.planes, 64, LEVEL)
    seen = volume.render_view(result.field, result.planes, poses[camera], lenses[camera], 48, 64, occupancy=body)
    upright = cameras.compose(result.framed.upright_from_canonical, poses[camera])
    hit = drawing.draw(result.shape, upright, lenses[camera], 48).hit
    opaque = seen.opacity.numpy() > 0.01

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        return float((a & b).sum() / (a | b).sum())

    # The occupancy is a voxel of a thirtieth of the body fatter all round.
    assert overlap(hit, opaque) > 0.8
    assert overlap(hit, opaque) > 0.05 + max(overlap(hit[:, ::-1], opaque), overlap(hit[::-1], opaque))


def test_the_sides_are_sides_of_the_upright_object(result):
    (first, *sides), _ = preview.preview_cameras(result.framed, 1.0)
    upright = [cameras.compose(result.framed.upright_from_canonical, pose) for pose in sides]
    np.testing.assert_allclose([cameras.elevation_deg(pose) for pose in upright], preview.ELEVATION)
    # The input camera, which looks down by 35°, has the same azimuth as the first side.
    seen_from = cameras.compose(result.framed.upright_from_canonical, first)
    assert cameras.elevation_deg(seen_from) == pytest.approx(35)
    np.testing.assert_allclose([seen_from[0, 3], upright[0][0, 3]], 0, atol=1e-9)


def test_the_sheet_has_three_rows_of_six(result):
    sheet = preview.preview(result, 40, 8)
    empty = preview.preview_without_surface(result.field, result.planes, result.framed, 40, 8)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 6 * 44 + 4
    assert sheet.shape[0] - 4 == 3 * (empty.shape[0] - 4) // 2
    # The last picture is the mesh from its left.
    poses, lenses = preview.preview_cameras(result.framed, preview.reach(result))
    pose = cameras.compose(result.framed.upright_from_canonical, poses[-1])
    tile = sheet[-(40 + 20) : -20, -44:-4]
    np.testing.assert_array_equal(tile, drawing.shown(result.surface, pose, lenses[-1], 40))
    # The picture first, all of it, its proportions kept: a red disc on white, wider than high.
    shown = preview.whole(result.framed.original, 40)
    assert (shown[0] == 255).all() and shown[20, 20].tolist() == [200, 30, 30]


def test_a_field_that_fills_its_box_is_shown_whole():
    framed = frame_object(np.full((8, 8, 4), 200, np.uint8), Photograph(), LRM(SMALL), TYPICAL)
    radius = 3**0.5
    poses, lens = preview.ring(framed, 8, radius)
    corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
    for pose in poses:
        uv, depth = cameras.project(corners.astype(float), pose, lens)
        assert (depth > 0).all() and (uv >= 0).all() and (uv <= 1).all()


def test_turntable_frames_go_around(result):
    frames = list(preview.turntable_frames(result, 4, 24, 8))
    assert len(frames) == 4 and all(frame.shape == (24, 24, 3) for frame in frames)
    assert all(np.abs(frames[0].astype(int) - other).max() > 5 for other in frames[1:])


def test_transparency_is_seen_as_squares():
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:16] = (10, 200, 30, 255)
    shown = preview.on_squares(rgba, 32)
    assert (shown[:16] == (10, 200, 30)).all() and len(np.unique(shown[16:])) == 2
