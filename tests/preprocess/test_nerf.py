"""Folders with a transforms.json, of every kind that people have, into shards; and what is wrong with bad ones."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datasets.captures import capture_path
from datasets.export import ExportConfig, export
from datasets.pictures import encode_png
from datasets.shards import ShardSet
from preprocess import captures as capture_command
from preprocess.colmap import Lens
from preprocess.nerf import NerfConfig, NerfScenes, preprocess
from preprocess.openlrm import OpenLRMConfig
from preprocess.openlrm import preprocess as preprocess_openlrm
from preprocess.posed import rigid, square
from preprocess.squares import Cut
from preprocess.transforms import lens as lens_of
from tests.datasets import blobs, synthetic
from turntable import cameras, framing
from turntable.errors import UserError
from turntable.files import read_json

SIZE, VIEWS = 48, 4


def config(root: Path, out: Path, **changes: Any) -> NerfConfig:
    settings: dict[str, Any] = {"sizes": (512, SIZE, 24), "threads": 1, **changes}
    return NerfConfig(root=root, out=out, **settings)


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures")
    synthetic.write_captures(folder, 2, VIEWS, SIZE)
    return folder


@pytest.fixture(scope="module")
def shards(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    sizes = (512, SIZE, 24)
    capture_command.preprocess(capture_command.PreprocessConfig(captures=captures, out=out, sizes=sizes, threads=1))
    return out


def assert_same(a: Path, b: Path, shapes: bool = True) -> None:
    """Two sets hold the same objects: cameras and pictures to the last bit."""
    first, second = ShardSet(a), ShardSet(b)
    assert first.uids == second.uids
    for index in range(len(first)):
        # Exports state pixels: fx / width × width is not always fx.
        np.testing.assert_array_equal(second.cameras(index)[0], first.cameras(index)[0])
        np.testing.assert_allclose(second.cameras(index)[1], first.cameras(index)[1], rtol=1e-15)
        np.testing.assert_array_equal(second.matte_boxes(index), first.matte_boxes(index))
        assert second.record(index) == first.record(index)
        assert second.place(index)[0].layout == first.place(index)[0].layout
        for view in range(first.view_count(index)):
            for name, size in first.place(index)[0].layout:
                (reader, number), (other, other_number) = first.place(index), second.place(index)
                assert bytes(other.encoded(name, size, other_number, view)) == bytes(
                    reader.encoded(name, size, number, view)
                )
        if shapes:
            np.testing.assert_array_equal(second.geometry(index).points, first.geometry(index).points)
            np.testing.assert_array_equal(second.geometry(index).normals, first.geometry(index).normals)
            np.testing.assert_array_equal(second.geometry(index).solid, first.geometry(index).solid)


def test_out_as_nerfstudio_and_back_is_the_same(shards: Path, tmp_path: Path) -> None:
    export(ExportConfig(shards, "nerfstudio", tmp_path / "export"))
    summary = preprocess(config(tmp_path / "export", tmp_path / "back"))
    assert (summary.done, summary.failed) == (2, {})
    assert_same(shards, tmp_path / "back")


def test_out_as_openlrm_and_back_is_the_same(shards: Path, tmp_path: Path) -> None:
    export(ExportConfig(shards, "openlrm", tmp_path / "export"))
    summary = preprocess_openlrm(
        OpenLRMConfig(root=tmp_path / "export", out=tmp_path / "back", sizes=(SIZE, 24), threads=1)
    )
    assert (summary.done, summary.failed) == (2, {})
    assert_same(shards, tmp_path / "back", shapes=False)


def test_an_unzipped_capture_is_the_capture(captures: Path, shards: Path, tmp_path: Path) -> None:
    for number in range(2):
        uid = synthetic.uid_of(number)
        zipfile.ZipFile(capture_path(captures, uid)).extractall(tmp_path / "some/where" / f"any name {number}")
    preprocess(config(tmp_path / "some", tmp_path / "back"))
    assert_same(shards, tmp_path / "back")


def test_a_sound_export_of_one_lens_taken_again_comes_back_as_exported(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    blobs.write_shard(tmp_path / "shards/shard-000000.h5", objects=1, one_lens=False)
    export(ExportConfig(tmp_path / "shards", "openlrm", tmp_path / "export"))
    folders = OpenLRMConfig(root=tmp_path / "export", out=tmp_path / "back", sizes=(200,), threads=1)
    assert preprocess_openlrm(folders).done == 1
    back = ShardSet(tmp_path / "back")
    poses, intrinsics = back.cameras(0)
    assert np.ptp(intrinsics, axis=0).max() == 0
    for view in range(6):
        alpha = back.picture(0, view, 200)[..., 3]
        seen = cameras.project(blobs.POINTS, poses[view], intrinsics[view])[0] * 200
        for expected in seen:
            found = blobs.measured(alpha, expected, seen)
            assert found is None or np.linalg.norm(found - expected) < 0.05


# Worlds that are not the object's.

WORLD = np.concatenate([3.7 * np.eye(3), [[11.0], [-4.0], [2.5]]], axis=1)
"""(3, 4) similarity world_from_object of the scenes below: no rotation, for a world's azimuths are kept."""


