"""Scenes as MVImgNet has them: whole, broken in every known way, and the run over all of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.shards import ShardSet
from preprocess.colmap import Lens
from preprocess.filling import Summary, Unusable, fill
from preprocess.gates import Gates
from preprocess.mvimgnet import MVImgNet, MVImgNetConfig
from tests.datasets import synthetic
from tests.preprocess import videos
from tests.preprocess.videos import Video
from turntable import cameras, framing
from turntable.errors import UserError

SMALL = Gates(min_object_side=20)
"""The scenes here are small pictures."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one good scene, 7/v1. Not to be changed: `copied` is."""
    root = tmp_path_factory.mktemp("whole")
    videos.write(Video(), root)
    return root


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A root of one's own."""
    return Path(shutil.copytree(whole, tmp_path / "root"))


def source(root: Path, **options: object) -> MVImgNet:
    config = MVImgNetConfig(root=root, out=root / "out", sizes=(64, 32), gates=SMALL, threads=1)
    return MVImgNet(dataclasses.replace(config, **options))  # type: ignore[arg-type]


def refusal(root: Path, uid: str = "mvimgnet-7-v1") -> tuple[str, str]:
    with pytest.raises(Unusable) as caught:
        source(root).load(uid)
    return caught.value.reason, str(caught.value)


def test_stored_views_show_the_true_scene(whole: Path) -> None:
    """Every stored pixel's ray, cast into the scene that the video was made of, meets the colour that the pixel has."""
    video = Video()
    views = source(whole).load("mvimgnet-7-v1")
    object_from_colmap = np.array(views.record["object_from_colmap"])
    world = video.similarity()
    shift = object_from_colmap[:, :3] @ world[:, 3:] + object_from_colmap[:, 3:]
    object_from_world = np.concatenate([object_from_colmap[:, :3] @ world[:, :3], shift], axis=1)
    back = np.linalg.inv(object_from_world[:, :3])
    for pose, lens, rgba in zip(views.world_from_camera, views.intrinsics, views.rgba, strict=True):
        size = len(rgba)
        origins, directions = cameras.rays(cameras.pixel_centres(size, size).reshape(-1, 2), pose, lens)
        origins, directions = (origins - object_from_world[:, 3]) @ back.T, directions @ back.T
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        hit, _, _, colour = synthetic.cast(synthetic.scene(video.seed), origins, directions)
        opaque = rgba[..., 3].reshape(-1) == 255
        assert (hit == (rgba[..., 3].reshape(-1) > 127)).mean() > 0.985  # masks have half the frames' size
        error = np.abs(rgba[..., :3].reshape(-1, 3)[opaque & hit] / 255 - colour[opaque & hit]).max(axis=1)
        assert np.median(error) < 4 / 255  # JPEG


def test_the_record_leads_back_to_the_frames(whole: Path) -> None:
    views = source(whole).load("mvimgnet-7-v1")
    record = json.loads(json.dumps(views.record))
    assert record["source"] == "mvimgnet" and record["path"] == "7/v1" and record["lvis_class"] == "mvimgnet-7"
    assert [view["file"] for view in record["views"]] == [f"{n:03}.jpg" for n in range(14)]
    assert record["figures"]["registered"] == record["figures"]["used"] == 14
    assert record["up"]["method"] == "ground-plane" and record["left_out"] == {}
    x, y, _ = views.world_from_camera[0][:, 3]
    assert abs(x) < 1e-9 and y < 0


def test_an_input_frame_fits_into_the_stored_square(whole: Path) -> None:
    for rgba in source(whole).load("mvimgnet-7-v1").rgba:
        box = framing.matte_box(rgba[..., 3])
        assert box is not None
        square = framing.square_around(box, len(rgba), len(rgba))
        assert square.left >= 0 and square.top >= 0 and max(square.left, square.top) + square.side <= len(rgba)


def test_nothing_is_enlarged(whole: Path) -> None:
    views = source(whole, sizes=(512, 64)).load("mvimgnet-7-v1")
    assert {rgba.shape for rgba in views.rgba} == {(64, 64, 4)}
    assert all(view["square"][2] >= 64 for view in views.record["views"])


