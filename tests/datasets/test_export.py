"""Exports: what other programs' readers find in them, and what happens when a run is repeated, broken off or given bad shards."""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets import single_camera
from datasets.captures import CaptureReader, capture_path, parse_geometry, write_capture
from datasets.export import ExportConfig, export, main
from datasets.exported import Exported
from datasets.layout_webdataset import webdataset
from datasets.pictures import decode_png
from datasets.shards import ShardReader, ShardSet
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets import blobs
from tests.datasets.export_projections import table
from tests.datasets.foreign_readers import ForeignView, read_instant_ngp, read_nerfstudio, read_openlrm, read_ply
from tests.datasets.synthetic import make_capture, uid_of, write_captures
from turntable import cameras, framing
from turntable.errors import EXIT_ITEMS_FAILED, DiskFullError, UserError

COUNT, VIEWS, SIZE = 3, 4, 48


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_captures(folder / "captures", COUNT, VIEWS, SIZE)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards", sizes=(SIZE, 24), threads=1))
    return folder / "shards"


def config(shards: Path, layout: str, out: Path, **changes: object) -> ExportConfig:
    settings: dict = {"threads": 2, **changes}
    return ExportConfig(shards, layout, out, **settings)  # type: ignore[arg-type]


def test_other_programs_project_points_to_where_we_do(shards: Path) -> None:
    for found in table(shards).values():
        assert (found.objects, found.views, found.retaken) == (COUNT, COUNT * VIEWS, 0)
        # They hold cameras in single precision: 1e-7 of about 50 pixels, and a little for inverting.
        assert found.farthest_px < 1e-4
        assert found.on_matte == 1
        # Anti-aliased over a pixel; points are 2,000 samples, not the outline itself.
        assert found.box_px < 2


def read_all(layout: str, root: Path, uid: str, views: int) -> list[list[ForeignView]]:
    if layout == "openlrm":
        return [read_openlrm(root, uid, views)]
    return [read_nerfstudio(root / uid), read_instant_ngp(root / uid)]


@pytest.mark.parametrize(
    ("layout", "one_lens", "tolerance"),
    [
        # Eight bits place a dot to 0.002 pixel an axis (standard deviation), the worst of a hundred to 0.01.
        ("openlrm", True, 0.015),
        ("nerfstudio", True, 0.015),
        ("nerfstudio", False, 0.015),
        # Taken again with one lens: the filter's samples lie on a grid of 1/32 pixel, a dot's far side is drawn smaller.
        ("openlrm", False, 0.05),
    ],
)
def test_dots_lie_where_the_exported_cameras_see_their_points(
    tmp_path: Path, layout: str, one_lens: bool, tolerance: float
) -> None:
    (tmp_path / "shards").mkdir()
    blobs.write_shard(tmp_path / "shards/shard-000000.h5", one_lens=one_lens)
    summary = export(config(tmp_path / "shards", layout, tmp_path / "out"))
    assert summary.retaken == (0 if one_lens or layout != "openlrm" else 2)
    offsets = []
    for number in range(2):
        for views in read_all(layout, tmp_path / "out", f"blob-{number}", 6):
            for view in views:
                alpha = view.rgba()[..., 3]
                seen = view.project(blobs.POINTS)
                for expected in seen:
                    found = blobs.measured(alpha, expected, seen)
                    if found is not None:
                        offsets.append(found - expected)
    assert len(offsets) > 20
    assert np.linalg.norm(offsets, axis=1).max() < tolerance
    # Whatever is wrong with all of them alike, as half a pixel would be. What eight bits do to one dot averages out.
    assert np.linalg.norm(np.mean(offsets, axis=0)) < tolerance / 5