def posed_in_world(pose: np.ndarray) -> list[list[float]]:
    """A camera's 4×4 in that world."""
    position = cameras.transform(WORLD, pose[:, 3])
    return cameras.homogeneous(np.concatenate([pose[:, :3], position[:, None]], axis=1)).tolist()


class Written:
    """A scene of `synthetic`, rendered at `size`, as files of other programs."""

    def __init__(self, folder: Path, views: int = 10, size: int = 96, seed: int = 3) -> None:
        self.folder, self.size = folder, size
        self.scene = synthetic.scene(seed)
        self.poses, self.intrinsics = synthetic.shell_cameras(views, seed)
        self.pictures = [
            synthetic.render(self.scene, pose, lens, size)[0]
            for pose, lens in zip(self.poses, self.intrinsics, strict=True)
        ]
        points, _ = synthetic.surface(self.scene, np.random.default_rng(0), 4000)
        self.points = points

    def corners(self) -> np.ndarray:
        """The box's corners and points of the surface, in object units."""
        corners = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T * self.scene.half_extent
        return np.concatenate([corners + self.scene.box_centre, self.points])

    def centre(self) -> np.ndarray:
        """Of the object's box, in the world."""
        cloud = self.corners()
        return cameras.transform(WORLD, (cloud.min(axis=0) + cloud.max(axis=0)) / 2)

    def write(self, style: str) -> Path:
        """The files of a program."""
        {"nerf": self._nerf, "nerfstudio": self._nerfstudio, "ngp": self._ngp}[style]()
        return self.folder

    def picture(self, name: str, number: int) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(self.pictures[number]))

    def json(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(json.dumps(content))

    def _nerf(self) -> None:
        """The original NeRF's: an angle, three files, no suffixes."""
        angle = 2 * np.arctan(0.5 / self.intrinsics[0, 0])
        halves = {"train": range(0, len(self.poses), 2), "test": range(1, len(self.poses), 2)}
        for split, numbers in halves.items():
            frames = []
            for number in numbers:
                self.picture(f"{split}/r_{number}.png", number)
                pose = posed_in_world(self.poses[number])
                frames.append({"file_path": f"./{split}/r_{number}", "rotation": 0.01, "transform_matrix": pose})
            self.json(f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})

    def _nerfstudio(self) -> None:
        fx, fy, cx, cy = self.intrinsics[0] * self.size
        frames = []
        for number, pose in enumerate(self.poses):
            self.picture(f"images/frame_{number:05d}.png", number)
            frames.append({"file_path": f"images/frame_{number:05d}.png", "transform_matrix": posed_in_world(pose)})
        lens = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": self.size, "h": self.size}
        more = {"camera_model": "OPENCV", "k1": 0, "k2": 0.0, "applied_transform": np.eye(3, 4).tolist()}
        self.json("transforms.json", {**lens, **more, "frames": frames})

    def _ngp(self) -> None:
        frames = []
        for number, pose in enumerate(self.poses):
            self.picture(f"images/{number:04d}.png", number)
            lens = dict(zip(("fl_x", "fl_y", "cx", "cy"), self.intrinsics[number] * self.size, strict=True))
            lens |= {"w": self.size, "h": self.size}
            path = f".\\images\\{number:04d}.png"
            frames.append({"file_path": path, "sharpness": 33.0, "transform_matrix": posed_in_world(pose), **lens})
        self.json(
            "transforms.json", {"fl_x": 1.0, "aabb_scale": 4, "scale": 0.33, "offset": [0.5] * 3, "frames": frames}
        )


