"""Which assets of a catalogue: filters over what is known of each without its file, and the account of what each filter left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Answer = Literal["any", "yes", "no"]


@dataclass(frozen=True)
class Filters:
    """Which objects of Objaverse. An asset of whose record the field in question is missing is left out, and counted."""

    classes: tuple[str, ...] = ()
    """LVIS classes to render; with `uids`, only those of the list that are of these classes."""
    licences: tuple[str, ...] = ()
    """Licences to render, as Sketchfab abbreviates them (by, by-sa, cc0, …); `unknown` where none is stated; default: any."""
    tags: tuple[str, ...] = ()
    """Tags of which an object must have at least one; capitals do not matter."""
    min_faces: int = 0
    """Fewest faces of the .glb, as Sketchfab counts them."""
    max_faces: int = 0
    """Most faces of the .glb, as Sketchfab counts them; 0 = no limit."""
    textured: Answer = "any"
    """Whether the .glb has pictures for textures."""
    animated: Answer = "any"
    """Whether it has animations."""

    def __post_init__(self) -> None:
        if self.min_faces < 0 or self.max_faces < 0 or 0 < self.max_faces < self.min_faces:
            raise ValueError(f"faces from {self.min_faces} to {self.max_faces} (0 = no limit): no object has as many")

    @property
    def active(self) -> bool:
        """Whether anything is filtered."""
        return self != EVERYTHING


EVERYTHING = Filters()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the filters ask of one object. None where its record does not say."""

    licence: str
    tags: frozenset[str] | None
    """In small letters."""
    faces: int | None
    textures: int | None
    animations: int | None


Check = tuple[str, Callable[[Facts], bool | None]]
"""An option as the user wrote it, and whether it lets an object pass; None where the record does not say."""


def checks(filters: Filters) -> list[Check]:
    """The checks on `Facts` that `filters` ask for, in the order in which they are applied; classes are not among them."""
    found: list[Check] = []
    if filters.licences:
        found.append((f"--licences {' '.join(filters.licences)}", lambda f: f.licence in filters.licences))
    if filters.tags:
        wanted = {tag.lower() for tag in filters.tags}
        found.append((f"--tags {' '.join(filters.tags)}", lambda f: None if f.tags is None else bool(f.tags & wanted)))
    if filters.min_faces:
        found.append(
            (f"--min-faces {filters.min_faces}", lambda f: None if f.faces is None else f.faces >= filters.min_faces)
        )
    if filters.max_faces:
        found.append(
            (f"--max-faces {filters.max_faces}", lambda f: None if f.faces is None else f.faces <= filters.max_faces)
        )
    if filters.textured != "any":
        found.append((f"--textured {filters.textured}", lambda f: _agrees(f.textures, filters.textured)))
    if filters.animated != "any":
        found.append((f"--animated {filters.animated}", lambda f: _agrees(f.animations, filters.animated)))
    return found


def _agrees(count: int | None, answer: Answer) -> bool | None:
    return None if count is None else (count > 0) == (answer == "yes")


@dataclass
class Account:
    """How many of a list each filter left out; an item counts for the first filter that it fails."""

    out: Counter[str] = field(default_factory=Counter)
    """Option -> items that it left out, silent ones included."""
    silent: Counter[str] = field(default_factory=Counter)
    """Option -> items that it left out because their record does not say."""
    licences: Counter[str] = field(default_factory=Counter)
    """Licence -> items, of all whose record was read."""

    def passes(self, facts: Any, asked: Iterable[tuple[str, Callable[[Any], bool | None]]]) -> bool:
        """Whether an item passes all checks; if not, it is counted."""
        for option, check in asked:
            verdict = check(facts)
            if not verdict:
                self.out[option] += 1
                self.silent[option] += verdict is None
                return False
        return True

    def text(self, total: int, left: Sequence[str]) -> str:
        """One line for a person."""
        parts = []
        for option, count in self.out.items():
            silent = f", {self.silent[option]} of them because their record does not say" if self.silent[option] else ""
            parts.append(f"{option} left out {count}{silent}")
        if self.licences and not left:
            parts.append(
                "their licences are " + ", ".join(f"{name} ({n})" for name, n in self.licences.most_common(12))
            )
        return f"{len(left)} of {total} assets chosen" + "".join(f"; {part}" for part in parts)


def facts_of(record: dict[str, Any], licence: str) -> Facts:
    """A Sketchfab record -> what the filters ask. The counts of the .glb, where they are stated, go before those of the upload."""
    archives = record.get("archives")
    glb = archives.get("glb") if isinstance(archives, dict) else None
    glb = glb if isinstance(glb, dict) else {}
    tags = record.get("tags")
    return Facts(
        licence=licence,
        tags=frozenset(_tag_names(tags)) if isinstance(tags, list) else None,
        faces=_count(glb.get("faceCount", record.get("faceCount"))),
        textures=_count(glb.get("textureCount", record.get("textureCount"))),
        animations=_count(record.get("animationCount")),
    )


def _tag_names(tags: list[Any]) -> Iterable[str]:
    for tag in tags:
        values = (tag.get("name"), tag.get("slug")) if isinstance(tag, dict) else (tag,)
        yield from (value.lower() for value in values if isinstance(value, str))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
