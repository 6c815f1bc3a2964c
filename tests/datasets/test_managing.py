"""Merging, filtering, splitting and counting shards; near-duplicates."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datasets import filter as filtering
from datasets import split as splitting
from datasets.catalogue import read_uids, read_weights
from datasets.duplicates import Groups, Limits, cube_symmetries, near_duplicates, signature
from datasets.filter import FilterConfig, balanced, copy_objects, select
from datasets.merge import MergeConfig, merge
from datasets.packing import writing
from datasets.procedural import ProceduralConfig, orders
from datasets.shards import ShardError, ShardSet
from datasets.split import SplitConfig, share_out, split
from datasets.stats import statistics, text
from datasets.verify import verify
from tests.datasets.synthetic import uid_of
from tests.datasets.test_shards import content, same, write
from tests.datasets.test_shards import make_object as made
from turntable.errors import UserError
from turntable.geometry import sample_surface

make_object = functools.lru_cache(made)


def named(number: int, **record: Any) -> Any:
    item = make_object(number)[0]
    return dataclasses.replace(item, record={**item.record, **record})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """a: 0 1 | 2; b: 3 | 4 5."""
    a, b = (tmp_path_factory.mktemp(name) for name in "ab")
    chair, bed = {"lvis_class": "chair", "source": "objaverse"}, {"lvis_class": "bed", "source": "folder"}
    write(a / "shard-000000.h5", named(0, **chair), named(1, **bed, licence="by"))
    write(a / "shard-000001.h5", named(2, **chair, doubts=["black"]))
    write(b / "shard-000000.h5", named(3, **chair, asset={"materials": 2, "tags": ["red", "old"]}))
    write(b / "shard-000004.h5", named(4), named(5, **bed))
    return a, b


def test_a_merge_holds_everything_byte_for_byte(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "all"
    done = merge(MergeConfig(folders, out))
    assert sum(len(p.kept) for p in done.portions) == 6
    assert sorted(p.read_bytes() for p in out.glob("*.h5")) == sorted(
        p.read_bytes() for folder in folders for p in folder.glob("*.h5")
    )
    assert verify(out).damage == [] and len(json.loads((out / "index.json").read_text())["objects"]) == 6
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")}
    assert merge(MergeConfig(folders, out)).there == 6
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")} == before


def test_a_merge_goes_on_where_it_was_broken_off_and_adds_what_is_new(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "all"
    shutil.copytree(folders[0], source)
    merge(MergeConfig((source,), out))
    (out / ".shard-000002.h5.tmp").write_bytes(b"half")  # as a killed run leaves it
    write(source / "shard-000007.h5", make_object(8)[0])
    merge(MergeConfig((source,), out))
    assert ShardSet(out).uids == [uid_of(n) for n in (0, 1, 2, 8)]
    assert not list(out.glob(".shard*"))


@pytest.mark.parametrize(("rule", "name"), [("first", "Stühlchen"), ("last", "new")])
def test_a_uid_in_two_folders_is_refused_or_taken_by_the_rule(
    folders: tuple[Path, Path], tmp_path: Path, rule: Any, name: str
) -> None:
    a, _ = folders
    write(tmp_path / "new/shard-000000.h5", named(9), named(1, name="new"))
    sources = (a, tmp_path / "new")
    with pytest.raises(
        UserError, match=rf"1 objects of .*new/shard-000000\.h5.*{uid_of(1)}, in {a}.*--duplicates first"
    ):
        merge(MergeConfig(sources, tmp_path / "refused"))
    assert not list((tmp_path / "refused").glob("*.h5"))
    done = merge(MergeConfig(sources, tmp_path / "all", rule))
    shards = ShardSet(tmp_path / "all")
    assert done.left_out == 1 and sorted(shards.uids) == [uid_of(n) for n in (0, 1, 2, 9)]
    assert shards.record(shards.uids.index(uid_of(1)))["name"] == name
    assert verify(tmp_path / "all").damage == []
    again = merge(MergeConfig(sources, tmp_path / "all", rule))
    assert not again.portions and ShardSet(tmp_path / "all").uids == shards.uids


def test_the_same_shard_in_two_folders_is_no_conflict(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[0], tmp_path / "copy")
    merge(MergeConfig((folders[0], tmp_path / "copy"), tmp_path / "all"))
    assert same(content(tmp_path / "all"), content(folders[0]))


def test_damage_is_not_merged(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[0], tmp_path / "bad")
    path = tmp_path / "bad/shard-000001.h5"
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"RIFF") + 40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ShardError, match=r"shard-000001\.h5.*SHA-256"):
        merge(MergeConfig((tmp_path / "bad",), tmp_path / "all"))
    assert ShardSet(tmp_path / "all").uids == [uid_of(0), uid_of(1)]


def test_one_writer_at_a_time(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with writing(tmp_path / "all"), pytest.raises(UserError, match="another run is writing"):
        merge(MergeConfig(folders, tmp_path / "all"))


def test_filters_choose_by_what_the_record_says(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shards = ShardSet([p for folder in folders for p in sorted(folder.glob("*.h5"))])
    listed = tmp_path / "some.txt"
    listed.write_text(f"{uid_of(1)}\n{uid_of(5)} 2.5\n")
    for options, wanted in [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"classes": ("chair",)}, [0, 2, 3]),
        ({"classes": ("unknown",)}, [4]),
        ({"licences": ("by",)}, [1]),
        ({"sources": ("folder",)}, [1, 5]),
        ({"where": ("asset.materials=2",)}, [3]),
        ({"where": ("asset.tags=old", "licence=cc0")}, [3]),
        ({"uids": listed}, [1, 5]),
        ({"without": listed}, [0, 2, 3, 4]),
        ({"doubtful": "drop"}, [0, 1, 3, 4, 5]),
        ({"doubtful": "only"}, [2]),
        ({"min_views": 3}, []),
    ]:
        chosen, account = select(shards, FilterConfig(folders[0], listed, **options))
        assert chosen == wanted, options
        assert sum(account.out.values()) == 6 - len(wanted)
    _, account = select(shards, FilterConfig(folders[0], listed, sources=("folder",)))
    assert account.silent.total() == 1  # object 4 names no source


def test_copies_hold_the_same_and_never_more(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shards = ShardSet(folders[0])
    copy_objects(shards, [2, 1], tmp_path / "some")
    copied = ShardSet(tmp_path / "some")
    assert copied.uids == [uid_of(2), uid_of(1)] and verify(tmp_path / "some").damage == []
    place, number = copied.place(1)
    original, k = shards.place(1)
    for name, size in original.layout:
        np.testing.assert_array_equal(place.encoded(name, size, number, 1), original.encoded(name, size, k, 1))
    copy_objects(shards, [2, 1, 0], tmp_path / "some")
    assert len(ShardSet(tmp_path / "some")) == 3
    with pytest.raises(UserError, match="1 objects that are not among the chosen"):
        copy_objects(shards, [2, 1], tmp_path / "some")


def test_balanced_classes_weigh_the_same(tmp_path: Path) -> None:
    weights = np.array(balanced(["chair"] * 6 + ["bed"] * 2, 1))
    assert weights[:6].sum() == pytest.approx(weights[6:].sum()) and weights.mean() == pytest.approx(1)
    root = np.array(balanced(["chair"] * 6 + ["bed"] * 2, 0.5))
    assert root[:6].sum() / root[6:].sum() == pytest.approx(3**0.5)
    filtering.write_list(tmp_path / "list.txt", ["a", "b"], [1.5, 0.25])
    assert read_weights(tmp_path / "list.txt") == {"a": 1.5, "b": 0.25}
    assert read_uids(tmp_path / "list.txt") == ["a", "b"]
    for bad in ("a -1", "a 0", "a nan", "a inf", "a 1 2", "a b"):
        (tmp_path / "bad.txt").write_text(f"{bad}\n")
        with pytest.raises(UserError, match=r"bad\.txt, line 1: .*no weight"):
            read_weights(tmp_path / "bad.txt")


def test_every_class_is_shared_out_as_the_ratios_say() -> None:
    classes = ["a"] * 100 + ["b"] * 40 + ["c"] * 7 + [f"rare {k}" for k in range(53)]
    alone = [[k] for k in range(len(classes))]
    parts = share_out(classes, alone, (0.8, 0.1, 0.1), 0, {})
    assert np.bincount(parts).tolist() == [160, 20, 20]
    for name in "abc":
        mine = parts[[c == name for c in classes]]
        assert np.abs(np.bincount(mine, minlength=3) - len(mine) * np.array([0.8, 0.1, 0.1])).max() <= 1.01
    rare = parts[147:]
    assert np.bincount(rare).tolist() == pytest.approx([42.4, 5.3, 5.3], abs=1.01)
    assert (share_out(classes, alone, (0.8, 0.1, 0.1), 1, {}) != parts).any()
    assert not share_out(classes, alone, (1, 0, 0), 0, {}).any()


def test_groups_stay_together_and_what_is_given_stays() -> None:
    rng = np.random.default_rng(0)
    groups = [g.tolist() for g in np.split(np.arange(300), np.sort(rng.choice(np.arange(1, 300), 120, replace=False)))]
    parts = share_out(["x"] * 300, groups, (0.7, 0.2, 0.1), 0, {})
    assert all(len(set(parts[g])) == 1 for g in groups)
    assert np.abs(np.bincount(parts) - [210, 60, 30]).max() <= max(map(len, groups))
    given = {k: int(parts[k]) for k in range(150)}
    again = share_out(["x"] * 300, groups, (0.7, 0.2, 0.1), 5, given)
    assert (again[:150] == parts[:150]).all() and all(len(set(again[g])) == 1 for g in groups)


def furniture(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    meshes = []
    for order in orders(ProceduralConfig(Path("unused"), count=count)):
        solids = [solid for _, solid in order.make().parts]
        starts = np.cumsum([0, *(len(s.vertices) for s in solids)])
        faces = [s.faces + start for s, start in zip(solids, starts, strict=False)]
        meshes.append((np.concatenate([s.vertices for s in solids]), np.concatenate(faces)))
    return meshes


def sampled(mesh: tuple[np.ndarray, np.ndarray], seed: int) -> np.ndarray:
    return sample_surface(*mesh, 20_000, np.random.default_rng(seed))[0]


def test_copies_of_furniture_are_found_and_other_pieces_are_not() -> None:
    """Copies are sampled anew (as a re-export is), turned, mirrored, resized, moved; the others are of the same five kinds."""
    meshes = furniture(20)
    clouds = [sampled(mesh, seed) for seed, mesh in enumerate(meshes)]
    turns = {
        0: Rotation.from_euler("x", 90, degrees=True).as_matrix(),
        1: Rotation.from_euler("z", 37, degrees=True).as_matrix(),
        4: np.diag([-1.0, 1, 1]),
        7: np.eye(3),
    }
    for seed, (piece, turn) in enumerate(turns.items()):
        clouds.append(sampled(meshes[piece], 100 + seed) @ turn.T * 2.5 + [3, 0, -1])
    pairs = list(near_duplicates(lambda number: clouds[number], range(len(clouds))))
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 20), (1, 21), (4, 22), (7, 23)]
    assert all(pair.share > 0.99 for pair in pairs)


def test_signatures_do_not_change_under_what_copies_differ_in() -> None:
    points = sampled(furniture(1)[0], 0)
    turned = points @ Rotation.from_euler("xyz", [20, 70, 110], degrees=True).as_matrix().T * [1, 1, 1] * 0.3 + 5
    np.testing.assert_allclose(signature(turned), signature(points), atol=1e-5)
    assert np.abs(signature(points * [1, 1, 1.2]) - signature(points)).max() > 0.03


def test_the_48_ways_of_a_cube() -> None:
    turns = cube_symmetries()
    assert len({m.tobytes() for m in turns + 0.0}) == 48 and (turns[0] == np.eye(3)).all()
    np.testing.assert_array_equal(turns @ turns.swapaxes(1, 2), np.broadcast_to(np.eye(3), (48, 3, 3)))
    assert (np.linalg.det(turns) > 0).sum() == 24


def test_groups_are_the_connected_parts() -> None:
    groups = Groups(7)
    for pair in [(5, 3), (1, 6), (3, 1)]:
        groups.join(*pair)
    assert groups.members() == [[0], [1, 3, 5, 6], [2], [4]]


def test_a_split_writes_lists_and_says_why(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """A copy of object 3 under another uid follows it, also when it comes in a later run."""
    merge(MergeConfig(folders, tmp_path / "all"))
    words = ["split", str(tmp_path / "all"), "--out", str(tmp_path / "s"), "--ratios", "0.5", "0.2", "0.3"]
    monkeypatch.setattr("sys.argv", words)
    splitting.main()
    before = {part: read_uids(tmp_path / f"s/{part}.txt") for part in splitting.PARTS}
    assert sorted(uid for uids in before.values() for uid in uids) == [uid_of(n) for n in range(6)]
    assert [len(before[part]) for part in splitting.PARTS] == [3, 1, 2]
    for number in range(6):
        copy = make_object(number)[0]
        write(tmp_path / f"all/shard-0001{number:02d}.h5", dataclasses.replace(copy, record={"uid": uid_of(number, 9)}))
    splitting.main()
    account = json.loads((tmp_path / "s/duplicates.json").read_text())
    assert account["limits"] == {"distance": 0.04, "share": 0.96} and account["on_both_sides"] == []
    assert sorted(account["groups"]) == [[uid_of(n), uid_of(n, 9)] for n in range(6)]
    for part, uids in before.items():
        assert set(read_uids(tmp_path / f"s/{part}.txt")) == {*uids, *(f"{u[:2]}{9:06x}".ljust(32, "5") for u in uids)}
    assert "6 groups of near-duplicates, 12 objects" in capsys.readouterr().out


def test_groups_that_earlier_runs_tore_apart_are_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from datasets.duplicates import Pair

    (tmp_path / "train.txt").write_text(f"{uid_of(0)}\n")
    (tmp_path / "test.txt").write_text(f"{uid_of(1)}\n")
    shards = ShardSet(folders[0])
    done = split(shards, [0, 1, 2], [Pair(0, 1, 1, 0), Pair(1, 2, 1, 0)], SplitConfig(folders[0], tmp_path))
    assert done.torn == [[uid_of(0), uid_of(1), uid_of(2)]]
    (tmp_path / "test.txt").write_text(f"{uid_of(0)}\n")
    with pytest.raises(UserError, match=r"train\.txt too"):
        split(shards, [0, 1, 2], [], SplitConfig(folders[0], tmp_path))


def test_statistics_count_what_is_there(folders: tuple[Path, Path]) -> None:
    a, _ = folders
    found = statistics(ShardSet(a))
    assert (found["objects"], found["views"], found["shards"], found["doubtful_objects"]) == (3, 6, 2, 1)
    assert found["classes"] == {"chair": 2, "bed": 1} and found["licences"] == {"cc0": 2, "by": 1}
    assert found["bytes"] == sum(p.stat().st_size for p in a.glob("*.h5"))
    stored = [make_object(n)[0].images for n in range(3)]
    assert found["picture_bytes"]["rgba/24"] == sum(len(b) for images in stored for b in images["rgba", 24])
    distances = [np.linalg.norm(make_object(n)[0].world_from_camera[:, :, 3], axis=1) for n in range(3)]
    spread = found["ranges"]["distance, object units"]
    assert (spread["smallest"], spread["largest"]) == pytest.approx((np.min(distances), np.max(distances)), abs=1e-4)
    assert all(sum(r["counts"]) == 6 for r in found["ranges"].values())
    assert found["ranges"]["field of view, degrees"]["smallest"] == pytest.approx(50)
    assert "3 objects, 6 views in 2 shards" in text(found)


def test_what_was_asked_wrongly_is_refused(tmp_path: Path) -> None:
    for wrong in (
        lambda: MergeConfig((), tmp_path),
        lambda: MergeConfig((tmp_path,), tmp_path),
        lambda: FilterConfig(tmp_path, tmp_path, balance=2),
        lambda: FilterConfig(tmp_path, tmp_path, where=("licence",)),
        lambda: SplitConfig(tmp_path, tmp_path, (0, 0, 0)),
        lambda: Limits(share=1.5),
    ):
        with pytest.raises(ValueError):
            wrong()