@pytest.mark.parametrize("style", ["nerf", "nerfstudio", "ngp"])
def test_a_foreign_world_is_brought_to_object_units(tmp_path: Path, style: str) -> None:
    written = Written(tmp_path / "scenes" / "lamp")
    written.write(style)
    summary = preprocess(config(tmp_path / "scenes", tmp_path / "out", licence="by", sizes=(96,)))
    assert (summary.done, summary.failed) == (1, {})
    shards = ShardSet(tmp_path / "out")
    record = shards.record(0)
    assert (record["licence"], record["normalise"]["method"]) == ("by", "mattes")
    object_from_world = np.array(record["normalise"]["object_from_world"])
    # Ten outlines of 96 pixels leave the ends open by some hundredths; the record says by how many at most.
    assert 0 < record["normalise"]["uncertain"] < 0.15
    assert np.abs(cameras.transform(object_from_world, written.centre())).max() < record["normalise"]["uncertain"]
    farthest = np.linalg.norm(
        cameras.transform(object_from_world, cameras.transform(WORLD, written.corners())), axis=1
    ).max()
    # The bodies' corners are farther out than the object; half a pixel, by which an outline may cut it, is 0.013.
    assert 0.93 < farthest < 1.015
    # Pictures are as they were, and every camera still sees each point where it did.
    poses, intrinsics = shards.cameras(0)
    world_points = cameras.transform(WORLD, written.points)
    order = [*range(0, 10, 2), *range(1, 10, 2)] if style == "nerf" else list(range(10))
    for view, number in enumerate(order):
        hit = written.pictures[number][..., 3:] > 0
        np.testing.assert_array_equal(shards.picture(0, view, 96), np.where(hit, written.pictures[number], 0))
        before, _ = cameras.project(written.points, written.poses[number], written.intrinsics[number])
        points = cameras.transform(object_from_world, world_points)
        np.testing.assert_allclose(cameras.project(points, poses[view], intrinsics[view])[0], before, atol=1e-9)


def test_a_world_with_y_up_is_turned(tmp_path: Path) -> None:
    written = Written(tmp_path / "scenes")
    written.write("nerfstudio")
    content = read_json(tmp_path / "scenes/transforms.json")
    y_up_from_z_up = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    for frame in content["frames"]:
        frame["transform_matrix"] = (y_up_from_z_up @ np.array(frame["transform_matrix"])).tolist()
    written.json("transforms.json", content)
    preprocess(config(tmp_path / "scenes", tmp_path / "out", up="y"))
    poses, _ = ShardSet(tmp_path / "out").cameras(0)
    for pose, before in zip(poses, written.poses, strict=True):
        np.testing.assert_allclose(pose[:, :3], before[:, :3], atol=1e-9)


