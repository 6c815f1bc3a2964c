"""A texture for a mesh: unwrapped by xatlas, the field's colour at every texel, and over it the photo where it sees the surface."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from torch import Tensor

from model.mesh import Mesh, MeshableField, TexturedMesh, colours_at
from model.raster import Raster, rasterise
from turntable import cameras
from turntable.errors import UserError

PART = 1000
"""Faces unwrapped together: xatlas's time grows faster than their number."""

LARGEST_TEXTURE = 8192
"""Texels a side; every viewer and GPU of the last ten years takes so many."""


@dataclass(frozen=True)
class Photo:
    """The input picture, and how it was taken in the field's frame."""

    rgba: np.ndarray
    """(S, S, 4) uint8 sRGB, straight alpha."""
    field_from_camera: np.ndarray
    """(3, 4), OpenGL axes."""
    intrinsics: np.ndarray
    """(4,), normalised."""


def bake(
    surface: Mesh, field: MeshableField, planes: Tensor, size: int, photo: Photo | None = None
) -> Mesh | TexturedMesh:
    """A mesh in the field's frame -> the same with a texture of size × size texels.

    With a size of 0 there is no texture, and the mesh gets its colours at the vertices.
    """
    if not (size == 0 or 16 <= size <= LARGEST_TEXTURE):
        raise UserError(f"a texture has 16 to {LARGEST_TEXTURE} texels a side, or 0 for none; got {size}")
    normals = surface.normals()
    colours = _colours(surface, field, planes, surface.vertices, normals, photo)
    surface = replace(surface, colours=colours)
    if size == 0:
        return surface
    uv, uv_vertices, uv_faces = unwrapped(surface, size)
    raster = rasterise(uv[uv_faces] * size, size, size)
    points, directions = (raster.interpolate(values[surface.faces]) for values in (surface.vertices, normals))
    texture = np.zeros((size, size, 3), np.uint8)
    texels = _colours(surface, field, planes, points, directions, photo)
    texture.reshape(-1, 3)[raster.pixels] = (texels * 255).round()
    return TexturedMesh(surface, uv, uv_vertices, uv_faces, padded(texture, raster))


def unwrapped(surface: Mesh, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mesh cut into charts, packed for a texture of `size`: uv, uv_vertices and uv_faces of `TexturedMesh`."""
    try:
        import xatlas
    except ImportError as error:
        raise UserError("textures need xatlas: pip install -e .[model]; or ask for a texture of 0") from error
    atlas = xatlas.Atlas()
    parts = neighbourhoods(surface, PART)
    corners = [np.unique(surface.faces[part], return_inverse=True) for part in parts]
    for vertices, index in corners:
        atlas.add_mesh(surface.vertices[vertices], index.reshape(-1, 3).astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding = size, 2
    atlas.generate(xatlas.ChartOptions(), packing)
    uv, uv_vertices, uv_faces, count = [], [], np.zeros(surface.faces.shape, np.int64), 0
    for number, (part, (vertices, _)) in enumerate(zip(parts, corners, strict=True)):
        origin, faces, places = atlas.get_mesh(number)
        uv.append(places)
        uv_vertices.append(vertices[origin])
        uv_faces[part] = faces.astype(np.int64) + count
        count += len(places)
    return np.concatenate(uv), np.concatenate(uv_vertices), uv_faces


def neighbourhoods(surface: Mesh, largest: int) -> list[np.ndarray]:
    """The faces in groups of neighbours, none larger than `largest`: halved across the longest side, again and again."""
    middles = surface.vertices[surface.faces].mean(axis=1)
    done, open_ = [], [np.arange(len(surface.faces))]
    while open_:
        group = open_.pop()
        if len(group) <= largest:
            done.append(group)
            continue
        along = middles[group, np.ptp(middles[group], axis=0).argmax()]
        open_ += np.array_split(group[np.argsort(along, kind="stable")], 2)
    return done


def padded(texture: np.ndarray, raster: Raster) -> np.ndarray:
    """The texture with every texel outside the charts coloured as the nearest one inside: no seam shows when it is filtered."""
    empty = np.ones(texture.shape[:2], bool)
    empty.reshape(-1)[raster.pixels] = False
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    return texture[tuple(nearest)]


def _colours(
    surface: Mesh,
    field: MeshableField,
    planes: Tensor,
    points: np.ndarray,
    normals: np.ndarray,
    photo: Photo | None,
) -> np.ndarray:
    """(N, 3) points on the surface and their normals -> (N, 3) sRGB in [0, 1]."""
    colours = colours_at(field, planes, points)
    if photo is None:
        return colours
    seen, weight = seen_by(photo, surface, points, normals)
    return colours + weight[:, None] * (seen - colours)


def seen_by(photo: Photo, surface: Mesh, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a photo shows at points (N, 3) of the surface: colours (N, 3) sRGB, and how far to trust them (N,) in [0, 1].

    A point counts as seen where the surface, drawn from the photo's camera, is no nearer. Trust falls as the surface turns away.
    """
    side = 2 * photo.rgba.shape[0]
    uv, depth = cameras.project(points.astype(np.float64), photo.field_from_camera, photo.intrinsics)
    corner_uv, corner_depth = cameras.project(
        surface.vertices.astype(np.float64), photo.field_from_camera, photo.intrinsics
    )
    drawn = rasterise(corner_uv[surface.faces] * side, side, side, corner_depth[surface.faces])
    nearest = np.full(side * side, np.inf)
    nearest[drawn.pixels] = drawn.interpolate(corner_depth[surface.faces][..., None])[:, 0]
    column, row = np.floor(uv * side).astype(np.int64).clip(0, side - 1).T
    inside = ((uv > 0) & (uv < 1)).all(axis=1) & (depth > 0)
    visible = inside & (depth < nearest[row * side + column] + 0.02)
    towards = photo.field_from_camera[:, 3] - points
    cosine = (towards * normals).sum(axis=1) / np.maximum(np.linalg.norm(towards, axis=1), 1e-12)
    s = photo.rgba.shape[0]
    picked = photo.rgba[(row * s) // side, (column * s) // side].astype(np.float32) / 255
    trust = np.clip((cosine - 0.2) / 0.5, 0, 1) * visible * (picked[:, 3] > 0.99)
    return picked[:, :3], trust.astype(np.float32)
