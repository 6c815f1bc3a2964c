"""Reading COLMAP's models: like pycolmap where they are sound, and never on from where they are not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from preprocess.colmap import Lens, Model, ModelError, read_model
from tests.preprocess.videos import Video, write_model
from turntable import cameras

FILES = ("cameras.bin", "images.bin", "points3D.bin")
LENSES = {
    "SIMPLE_PINHOLE": (500, 320, 180),
    "PINHOLE": (500, 480, 330, 170),
    "SIMPLE_RADIAL": (500, 320, 180, -0.05),
    "RADIAL": (500, 320, 180, -0.05, 0.01),
    "OPENCV": (500, 490, 320, 180, -0.05, 0.01, 0.001, -0.002),
    "OPENCV_FISHEYE": (500, 490, 320, 180, -0.02, 0.01, 0, 0),
    "FULL_OPENCV": (500, 490, 320, 180, -0.05, 0.01, 0.001, -0.002, 0, 0.01, 0, 0),
    "FOV": (500, 490, 320, 180, 0.4),
    "SIMPLE_RADIAL_FISHEYE": (500, 320, 180, 0.02),
    "RADIAL_FISHEYE": (500, 320, 180, 0.02, -0.01),
    "THIN_PRISM_FISHEYE": (500, 490, 320, 180, 0.02, -0.01, 0.001, 0, 0, 0, 0.001, 0),
}
"""Every model that turns up in practice, in COLMAP's order of parameters."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(Video(views=5, object_points=40, floor_points=40), tmp_path)
    return tmp_path


def same_as_pycolmap(folder: Path, model: Model) -> None:
    """Points, poses, observations and projections are pycolmap's, whose reader and conventions are its own."""
    theirs = pycolmap.Reconstruction(str(folder))
    ids = sorted(theirs.points3D)
    np.testing.assert_array_equal(model.points, [theirs.points3D[i].xyz for i in ids])
    np.testing.assert_array_equal(model.track_lengths(), [theirs.points3D[i].track.length() for i in ids])
    assert [frame.name for frame in model.frames] == sorted(image.name for image in theirs.images.values())
    for image in theirs.images.values():
        frame = next(frame for frame in model.frames if frame.name == image.name)
        seen = image.get_observation_points2D()
        np.testing.assert_array_equal(frame.pixels, [each.xy for each in seen])
        np.testing.assert_array_equal(np.array(ids)[frame.points], [each.point3D_id for each in seen])
        expected = [image.project_point(point) for point in model.points[frame.points]]
        np.testing.assert_allclose(frame.project(model.points[frame.points]), expected, atol=1e-9)
        # COLMAP's camera looks along its +z, ours along our -z.
        np.testing.assert_allclose(-frame.world_from_camera[:, 2], image.viewing_direction(), atol=1e-12)
        np.testing.assert_allclose(frame.world_from_camera[:, 3], image.projection_center(), atol=1e-12)


def test_a_model_reads_as_pycolmap_reads_it(folder: Path) -> None:
    same_as_pycolmap(folder, read_model(folder))


@pytest.mark.parametrize("scene", ["7/a001", "7/a002", "43/b001"])
def test_real_models_read_as_pycolmap_reads_them(shared: Path, scene: str) -> None:
    model = shared / "mvimgnet" / scene / "sparse" / "0"
    if not model.is_dir():
        pytest.skip("needs ../shared/mvimgnet, which is not here")
    same_as_pycolmap(model, read_model(model))


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_anywhere_is_refused(folder: Path, name: str) -> None:
    """pycolmap reads on from some of these, and never ends over others."""
    content = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    for length in {0, 1, 7, 8, 9, len(content) - 1, *rng.integers(0, len(content), 60).tolist()}:
        (folder / name).write_bytes(content[:length])
        with pytest.raises(ModelError, match=name):
            read_model(folder)
    (folder / name).write_bytes(content + b"\0")
    with pytest.raises(ModelError, match="too long"):
        read_model(folder)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_give_a_model_or_an_error_and_nothing_else(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for place in rng.integers(0, min(len(content), 2000), 150):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(damaged)
        try:
            model = read_model(folder)
        except ModelError:
            refused += 1
        else:
            assert np.isfinite(model.points).all()
            assert all(np.isfinite(frame.world_from_camera).all() for frame in model.frames)
    assert refused


@pytest.mark.parametrize("count", [1 << 63, 1 << 40, 10**6])
@pytest.mark.parametrize("name", FILES)
def test_a_count_that_the_file_cannot_hold_is_refused_before_anything_is_made_of_it(
    folder: Path, name: str, count: int
) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(struct.pack("<Q", count) + content[8:])
    with pytest.raises(ModelError, match=name):
        read_model(folder)


def test_a_pose_that_is_none_leaves_out_its_frame_only(folder: Path) -> None:
    content = bytearray((folder / "images.bin").read_bytes())
    content[12:20] = struct.pack("<d", float("nan"))
    (folder / "images.bin").write_bytes(content)
    model = read_model(folder)
    assert model.dropped_frames == ("000.jpg",)
    assert [frame.name for frame in model.frames] == ["001.jpg", "002.jpg", "003.jpg", "004.jpg"]


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "points3D.bin").unlink()
    with pytest.raises(ModelError, match=r"points3D\.bin: cannot be read"):
        read_model(folder)


def test_an_unknown_camera_model_is_named(folder: Path) -> None:
    content = bytearray((folder / "cameras.bin").read_bytes())
    content[12:16] = struct.pack("<i", 99)
    (folder / "cameras.bin").write_bytes(content)
    with pytest.raises(ModelError, match="camera model 99"):
        read_model(folder)


@pytest.mark.parametrize("model", LENSES)
def test_lenses_go_there_and_back(model: str) -> None:
    lens = Lens(model, 640, 360, tuple(map(float, LENSES[model])))
    lens.check()
    pixels = cameras.pixel_centres(20, 12).reshape(-1, 2) * [640, 360]
    np.testing.assert_allclose(lens.pixels(lens.slopes(pixels)), pixels, atol=1e-6)


def test_a_simple_radial_lens_is_its_formula() -> None:
    lens = Lens("SIMPLE_RADIAL", 640, 360, (500.0, 310.0, 190.0, -0.1))
    slopes = np.array([[0.0, 0.0], [0.3, -0.2], [-0.5, 0.1]])
    expected = 500 * slopes * (1 - 0.1 * (slopes**2).sum(axis=1, keepdims=True)) + [310, 190]
    np.testing.assert_allclose(lens.pixels(slopes), expected, atol=1e-10)


def test_a_lens_that_cannot_be_undone_is_refused() -> None:
    """Strong negative distortion folds the frame's corners over."""
    with pytest.raises(ModelError, match="cannot be undistorted"):
        Lens("SIMPLE_RADIAL", 640, 360, (300.0, 320.0, 180.0, -0.9)).check()
