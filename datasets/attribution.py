"""Whose work a set of objects is, and under which licences: the list that must go wherever their pictures go."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

_IN_WORDS = {
    "by": "Creative Commons Attribution",
    "by-sa": "Creative Commons Attribution-ShareAlike",
    "by-nd": "Creative Commons Attribution-NoDerivatives",
    "by-nc": "Creative Commons Attribution-NonCommercial",
    "by-nc-sa": "Creative Commons Attribution-NonCommercial-ShareAlike",
    "by-nc-nd": "Creative Commons Attribution-NonCommercial-NoDerivatives",
    "cc0": "Creative Commons Zero, no rights reserved",
}
"""Short names that sources use -> what they stand for. No versions: the sources do not state them."""
_UNKNOWN = "unknown"

_HEAD = """Objects in this set, by licence. Their pictures, points and cameras are derived from the works below: each was
scaled, centred and drawn (or cut out of video frames), nothing else was changed. Lines are: name, by creator, where
it comes from, uid.
"""


def attribution(records: Iterable[dict[str, Any]]) -> str:
    """Objects' records -> a text for people: a section a licence, a line an object, sorted."""
    by_licence: dict[str, list[str]] = collections.defaultdict(list)
    for record in records:
        by_licence[_field(record, "licence") or _UNKNOWN].append(_line(record))
    sections = [_HEAD]
    for licence, lines in sorted(by_licence.items()):
        words = f" ({_IN_WORDS[licence]})" if licence in _IN_WORDS else ""
        sections.append("\n".join([f"## {licence}{words}: {len(lines)} objects", "", *sorted(lines), ""]))
    return "\n".join(sections)


def _line(record: dict[str, Any]) -> str:
    name, creator = _field(record, "name") or "untitled", _field(record, "creator") or "unknown creator"
    source = _field(record, "source_url") or _field(record, "source") or "unknown source"
    return f"- {name}, by {creator}, {source}, {record.get('uid')}"


def _field(record: dict[str, Any], name: str) -> str:
    """A record's field on one line: what a stranger called his work must not become a line of its own."""
    return " ".join(str(record.get(name) or "").split())