def test_normalise_none_leaves_the_world_as_it_is(tmp_path: Path) -> None:
    written = Written(tmp_path / "scenes")
    written.write("nerfstudio")
    preprocess(config(tmp_path / "scenes", tmp_path / "out", normalise="none"))
    shards = ShardSet(tmp_path / "out")
    expected = [np.array(posed_in_world(pose))[:3] for pose in written.poses]
    np.testing.assert_allclose(shards.cameras(0)[0], expected, atol=1e-12)
    assert shards.record(0)["normalise"]["method"] == "none"


def dotted_frame(pose: np.ndarray, lens: Lens) -> np.ndarray:
    """Dots where a lens, distortion and all, sees the points: (H, W, 4) uint8."""
    p = cameras.transform(cameras.invert(pose), blobs.POINTS) @ cameras.OPENGL_FROM_OPENCV
    pixels = lens.pixels(p[:, :2] / p[:, 2:])
    grid = cameras.pixel_centres(lens.width, lens.height) * [lens.width, lens.height]
    alpha = np.zeros((lens.height, lens.width))
    for centre in pixels:
        alpha = np.maximum(alpha, 240 * np.exp(-((grid - centre) ** 2).sum(axis=-1) / (2 * 3.0**2)))
    colour = np.where(alpha[..., None] >= 0.5, 255, 0) * np.ones(3)
    return np.concatenate([colour, np.round(alpha)[..., None]], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("OPENCV", {"k1": -0.12, "k2": 0.03, "p1": 0.002, "p2": -0.001}),
        ("FULL_OPENCV", {"k1": -0.12, "k2": 0.03, "k3": 0.01}),
        ("OPENCV_FISHEYE", {"k1": 0.02, "k2": -0.004, "camera_model": "OPENCV_FISHEYE"}),
        ("PINHOLE", {}),
    ],
)
def test_oblong_and_distorted_pictures_become_squares_of_a_pinhole(tmp_path: Path, model: str, fields: dict) -> None:
    numbers = {"fl_x": 330.0, "fl_y": 335.0, "cx": 243.0, "cy": 161.0, "w": 480, "h": 320, **fields}
    lens = lens_of(numbers, 480, 320)
    assert lens.model == model
    frames = []
    (tmp_path / "scene/images").mkdir(parents=True)
    poses = [
        cameras.look_at(
            cameras.spherical_position(40 * view, 25 if view % 2 else -10, 3.0), np.array([0.2, 0.1, -0.1]), 3
        )
        for view in range(9)
    ]
    for number, pose in enumerate(poses):
        (tmp_path / f"scene/images/{number}.png").write_bytes(encode_png(dotted_frame(pose, lens)))
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": posed_in_world(pose)})
    (tmp_path / "scene/transforms.json").write_text(json.dumps({**numbers, "frames": frames}))
    assert preprocess(config(tmp_path / "scene", tmp_path / "out", sizes=(256,))).failed == {}
    shards = ShardSet(tmp_path / "out")
    poses_stored, intrinsics = shards.cameras(0)
    object_from_world = np.array(shards.record(0)["normalise"]["object_from_world"])
    points = cameras.transform(object_from_world, cameras.transform(WORLD, blobs.POINTS))
    size = shards.sizes[0]
    offsets = []
    for view in range(9):
        rgba = shards.picture(0, view, size)
        # Transparent pixels were black: no trace of it at the edges.
        assert rgba[..., :3][rgba[..., 3] > 16].min() > 250
        seen = cameras.project(points, poses_stored[view], intrinsics[view])[0] * size
        for expected in seen:
            found = blobs.measured(rgba[..., 3], expected, seen, radius=12)
            if found is not None:
                offsets.append(found - expected)
    assert len(offsets) > 12
    # A dot of 3 pixels is drawn round in the distorted picture, so its centre of mass moves a little when it is undistorted.
    assert np.linalg.norm(offsets, axis=1).max() < 0.08
    assert np.linalg.norm(np.mean(offsets, axis=0)) < 0.02


