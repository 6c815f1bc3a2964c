"""USD files name other files that USD itself would open; here they are found first, by USD's own reading of one layer at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

from render import references
from render.formats import AGAIN, bad
from turntable.errors import UserError

_LAYERS = (".usd", ".usda", ".usdc", ".usdz")


def inspect(path: Path) -> None:
    """Refuses (`ItemError` `bad-asset`) a file that is built from layers outside its folder, or that does not open."""
    bpy.utils.expose_bundled_modules()  # Blender's own copy of USD
    waiting, seen = [path], {path.resolve()}
    while waiting:
        file = waiting.pop()
        for layer in _layers_in(file):
            for name in _composed_of(path, layer):
                part = _beside(path, file, name)
                if part.is_file() and part.resolve() not in seen:
                    seen.add(part.resolve())
                    waiting.append(part)


def _layers_in(file: Path) -> Iterator[str]:
    """USD's names for the layers of a file: a package holds several."""
    if file.suffix.lower() != ".usdz":
        yield str(file)
        return
    with zipfile.ZipFile(file) as archive:
        yield from (f"{file}[{m}]" for m in archive.namelist() if m.lower().endswith(_LAYERS))


def _composed_of(path: Path, layer: str) -> list[str]:
    """Names of the layers that a layer is built from, as it names them."""
    from pxr import Sdf, Tf

    try:
        opened: Any = Sdf.Layer.FindOrOpen(layer)
    except Tf.ErrorException as error:
        raise bad(path, f"USD cannot open it ({_first_line(error)}); {AGAIN}") from error
    if opened is None:
        raise bad(path, f"USD cannot open it; {AGAIN}")
    return list(opened.GetCompositionAssetDependencies())


def _beside(path: Path, file: Path, name: str) -> Path:
    # What follows is arguments for USD's reader; backquotes are an expression whose value we do not know.
    plain = name.partition(":SDF_FORMAT_ARGS:")[0].partition("[")[0]
    try:
        if "`" in plain or not plain.lower().endswith(_LAYERS):
            raise UserError(f"{plain[:80]!r} is no usd file")
        part = references.beside(file, plain)
        return references.beside(path, str(part.relative_to(path.parent)))
    except (UserError, ValueError) as error:
        raise bad(path, f"is built from a file outside its folder, or of another kind: {error}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
