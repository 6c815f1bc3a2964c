"""`python -m datasets.index DIR`: writes `index.json` of a folder of shards.

The index is for people and for programs without HDF5: which objects a set holds, under which licences, in which file, and
what each file's hash is. Nothing of ours reads it; it is made from the shards alone and may be deleted at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from datasets.shards import INDEX_NAME, ShardReader, ShardSet, shard_paths
from turntable import config as command_line
from turntable.errors import EXIT_OK, UserError
from turntable.files import read_json, write_json

INDEX_VERSION = 1
_COPIED = ("uid", "source", "lvis_class", "licence", "name", "creator", "source_url")


@dataclass(frozen=True)
class IndexConfig:
    """Rebuilds a folder's index.json from its shards."""

    folder: tyro.conf.Positional[Path]
    """Folder of shards."""


def build_index(folder: Path) -> dict[str, Any]:
    """The index of the shards in `folder`. The same uid in two of them, or a damaged table, is a ShardError."""
    shards = ShardSet(folder)
    objects = []
    for index in range(len(shards)):
        reader, number = shards.place(index)
        record = reader.record(number)
        place = {"shard": reader.path.name, "number": number, "views": reader.view_count(number)}
        objects.append({**{key: record[key] for key in _COPIED if key in record}, **place})
    return {
        "format": "turntable-index",
        "format_version": INDEX_VERSION,
        "shards": [_describe(ShardReader(path)) for path in shards.paths],
        "objects": objects,
    }


def _describe(reader: ShardReader) -> dict[str, Any]:
    return {
        "file": reader.path.name,
        "bytes": reader.path.stat().st_size,
        "sha256": reader.sha256,
        "objects": len(reader),
        "views": sum(reader.view_count(k) for k in range(len(reader))),
        "pictures": [f"{name}/{size}" for name, size in reader.layout],
        "geometry": reader.has_geometry,
        "configuration": reader.configuration,
    }


def write_index(folder: Path) -> dict[str, Any]:
    """Writes `folder/index.json` and returns its content."""
    index = build_index(folder)
    write_json(folder / INDEX_NAME, index)
    return index


def is_current(folder: Path) -> bool:
    """Whether `folder/index.json` names exactly the shards that are there."""
    try:
        listed = [shard["file"] for shard in read_json(folder / INDEX_NAME)["shards"]]
    except (UserError, KeyError, TypeError):
        return False
    return listed == [path.name for path in shard_paths(folder)]


def main() -> int:
    config = command_line.parse(IndexConfig, "Rebuild index.json of a folder of shards.")
    if not config.folder.is_dir():
        raise UserError(f"{config.folder}: no such folder; name a folder of shards")
    index = write_index(config.folder)
    print(f"{config.folder / INDEX_NAME}: {len(index['objects'])} objects in {len(index['shards'])} shards")
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