def test_pictures_of_several_sizes_become_squares_of_one(tmp_path: Path) -> None:
    written = Written(tmp_path / "scenes")
    written.write("ngp")
    content = read_json(tmp_path / "scenes/transforms.json")
    picture = framing.resize(written.pictures[2], 144, 144)
    (tmp_path / "scenes/images/0002.png").write_bytes(encode_png(picture))
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        content["frames"][2][key] = content["frames"][2][key] * 1.5
    written.json("transforms.json", content)
    assert preprocess(config(tmp_path / "scenes", tmp_path / "out")).failed == {}
    shards = ShardSet(tmp_path / "out")
    boxes = shards.matte_boxes(0)
    # Every square is centred on its matte, to a pixel or two of 24.
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, 0.5, atol=0.05)


def test_masks_that_the_file_names_are_the_mattes(tmp_path: Path) -> None:
    written = Written(tmp_path / "scenes")
    written.write("nerfstudio")
    content = read_json(tmp_path / "scenes/transforms.json")
    (tmp_path / "scenes/masks").mkdir()
    for number, frame in enumerate(content["frames"]):
        rgba = written.pictures[number]
        (tmp_path / "scenes" / frame["file_path"]).write_bytes(encode_png(rgba[..., :3]))
        (tmp_path / f"scenes/masks/{number}.png").write_bytes(encode_png(np.ascontiguousarray(rgba[..., 3])))
        frame["mask_path"] = f"masks/{number}.png"
    written.json("transforms.json", content)
    assert preprocess(config(tmp_path / "scenes", tmp_path / "out", sizes=(96,))).failed == {}
    alpha = ShardSet(tmp_path / "out").picture(0, 3, 96)[..., 3]
    np.testing.assert_array_equal(alpha, written.pictures[3][..., 3])


# What is wrong is named, and the others go on.

Damage = Callable[[Path, dict[str, Any]], None]


def frame_field(number: int, **fields: Any) -> Damage:
    return lambda folder, content: content["frames"][number].update(fields)


def top_field(**fields: Any) -> Damage:
    return lambda folder, content: content.update(fields)


def overwrite(name: str, data: bytes) -> Damage:
    return lambda folder, content: (folder / name).write_bytes(data) and None


