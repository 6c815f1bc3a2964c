"""A texture for a mesh: unwrapped by xatlas, the field's colour at every texel, and over it the photo where it sees the surface."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from model.chunks import in_chunks
from model.mesh import Mesh, MeshableField, TexturedMesh
from model.raster import rasterise
from turntable import cameras, framing
from turntable.errors import UserError

PART = 1000
"""Faces unwrapped together: xatlas's time grows faster than their number."""

LARGEST_TEXTURE = 4096
"""Texels a side; every viewer takes so many, and more would tell nothing that the planes know."""

DEPTH_STEP = 0.03
"""Object units: a nearer surface by more hides a point, and a larger step between neighbouring pixels is an outline."""

OUTLINE = 0.015
"""Share of the photo's side: so near to an outline the photo is trusted less."""

DEPTHS = (0.0, 0.01, 0.02, 0.03)
"""Object units below the surface at which the field's colour is read."""

FAR = 100.0
"""Depth of nothing, object units."""


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
    covered = np.zeros(size * size, bool)
    covered[raster.pixels] = True
    # A chart smaller than a texel may cover no centre; its corners get theirs.
    texels, corner = np.unique((uv * size).astype(np.int64).clip(0, size - 1) @ [1, size], return_index=True)
    texels, corner = texels[~covered[texels]], uv_vertices[corner[~covered[texels]]]
    points, directions = (
        np.concatenate([raster.interpolate(values[surface.faces]), values[corner]])
        for values in (surface.vertices, normals)
    )
    texture, filled = np.zeros((size * size, 3), np.uint8), np.concatenate([raster.pixels, texels])
    texture[filled] = (_colours(surface, field, planes, points, directions, photo) * 255).round()
    covered[filled] = True
    return TexturedMesh(surface, uv, uv_vertices, uv_faces, padded(texture.reshape(size, size, 3), covered))


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
    return _with_slivers(np.concatenate(uv), np.concatenate(uv_vertices), uv_faces)