def test_a_shared_lens_keeps_every_matte_in_sight_and_places_as_they_were() -> None:
    poses, intrinsics = blobs.lenses(8, np.random.default_rng(5), one_lens=False)
    boxes = np.array([framing.matte_box(blobs.dots(p, k, 100)[..., 3]) for p, k in zip(poses, intrinsics, strict=True)])
    shared = single_camera.share_lens(poses, intrinsics, boxes)
    np.testing.assert_array_equal(shared.world_from_camera[:, :, 3], poses[:, :, 3])
    reach = []
    for old, new, lens in zip(poses, shared.world_from_camera, intrinsics, strict=True):
        np.testing.assert_allclose(new[:, :3].T @ new[:, :3], np.eye(3), atol=1e-12)
        assert np.linalg.det(new[:, :3]) > 0
        centre, _ = cameras.project(np.zeros((1, 3)), new, shared.intrinsics)
        np.testing.assert_allclose(centre, [[0.5, 0.5]], atol=1e-9)
        uv, _ = cameras.project(blobs.POINTS, new, shared.intrinsics)
        assert (uv > 0).all() and (uv < 1).all()
        reach.append(np.abs(uv - 0.5).max())
        # Where the homography says a new pixel comes from is where the old camera sees the same ray.
        spot = np.array([[0.31, 0.77]])
        point = cameras.backproject(spot, np.array([2.0]), new, shared.intrinsics)
        old_uv, _ = cameras.project(point, old, lens)
        index = int(np.flatnonzero((shared.world_from_camera == new).all(axis=(1, 2)))[0])
        mapped = shared.old_from_new[index] @ [0.31, 0.77, 1]
        np.testing.assert_allclose(mapped[:2] / mapped[2], old_uv[0], atol=1e-9)
    assert max(reach) > 0.35  # as near as they let it


def test_a_camera_that_looks_away_is_named(tmp_path: Path) -> None:
    pose = cameras.look_at(np.array([0, -3.0, 0]), np.array([0, -6.0, 0]))
    with pytest.raises(ValueError, match="looks away"):
        single_camera.facing_centre(pose)


def test_exported_pictures_are_the_stored_ones(shards: Path, tmp_path: Path) -> None:
    stored = ShardSet(shards)
    export(config(shards, "openlrm", tmp_path / "a"))
    export(config(shards, "nerfstudio", tmp_path / "b"))
    for index, uid in enumerate(stored.uids):
        for view in range(VIEWS):
            for root in (tmp_path / "a", tmp_path / "b"):
                np.testing.assert_array_equal(
                    decode_png((root / uid / f"rgba/{view:03d}.png").read_bytes()), stored.picture(index, view, SIZE)
                )
                reader, number = stored.place(index)
                for name in ("depth", "normal"):
                    same = reader.encoded(name, SIZE, number, view).tobytes()
                    assert (root / uid / f"{name}/{view:03d}.png").read_bytes() == same
        meta = json.loads((tmp_path / "b" / uid / "transforms.json").read_text())
        steps = decode_png((tmp_path / "b" / uid / meta["frames"][0]["depth_file_path"]).read_bytes())
        np.testing.assert_allclose(steps * meta["integer_depth_scale"], stored.depth(index, 0), rtol=1e-6)
        shape = parse_geometry((tmp_path / "b" / uid / "geometry.npz").read_bytes())
        np.testing.assert_array_equal(shape.points, stored.geometry(index).points)
        np.testing.assert_array_equal(shape.solid, stored.geometry(index).solid)
        np.testing.assert_array_equal(read_ply(tmp_path / "b" / uid / "points.ply")[:, :3], shape.points)


def test_a_smaller_size_keeps_the_cameras_right(shards: Path, tmp_path: Path) -> None:
    export(config(shards, "openlrm", tmp_path, size=24))
    uid = uid_of(0)
    np.testing.assert_array_equal(np.load(tmp_path / uid / "intrinsics.npy")[2], [24, 24])
    # Depth of another size than the pictures would be no pixel's own.
    assert not (tmp_path / uid / "depth").exists()
    points = ShardSet(shards).geometry(0).points
    pose, lens = (array[1] for array in ShardSet(shards).cameras(0))
    found = read_openlrm(tmp_path, uid, VIEWS)[1].project(points)
    np.testing.assert_allclose(found, cameras.project(points, pose, lens)[0] * 24, atol=1e-4)