def png_header(width: int, height: int) -> bytes:
    picture = bytearray(encode_png(np.zeros((4, 4, 3), np.uint8)))
    picture[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(picture)


def link_outside(folder: Path, content: dict[str, Any]) -> None:
    secret = folder.parent.parent / "secret.png"
    secret.write_bytes(encode_png(np.full((64, 64, 4), 100, np.uint8)))
    (folder / "images/frame_00001.png").unlink()
    (folder / "images/frame_00001.png").symlink_to(secret)


def opaque(folder: Path, content: dict[str, Any]) -> None:
    path = folder / "images/frame_00004.png"
    path.write_bytes(encode_png(np.full((64, 64, 3), 90, np.uint8)))


def all_empty(folder: Path, content: dict[str, Any]) -> None:
    for path in (folder / "images").iterdir():
        path.write_bytes(encode_png(np.zeros((64, 64, 4), np.uint8)))


def mask_of_another_shape(folder: Path, content: dict[str, Any]) -> None:
    (folder / "m.png").write_bytes(encode_png(np.full((64, 32), 255, np.uint8)))
    content["frames"][0]["mask_path"] = "m.png"


NAN_POSE = [[float("nan")] * 4] * 4
MIRROR = np.diag([-1.0, 1, 1, 1]).tolist()
SHEARED = (np.eye(4) + 0.1 * np.eye(4, k=1)).tolist()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (overwrite("transforms.json", b"{"), "malformed"),
        (overwrite("transforms.json", b"[" * 200_000), "malformed"),
        (overwrite("transforms.json", b'"text"'), "malformed"),
        (top_field(frames=[]), "malformed"),
        (top_field(frames=[1, 2]), "malformed"),
        (top_field(frames="none"), "malformed"),
        (frame_field(1, transform_matrix=NAN_POSE), "malformed"),
        (frame_field(1, transform_matrix=[[1e400] * 4] * 4), "malformed"),
        (frame_field(1, transform_matrix=[[1, 2], [3, 4]]), "bad-pose"),
        (frame_field(1, transform_matrix="left"), "bad-pose"),
        (frame_field(1, transform_matrix=None), "bad-pose"),
        (frame_field(1, transform_matrix=MIRROR), "bad-pose"),
        (frame_field(1, transform_matrix=SHEARED), "bad-pose"),
        (frame_field(1, file_path="../../secret.png"), "outside"),
        (frame_field(1, file_path="/etc/hostname"), "outside"),
        (frame_field(1, file_path="images/\x00.png"), "outside"),
        (frame_field(1, file_path="x" * 5000), "outside"),
        (frame_field(1, file_path=7), "malformed"),
        (frame_field(1, file_path=""), "malformed"),
        (frame_field(1, file_path="images/gone.png"), "missing-picture"),
        (frame_field(1, mask_path="../../secret.png"), "outside"),
        (link_outside, "outside"),
        (mask_of_another_shape, "bad-mask"),
        (overwrite("images/frame_00001.png", b""), "bad-picture"),
        (overwrite("images/frame_00001.png", b"\x89PNG\r\n\x1a\n half"), "bad-picture"),
        (overwrite("images/frame_00001.png", png_header(64, 64)), "bad-picture"),
        (overwrite("images/frame_00001.png", png_header(60_000, 60_000)), "bad-picture"),
        (overwrite("images/frame_00001.png", encode_png(np.zeros((64, 48, 4), np.uint8))), "bad-lens"),
        (frame_field(1, w=63), "bad-lens"),
        (top_field(fl_x="long"), "bad-lens"),
        (top_field(fl_x=-5), "bad-lens"),
        (top_field(cx=True), "bad-lens"),
        (top_field(camera_model="EQUIRECTANGULAR"), "bad-lens"),
        (top_field(k4=0.1), "bad-lens"),
        (top_field(k1=-9.0), "bad-lens"),
        (top_field(rolling_shutter=[0, 0, 1, 0]), "bad-lens"),
        (opaque, "no-matte"),
        (all_empty, "empty"),
    ],
)
def test_a_bad_scene_is_named_and_the_others_go_on(tmp_path: Path, damage: Damage, reason: str) -> None:
    bad = Written(tmp_path / "in/scenes/bad", views=6, size=64)
    bad.write("nerfstudio")
    content = read_json(bad.folder / "transforms.json")
    before = (bad.folder / "transforms.json").read_bytes()
    damage(bad.folder, content)
    if (bad.folder / "transforms.json").read_bytes() == before:
        bad.json("transforms.json", content)
    Written(tmp_path / "in/scenes/good", views=6, size=64).write("nerfstudio")
    summary = preprocess(config(tmp_path / "in/scenes", tmp_path / "out"))
    assert (summary.done, dict(summary.failed)) == (1, {reason: 1})
    (failure,) = (tmp_path / "out/failures").glob("bad-*.json")
    assert str(bad.folder) in read_json(failure)["message"]


def test_contradicting_views_are_no_object(tmp_path: Path) -> None:
    written = Written(tmp_path / "scenes")
    written.write("nerfstudio")
    content = read_json(tmp_path / "scenes/transforms.json")
    # Poses of the wrong pictures: the outlines have hardly anything in common.
    for frame, other in zip(content["frames"], np.roll(written.poses, 3, axis=0), strict=True):
        shift = np.concatenate([other[:, :3], (other[:, 3:] + other[:, :1] * 0.8)], axis=1)
        frame["transform_matrix"] = posed_in_world(shift)
    written.json("transforms.json", content)
    assert preprocess(config(tmp_path / "scenes", tmp_path / "out")).failed == {"no-object": 1}


