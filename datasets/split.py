"""`python -m datasets.split shards/ --out splits/ --ratios 0.9 0.05 0.05`: training, development and test objects.

Writes `train.txt`, `dev.txt` and `test.txt`, lists of uids as `train.lrm --uids` and `train.evaluate --uids` read them, and
`duplicates.json`, the groups of near-duplicates with the limits by which they were found. A group lies on one side as a whole, and
so do all objects of one class in proportion, as far as whole groups allow. A set that has grown is split again by the same
command: what was assigned stays where it is, new near-duplicates of it follow it, the rest is shared out.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from datasets.catalogue import read_uids
from datasets.duplicates import Groups, Limits, Pair, near_duplicates, signature
from datasets.filter import class_of, copy_objects, write_list
from datasets.order import permutation
from datasets.shards import ShardSet
from turntable import config as command_line
from turntable.errors import EXIT_OK, UserError
from turntable.files import write_json

log = logging.getLogger(__name__)

PARTS = ("train", "dev", "test")


@dataclass(frozen=True)
class SplitConfig:
    """Shares objects out between training, development and test."""

    shards: tyro.conf.Positional[Path]
    """A folder of shards, or one shard."""
    out: Path
    """Folder for the lists."""
    ratios: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """Shares of train, dev and test; they need not add up to 1."""
    seed: int = 0
    """Another seed, another split."""
    uids: Path | None = None
    """Split only the objects of this list."""
    duplicates: Literal["surface", "none"] = "surface"
    """How near-duplicates are found: by their surfaces, whatever their colour, size and pose; or not at all."""
    limits: Limits = field(default_factory=Limits)
    """When two surfaces are near-duplicates."""
    copy: Path | None = None
    """Also write shards of each part into train/, dev/ and test/ of this folder."""

    def __post_init__(self) -> None:
        if min(self.ratios) < 0 or sum(self.ratios) <= 0:
            raise ValueError(f"ratios must not be negative and not all 0, got {self.ratios}")


FREE_BETWEEN_RUNS = {"shards", "out", "copy", "uids"}


@dataclass(frozen=True)
class Split:
    """Who goes where, and why."""

    parts: dict[str, list[str]]
    """Part -> uids, in the set's order."""
    groups: list[list[str]]
    """Near-duplicates, each group with at least two."""
    torn: list[list[str]]
    """Groups whose members earlier runs put on different sides; they stay there."""


def share_out(
    classes: Sequence[str],
    groups: Sequence[Sequence[int]],
    ratios: Sequence[float],
    seed: int,
    given: Mapping[int, int],
) -> np.ndarray:
    """(O,) part of each object. `groups` partition the objects; `given`: objects whose part is fixed already.

    Groups are gone through class by class, in a random order within the class, and each goes to the part that lacks most of
    its share so far. So every class, and every prefix of the list, is divided as the ratios say to within a group.
    """
    target = np.array(ratios, np.float64) / sum(ratios)
    parts = np.full(len(classes), -1)
    counts = np.zeros(len(target))
    for group in groups:
        sides = Counter(given[number] for number in group if number in given)
        for number in group if sides else ():
            parts[number] = given.get(number, sides.most_common(1)[0][0])
            counts[parts[number]] += 1
    todo = [group for group in groups if parts[group[0]] < 0]
    for place in _by_class([classes[group[0]] for group in todo], seed):
        group = todo[place]
        lacking = target * (counts.sum() + len(group)) - counts
        part = int(np.argmax(np.where(target > 0, lacking, -np.inf)))
        parts[list(group)] = part
        counts[part] += len(group)
    return parts


def _by_class(classes: Sequence[str], seed: int) -> list[int]:
    """Places in an order in which each class is one stretch, classes and their members in random order."""
    names = sorted(set(classes))
    rank = dict(zip(names, permutation(len(names), seed, 0).tolist(), strict=True))
    shuffled = permutation(len(classes), seed, 1).tolist()
    return sorted(shuffled, key=lambda place: rank[classes[place]])


def find_pairs(shards: ShardSet, numbers: Sequence[int], config: SplitConfig) -> list[Pair]:
    """The pairs of near-duplicates. Objects of shards without geometry cannot be compared; the log says how many they are."""
    comparable = [number for number in numbers if shards.place(number)[0].has_geometry]
    if len(comparable) < len(numbers):
        log.warning("%d objects have no geometry and are not compared", len(numbers) - len(comparable))

    def points(number: int) -> np.ndarray:
        reader, place = shards.place(number)
        return reader.points(place)

    seen = tqdm(comparable, desc="near-duplicates", unit="object")
    signatures = np.stack([signature(points(number)) for number in seen]) if comparable else np.empty((0, 0))
    return list(near_duplicates(points, comparable, config.limits, signatures))


