"""`python -m datasets.filter shards/ --out list.txt --licences by cc0`: which objects of shards, as a list of uids.

The list is what `train.lrm --uids` and `train.evaluate --uids` read; no shard is touched. `--balance` writes a weight behind
each uid, by which `train.lrm` draws it. `--copy DIR` also writes shards that hold the chosen objects alone, their pictures
byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from tqdm import tqdm

from datasets import index
from datasets.catalogue import read_uids
from datasets.packing import SHARD_BYTES, Packer, stored_object, writing
from datasets.selection import Account
from datasets.shards import ShardSet, shard_paths
from turntable import config as command_line
from turntable.errors import EXIT_OK, UserError
from turntable.files import write_text

NO_CLASS = "unknown"
"""The class of objects that have none."""
Check = tuple[str, Callable[[dict[str, Any]], bool | None]]


@dataclass(frozen=True)
class FilterConfig:
    """Chooses objects. One of whose record the field in question is missing is left out, and counted."""

    shards: tyro.conf.Positional[Path]
    """A folder of shards, or one shard."""
    out: Path
    """The list to write: a uid a line, with --balance a weight behind it."""
    classes: tuple[str, ...] = ()
    """Only these classes; `unknown` stands for objects without one."""
    licences: tuple[str, ...] = ()
    """Only these licences (by, by-sa, cc0, …)."""
    sources: tuple[str, ...] = ()
    """Only from these sources (objaverse, folder, mvimgnet, …)."""
    where: tuple[str, ...] = ()
    """FIELD=VALUE: only objects whose record says so, or lists it among others; a dot goes into a field (asset.materials=1)."""
    uids: Path | None = None
    """Only the objects of this list."""
    without: Path | None = None
    """Not the objects of this list."""
    doubtful: Literal["keep", "drop", "only"] = "keep"
    """Objects whose rendering has doubts about them."""
    min_views: int = 0
    """Fewest views of an object."""
    balance: float = 0.0
    """Write weights: an object's is its class's number of objects to the power of minus this. 1 draws all classes equally often."""
    copy: Path | None = None
    """Also write shards of the chosen objects into this folder."""
    shard_bytes: float = SHARD_BYTES
    """Largest size of those shards."""

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1 or self.shard_bytes < 1 or self.min_views < 0:
            raise ValueError(
                "balance must lie in [0, 1], shard_bytes must be at least 1 and min_views not negative, got "
                f"{self.balance}, {self.shard_bytes}, {self.min_views}"
            )
        for condition in self.where:
            if "=" not in condition:
                raise ValueError(f"--where {condition}: write FIELD=VALUE")


def class_of(record: dict[str, Any]) -> str:
    """An object's class."""
    return str(record.get("lvis_class") or NO_CLASS)


def checks(config: FilterConfig) -> list[Check]:
    """The checks on records that are asked for, each under the option's own words."""
    found: list[Check] = []
    for option, wanted, asked in (
        ("--classes", config.classes, class_of),
        ("--licences", config.licences, lambda record: record.get("licence")),
        ("--sources", config.sources, lambda record: record.get("source")),
    ):
        if wanted:
            found.append((f"{option} {' '.join(wanted)}", _among(wanted, asked)))
    found += [(f"--where {condition}", _says(*condition.split("=", 1))) for condition in config.where]
    for option, path, listed in (("--uids", config.uids, True), ("--without", config.without, False)):
        if path:
            found.append((f"{option} {path}", _listed(frozenset(read_uids(path)), listed)))
    if config.doubtful != "keep":
        found.append(
            (f"--doubtful {config.doubtful}", lambda record: bool(record.get("doubts")) == (config.doubtful == "only"))
        )
    if config.min_views:
        found.append((f"--min-views {config.min_views}", lambda record: record["_views"] >= config.min_views))
    return found


def _among(wanted: Sequence[str], asked: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], bool | None]:
    return lambda record: None if asked(record) is None else asked(record) in wanted


def _listed(uids: frozenset[str], wanted: bool) -> Callable[[dict[str, Any]], bool]:
    return lambda record: (record["uid"] in uids) == wanted


def _says(name: str, value: str) -> Callable[[dict[str, Any]], bool | None]:
    """Whether the field `name`, with dots into nested ones, is `value` or a list that holds it; None where it is not there."""

    def check(record: dict[str, Any]) -> bool | None:
        found: Any = record
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is None:
            return None
        return value in [str(one) for one in (found if isinstance(found, list) else [found])]

    return check


def select(shards: ShardSet, config: FilterConfig) -> tuple[list[int], Account]:
    """Indices of the chosen objects, and what left out the others."""
    account, asked = Account(), checks(config)
    chosen = [
        number
        for number in range(len(shards))
        if account.passes({**shards.record(number), "_views": shards.view_count(number)}, asked)
    ]
    return chosen, account


def balanced(classes: Sequence[str], power: float) -> list[float]:
    """A weight an object, of mean 1: its class's number of objects to the power of -`power`."""
    counts = Counter(classes)
    weights = [counts[name] ** -power for name in classes]
    mean = sum(weights) / max(len(weights), 1)
    return [weight / mean for weight in weights]


def write_list(path: Path, uids: Sequence[str], weights: Sequence[float] | None = None) -> None:
    """A list of uids, with weights where they are given, as `datasets.catalogue.read_weights` reads it."""
    lines = uids if weights is None else [f"{uid} {weight:.6g}" for uid, weight in zip(uids, weights, strict=True)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def copy_objects(shards: ShardSet, chosen: Iterable[int], folder: Path, shard_bytes: float = SHARD_BYTES) -> list[Path]:
    """Writes objects of a set into new shards, their bytes as they are; those that are in `folder` already are passed over.

    Objects there that are not among the chosen are a UserError: a copy for training must not keep what went to the test side.
    """
    chosen = list(chosen)
    with writing(folder), Packer(folder, shard_bytes) as packer:
        there = set(ShardSet(shard_paths(folder)).uids)
        stray = there - {shards.uids[number] for number in chosen}
        if stray:
            raise UserError(
                f"{folder}: holds {len(stray)} objects that are not among the chosen, such as {min(stray)}; use an empty folder"
            )
        for number in tqdm([n for n in chosen if shards.uids[n] not in there], unit="object", desc=folder.name):
            reader, place = shards.place(number)
            packer.add(stored_object(reader, place), reader.configuration)
    index.write_index(folder)
    return packer.finished


def main() -> int:
    config = command_line.parse(FilterConfig, "Choose objects of shards.")
    shards = ShardSet(config.shards)
    chosen, account = select(shards, config)
    uids = [shards.uids[number] for number in chosen]
    if not uids:
        raise UserError(f"{config.shards}: {account.text(len(shards), uids)}; nothing was written")
    weights = balanced([class_of(shards.record(n)) for n in chosen], config.balance) if config.balance else None
    write_list(config.out, uids, weights)
    print(f"{config.out}: {account.text(len(shards), uids)}")
    if config.copy:
        print(f"{config.copy}: {len(copy_objects(shards, chosen, config.copy, config.shard_bytes))} shards")
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
