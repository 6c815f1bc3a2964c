"""How well a matting network finds objects.

    python -m benchmarks.matting --matte rembg:u2net_custom=x.onnx --root ../shared/mvimgnet

Every frame of a folder in MVImgNet's layout that has a mask goes through `preprocess.matte`, as `preprocess.mvimgnet` would
have it. Intersection over union is of the two mattes above one half, at the frame's own size. Prints a table, writes it to
`--out`, and beside it a sheet: frame, true matte, matte found, cut out on grey.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from preprocess import matte
from preprocess.masks import MaskFiles
from turntable import config as command_line
from turntable import framing
from turntable.errors import EXIT_OK, UserError
from turntable.files import write_bytes, write_json
from turntable.report import contact_sheet, encode_picture

TILE = (240, 200)
"""Width and height of a sheet's tiles, pixels."""


@dataclass(frozen=True)
class MattingBenchmark:
    """What to judge, and on what."""

    matte: str
    """The way to judge, as in `preprocess.*  --matte`."""
    root: Path
    """Folder in MVImgNet's layout, with `mask/`."""
    every: int = 1
    """Every so many frames of a scene."""
    sheet_frames: int = 3
    """Frames of each scene on the sheet."""
    out: Path = Path("benchmarks/results/matting.json")
    """The result; the sheet is written beside it, as .png."""


def scenes(root: Path) -> dict[str, list[Path]]:
    """`class/instance` -> its frames, of the scenes that have masks."""
    folders = sorted(folder for folder in (root / "mask").glob("*/*") if folder.is_dir())
    found = {}
    for folder in folders:
        name = str(folder.relative_to(root / "mask"))
        found[name] = sorted((root / name / "images").glob("*.jpg"))
    if not any(found.values()):
        raise UserError(f"--root {root}: no mask/<class>/<instance>/ with frames to it in <class>/<instance>/images/")
    return found


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two mattes (H, W) uint8, above one half."""
    a, b = found > 127, true > 127
    return float((a & b).sum() / max((a | b).sum(), 1))


def _tile(picture: np.ndarray) -> np.ndarray:
    """Fitted into a tile, on white."""
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    scale = min(TILE[0] / picture.shape[1], TILE[1] / picture.shape[0])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tile = np.full((TILE[1], TILE[0], 3), 255, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    return tile


def judge(options: MattingBenchmark) -> tuple[dict[str, dict[str, float | int]], list[np.ndarray], list[str]]:
    """Scene -> figures, and the tiles of the sheet with their captions."""
    matter, masks = matte.find(options.matte), MaskFiles(options.root / "mask")
    table: dict[str, dict[str, float | int]] = {}
    tiles, captions = [], []
    for name, frames in scenes(options.root).items():
        values: list[float] = []
        chosen = frames[:: options.every]
        shown = chosen[:: -(-len(chosen) // options.sheet_frames)] if options.sheet_frames else []
        for path in chosen:
            picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            true = masks(picture, f"{name}/{path.name}")[..., 3]
            try:
                rgba, said = matter(picture, f"{name}/{path.name}"), ""
            except matte.MatteError as error:
                rgba, said = np.zeros((*true.shape, 4), np.uint8), error.reason
            values.append(overlap(rgba[..., 3], true))
            if path in shown:
                cut = (framing.on_background(rgba, 0.5) * 255).round().astype(np.uint8)
                tiles += [_tile(part) for part in (picture, true, rgba[..., 3], cut)]
                captions += [f"{name} {path.stem}", "true", said or f"found, IoU {values[-1]:.3f}", "cut out"]
        table[name] = {
            "frames": len(values),
            "iou_mean": round(float(np.mean(values)), 4),
            "iou_least": round(min(values), 4),
            "frames_below_0.8": int(np.sum(np.array(values) < 0.8)),
        }
    return table, tiles, captions


def main() -> int:
    """The command."""
    options = command_line.parse(MattingBenchmark, "Judge a way of making mattes on scenes with true masks.")
    cv2.setNumThreads(1)
    identity = matte.find(options.matte).identity
    table, tiles, captions = judge(options)
    print(f"{'scene':12s} frames  mean IoU  least  below 0.8")
    for name, row in table.items():
        print(
            f"{name:12s} {row['frames']:6d} {row['iou_mean']:9.3f} {row['iou_least']:6.3f} {row['frames_below_0.8']:10d}"
        )
    mean = float(np.mean([row["iou_mean"] for row in table.values()]))
    print(f"mean of the scenes {mean:.3f}")
    write_json(
        options.out,
        {
            "command": "python -m benchmarks.matting " + " ".join(sys.argv[1:]),
            "network": identity,
            "machine": {"cores": len(os.sched_getaffinity(0)), "system": platform.system()},
            "versions": {name: importlib.metadata.version(name) for name in ("rembg", "onnxruntime", "opencv-python")},
            "scenes": table,
            "iou_mean_of_scenes": round(mean, 4),
        },
    )
    if tiles:
        write_bytes(options.out.with_suffix(".png"), encode_picture(contact_sheet(tiles, 4, captions), ".png"))
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
