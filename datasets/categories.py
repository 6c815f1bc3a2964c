"""A set of categories as data: what each of them gathers of a catalogue's classes. `furniture.toml` is one; another is another file.

name = "furniture"
[categories]
table = ["table", "desk"]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turntable.errors import UserError

FURNITURE = Path(__file__).with_name("furniture.toml")


@dataclass(frozen=True)
class Categories:
    """Named groups of classes."""

    name: str
    members: dict[str, tuple[str, ...]]
    """Category -> LVIS classes; a class belongs to one category at most."""

    def of(self, record: dict[str, Any]) -> str | None:
        """The category of an object, by its record; None where it belongs to none."""
        found = record.get("lvis_class")
        return next((category for category, classes in self.members.items() if found in classes), None)


def read_categories(path: Path) -> Categories:
    """The categories in a TOML file. A UserError says what in it is not as it should be."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {FURNITURE.name} beside this code shows what one looks like") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file ({error})") from error
    name, table = content.get("name"), content.get("categories")
    if not isinstance(name, str) or not isinstance(table, dict) or not table:
        raise UserError(f'{path}: needs name = "…" and a table [categories] of CATEGORY = ["lvis_class", …]')
    owner: dict[str, str] = {}
    for category, classes in table.items():
        if not isinstance(classes, list) or not classes or not all(isinstance(entry, str) for entry in classes):
            raise UserError(f"{path}: {category} must be a list of LVIS classes, got {classes!r}")
        for entry in classes:
            if entry in owner:
                raise UserError(f"{path}: the class {entry} is in {owner[entry]} and in {category}; leave it in one")
            owner[entry] = category
    return Categories(name, {category: tuple(classes) for category, classes in table.items()})
