"""`python -m tests.datasets.export_projections SHARDS`: do exports say the same as the shards they come from?

Exports to OpenLRM's and nerfstudio's folders, reads them by those programs' rules (`foreign_readers`), and prints for each
how far projections of the stored surface points lie from ours, and how many of them meet the exported picture's matte.
Where an object's pictures had to be taken again with one lens, our projection is carried over by the rotation between the
stored and the exported camera.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from datasets.export import ExportConfig, export
from datasets.shards import ShardSet
from tests.datasets.foreign_readers import ForeignView, read_instant_ngp, read_nerfstudio, read_openlrm
from turntable import cameras

READERS: dict[str, tuple[str, Callable[[Path, str, int], list[ForeignView]]]] = {
    "OpenLRM": ("openlrm", read_openlrm),
    "nerfstudio": ("nerfstudio", lambda root, uid, _: read_nerfstudio(root / uid)),
    "instant-ngp": ("nerfstudio", lambda root, uid, _: read_instant_ngp(root / uid)),
}


@dataclass
class Agreement:
    """How an export compares with its shards."""

    objects: int = 0
    views: int = 0
    points: int = 0
    farthest_px: float = 0.0
    """Largest distance of any point's projection from ours, pixels of the exported picture."""
    retaken_farthest_px: float = 0.0
    """The same over objects whose pictures were taken again."""
    retaken: int = 0
    on_matte: float = 1.0
    """Smallest share, over all views, of points that lie on the exported matte, or within a pixel of it."""
    box_px: float = 0.0
    """Largest distance between a side of the points' bounding box and the same side of the matte's, pixels."""

    def row(self, name: str) -> str:
        """A line of the table."""
        return (
            f"{name:12} {self.objects:7} {self.retaken:7} {self.views:6} {self.points:9} {self.farthest_px:13.5f} "
            f"{self.retaken_farthest_px:13.5f} {100 * self.on_matte:12.3f} {self.box_px:9.2f}"
        )


HEADER = "reader       objects retaken  views    points  max, as is px  max, retaken px  on matte, min %  box px"


def agreement(shards: ShardSet, root: Path, reader: Callable[[Path, str, int], list[ForeignView]]) -> Agreement:
    """Reads every object below `root` and compares it with the shards' own."""
    total = Agreement()
    for index, uid in enumerate(shards.uids):
        poses, intrinsics = shards.cameras(index)
        views = reader(root, uid, len(poses))
        points = shards.geometry(index).points[::10].astype(np.float64)
        total.objects += 1
        retaken = False
        for pose, lens, view in zip(poses, intrinsics, views, strict=True):
            rgba = view.rgba()
            found = view.project(points)
            uv, _ = cameras.project(points, pose, lens)
            own = uv * len(rgba)
            own_error = np.linalg.norm(found - own, axis=1).max()
            if own_error > 1:  # another camera stands there: the picture was taken again
                retaken = True
                carried = _carried(uv, pose, lens, view)
                total.retaken_farthest_px = max(
                    total.retaken_farthest_px, float(np.linalg.norm(found - carried, axis=1).max())
                )
            else:
                total.farthest_px = max(total.farthest_px, float(own_error))
            _compare_with_picture(total, found, rgba[..., 3])
            total.views += 1
            total.points += len(points)
        total.retaken += retaken
    return total


def _carried(uv: np.ndarray, pose: np.ndarray, lens: np.ndarray, view: ForeignView) -> np.ndarray:
    """Our projections, as rays of the stored camera, seen by the exported one: only its rotation and lens count."""
    fx, fy, cx, cy = lens
    rays = np.c_[(uv[:, 0] - cx) / fx, -(uv[:, 1] - cy) / fy, -np.ones(len(uv))] @ pose[:, :3].T
    seen = rays @ view.pixels_from_world[:, :3].T
    return seen[:, :2] / seen[:, 2:]


def _compare_with_picture(total: Agreement, found: np.ndarray, alpha: np.ndarray) -> None:
    """Takes up how well projected points (N, 2) and the matte (S, S) cover one another."""
    side = len(alpha)
    seen = alpha > 0
    wide = np.pad(seen, 1)
    near = np.zeros_like(seen)
    for y in range(3):
        for x in range(3):
            near |= wide[y : y + side, x : x + side]
    column, row = np.floor(found).astype(int).T
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    if not inside.all():  # cut off by the picture's border: only what is inside can be compared
        column, row = column[inside], row[inside]
    total.on_matte = min(total.on_matte, float(near[row, column].mean()))
    if not inside.all():
        return
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    matte = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    spread = np.r_[found.min(axis=0), found.max(axis=0)]
    total.box_px = max(total.box_px, float(np.abs(matte - spread).max()))


def table(shards_folder: Path) -> dict[str, Agreement]:
    """Every reader's agreement."""
    shards = ShardSet(shards_folder)
    result = {}
    with tempfile.TemporaryDirectory(prefix="turntable-export-") as scratch:
        for name, (layout, reader) in READERS.items():
            root = Path(scratch) / layout
            if not root.exists():
                export(ExportConfig(shards_folder, layout, root))  # type: ignore[arg-type]
            result[name] = agreement(shards, root, reader)
    return result


def main(shards: tyro.conf.Positional[Path]) -> None:
    """Compare exports of SHARDS with SHARDS."""
    print(HEADER)
    for name, found in table(shards).items():
        print(found.row(name))


if __name__ == "__main__":
    tyro.cli(main)