def change_count(name: str, count: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "7" / "v1" / "sparse" / "0" / name
        path.write_bytes(struct.pack("<Q", count) + path.read_bytes()[8:])

    return change


def cut_short(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "7" / "v1" / "sparse" / "0" / name
        path.write_bytes(path.read_bytes()[:-9])

    return change


def no_points(root: Path) -> None:
    (root / "7" / "v1" / "sparse" / "0" / "points3D.bin").write_bytes(struct.pack("<Q", 0))


def empty_sparse(root: Path) -> None:
    shutil.rmtree(root / "7" / "v1" / "sparse" / "0")


def no_images(root: Path) -> None:
    shutil.rmtree(root / "7" / "v1" / "images")


def no_masks(root: Path) -> None:
    shutil.rmtree(root / "mask")


def empty_masks(root: Path) -> None:
    for path in (root / "mask").rglob("*.png"):
        cv2.imwrite(str(path), np.zeros((60, 80), np.uint8))


def masks_of_something_else(root: Path) -> None:
    for number, path in enumerate(sorted((root / "mask").rglob("*.png"))):
        mask = np.zeros((60, 80), np.uint8)
        mask[5:20, 5 + 4 * number : 20 + 4 * number] = 255
        cv2.imwrite(str(path), mask)


def nothing_registered(root: Path) -> None:
    (root / "7" / "v1" / "sparse" / "0" / "images.bin").write_bytes(struct.pack("<Q", 0))


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (empty_sparse, "no-model", "sparse/0"),
        (cut_short("cameras.bin"), "bad-model", "cut short"),
        (cut_short("images.bin"), "bad-model", "cut short"),
        (cut_short("points3D.bin"), "bad-model", "cut short"),
        (change_count("points3D.bin", 1 << 60), "bad-model", "announces"),
        (no_points, "empty-model", "0 points"),
        (nothing_registered, "empty-model", "0 frames"),
        (no_images, "few-frames", "no picture"),
        (no_masks, "no-masks", "--matte rembg:"),
        (empty_masks, "few-frames", "an empty mask"),
        (masks_of_something_else, "few-points", "lie on the object"),
    ],
)
def test_a_scene_that_cannot_be_used_is_refused_with_its_reason(
    copied: Path, change: Callable[[Path], None], reason: str, words: str
) -> None:
    change(copied)
    found, message = refusal(copied)
    assert found == reason and words in message and "7/v1" in message


def first_frame(root: Path) -> Path:
    return root / "7" / "v1" / "images" / "000.jpg"


def first_mask(root: Path) -> Path:
    return root / "mask" / "7" / "v1" / "000.jpg.png"


def truncated(root: Path) -> None:
    first_frame(root).write_bytes(first_frame(root).read_bytes()[:1500])


def other_size(root: Path) -> None:
    Image.new("RGB", (120, 160)).save(first_frame(root))


def no_mask(root: Path) -> None:
    first_mask(root).unlink()


def turned_mask(root: Path) -> None:
    cv2.imwrite(str(first_mask(root)), np.rot90(cv2.imread(str(first_mask(root)), 0)))


def half_a_mask(root: Path) -> None:
    mask = cv2.imread(str(first_mask(root)), 0)
    mask[: np.flatnonzero(mask.any(axis=1)).mean().astype(int) + 4] = 0
    cv2.imwrite(str(first_mask(root)), mask)


def no_mask_file(root: Path) -> None:
    first_mask(root).write_bytes(b"\x89PNG\r\n\x1a\n" + b"?" * 50)


def cut_off_by_the_border(root: Path) -> None:
    mask = cv2.imread(str(first_mask(root)), 0)
    columns = np.flatnonzero(mask.any(axis=0))
    mask[:30, columns[0] : columns[-1]] = 255
    cv2.imwrite(str(first_mask(root)), mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: first_frame(root).unlink(), "no picture"),
        (truncated, "damaged picture"),
        (other_size, "120×160 pixels by a camera of 160×120"),
        (no_mask, "no mask"),
        (turned_mask, "a mask of 60×80"),
        (half_a_mask, "of the object's points"),
        (no_mask_file, "cannot be read"),
        (cut_off_by_the_border, "cuts the object off"),
    ],
)
def test_a_frame_that_cannot_be_used_is_left_out_and_named(
    copied: Path, change: Callable[[Path], None], words: str
) -> None:
    change(copied)
    views = source(copied).load("mvimgnet-7-v1")
    assert len(views.world_from_camera) == len(views.intrinsics) == len(list(views.rgba)) == 13
    assert list(views.record["left_out"]) == ["000.jpg"] and words in views.record["left_out"]["000.jpg"]
    assert views.record["views"][0]["file"] == "001.jpg"
    x, y, _ = views.world_from_camera[0][:, 3]
    assert abs(x) < 1e-9 and y < 0


