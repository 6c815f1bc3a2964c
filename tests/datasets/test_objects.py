"""Captures and the shards made of them show the same objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.captures import CaptureError
from datasets.objects import Objects
from preprocess import captures as preprocess
from tests.datasets import synthetic


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three captures, and their shard."""
    root = tmp_path_factory.mktemp("objects")
    synthetic.write_captures(root / "captures", 3, views=2, resolution=32)
    config = preprocess.PreprocessConfig(captures=root / "captures", out=root / "shards", sizes=(32, 16), threads=1)
    preprocess.preprocess(config)
    return root / "captures", root / "shards"


def test_captures_and_shards_are_the_same_objects(folders) -> None:
    captures, shards = (Objects(folder) for folder in folders)
    assert len(captures) == 3 and captures.uids == shards.uids
    for index in range(3):
        a, b = captures.open(index), shards.open(index)
        assert a.uid == b.uid and captures.record(index)["name"] == shards.record(index)["name"] == f"Scene {index}"
        assert np.allclose(a.world_from_camera, b.world_from_camera) and np.allclose(a.intrinsics, b.intrinsics)
        assert a.view_records == b.view_records and len(a.view_records) == 2
        assert np.array_equal(a.depth(1), b.depth(1)) and np.array_equal(a.geometry().points, b.geometry().points)
        seen = a.rgba(0, 32)[..., 3] > 0
        assert np.array_equal(a.rgba(0, 32)[seen], b.rgba(0, 32)[seen])
        assert a.rgba(0, 16).shape == b.rgba(0, 16).shape == (16, 16, 4)
    assert captures.open(0).sizes == [32] and shards.open(0).sizes == [16, 32]


def test_one_file_is_a_set_of_one_or_more(folders) -> None:
    captures, shards = folders
    capture = sorted(captures.glob("??/*.zip"))[1]
    assert Objects(capture).uids == [capture.stem]
    assert len(Objects(shards / "shard-000000.h5")) == 3


def test_a_damaged_capture_says_so_when_it_is_opened(folders, tmp_path: Path) -> None:
    source = sorted(folders[0].glob("??/*.zip"))[0]
    broken = tmp_path / source.name
    broken.write_bytes(source.read_bytes()[:5000])
    objects = Objects(broken)
    assert len(objects) == 1
    with pytest.raises(CaptureError, match="not a whole zip archive"):
        objects.open(0)
