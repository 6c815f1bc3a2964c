"""Meshes of fields fitted to real models, against those models: `python -m benchmarks.fitted_meshes --fields DIR --captures DIR`.

Each field of `benchmarks.fit_field` becomes a textured mesh as `model.reconstruct` makes one, the capture's first view standing
in for the photo, and is written as .glb. It is compared with the capture's true geometry, unaligned: the field lives in the
capture's own frame. Then Blender, in a process of its own, opens the .glb and draws it from cameras of the capture; `views.png`
shows its pictures beside the capture's. Writes `fitted_meshes.json` and a folder a field.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import trimesh

from benchmarks import record
from benchmarks.fit_field import FittedField, load
from datasets.captures import capture_path
from datasets.objects import Objects, StoredObject
from model import mesh, mesh_files, texture
from model.mesh import TexturedMesh
from model.raster import rasterise
from train.metrics import decibels
from turntable import cameras, config, framing, geometry
from turntable.errors import UserError
from turntable.files import write_bytes, write_json
from turntable.report import contact_sheet, encode_picture


@dataclass(frozen=True)
class FittedMeshes:
    """What to mesh, and how."""

    fields: Path
    """Folder of fields, .safetensors."""
    captures: Path
    """Folder of the captures that they were fitted to."""
    out: Path
    """Where meshes and pictures go."""
    resolution: int = 384
    faces: int = 40_000
    texture: int = 1024
    views: tuple[int, ...] = (0, 3, 6, 9)
    """Views of the captures to show."""
    size: int = 256
    """Pixels, the side of the pictures shown."""
    threads: int = 2
    result: Path = Path("benchmarks/results/fitted_meshes.json")


def measure(options: FittedMeshes, path: Path) -> dict[str, Any]:
    """A row of the table."""
    fitted = load(path)
    found = capture_path(options.captures, fitted.about["uid"])
    item = Objects(found).open(0)
    if item.geometry is None:
        raise UserError(f"{found}: holds no geometry to compare with")
    folder = options.out / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    textured, seconds = textured_mesh(fitted, item, options)
    mesh_files.write(folder / "mesh.glb", textured)
    write_bytes(folder / "views.png", encode_picture(views(folder / "mesh.glb", item, options), ".png"))
    merged = trimesh.load(folder / "mesh.glb", force="mesh")
    merged.merge_vertices(merge_tex=True, merge_norm=True)
    row = {"field": path.stem, "watertight": bool(merged.is_watertight), "faces": len(textured.surface.faces)}
    colours = colour_agreement(fitted, textured.surface, item, options)
    return {**row, "seconds": seconds, **compared(textured.surface, item.geometry()), **colours}


def textured_mesh(
    fitted: FittedField, item: StoredObject, options: FittedMeshes
) -> tuple[TexturedMesh, dict[str, float]]:
    """The mesh, and the seconds of each step."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = step(*arguments)
        seconds[name] = round(time.perf_counter() - start, 2)
        return result

    field, planes = fitted.field, fitted.planes
    whole = timed("extract", mesh.extract, field, planes, options.resolution, fitted.config.level)
    large = timed("floaters", mesh.without_floaters, whole, 0.001)
    small = timed("simplify", mesh.simplified, large, options.faces)
    photo = texture.Photo(item.rgba(0, item.sizes[-1]), item.world_from_camera[0], item.intrinsics[0])
    return timed("texture", texture.bake, small, field, planes, options.texture, photo), seconds


def compared(surface: mesh.Mesh, truth: geometry.Geometry) -> dict[str, float]:
    """IoU of the solids at 32³, 64³ and 128³, Chamfer distance, F-scores and normal consistency."""
    points, normals = geometry.sample_surface(
        surface.vertices, surface.faces, len(truth.points), np.random.default_rng(0)
    )
    distance = geometry.surface_distance(points, normals, truth.points, truth.normals)
    solid = geometry.solid_grid(surface.vertices, surface.faces)
    figures = {
        f"IoU {n}": geometry.iou(geometry.coarsen(solid, n), geometry.coarsen(truth.solid, n)) for n in (32, 64, 128)
    }
    figures["Chamfer"] = distance.chamfer
    figures.update({f"F@{threshold}": value for threshold, value in distance.f_score.items()})
    return {name: round(value, 4) for name, value in {**figures, "normals": distance.normal_consistency}.items()}


def colour_agreement(
    fitted: FittedField, surface: mesh.Mesh, item: StoredObject, options: FittedMeshes
) -> dict[str, float]:
    """PSNR against the capture's opaque pixels that see the mesh, without the photo: at the surface, and as one looks at it."""
    normals, found = surface.normals(), []
    for view in options.views:
        pose, lens = item.world_from_camera[view], item.intrinsics[view]
        uv, depth = cameras.project(surface.vertices.astype(np.float64), pose, lens)
        drawn = rasterise(uv[surface.faces] * options.size, options.size, options.size, depth[surface.faces])
        true = item.rgba(view, options.size).reshape(-1, 4)[drawn.pixels]
        inner, outward = (drawn.interpolate(each[surface.faces]) for each in (surface.vertices, normals))
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        found.append([part[true[:, 3] == 255] for part in (inner, outward, true[:, :3] / 255)])
    points, outward, true = (np.concatenate(parts) for parts in zip(*found, strict=True))
    plain = mesh.colours_at(fitted.field, fitted.planes, points)
    looked = texture.looked_at(fitted.field, fitted.planes, points, outward)
    return {
        name: round(decibels(float(((colours - true) ** 2).mean())), 2)
        for name, colours in (("dB at the surface", plain), ("dB looked at", looked))
    }


def views(glb: Path, item: StoredObject, options: FittedMeshes) -> np.ndarray:
    """The capture's pictures, and below them Blender's of the .glb from the same cameras."""
    asked = [
        {
            "world_from_camera": item.world_from_camera[view].tolist(),
            "intrinsics": item.intrinsics[view].tolist(),
            "size": options.size,
        }
        for view in options.views
    ]
    write_json(glb.with_name("views.json"), asked)
    command = [sys.executable, "-m", "benchmarks.blender_view", str(glb), str(glb.with_name("views.json"))]
    done = subprocess.run([*command, str(glb.parent)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed: {done.stderr.strip()[-500:]}")
    true = [item.rgba(view, options.size) for view in options.views]
    drawn = [
        cv2.cvtColor(cv2.imread(str(glb.parent / f"{index:03d}.png"), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
        for index in range(len(true))
    ]
    pictures = [(framing.on_background(part) * 255).round().astype(np.uint8) for part in (*true, *drawn)]
    captions = [f"capture, view {view}" for view in options.views] + ["the .glb in Blender"] * len(drawn)
    return contact_sheet(pictures, len(true), captions)


def main() -> int:
    options = config.parse(FittedMeshes, __doc__ or "")
    torch.set_num_threads(options.threads)
    rows = [measure(options, path) for path in sorted(options.fields.glob("*.safetensors"))]
    for row in rows:
        print(json.dumps(row))
    record.write(options.result, options, rows)
    return 0


if __name__ == "__main__":
    config.run(main)
