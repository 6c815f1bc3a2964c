"""Objaverse-XL's annotations: which files there are, read from its parquet tables a batch at a time.

    fileIdentifier   the address of the file or of its page, by which each source names it
    source           github, thingiverse, smithsonian or sketchfab
    license          as the source words it, or nothing
    fileType         glb, obj, fbx, …
    sha256           of the file's content; the uid of what we render

A table lies where the `objaverse` package puts it (<cache>/github/github.parquet, …), so either uses what the other downloaded.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import unquote

from tqdm import tqdm

from datasets.catalogue import UNKNOWN_LICENCE
from datasets.selection import Account
from turntable.errors import UserError

log = logging.getLogger(__name__)

Source = Literal["github", "thingiverse", "smithsonian", "sketchfab"]
SOURCES: tuple[Source, ...] = get_args(Source)
COLUMNS = ("fileIdentifier", "source", "license", "fileType", "sha256")
BATCH_ROWS = 1 << 15
GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+)/blob/([0-9a-f]{40})/(.+)", re.ASCII)
THINGIVERSE = re.compile(r"https?://www\.thingiverse\.com/thing:(\d+)/[^/]*fileId=(\d+)", re.ASCII)
SMITHSONIAN = re.compile(r"https?://((?:[a-z0-9-]+\.)+si\.edu)/(.+)", re.ASCII)
SKETCHFAB = re.compile(r"https?://sketchfab\.com/3d-models/([\w-]+)", re.ASCII)


class Entry(NamedTuple):
    """One file. There may be millions in memory."""

    identifier: str
    source: Source
    licence: str
    suffix: str
    """Small letters, with its dot."""


@dataclass(frozen=True)
class XLFilters:
    """Which files of Objaverse-XL."""

    source: tuple[Source, ...] = ()
    """Where files come from; default: any."""
    licences: tuple[str, ...] = ()
    """Licences as the annotations word them ("MIT License" …; capitals do not matter); `unknown` where none is stated."""
    file_types: tuple[str, ...] = ()
    """Types of files (glb obj …); default: all that are read."""


class Location(NamedTuple):
    """Where a file is to be had."""

    host: str
    path: str
    """Not percent-encoded."""


def location(entry: Entry) -> Location | None:
    """Where a file of GitHub, Thingiverse or the Smithsonian is to be had; None for an identifier of another form."""
    if entry.source == "github" and (match := GITHUB.fullmatch(entry.identifier)):
        found = Location("raw.githubusercontent.com", "/".join(match.groups()))
    elif entry.source == "thingiverse" and (match := THINGIVERSE.fullmatch(entry.identifier)):
        found = Location("www.thingiverse.com", f"download:{match[2]}")
    elif entry.source == "smithsonian" and (match := SMITHSONIAN.fullmatch(entry.identifier)):
        found = Location(match[1], unquote(match[2]))
    else:
        return None
    # A mirror may be a folder, out of which no path may lead; control characters are in no honest name.
    honest = found.path.isprintable() and all(part not in ("", ".", "..") for part in found.path.split("/"))
    return found if honest else None


def large_file_location(entry: Entry) -> Location:
    """Where GitHub has the content of a file that is kept in Git LFS, whose raw address holds a pointer only."""
    found = location(entry)
    assert found and entry.source == "github"
    return Location("media.githubusercontent.com", f"media/{found.path}")


def sketchfab_uid(entry: Entry) -> str | None:
    """The uid in Objaverse 1.0, which holds XL's files from Sketchfab; None for an identifier of another form."""
    match = SKETCHFAB.fullmatch(entry.identifier)
    return match[1] if match and entry.source == "sketchfab" else None


def pointed_at(content: bytes) -> str | None:
    """The SHA-256 that a Git LFS pointer names; None when the content is no such pointer."""
    match = re.match(rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?oid sha256:([0-9a-f]{64})\n", content)
    return match[1].decode() if match else None


def read_annotations(paths: Sequence[Path], filters: XLFilters, suffixes: Sequence[str]) -> dict[str, Entry]:
    """uid -> file, of all that pass `filters`, in the tables' order; the first where several have the same content.

    What is left out is accounted for in the log. Nothing left is a `UserError`.
    """
    checks, account, total = _checks(filters, suffixes), Account(), 0
    chosen: dict[str, Entry] = {}
    kinds: Counter[str] = Counter()
    for path in paths:
        for row in _rows(path):
            total += 1
            account.licences[_licence(row)] += 1
            if not account.passes(row, checks):
                continue
            kinds[row["source"]] += 1
            entry = Entry(row["fileIdentifier"], sys.intern(row["source"]), _licence(row), sys.intern(_suffix(row)))  # type: ignore[arg-type]
            if row["sha256"] in chosen:
                account.out["having the content of an earlier file"] += 1
            chosen.setdefault(row["sha256"], entry)
    text = account.text(total, list(chosen))
    if not chosen:
        raise UserError(f"{', '.join(map(str, paths))}: {text}; widen the selection")
    log.info("%s (%s)", text, ", ".join(f"{count} {name}" for name, count in sorted(kinds.items())))
    return chosen


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, columns that we use only."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            missing = set(COLUMNS) - set(table.schema_arrow.names)
            if missing:
                raise UserError(
                    f"{path}: no column {', '.join(sorted(missing))} among {table.schema_arrow.names}; give an annotations "
                    "table of Objaverse-XL"
                )
            rows = table.metadata.num_rows
            with tqdm(desc=path.name, total=rows, unit="row", unit_scale=True, disable=rows < 10 * BATCH_ROWS) as bar:
                for batch in table.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
                    yield from batch.to_pylist()
                    bar.update(len(batch))
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a parquet table ({error}); give an annotations table of Objaverse-XL") from error


def _checks(filters: XLFilters, suffixes: Sequence[str]) -> list[tuple[str, Any]]:
    """What a row must pass: the filters, and that it can be had and read at all."""
    checks: list[tuple[str, Any]] = []
    if filters.source:
        checks.append((f"--source {' '.join(filters.source)}", lambda row: row["source"] in filters.source))
    if filters.licences:
        wanted = {name.lower() for name in filters.licences}
        checks.append((f"--licences {' '.join(filters.licences)}", lambda row: _licence(row).lower() in wanted))
    if filters.file_types:
        types = {"." + name.lower().lstrip(".") for name in filters.file_types}
        checks.append((f"--file-types {' '.join(filters.file_types)}", lambda row: _suffix(row) in types))
    checks.append(("a type that is not read", lambda row: _suffix(row) in suffixes))
    checks.append(("an address of no known form", _has_address))
    checks.append(("a sha256 of other than 64 digits", lambda row: _is_sha256(row["sha256"])))
    return checks


def _licence(row: dict[str, Any]) -> str:
    return sys.intern(str(row["license"] or UNKNOWN_LICENCE))


def _suffix(row: dict[str, Any]) -> str:
    return "." + str(row["fileType"] or "").lower().lstrip(".")


def _has_address(row: dict[str, Any]) -> bool:
    if not isinstance(row["fileIdentifier"], str) or row["source"] not in SOURCES:
        return False
    entry = Entry(row["fileIdentifier"], row["source"], "", "")
    return location(entry) is not None or sketchfab_uid(entry) is not None


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value, re.ASCII) is not None
