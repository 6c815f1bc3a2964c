"""Furniture by program, in the layout of an Objaverse cache: for the demo, the tests, and whoever cannot download.

    python -m datasets.procedural --out furniture --count 30 --seed 0

`datasets.objaverse.Objaverse(Path("furniture"))` reads what it writes as it reads Objaverse. A piece depends on (seed, kind, its
number within the kind) only: a larger count adds pieces and changes none, and a second run writes only what is missing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from datasets.furniture.beds import bed
from datasets.furniture.chairs import chair
from datasets.furniture.glb import write_glb
from datasets.furniture.pieces import Draw, Piece
from datasets.furniture.shelves import bookshelf
from datasets.furniture.sofas import sofa
from datasets.furniture.tables import table
from turntable import config, files
from turntable.errors import EXIT_OK

Kind = Literal["table", "chair", "bookshelf", "bed", "sofa"]
MAKERS: dict[Kind, Callable[[Draw], Piece]] = {
    "table": table,
    "chair": chair,
    "bookshelf": bookshelf,
    "bed": bed,
    "sofa": sofa,
}
GENERATOR_VERSION = 1
"""Part of every uid: raised whenever the same seed would give another piece."""
FOLDER = "000-000"
HELD_OUT_EVERY = 6
"""One in so many of each kind is held out for evaluation, the second of each kind being the first."""


@dataclass(frozen=True)
class ProceduralConfig:
    """What to make."""

    out: Path
    """Folder to write or to continue; give it to other commands as --cache."""
    count: int = 30
    """Pieces in all, shared evenly between the classes."""
    seed: int = 0
    """Another seed gives other furniture."""
    classes: tuple[Kind, ...] = get_args(Kind)
    """Kinds of furniture."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must name each kind once, got {' '.join(self.classes) or 'none'}")


@dataclass(frozen=True)
class Order:
    """One piece to make."""

    kind: Kind
    """What it is."""
    number: int
    """Counts the pieces of its kind."""
    seed: int
    """Of the set."""

    @property
    def uid(self) -> str:
        """32 hexadecimal digits, as Objaverse's."""
        key = f"turntable furniture {GENERATOR_VERSION} {self.seed} {self.kind} {self.number}"
        return hashlib.sha256(key.encode()).hexdigest()[:32]

    @property
    def held_out(self) -> bool:
        """Whether it is kept for evaluation."""
        return self.number % HELD_OUT_EVERY == 1

    @property
    def path(self) -> str:
        """Place in the cache."""
        return f"glbs/{FOLDER}/{self.uid}.glb"

    def make(self) -> Piece:
        """The piece, standing on z = 0."""
        return MAKERS[self.kind](Draw(self.seed, self.kind, self.number)).grounded()


def orders(settings: ProceduralConfig) -> list[Order]:
    """The pieces of a set, kinds in turn."""
    kinds = settings.classes
    return [Order(kinds[i % len(kinds)], i // len(kinds), settings.seed) for i in range(settings.count)]


def main() -> int:
    """Writes the pieces that are missing, then the tables that name them all."""
    settings = config.parse(ProceduralConfig, "Makes furniture by program, in the layout of an Objaverse cache.")
    config.claim_folder(settings.out, settings, free_fields={"out", "count"})
    made = write_set(settings, progress=True)
    held_out = sum(order.held_out for order in orders(settings))
    print(
        f"{settings.out}: {settings.count} pieces ({made} new), {settings.count - held_out} to train, {held_out} held out"
    )
    return EXIT_OK


def write_set(settings: ProceduralConfig, progress: bool = False) -> int:
    """Writes a whole cache to `settings.out`; the number of pieces that were not there yet."""
    todo, records, made = orders(settings), {}, 0
    for order in tqdm(todo, desc="furniture", unit="piece", disable=not progress, file=sys.stderr):
        piece = order.make()
        path = settings.out / order.path
        if not path.exists():
            files.write_bytes(path, write_glb(piece.parts, piece.name))
            made += 1
        records[order.uid] = _record(order, piece, path)
    _write_tables(settings.out, todo, records)
    return made


def _record(order: Order, piece: Piece, path: Path) -> dict[str, Any]:
    """What Objaverse's metadata hold that our catalogue, or the objaverse package's users, read."""
    content = _json_chunk(path)
    indices = [part["indices"] for mesh in content["meshes"] for part in mesh["primitives"]]
    faces = sum(content["accessors"][index]["count"] for index in indices) // 3
    textures = len(content.get("images", []))
    return {
        "uid": order.uid,
        "uri": "",
        "name": piece.name.capitalize(),
        "license": "cc0",
        "user": {"username": "turntable", "displayName": "Turntable"},
        "categories": [{"name": "furniture-home"}],
        "tags": [{"name": order.kind}, {"name": piece.lvis_class}, {"name": "procedural"}],
        "archives": {"glb": {"size": path.stat().st_size, "faceCount": faces, "textureCount": textures}},
        "animationCount": 0,
        "isDownloadable": True,
    }


def _json_chunk(path: Path) -> dict[str, Any]:
    """The JSON of a .glb that we wrote: its length stands at byte 12, the text at byte 20."""
    with path.open("rb") as handle:
        handle.seek(12)
        (length,) = struct.unpack("<I", handle.read(4))
        handle.seek(20)
        return json.loads(handle.read(length))


def _write_tables(out: Path, todo: list[Order], records: dict[str, dict[str, Any]]) -> None:
    classes: dict[str, list[str]] = {}
    for order in todo:
        lvis_class = records[order.uid]["tags"][1]["name"]
        classes.setdefault(lvis_class, []).append(order.uid)
    _write_table(out / f"metadata/{FOLDER}.json.gz", records)
    _write_table(out / "lvis-annotations.json.gz", dict(sorted(classes.items())))
    _write_table(out / "object-paths.json.gz", {order.uid: order.path for order in todo})
    splits = {"all": {True, False}, "train": {False}, "heldout": {True}}
    for name, wanted in splits.items():
        lines = [f"{order.uid}\n" for order in todo if order.held_out in wanted]
        files.write_text(out / f"splits/{name}.txt", "".join(lines))
    files.write_json(out / "splits/furniture-classes.json", {order.uid: order.kind for order in todo})


def _write_table(path: Path, value: dict[str, Any]) -> None:
    """Gzipped JSON without a time stamp: same content, same bytes."""
    files.write_bytes(path, gzip.compress(json.dumps(value).encode(), mtime=0))


if __name__ == "__main__":
    config.run(main)