def _with_slivers(
    uv: np.ndarray, uv_vertices: np.ndarray, uv_faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """xatlas leaves faces almost without area at the texture's corner: they get the one place of one of their vertices."""
    a, b, c = uv[uv_faces].astype(np.float64).swapaxes(0, 1)
    flat = (b - a)[:, 0] * (c - a)[:, 1] == (b - a)[:, 1] * (c - a)[:, 0]
    place = np.full(uv_vertices.max() + 1, -1)
    place[uv_vertices[uv_faces[~flat]]] = uv_faces[~flat]
    corners = uv_vertices[uv_faces[flat]]
    # Of a vertex that only such faces have, nothing is known; -1 then names the last place of all.
    chosen = place[corners].max(axis=1)
    faces = uv_faces.copy()
    faces[flat] = len(uv) + np.arange(corners.size).reshape(-1, 3)
    return np.concatenate([uv, uv[chosen.repeat(3)]]), np.concatenate([uv_vertices, corners.reshape(-1)]), faces


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


def padded(texture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The texture (S, S, 3) with every texel that is not covered (S²) coloured as the nearest that is: filtering shows no seam."""
    empty = ~covered.reshape(texture.shape[:2])
    _, label = cv2.distanceTransformWithLabels(
        empty.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    source = np.zeros(label.max() + 1, np.int64)
    source[label[~empty]] = np.flatnonzero(covered)
    return texture.reshape(-1, 3)[source[label]]


def _colours(
    surface: Mesh,
    field: MeshableField,
    planes: Tensor,
    points: np.ndarray,
    normals: np.ndarray,
    photo: Photo | None,
) -> np.ndarray:
    """(N, 3) points on the surface and their normals -> (N, 3) sRGB in [0, 1]."""
    if photo is None:
        return looked_at(field, planes, points, normals)
    colours, trust = seen_by(photo, surface, points, normals)
    unsure = trust < 1
    behind = looked_at(field, planes, points[unsure], normals[unsure])
    colours[unsure] += (1 - trust[unsure, None]) * (behind - colours[unsure])
    return colours


@torch.no_grad()
def looked_at(
    field: MeshableField, planes: Tensor, points: np.ndarray, normals: np.ndarray, chunk: int = 1 << 16
) -> np.ndarray:
    """The field's colours at points (N, 3) of the surface as one sees them who looks along the normal: (N, 3) sRGB in [0, 1].

    Light is taken up over some depth, and the field's colours were made to be right where it is taken up. At the surface
    itself they are what no picture ever showed.
    """
    table = field.project(planes)
    step = DEPTHS[1] - DEPTHS[0]

    def colours(part: slice) -> Tensor:
        place, inward = (
            torch.from_numpy(each[part].astype(np.float32)).to(planes.device) for each in (points, -normals)
        )
        light, seen = place.new_ones(len(place), 1), torch.zeros_like(place)
        for depth in DEPTHS:
            density, colour = field.evaluate(table, place + depth * inward, 0)
            passed = torch.exp(-density[:, None] * step)
            seen += light * (1 - passed) * colour.clamp(0, 1)
            light = light * passed
        return (seen / (1 - light).clamp(min=1e-6)).float().cpu()

    return torch.cat([torch.zeros(0, 3), *in_chunks(colours, len(points), chunk)]).numpy()


def seen_by(photo: Photo, surface: Mesh, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a photo shows at points (N, 3) of the surface: colours (N, 3) sRGB, and how far to trust them (N,) in [0, 1].

    A point is seen where the surface, drawn from the photo's camera, is no nearer. Trust falls as the surface turns away, and
    towards the outlines in the photo: a surface that is a little off would take the colour of what lies before or behind it.
    """
    side = max(photo.rgba.shape[0], 512)
    pose, lens = (np.asarray(part, np.float64) for part in (photo.field_from_camera, photo.intrinsics))
    depth = depth_of(surface, pose, lens, side)
    rgba = framing.resize(photo.rgba, side, side)
    hazard = (rgba[..., 3] < 250) | (
        cv2.dilate(depth, np.ones((3, 3))) - cv2.erode(depth, np.ones((3, 3))) > DEPTH_STEP
    )
    # The picture's frame is an outline as well.
    room = cv2.distanceTransform(np.pad(~hazard, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    uv, distance = cameras.project(points.astype(np.float64), pose, lens)
    uv = np.where((distance > 0)[:, None], uv, -1)
    near, roominess, *colour = (
        _sampled(layer, uv) for layer in (depth, room, *np.moveaxis(rgba[..., :3].astype(np.float32), -1, 0))
    )
    towards = pose[:, 3] - points
    cosine = (towards * normals).sum(axis=1) / np.maximum(np.linalg.norm(towards, axis=1), 1e-12)
    visible = distance < near + DEPTH_STEP
    trust = _eased((cosine - 0.2) / 0.4) * _eased(roominess / (OUTLINE * side)) * visible
    return np.stack(colour, axis=1) / 255, trust.astype(np.float32)


def depth_of(surface: Mesh, world_from_camera: np.ndarray, intrinsics: np.ndarray, side: int) -> np.ndarray:
    """(side, side) float32 planar depth of a mesh seen by a camera in its frame; `FAR` where nothing is hit."""
    uv, depth = cameras.project(surface.vertices.astype(np.float64), world_from_camera, intrinsics)
    front = surface.faces[(depth[surface.faces] > 1e-3).all(axis=1)]
    drawn = rasterise(uv[front] * side, side, side, depth[front])
    picture = np.full(side * side, FAR, np.float32)
    picture[drawn.pixels] = drawn.interpolate(depth[front][..., None])[:, 0]
    return picture.reshape(side, side)


def _sampled(layer: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(S, S) float32 read at uv (N, 2), bilinearly; 0 outside."""
    # OpenCV takes no more than 32,767 points a row.
    rows = -(-len(uv) // 4096)
    place = np.full((rows * 4096, 2), -9, np.float32)
    place[: len(uv)] = uv * layer.shape[0] - 0.5
    x, y = np.moveaxis(place.reshape(rows, 4096, 2).clip(-9, layer.shape[0] + 9), -1, 0)
    return cv2.remap(layer, x.copy(), y.copy(), cv2.INTER_LINEAR, borderValue=(0,)).reshape(-1)[: len(uv)]


def _eased(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and smooth between."""
    x = x.clip(0, 1)
    return x * x * (3 - 2 * x)
