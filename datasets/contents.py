"""What a path given to `verify` or `show` holds: captures or shards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from datasets.captures import capture_paths
from datasets.shards import found, shard_paths
from turntable.errors import UserError
from turntable.files import is_local

Kind = Literal["captures", "shards"]


def contents(path: Path) -> tuple[Kind, list[Path]]:
    """Kind and files of a capture, a folder of captures, a shard or a folder of shards; anything else is a UserError.

    A URL holds shards: captures are read from this machine only.
    """
    if not is_local(path):
        return "shards", found(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix not in (".zip", ".h5"):
            raise UserError(f"{path}: neither a capture (.zip) nor a shard (.h5)")
        return ("captures" if path.suffix == ".zip" else "shards"), [path]
    captures, shards = capture_paths(path), shard_paths(path)
    if captures and shards:
        raise UserError(f"{path}: holds captures (??/<uid>.zip) and shards (shard-*.h5); name one of the files")
    if not captures and not shards:
        raise UserError(f"{path}: holds neither captures (??/<uid>.zip) nor shards (shard-*.h5)")
    return ("captures", captures) if captures else ("shards", shards)