def test_webdataset_reads_the_tars(shards: Path, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    summary = export(config(shards, "webdataset", tmp_path, tar_bytes=1))
    tars = sorted(tmp_path.glob("*.tar"))
    assert (summary.done, len(tars)) == (COUNT, COUNT)
    stored = ShardSet(shards)
    samples = list(wds.WebDataset([str(path) for path in tars], shardshuffle=False).decode("rgba8"))
    assert [sample["__key__"] for sample in samples] == stored.uids
    for index, sample in enumerate(samples):
        assert sample["json"]["record"]["licence"] == stored.record(index)["licence"]
        poses, intrinsics = stored.cameras(index)
        np.testing.assert_array_equal(sample["world_from_camera.npy"], poses)
        np.testing.assert_array_equal(sample["intrinsics.npy"], intrinsics)
        np.testing.assert_array_equal(sample["points.npy"], stored.geometry(index).points)
        for view in range(VIEWS):
            np.testing.assert_array_equal(sample[f"{view:03d}.png"], stored.picture(index, view, SIZE))
            # Sixteen bits, untouched by webdataset's own picture decoder.
            depth = decode_png(sample[f"{view:03d}.depth.png16"]) * np.float32(sample["json"]["record"]["depth_scale"])
            np.testing.assert_array_equal(depth, stored.depth(index, view))


def content(folder: Path) -> dict[str, bytes]:
    """Every object's files; what tells of the run itself is left out."""
    skip = {"config.json", ".lock"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in skip}


@pytest.mark.parametrize("layout", ["openlrm", "nerfstudio", "webdataset"])
def test_the_same_again_does_nothing_and_what_is_missing_comes_back(shards: Path, tmp_path: Path, layout: str) -> None:
    whole = config(shards, layout, tmp_path / "whole", tar_bytes=1, threads=1)
    export(whole)
    first = content(tmp_path / "whole")
    again = export(whole)
    assert (again.done, again.skipped, content(tmp_path / "whole")) == (0, COUNT, first)

    (tmp_path / "list.txt").write_text(uid_of(0) + "\n")
    part = config(shards, layout, tmp_path / "part", tar_bytes=1)
    only_first = config(shards, layout, tmp_path / "part", uids=tmp_path / "list.txt", tar_bytes=1)
    assert export(only_first).done == 1
    # What a killed run leaves: an object half written, under no name that a reader would take.
    for leftover in (f".{uid_of(1)}.tmp", ".objects-000001.tar.tmp"):
        if layout == "webdataset" and leftover.startswith(".obj"):
            (tmp_path / "part" / leftover).write_bytes(b"half a tar")
        elif layout != "webdataset" and not leftover.startswith(".obj"):
            (tmp_path / "part" / leftover / "rgba").mkdir(parents=True)
    assert (export(part).done, content(tmp_path / "part")) == (COUNT - 1, first)


def test_a_damaged_object_is_named_and_the_others_go_on(shards: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "shards"
    damaged.mkdir()
    source = next(shards.glob("*.h5"))
    content = bytearray(source.read_bytes())
    place = content.find(ShardReader(source).encoded("rgba", SIZE, 1, 2).tobytes())
    content[place + 30] ^= 1
    (damaged / source.name).write_bytes(content)
    summary = export(config(damaged, "openlrm", tmp_path / "out"))
    assert (summary.done, summary.failed) == (COUNT - 1, {"damaged": 1})
    failure = json.loads((tmp_path / "out/failures" / f"{uid_of(1)}.json").read_text())
    assert failure["reason"] == "damaged" and "checksum" in failure["message"]
    assert json.loads((tmp_path / "out/uids.json").read_text()) == [uid_of(0), uid_of(2)]
    assert uid_of(1) not in (tmp_path / "out/ATTRIBUTION.md").read_text()


@pytest.mark.parametrize("uid", ["../outside", "/etc/x", "a/b", ".hidden", "a\nb", ""])
@pytest.mark.parametrize("layout", ["openlrm", "webdataset"])
def test_a_uid_that_is_no_file_name_leads_nowhere(tmp_path: Path, uid: str, layout: str) -> None:
    (tmp_path / "shards").mkdir()
    blobs.write_shard(tmp_path / "shards/shard-000000.h5", objects=1, views=1, size=64, uid=uid)
    summary = export(config(tmp_path / "shards", layout, tmp_path / "deep/er/out"))
    assert (summary.done, summary.failed) == (0, {"bad-uid": 1})
    written = {p.name for p in tmp_path.rglob("*") if p.is_file() and "failures" not in p.parts}
    assert written <= {"shard-000000.h5", "config.json", ".lock", "ATTRIBUTION.md", "uids.json"}


def test_a_key_of_webdataset_ends_at_a_dot(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    blobs.write_shard(tmp_path / "shards/shard-000000.h5", objects=1, views=1, size=64, uid="a.b")
    assert export(config(tmp_path / "shards", "webdataset", tmp_path / "w")).failed == {"bad-uid": 1}
    assert export(config(tmp_path / "shards", "openlrm", tmp_path / "o")).done == 1


@pytest.mark.parametrize("layout", ["openlrm", "nerfstudio", "webdataset"])
def test_a_full_disk_leaves_whole_objects_and_the_same_again_goes_on(
    shards: Path, tmp_path: Path, small_disk: Path, layout: str
) -> None:
    export(config(shards, layout, tmp_path / "whole", tar_bytes=1))
    whole = content(tmp_path / "whole")
    # Room for the first object and half of the next.
    room = int(1.5 * sum(map(len, whole.values())) / COUNT)
    stand_in = small_disk / "somebody-else"
    with stand_in.open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(shutil.disk_usage(small_disk).free - room))
    with pytest.raises(DiskFullError):
        export(config(shards, layout, small_disk / "out", tar_bytes=1))
    assert not [path for path in (small_disk / "out").iterdir() if path.name.endswith(".tmp")]
    stand_in.unlink()
    assert export(config(shards, layout, small_disk / "out", tar_bytes=1)).done <= COUNT
    assert content(small_disk / "out") == whole


def test_nothing_is_enlarged(shards: Path, tmp_path: Path) -> None:
    summary = export(config(shards, "nerfstudio", tmp_path, size=SIZE + 1))
    assert summary.failed == {"too-small": COUNT}


def test_one_folder_holds_one_kind_of_export(shards: Path, tmp_path: Path) -> None:
    export(config(shards, "openlrm", tmp_path))
    with pytest.raises(UserError, match="format was 'openlrm', is 'nerfstudio'"):
        export(config(shards, "nerfstudio", tmp_path))


def test_unknown_uids_are_named(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(uid_of(0) + "\nnobody\n")
    with pytest.raises(UserError, match="1 of its uids are not in the shards, the first is nobody"):
        export(config(shards, "openlrm", tmp_path / "out", uids=tmp_path / "list.txt"))


def test_tars_do_not_depend_on_threads_and_name_no_owner_or_time(shards: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        export(config(shards, "webdataset", tmp_path / str(threads), threads=threads))
    assert content(tmp_path / "1") == content(tmp_path / "3")
    with tarfile.open(tmp_path / "1/objects-000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}


def run_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["export", *words])
    return main()


def test_attribution_lists_whose_work_it_is(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, str(shards), "--attribution") == 0
    text = capsys.readouterr().out
    assert "## cc0 (Creative Commons Zero, no rights reserved): 3 objects" in text
    assert f"- Scene 0, by tests, synthetic, {uid_of(0)}" in text
    run_main(monkeypatch, str(shards), "--attribution", "--out", str(tmp_path / "list.md"))
    assert (tmp_path / "list.md").read_text().strip() == text.strip()
    export(config(shards, "webdataset", tmp_path / "w"))
    assert (tmp_path / "w/ATTRIBUTION.md").read_text().strip() == text.strip()


def test_an_export_with_failures_says_so(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (str(shards), "--format", "openlrm", "--out", str(tmp_path), "--size", "4096")
    assert run_main(monkeypatch, *words) == EXIT_ITEMS_FAILED


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({}, "--format"),
        ({"format": "openlrm"}, "--out"),
        ({"attribution": True, "format": "openlrm"}, "leave --format out"),
        ({"format": "openlrm", "out": Path("x"), "size": 0}, "size must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused(words: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ExportConfig(Path("shards"), **words)


def test_an_unzipped_capture_with_several_lenses_is_read_rightly_by_nerfstudio(tmp_path: Path) -> None:
    """nerfstudio takes a lens at the top of the file for all frames."""
    capture = make_capture(uid_of(0), 0, views=3, resolution=16)
    views: Callable = type(capture.views[0])
    lens = cameras.intrinsics_from_fov(35.0)
    capture.views[1] = views(capture.views[1].world_from_camera, lens, capture.views[1].images)
    path = capture_path(tmp_path, uid_of(0))
    write_capture(path, capture)
    zipfile.ZipFile(path).extractall(tmp_path / "unzipped")
    with CaptureReader(path) as reader:
        for view, found in enumerate(read_nerfstudio(tmp_path / "unzipped")):
            uv, _ = cameras.project(blobs.POINTS, reader.world_from_camera[view], reader.intrinsics[view])
            np.testing.assert_allclose(found.project(blobs.POINTS), uv * 16, atol=1e-4)


def test_a_layout_is_a_function_of_the_shard(shards: Path) -> None:
    reader = ShardReader(next(shards.glob("*.h5")))
    assert webdataset(Exported(reader, 0, None)) == webdataset(Exported(reader, 0, SIZE))
