"""What every source of assets offers: ids, what is known of each without opening its file, and the file itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from turntable.errors import UserError

UNKNOWN_LICENCE = "unknown"


class CatalogueError(UserError):
    """An asset that cannot be had."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """`not-found`: there is no such thing, another try is of no use. `download`: it did not arrive, or arrived damaged.
        `outside`: it lies outside the folder that was given. `hash-mismatch`: its place holds another file now.
        `bad-asset`: it is larger than was allowed."""


@dataclass(frozen=True)
class Asset:
    """What is known of one object without opening its file."""

    uid: str
    """Letters, digits, - and _; Objaverse's are 32 hexadecimal digits."""
    lvis_class: str | None
    """LVIS's name of its class (`coffee_table`); None for the greater part of Objaverse, which has none."""
    licence: str
    """Sketchfab's short name: `by`, `by-sa`, `by-nc`, `by-nc-sa`, `cc0`, …; `unknown` where the record states none."""
    name: str
    """Title that its creator gave it; may be empty."""
    creator: str
    """Name to attribute it to; may be empty."""
    source_url: str
    """Page it came from; may be empty."""
    path: str = ""
    """Its path below the user's own folder, with / between; empty where the catalogue has no such folder."""


class Catalogue(Protocol):
    """A source of assets. May be shared by threads."""

    @property
    def source(self) -> str:
        """Its name in a capture's record: `objaverse`, `folder`, …"""

    def asset(self, uid: str) -> Asset:
        """The record of one object. Raises `CatalogueError`."""

    def fetch(self, uid: str) -> Path:
        """The object's file here, downloaded where it must be. Raises `CatalogueError`."""

    def release(self, uid: str) -> None:
        """The run is done with the object's file: a catalogue that keeps no assets deletes what it downloaded, never else."""


def record(catalogue: Catalogue, uid: str) -> dict[str, Any]:
    """What a capture says of its asset's origin. JSON values."""
    asset = catalogue.asset(uid)
    return {"source": catalogue.source, **{k: v for k, v in vars(asset).items() if k != "uid"}}


def read_uids(path: Path) -> list[str]:
    """The uids in a text file, one a line, each once; weights, blank lines and what follows a # are passed over."""
    return list(read_weights(path))


def read_weights(path: Path) -> dict[str, float]:
    """uid -> weight of a text file with a uid a line, after it a weight where it has one; 1 where it has none."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a text file with one uid a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file; give one uid a line") from error
    weights: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words:
            weights.setdefault(_uid(path, number, words[0]), _weight(path, number, words[1:]))
    if not weights:
        raise UserError(f"{path}: no uid in {len(lines)} lines; give one uid a line")
    return weights


def _uid(path: Path, line: int, word: str) -> str:
    if not re.fullmatch(r"[\w-]+", word, re.ASCII):
        raise UserError(f"{path}, line {line}: {word[:80]!r} is no uid (letters, digits, - and _); one uid a line")
    return word


def _weight(path: Path, line: int, words: list[str]) -> float:
    """What stands after a uid: nothing, or one positive number."""
    try:
        (weight,) = [float(word) for word in words] or [1.0]
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        said = " ".join(words)
        raise UserError(
            f"{path}, line {line}: {said[:80]!r} after the uid is no weight; give one number above 0, or none"
        )
    return weight
