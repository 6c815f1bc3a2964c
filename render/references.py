"""Files that an asset refers to: they lie in its own folder, or they are not read."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from turntable.errors import UserError
from turntable.files import inside

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""`file:`, `http:`, …; one letter is a Windows drive."""


def beside(asset: Path, reference: str, encoded: bool = False) -> Path:
    """The file that `asset` calls `reference`, which may not exist. `encoded`: %20 stands for a space, as in URIs.

    Raises `UserError` when it is an address, absolute, or leads out of the asset's folder, be it by `..` or through a link.
    """
    if _SCHEME.match(reference):
        raise UserError(f"{reference[:80]!r} is an address, not a file beside the asset; refused")
    # Decoded once and only once, as every importer does: then `%2e%2e` is `..`, and `%252e` a strange but harmless name.
    name = (unquote(reference) if encoded else reference).replace("\\", "/")
    if "\0" in name or name.startswith(("/", "~")) or re.match(r"[A-Za-z]:", name):
        raise UserError(f"{reference[:80]!r} is an absolute path, not a file beside the asset; refused")
    return inside(asset.parent, name)


def found_beside(asset: Path, reference: str) -> Path | None:
    """The file that `reference` means, if need be by its bare name beside the asset or in `textures/`; None where there is none.

    Authors' machines leave paths such as `C:\\work\\wood.png` in their files; the picture itself often lies beside them.
    """
    name = reference.replace("\\", "/").rpartition("/")[2]
    for candidate in (reference, name, f"textures/{name}", f"Textures/{name}"):
        try:
            path = beside(asset, candidate)
        except UserError:
            continue
        if name and path.is_file():
            return path
    return None
