"""A mesh coarse to fine, and by the dense grid: `python -m benchmarks.mesh_speed FIELD.safetensors…`.

Of each field of `benchmarks.fit_field` both make the surface with its colours, each in a process of its own, which says how long
that took and how much memory the process held at most, torch included. The dense way is OpenLRM's: every point of the grid
evaluated, colours and all, marching cubes over the whole, colours at the vertices. Distances are in voxels, from every vertex
of the one to the nearest point of the other's triangles. Parts of the dense surface that the other misses as a whole are left
out of them, and listed by the voxels that they enclose. Prints a table and writes `benchmarks/results/mesh_speed.json`.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import trimesh
import tyro
from scipy.spatial import cKDTree
from skimage import measure

from benchmarks import child, dense_twin, record
from benchmarks.fit_field import FittedField, load
from model import mesh
from turntable import config
from turntable.resources import peak_memory


@dataclass(frozen=True)
class MeshSpeed:
    """What to mesh."""

    fields: tyro.conf.Positional[tuple[Path, ...]]
    """Fields, .safetensors."""
    resolution: int = 384
    threads: int = 2
    out: Path = Path("benchmarks/results/mesh_speed.json")
    way: Literal["both", "dense", "sparse"] = "both"
    """One way only is what a process of this benchmark's own is asked for: it writes its surface to `out`, an .npz."""


def dense(fitted: FittedField, resolution: int) -> mesh.Mesh:
    """The surface by the dense grid, on the same lattice as ours and closed at the walls as ours is."""
    level = fitted.config.level
    with torch.no_grad():
        grid = dense_twin.density_grid(fitted.field, fitted.planes, resolution, centres=True).numpy()
    floor = np.log(np.float32(0.03 * level))
    logarithm = np.pad(np.log(np.maximum(grid, 0.03 * level)), 1, constant_values=floor)
    index, faces, _, _ = measure.marching_cubes(logarithm, np.log(level), gradient_direction="ascent")
    vertices = ((index - 0.5) * (2 / resolution) - 1).clip(-1, 1).astype(np.float32)
    return mesh.Mesh(vertices, faces, mesh.colours_at(fitted.field, fitted.planes, vertices))


def one_way(options: MeshSpeed) -> None:
    """Makes the surface of the one field and writes it with its seconds."""
    fitted = load(options.fields[0])
    start = time.perf_counter()
    if options.way == "dense":
        surface = dense(fitted, options.resolution)
    else:
        surface = mesh.extract(fitted.field, fitted.planes, options.resolution, fitted.config.level)
    seconds = time.perf_counter() - start
    np.savez(
        options.out, vertices=surface.vertices, faces=surface.faces, seconds=seconds, peak_mb=peak_memory() / 2**20
    )


def row(options: MeshSpeed, field: Path) -> dict[str, Any]:
    """Both ways of one field."""
    with tempfile.TemporaryDirectory() as folder:
        found, figures = {}, {"field": field.stem}
        for way in ("dense", "sparse"):
            file = Path(folder) / f"{way}.npz"
            words = [field, "--resolution", options.resolution, "--threads", options.threads, "--way", way]
            child.run("benchmarks.mesh_speed", [*words, "--out", file])
            with np.load(file) as arrays:
                found[way] = trimesh.Trimesh(arrays["vertices"], arrays["faces"], process=False)
                figures |= {
                    f"{way} s": round(float(arrays["seconds"]), 2),
                    f"{way} MB": round(float(arrays["peak_mb"])),
                }
    figures["ratio"] = round(figures["dense s"] / figures["sparse s"], 1)
    return {**figures, **compared(found["sparse"], found["dense"], options.resolution)}


def compared(ours: trimesh.Trimesh, dense_one: trimesh.Trimesh, resolution: int) -> dict[str, Any]:
    """Largest distances both ways in voxels, and the voxels that each missed part encloses, negative for a hollow."""
    voxel = 2 / resolution
    # A part that is missed is missed as a whole: all of it is far.
    part = trimesh.graph.connected_component_labels(dense_one.edges, len(dense_one.vertices))
    far = distances(dense_one.vertices, ours) > 0.5 * voxel
    missed = np.flatnonzero(np.bincount(part, ~far) == 0)
    gone = np.isin(part, missed)
    enclosed = [dense_one.submesh([np.flatnonzero(part[dense_one.faces[:, 0]] == which)])[0].volume for which in missed]
    return {
        "triangles": len(ours.faces),
        "closed": bool(ours.is_watertight),
        "farthest of ours": round(float(distances(ours.vertices, dense_one).max() / voxel), 4),
        "farthest of dense": round(float(distances(dense_one.vertices[~gone], ours).max() / voxel), 4),
        "missed parts, voxels": sorted((round(volume / voxel**3, 2) for volume in enclosed), key=abs, reverse=True),
    }


def distances(points: np.ndarray, surface: trimesh.Trimesh) -> np.ndarray:
    """(N,) from each point to the nearest of the surface: to its nearest vertex where that is close, exactly elsewhere."""
    bound = cKDTree(surface.vertices).query(points)[0]
    loose = bound > 1e-4
    if loose.any():
        bound[loose] = trimesh.proximity.closest_point(surface, points[loose])[1]
    return bound


def main() -> int:
    options = config.parse(MeshSpeed, __doc__ or "")
    torch.set_num_threads(options.threads)
    if options.way != "both":
        one_way(options)
        return 0
    rows = [row(options, field) for field in options.fields]
    for name in rows[0]:
        print(f"{name:24s}", *(f"{result[name]!s:>24s}" for result in rows))
    record.write(options.out, options, rows)
    return 0


if __name__ == "__main__":
    config.run(main)
