"""Files that an imported scene would read when it is rendered: kept where they lie beside the asset, taken out where not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

from render import references, texture_sizes
from render.formats import bad


def settle(path: Path) -> dict[str, Any]:
    """Looks at every picture that the scene uses -> `textures` (how many there are) and `textures_missing` (names).

    A picture outside the asset's folder, absent or unreadable is taken out of its materials, which then show their own value
    instead of Blender's magenta. One that is too large is an `ItemError` `bad-asset`, before it is decoded.
    """
    _cut_other_files(path)
    present, missing = 0, []
    for image in [image for image in bpy.data.images if image.users and image.source not in ("GENERATED", "VIEWER")]:
        try:
            readable = _usable(path, image)
        except ValueError as error:
            raise bad(path, str(error)) from error
        if readable:
            present += 1
        else:
            missing.append(_name(image))
            _remove(image)
    _check_nothing_left(path)
    return {"textures": present, "textures_missing": sorted(missing)}


def _name(image: Any) -> str:
    return image.filepath.replace("\\", "/").rpartition("/")[2] or image.name


def _usable(path: Path, image: Any) -> bool:
    """Whether the picture can be decoded, and is the asset's own."""
    if image.packed_file:
        sizes = [texture_sizes.bytes_size(image.name, packed.packed_file.data) for packed in image.packed_files]
    else:
        files = _files(path, image)
        sizes = [texture_sizes.file_size(file) for file in files]
    return bool(sizes) and all(sizes) and image.source in ("FILE", "TILED") and _decodes(image)


def _decodes(image: Any) -> bool:
    """A picture of plausible header may still be damaged; then Blender gives it no size."""
    size = image.size[:]
    if not image.packed_file:
        image.buffers_free()  # Cycles reads files by itself
    return min(size) > 0


def _files(path: Path, image: Any) -> list[Path]:
    """The files beside the asset that the picture is made of, to which it is pointed; empty when it is not there."""
    name = image.filepath.removeprefix("//")
    if image.source == "TILED":
        tiles = [references.found_beside(path, name.replace("<UDIM>", str(tile.number))) for tile in image.tiles]
        files = [tile for tile in tiles if tile]
        if files and len(files) == len(tiles):
            image.filepath = str(files[0].parent / Path(name.replace("\\", "/")).name)
            return files
        return []
    file = references.found_beside(path, _relative(path, name))
    if file is None:
        return []
    image.filepath = str(file)
    return [file]


def _relative(path: Path, name: str) -> str:
    """Importers make paths absolute, and some leave `..` in them."""
    folder = str(path.parent) + "/"
    return name[len(folder) :] if name.startswith(folder) else name


def _remove(image: Any) -> None:
    for tree in _trees():
        for node in [node for node in tree.nodes if getattr(node, "image", None) == image]:
            tree.nodes.remove(node)
    bpy.data.images.remove(image)


def _trees() -> Iterator[Any]:
    """Every node tree that may hold pictures."""
    for owners in (bpy.data.materials, bpy.data.worlds, bpy.data.lights):
        yield from (owner.node_tree for owner in owners if owner.node_tree)
    yield from bpy.data.node_groups


def _cut_other_files(path: Path) -> None:
    """Removes what no picture of ours needs, and what lies elsewhere: sounds, films, volumes, fonts, caches."""
    for collection in (bpy.data.sounds, bpy.data.movieclips, bpy.data.volumes):
        for block in list(collection):
            collection.remove(block)
    for font in [font for font in bpy.data.fonts if font.filepath != "<builtin>" and not font.packed_file]:
        file = references.found_beside(path, _relative(path, font.filepath.removeprefix("//")))
        if file is None:
            bpy.data.fonts.remove(font)
        else:
            font.filepath = str(file)


def _check_nothing_left(path: Path) -> None:
    """Refuses what would still read a file outside the folder: a cache, a simulation, whatever Blender lets name one."""
    folder = path.parent.resolve()
    for name in bpy.utils.blend_paths(absolute=True, packed=False, local=False):
        if name and not Path(name).resolve().is_relative_to(folder):
            raise bad(path, f"reads a file outside its folder when it is rendered ({name[:80]!r}); refused")
