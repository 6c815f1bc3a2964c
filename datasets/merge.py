"""`python -m datasets.merge A/ B/ --out ALL/`: the objects of several folders of shards in one folder.

Shards are copied as they are, each compared with its own hash. Only a shard of which some objects are left out, because
another folder has the same uid, is written anew, from the same encoded bytes. What is in `--out` already stays there, so the
same command again continues a merge that was broken off, and adds what the folders have gained since.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from datasets import index
from datasets.packing import SHARD_BYTES, Packer, copy_shard, next_shard, stored_object, writing
from datasets.shards import ShardReader, found, shard_paths
from turntable import config as command_line
from turntable.errors import EXIT_OK, UserError


@dataclass(frozen=True)
class MergeConfig:
    """Brings folders of shards together. Nothing is decoded or encoded again."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of shards."""
    out: Path
    """Folder for all of them. What is there stays."""
    duplicates: Literal["refuse", "first", "last"] = "refuse"
    """A uid in several folders: stop before anything is written, or take it from the first or the last folder named."""
    shard_bytes: float = SHARD_BYTES
    """Largest size of a shard that is written anew, bytes."""

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError("name at least one folder of shards")
        if self.out in self.folders:
            raise ValueError(f"--out {self.out} is one of the folders to merge; it keeps what it has, leave it out")
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes must be at least 1, got {self.shard_bytes}")


@dataclass(frozen=True)
class Portion:
    """What is taken of one shard."""

    reader: ShardReader
    kept: list[int]
    """Numbers of its objects."""

    @property
    def whole(self) -> bool:
        """Whether the file can be copied as it is."""
        return len(self.kept) == len(self.reader)


@dataclass(frozen=True)
class Plan:
    """What a merge does."""

    portions: list[Portion]
    there: int
    """Objects that are in the output already."""
    left_out: int
    """Objects whose uid comes from another folder."""


def plan(config: MergeConfig) -> Plan:
    """What is to be copied. A uid in two folders is a UserError unless a rule says which one counts."""
    finished = [ShardReader(path) for path in shard_paths(config.out)]
    hashes = {reader.sha256 for reader in finished}
    places: dict[str, ShardReader] = {uid: reader for reader in finished for uid in uids_of(reader)}
    present = set(places)
    portions, there, left_out = [], 0, 0
    for path in _sources(config):
        reader = ShardReader(path)
        uids = uids_of(reader)
        if reader.sha256 in hashes:
            there += len(uids) if uids[0] in present else 0
            continue
        hashes.add(reader.sha256)  # the same file in two folders is no conflict
        if config.duplicates == "refuse":
            _refuse_duplicates(uids, path, places)
        kept = [number for number, uid in enumerate(uids) if uid not in places]
        there += sum(uid in present for uid in uids)
        left_out += sum(uid in places and uid not in present for uid in uids)
        places |= {uids[number]: reader for number in kept}
        if kept:
            portions.append(Portion(reader, kept))
    # Those that count come first above, so that what is there already always counts; they are written in the order named.
    return Plan(portions[::-1] if config.duplicates == "last" else portions, there, left_out)


def _sources(config: MergeConfig) -> Iterator[Path]:
    """Every shard to merge; of two with the same uid, the one that counts comes first."""
    folders = config.folders[::-1] if config.duplicates == "last" else config.folders
    for folder in folders:
        paths = found(folder)
        yield from paths[::-1] if config.duplicates == "last" else paths


def uids_of(reader: ShardReader) -> list[str]:
    """The uids of a shard's objects."""
    return [str(reader.record(number)["uid"]) for number in range(len(reader))]


def _refuse_duplicates(uids: list[str], path: Path, places: dict[str, ShardReader]) -> None:
    twice = [uid for uid in uids if uid in places]
    if twice:
        raise UserError(
            f"{len(twice)} objects of {path} are in other shards too, the first, {twice[0]}, in {places[twice[0]].path}; "
            "say which folder counts: --duplicates first, or last"
        )


def merge(config: MergeConfig) -> Plan:
    """Does what the plan says, and returns it."""
    with writing(config.out):
        todo = plan(config)
        command_line.claim_folder(config.out, config, set(vars(config)))
        with Packer(config.out, config.shard_bytes) as packer:
            for portion in tqdm(todo.portions, unit="shard", desc="merge"):
                if portion.whole:
                    packer.close_shard()
                    copy_shard(portion.reader.path, next_shard(config.out))
                else:
                    for number in portion.kept:
                        packer.add(stored_object(portion.reader, number), portion.reader.configuration)
        index.write_index(config.out)
    return todo


def main() -> int:
    config = command_line.parse(MergeConfig, "Bring folders of shards together.")
    done = merge(config)
    copied = sum(len(portion.kept) for portion in done.portions)
    print(f"{config.out}: {copied} objects copied, {done.there} were there already", end="")
    print(f", {done.left_out} left out for another folder's" if done.left_out else "")
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
