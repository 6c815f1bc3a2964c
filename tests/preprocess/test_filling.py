"""What every preprocess command does with its objects, whatever their source."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.shards import ShardSet
from preprocess.filling import Filling, Unusable, Views, fill
from turntable import cameras


class Discs:
    """A source of a few discs; those whose uid says so fail in their way."""

    plural = "discs"

    def __init__(self, uids: Sequence[str]) -> None:
        self._uids = uids
        self.loaded: list[str] = []

    def uids(self) -> Sequence[str]:
        return self._uids

    def load(self, uid: str) -> Views:
        self.loaded.append(uid)
        if "unusable" in uid:
            raise Unusable("blurred", f"{uid}: too blurred")
        if "surprise" in uid:
            raise ZeroDivisionError("a bug of ours")
        v, u = np.mgrid[:16, :16] - 7.5
        rgba = np.full((16, 16, 4), 200, np.uint8)
        rgba[..., 3] = 255 * (np.hypot(u, v) < (0 if "empty" in uid else 5))
        pose = cameras.look_at(np.array([0.0, -3.0, 0.0]))
        return Views(uid, {"uid": uid}, pose[None], cameras.intrinsics_from_fov(40.0)[None], iter([rgba]))


def test_an_object_that_fails_in_any_way_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    source = Discs(["a", "unusable", "surprise", "empty", "z"])
    summary = fill(Filling(out=tmp_path, sizes=(16,), threads=2), source)
    assert ShardSet(tmp_path).uids == ["a", "z"]
    assert dict(summary.failed) == {"blurred": 1, "error": 1, "empty": 1}
    record = json.loads((tmp_path / "failures/surprise.json").read_text())
    assert "ZeroDivisionError: a bug of ours" in record["message"] and "in load" in record["message"]
    assert "1 discs could not be used: blurred" in summary.text(1.0)


def test_what_failed_before_is_tried_again_as_asked(tmp_path: Path) -> None:
    uids = ["a", "unusable", "surprise"]
    fill(Filling(out=tmp_path, sizes=(16,), threads=1), Discs(uids))
    for retry, again in [(("none",), []), (("blurred",), ["unusable"]), (("all",), ["unusable", "surprise"])]:
        source = Discs(uids)
        summary = fill(Filling(out=tmp_path, sizes=(16,), threads=1, retry=retry), source)
        assert source.loaded == again and summary.skipped == 1
        assert summary.passed_over == 2 - len(again)


class Sizes(Discs):
    """Discs of two sizes, in turn."""

    def load(self, uid: str) -> Views:
        views = super().load(uid)
        (rgba,) = views.rgba
        grown = rgba if uid < "d" or int(uid[1:]) % 2 else rgba.repeat(2, axis=0).repeat(2, axis=1)
        return dataclasses.replace(views, rgba=iter([grown]))


def test_objects_of_several_layouts_come_mixed_and_fill_few_shards(tmp_path: Path) -> None:
    uids = [f"d{number}" for number in range(12)]
    summary = fill(Filling(out=tmp_path, sizes=(16, 32), threads=2), Sizes(uids))
    assert summary.shards == ["shard-000000.h5", "shard-000001.h5"]
    shards = ShardSet(tmp_path)
    assert shards.uids == uids[::2] + uids[1::2]
    assert [shards.place(index)[0].sizes for index in (0, 6)] == [[16, 32], [16]]
