"""OpenLRM's folders as its own script leaves them, and what is wrong with bad ones. What we export ourselves: test_nerf.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.pictures import encode_png
from datasets.shards import ShardSet
from preprocess.openlrm import OpenLRMConfig, OpenLRMFolders, preprocess
from tests.datasets import synthetic
from turntable import cameras
from turntable.errors import UserError
from turntable.files import read_json

SIZE, VIEWS = 64, 8
SCALE = 1.9
"""Their unit is another one: the object in it is larger than ours by this."""


def config(root: Path, out: Path, **changes: Any) -> OpenLRMConfig:
    settings: dict[str, Any] = {"sizes": (SIZE,), "threads": 1, **changes}
    return OpenLRMConfig(root=root, out=out, **settings)


def write_folder(folder: Path, seed: int = 3) -> synthetic.Scene:
    """An object as OpenLRM's Blender script writes it: (3, 4) poses, one table of intrinsics in pixels, RGBA."""
    world = synthetic.scene(seed)
    poses, intrinsics = synthetic.shell_cameras(VIEWS, seed)
    (folder / "rgba").mkdir(parents=True)
    (folder / "pose").mkdir()
    for view, (pose, lens) in enumerate(zip(poses, intrinsics, strict=True)):
        rgba, _, _ = synthetic.render(world, pose, lens, SIZE)
        (folder / f"rgba/{view:03d}.png").write_bytes(encode_png(rgba))
        moved = np.concatenate([pose[:, :3], SCALE * pose[:, 3:]], axis=1)
        np.save(folder / f"pose/{view:03d}.npy", moved)
    fx, fy, cx, cy = intrinsics[0] * SIZE
    np.save(folder / "intrinsics.npy", np.array([[fx, fy], [cx, cy], [SIZE, SIZE]]))
    return world


def test_their_folders_are_brought_to_object_units(tmp_path: Path) -> None:
    world = write_folder(tmp_path / "in/views/abc123")
    summary = preprocess(config(tmp_path / "in/views", tmp_path / "out", licence="by-nc"))
    assert (summary.done, summary.failed) == (1, {})
    shards = ShardSet(tmp_path / "out")
    assert shards.uids == ["abc123"]
    record = shards.record(0)
    assert (record["licence"], record["source"], record["normalise"]["method"]) == ("by-nc", "openlrm", "mattes")
    similarity = np.array(record["normalise"]["object_from_world"])
    points, _ = synthetic.surface(world, np.random.default_rng(0), 500)
    before, after = synthetic.shell_cameras(VIEWS, 3), shards.cameras(0)
    moved = cameras.transform(similarity, SCALE * points)
    for view in range(VIEWS):
        expected = cameras.project(points, before[0][view], before[1][view])[0]
        found = cameras.project(moved, after[0][view], after[1][view])[0]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_pictures_of_another_size_than_the_table_says_have_the_same_camera(tmp_path: Path) -> None:
    """OpenLRM divides the table by its own width and height; the pictures may have any size."""
    write_folder(tmp_path / "in/a")
    table = np.load(tmp_path / "in/a/intrinsics.npy")
    np.save(tmp_path / "in/a/intrinsics.npy", 16 * table)
    preprocess(config(tmp_path / "in", tmp_path / "out"))
    expected = synthetic.shell_cameras(VIEWS, 3)[1]
    np.testing.assert_allclose(ShardSet(tmp_path / "out").cameras(0)[1], expected, atol=1e-12)


def pickled(folder: Path) -> None:
    np.save(folder / "pose/002.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def huge_header(folder: Path) -> None:
    content = (folder / "pose/002.npy").read_bytes()
    assert b"(3, 4)" in content
    (folder / "pose/002.npy").write_bytes(content.replace(b"(3, 4), }        ", b"(3333333, 44444)}"))


def linked(folder: Path) -> None:
    (folder.parent.parent / "secret.png").write_bytes((folder / "rgba/002.png").read_bytes())
    (folder / "rgba/002.png").unlink()
    (folder / "rgba/002.png").symlink_to(folder.parent.parent / "secret.png")


def saved(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (pickled, "malformed"),
        (huge_header, "malformed"),
        (linked, "outside"),
        (saved("pose/002.npy", np.full((3, 4), np.nan)), "bad-pose"),
        (saved("pose/002.npy", np.zeros((3, 4))), "bad-pose"),
        (saved("pose/002.npy", np.eye(3)), "malformed"),
        (saved("pose/002.npy", np.full((3, 4), "x")), "malformed"),
        (saved("intrinsics.npy", np.zeros((3, 3))), "malformed"),
        (saved("intrinsics.npy", np.full((3, 2), np.inf)), "malformed"),
        (saved("intrinsics.npy", np.zeros((3, 2))), "bad-lens"),
        (saved("pose/008.npy", np.eye(4)[:3]), "incomplete"),
        (lambda folder: (folder / "pose/002.npy").unlink(), "incomplete"),
        (lambda folder: (folder / "pose/002.npy").write_bytes(b"\x93NUMPY"), "malformed"),
        (lambda folder: (folder / "rgba/002.png").write_bytes(b"half"), "bad-picture"),
        (lambda folder: (folder / "turntable.json").write_text("{}"), "unknown-version"),
        (lambda folder: (folder / "turntable.json").write_text('{"format": NaN}'), "malformed"),
    ],
)
def test_a_bad_folder_is_named_and_the_others_go_on(tmp_path: Path, damage: Callable, reason: str) -> None:
    write_folder(tmp_path / "in/views/bad")
    write_folder(tmp_path / "in/views/good")
    damage(tmp_path / "in/views/bad")
    summary = preprocess(config(tmp_path / "in/views", tmp_path / "out"))
    assert (summary.done, dict(summary.failed)) == (1, {reason: 1})
    assert str(tmp_path / "in/views/bad") in read_json(tmp_path / "out/failures/bad.json")["message"]


def test_a_folder_without_objects_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"no <uid>/intrinsics\.npy"):
        OpenLRMFolders(settings, settings.matter())