def test_a_folder_without_scenes_and_two_of_one_name_are_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root, complaint in ((tmp_path / "gone", "no such folder"), (tmp_path / "empty", "no transforms.json")):
        settings = config(root, tmp_path / "out")
        with pytest.raises(UserError, match=complaint):
            NerfScenes(settings, settings.matter())
    for name in ("a", "b"):
        export(ExportConfig(shards, "nerfstudio", tmp_path / "twice" / name))
    settings = config(tmp_path / "twice", tmp_path / "out")
    with pytest.raises(UserError, match="are both"):
        NerfScenes(settings, settings.matter())


def test_an_export_of_another_version_is_refused_by_name(shards: Path, tmp_path: Path) -> None:
    export(ExportConfig(shards, "nerfstudio", tmp_path / "export"))
    path = tmp_path / "export" / synthetic.uid_of(0) / "transforms.json"
    content = read_json(path)
    content["turntable"]["format_version"] = 99
    path.write_text(json.dumps(content))
    assert preprocess(config(tmp_path / "export", tmp_path / "out")).failed == {"unknown-version": 1}


def test_a_frames_own_lens_counts_before_the_files() -> None:
    fields = {"fl_x": 100.0, "camera_angle_x": 1.0, "cx": 30.0}
    assert lens_of(fields, 64, 64).parameters == (100.0, 100.0, 30.0, 32.0)
    angle = lens_of({"camera_angle_x": 0.8, "camera_angle_y": 0.6}, 64, 48).parameters
    np.testing.assert_allclose(angle[:2], [32 / np.tan(0.4), 24 / np.tan(0.3)])
    np.testing.assert_allclose(lens_of({"x_fov": 90}, 64, 48).parameters, [32, 32, 32, 24])


def test_distortion_is_opencvs() -> None:
    """The names k1 k2 k3 p1 p2 mean what cv2.projectPoints makes of them."""
    fields = {
        "fl_x": 300,
        "fl_y": 310,
        "cx": 160,
        "cy": 120,
        "k1": -0.1,
        "k2": 0.02,
        "k3": -0.003,
        "p1": 0.001,
        "p2": 0.002,
    }
    slopes = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    lens = lens_of(fields, 320, 240)
    matrix = np.array([[300.0, 0, 160], [0, 310, 120], [0, 0, 1]])
    rays = np.c_[slopes, np.ones(50)]
    expected, _ = cv2.projectPoints(
        rays, np.zeros(3), np.zeros(3), matrix, np.array([-0.1, 0.02, 0.001, 0.002, -0.003])
    )
    np.testing.assert_allclose(lens.pixels(slopes), expected[:, 0], atol=1e-9)


def test_rotations_of_few_digits_become_rotations_and_exact_ones_stay() -> None:
    exact = cameras.look_at(np.array([1.0, -2.0, 0.7]))
    np.testing.assert_array_equal(rigid(cameras.homogeneous(exact)), exact)
    rough = rigid(np.round(cameras.homogeneous(exact), 4))
    np.testing.assert_allclose(rough[:, :3].T @ rough[:, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rough, exact, atol=1e-3)


def test_what_is_hidden_under_transparent_pixels_does_not_show_at_edges() -> None:
    """Green on transparent red: cut out and made smaller, every visible pixel is green."""
    rgba = np.zeros((60, 90, 4), np.uint8)
    rgba[..., 0] = 255
    column, row = np.meshgrid(np.arange(90), np.arange(60))
    disc = (column - 47.3) ** 2 + (row - 28.6) ** 2 < 17.2**2
    rgba[disc] = [0, 200, 0, 255]
    cut = Cut(Lens("PINHOLE", 90, 60, (80.0, 80.0, 45.0, 30.0)), framing.Square(20, 2, 53), 24)
    found = square(cut, rgba)
    seen = found[..., 3] > 0
    assert (found[..., 3] % 255 > 0).sum() > 0  # soft edges there are
    assert (found[seen][:, :3] == [0, 200, 0]).all()
