"""What a user states of the assets in a folder: CSV with a header, or JSON lines, one asset each.

Columns or keys: `path` (below the folder, with / between), and any of `class`, `licence` (or `license`), `name`, `creator` and
`url`; others are passed over. An empty value says nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from turntable.errors import UserError

FIELDS = {
    "class": "lvis_class",
    "licence": "licence",
    "license": "licence",
    "name": "name",
    "creator": "creator",
    "url": "source_url",
}
"""Column -> field of `datasets.catalogue.Asset`."""


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Relative path of an asset -> the fields of `Asset` that are stated of it. A malformed file is a `UserError`."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give CSV or JSON lines in UTF-8") from error
    rows = _json_lines(path, text) if text.lstrip().startswith("{") else _csv_rows(path, text)
    records: dict[str, dict[str, str]] = {}
    for line, row in rows:
        asset = row.get("path")
        if not asset or not isinstance(asset, str):
            raise UserError(f"{path}, line {line}: no path; each line needs `path` and may have {', '.join(FIELDS)}")
        key = PurePosixPath(asset).as_posix()
        if key in records:
            raise UserError(f"{path}, line {line}: {key} a second time; keep one line for each asset")
        records[key] = {FIELDS[k]: str(v).strip() for k, v in row.items() if k in FIELDS and v not in (None, "")}
    return records


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        if "path" not in reader.fieldnames:
            raise UserError(
                f"{path}: its first line names no column `path`, but {reader.fieldnames}; see docs/formats.md"
            )
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not a JSON object ({error}); one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object but {type(row).__name__}; one object a line")
        yield number, row