def test_a_name_that_leads_out_of_the_scene_is_not_followed(copied: Path) -> None:
    path = copied / "7" / "v1" / "sparse" / "0" / "images.bin"
    path.write_bytes(path.read_bytes().replace(b"000.jpg\0", b"../../x\0"))
    left_out = source(copied).load("mvimgnet-7-v1").record["left_out"]
    assert left_out == {"../../x": "a name that leads elsewhere"}


def test_exifs_rotation_is_passed_over_as_colmap_does(copied: Path, whole: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90°
    segment = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    content = first_frame(copied).read_bytes()
    first_frame(copied).write_bytes(
        content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    )
    with Image.open(first_frame(copied)) as picture:
        assert picture.getexif()[0x0112] == 6
    np.testing.assert_array_equal(
        next(iter(source(copied).load("mvimgnet-7-v1").rgba)), next(iter(source(whole).load("mvimgnet-7-v1").rgba))
    )


def test_two_cameras_in_a_model_each_take_their_own_frames(copied: Path) -> None:
    """Some videos were registered with a camera a part; the second here is the first with another number."""
    model = copied / "7" / "v1" / "sparse" / "0"
    content = (model / "cameras.bin").read_bytes()
    one = content[8:]
    (model / "cameras.bin").write_bytes(struct.pack("<Q", 2) + one + struct.pack("<I", 2) + one[4:])
    images = bytearray((model / "images.bin").read_bytes())
    place = 8 + struct.calcsize("<I7d")
    images[place : place + 4] = struct.pack("<I", 2)
    (model / "images.bin").write_bytes(images)
    assert len(source(copied).load("mvimgnet-7-v1").world_from_camera) == 14


def test_masks_lie_beside_the_frames_in_mvimgnet_2(copied: Path) -> None:
    shutil.move(copied / "mask" / "7" / "v1", copied / "7" / "v1" / "masks")
    shutil.rmtree(copied / "mask")
    assert len(source(copied).load("mvimgnet-7-v1").world_from_camera) == 14


def test_what_other_mattes_rule_out_is_taken_off_made_ones(copied: Path, whole: Path, tmp_path: Path) -> None:
    """Mattes that are not the dataset's, each with a patch of something else on it."""
    made = Path(shutil.move(copied / "mask", tmp_path / "made"))
    rng = np.random.default_rng(0)
    for path in sorted(made.rglob("*.png")):
        mask = cv2.imread(str(path), 0)
        column = int(rng.choice([4, 60]))
        mask[5:20, column : column + 12] = 255
        cv2.imwrite(str(path), mask)
    assert refusal(copied)[0] == "no-masks"
    views = source(copied, matte=f"masks:{made}").load("mvimgnet-7-v1")
    truth = source(whole).load("mvimgnet-7-v1")
    assert views.record["matting"] == {"matte": "masks"} and 0.1 < views.record["figures"]["stray"] < 0.5
    assert truth.record["figures"]["stray"] is None
    assert views.record["up"]["disagreement_deg"] == pytest.approx(truth.record["up"]["disagreement_deg"], abs=1)
    kept = {view["file"]: view for view in truth.record["views"]}
    for rgba, view in zip(views.rgba, views.record["views"], strict=True):
        shown = (rgba[..., 3] >= 128).sum() * (view["square"][2] / 64) ** 2
        expected = dict(zip(kept, truth.rgba, strict=True))[view["file"]]
        true_area = (expected[..., 3] >= 128).sum() * (kept[view["file"]]["square"][2] / 64) ** 2
        # A margin of a twentieth stays all around, and where the patch touches the object some of the patch.
        assert 0.95 < shown / true_area < 1.45


def test_portrait_frames(tmp_path: Path) -> None:
    videos.write(Video(lens=Lens("OPENCV", 120, 160, (170.0, 171.0, 61.0, 79.0, -0.1, 0.01, 0.001, 0.002))), tmp_path)
    views = source(tmp_path).load("mvimgnet-7-v1")
    assert len(views.world_from_camera) == 14


@pytest.fixture
def many(whole: Path, tmp_path: Path) -> Path:
    """Five scenes of two classes, two of them broken."""
    root = tmp_path / "many"
    for label, instance in (("7", "a"), ("7", "b"), ("7", "c"), ("12", "a"), ("12", "b")):
        shutil.copytree(whole / "7" / "v1", root / label / instance)
        shutil.copytree(whole / "mask" / "7" / "v1", root / "mask" / label / instance)
    shutil.rmtree(root / "7" / "b" / "sparse")
    shutil.rmtree(root / "mask" / "12" / "a")
    return root


def run(root: Path, out: Path, **options: object) -> Summary:
    config = MVImgNetConfig(root=root, out=out, sizes=(64, 32), gates=SMALL, threads=2)
    config = dataclasses.replace(config, **options)  # type: ignore[arg-type]
    return fill(config, MVImgNet(config))


def test_a_run_passes_over_what_is_broken_and_continues(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    summary = run(many, out)
    assert ShardSet(out).uids == ["mvimgnet-7-a", "mvimgnet-7-c", "mvimgnet-12-b"]
    assert dict(summary.failed) == {"no-model": 1, "no-masks": 1}
    shutil.copytree(many / "7" / "a" / "sparse", many / "7" / "b" / "sparse")
    again = run(many, out)
    assert again.done == 1 and again.skipped == 3 and dict(again.failed) == {"no-masks": 1}
    assert set(ShardSet(out).uids) == {f"mvimgnet-{scene}" for scene in ("7-a", "7-b", "7-c", "12-b")}


def test_threads_change_no_byte(many: Path, tmp_path: Path) -> None:
    shards = []
    for threads in (1, 3):
        run(many, tmp_path / str(threads), threads=threads)
        shards.append((tmp_path / str(threads) / "shard-000000.h5").read_bytes())
    assert shards[0] == shards[1]


def test_classes_and_instances_are_chosen(many: Path, tmp_path: Path) -> None:
    assert source(many, classes=("12",)).uids() == ["mvimgnet-12-a", "mvimgnet-12-b"]
    (tmp_path / "list").write_text("7/c\n12/b\n\n7/gone\n")
    assert source(many, instances=tmp_path / "list").uids() == ["mvimgnet-7-c", "mvimgnet-12-b"]
    (tmp_path / "list").write_text("c\n")
    with pytest.raises(UserError, match="none of its 1 lines"):
        source(many, instances=tmp_path / "list")
    with pytest.raises(UserError, match="--classes 99"):
        source(many, classes=("99",))
    with pytest.raises(UserError, match="no such folder"):
        source(many / "gone")


def test_classes_get_their_names_from_the_datasets_list(many: Path, tmp_path: Path) -> None:
    names = tmp_path / "mvimgnet_category.txt"
    names.write_text("7,stove\n12,remote control\n")
    assert source(many, class_names=names).load("mvimgnet-12-b").record["lvis_class"] == "remote control"
    names.write_text("stove\n")
    with pytest.raises(UserError, match="'stove' is no line"):
        source(many, class_names=names)


@pytest.mark.parametrize(("label", "instance"), [("7", "a/../b"), ("7", "ä b"), ("chairs", "1"), ("7", "a-1")])
def test_uids_are_safe_names_and_tell_scenes_apart(label: str, instance: str) -> None:
    from preprocess.scenes import Scene

    uid = Scene(Path(), label, instance).uid
    assert uid.isascii() and "/" not in uid and " " not in uid
    assert uid != Scene(Path(), label, instance + "x").uid
    assert Scene(Path(), "7", "1a0012d7").uid == "mvimgnet-7-1a0012d7"
