"""What a command line names: pictures, or folders of them; and what each one's results are called."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from model.pipeline import Source
from turntable.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".apng", ".jfif", ".ppm")
"""Files of a folder that are taken for pictures. What is named on its own is read whatever it is called."""
CAPTURES = "captures"
"""The folder of rendered views, beside the results."""


def sources(inputs: Sequence[Path]) -> tuple[list[Source], list[Path]]:
    """The pictures that `inputs` name, and the files in folders among them that are none. One named twice is taken once.

    A folder gives its pictures, sorted by name; its subfolders and hidden files are passed over.
    """
    pictures: list[Path] = []
    others: list[Path] = []
    for given in inputs:
        if not given.is_dir():
            pictures.append(given)
            continue
        files = sorted(path for path in given.iterdir() if path.is_file() and not path.name.startswith("."))
        found = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not found:
            raise UserError(
                f"{given}: a folder without pictures ({', '.join(SUFFIXES)}); subfolders are not looked into"
            )
        pictures += found
        others += [path for path in files if path not in found]
    pictures = list({path.resolve(): path for path in reversed(pictures)}.values())[::-1]
    return [Source(name, path) for name, path in zip(names(pictures), pictures, strict=True)], others


def names(pictures: Sequence[Path]) -> list[str]:
    """A name for each picture's folder, in the pictures' order but not depending on it.

    It is the picture's own without the suffix; where two agree, with its suffix and the folder that it lies in; where those agree
    too, with a number made of its whole path. Capitals make no difference: they make none on many disks.
    """
    paths = [path.resolve() for path in pictures]
    chosen = [_safe(path.stem) for path in paths]
    for longer in (_with_folder, _with_number):
        count = Counter(name.casefold() for name in chosen)
        chosen = [
            longer(path) if count[name.casefold()] > 1 else name for path, name in zip(paths, chosen, strict=True)
        ]
    return chosen


def _safe(stem: str) -> str:
    """A name that leads to no other place (`..png` has the stem `.`), and not to the folder of captures."""
    name = stem.lstrip(".") or "picture"
    return f"{name}_" if name.casefold() == CAPTURES else name


def _with_folder(path: Path) -> str:
    return _safe("_".join([path.parent.name, path.name.replace(".", "-")]).lstrip("_"))


def _with_number(path: Path) -> str:
    return f"{_with_folder(path)}-{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:8]}"