def split(shards: ShardSet, numbers: Sequence[int], pairs: Sequence[Pair], config: SplitConfig) -> Split:
    """Shares the objects `numbers` out; what `config.out` has assigned already stays."""
    place = {number: k for k, number in enumerate(numbers)}
    tied = Groups(len(numbers))
    for pair in pairs:
        tied.join(place[pair.first], place[pair.second])
    uids = [shards.uids[number] for number in numbers]
    before = assigned(config.out)
    given = {k: before[uid] for k, uid in enumerate(uids) if uid in before}
    groups = tied.members()
    classes = [class_of(shards.record(number)) for number in numbers]
    parts = share_out(classes, groups, config.ratios, config.seed, given)
    return Split(
        {name: [uid for uid, part in zip(uids, parts, strict=True) if part == k] for k, name in enumerate(PARTS)},
        [[uids[k] for k in group] for group in groups if len(group) > 1],
        [[uids[k] for k in group] for group in groups if len(set(parts[group])) > 1],
    )


def assigned(folder: Path) -> dict[str, int]:
    """uid -> part of what the lists in a folder hold. A uid on two of them is a UserError."""
    found: dict[str, int] = {}
    for part, name in enumerate(PARTS):
        path = folder / f"{name}.txt"
        for uid in read_uids(path) if path.exists() and path.stat().st_size else ():
            if found.setdefault(uid, part) != part:
                raise UserError(f"{path}: {uid} is in {PARTS[found[uid]]}.txt too; take it out of one of them")
    return found


def write(config: SplitConfig, done: Split, pairs: Sequence[Pair], shards: ShardSet) -> None:
    """The lists, and the account of near-duplicates."""
    for name, uids in done.parts.items():
        write_list(config.out / f"{name}.txt", uids)
    account: dict[str, Any] = {
        "method": "surface points in the best pose found among cube symmetries and turns about the up axis, mirrors too; "
        "distances in units of the root mean square distance from the centroid"
        if config.duplicates == "surface"
        else "none",
        "limits": {"distance": config.limits.distance, "share": config.limits.share},
        "groups": done.groups,
        "on_both_sides": done.torn,
        "pairs": [
            {"uids": [shards.uids[p.first], shards.uids[p.second]], "share": p.share, "mean_distance": p.distance}
            for p in pairs
        ],
    }
    write_json(config.out / "duplicates.json", account)


def table(shards: ShardSet, numbers: Sequence[int], done: Split) -> str:
    """Objects a class and part, for a person; the largest classes first."""
    part_of = {uid: name for name, uids in done.parts.items() for uid in uids}
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for number in numbers:
        rows[class_of(shards.record(number))][part_of[shards.uids[number]]] += 1
    names = sorted(rows, key=lambda name: (-rows[name].total(), name))
    cells: list[list[object]] = [[name, *(rows[name][part] for part in PARTS)] for name in names[:20]]
    cells += [[f"{len(names) - 20} more classes", *(sum(rows[n][p] for n in names[20:]) for p in PARTS)]] * (
        len(names) > 20
    )
    cells += [["all", *(len(done.parts[part]) for part in PARTS)]]
    header: list[object] = ["", *PARTS]
    return "\n".join(f"{row[0]!s:24}" + "".join(f"{cell!s:>8}" for cell in row[1:]) for row in [header, *cells])


def main() -> int:
    config = command_line.parse(SplitConfig, "Share objects out between training, development and test.")
    shards = ShardSet(config.shards)
    listed = set(read_uids(config.uids)) if config.uids else None
    numbers = [n for n, uid in enumerate(shards.uids) if listed is None or uid in listed]
    if not numbers:
        raise UserError(f"{config.uids}: none of its uids is in {config.shards}")
    command_line.claim_folder(config.out, config, FREE_BETWEEN_RUNS)
    pairs = find_pairs(shards, numbers, config) if config.duplicates == "surface" else []
    done = split(shards, numbers, pairs, config)
    write(config, done, pairs, shards)
    print(table(shards, numbers, done))
    print(
        f"{len(done.groups)} groups of near-duplicates, {sum(map(len, done.groups))} objects; {config.out}/duplicates.json"
    )
    if done.torn:
        print(f"{len(done.torn)} groups lie on both sides, as earlier runs put them: move them by hand, or split anew")
    if config.copy:
        index_of = {uid: number for number, uid in enumerate(shards.uids)}
        for name, uids in done.parts.items():
            if uids:
                copy_objects(shards, [index_of[uid] for uid in uids], config.copy / name)
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
