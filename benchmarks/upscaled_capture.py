"""What upscaling does to a capture: `python -m benchmarks.upscaled_capture --capture captures/ab/ab….zip --weights file.pth`.

Prints how far tiles differ from the picture done whole, how far the content moves, how far the result averaged down is from
what went in, and how much neighbouring views disagree before and after; writes a picture of an edge, on black and on white:
pixels repeated, the cubic filter, the network without bleeding, and what we store.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.captures import CaptureReader
from preprocess import consistency, upscale
from turntable import config, framing
from turntable.errors import EXIT_OK, UserError

EDGE = 24
"""Pixels of the capture on either side of the edge that is shown."""


@dataclass(frozen=True)
class UpscaledCapture:
    """What to look at."""

    capture: Path
    """A capture."""
    weights: str
    """As --upscale takes it: a name or a file; `benchmarks.train_upscaler` trains a small one."""
    view: int = 0
    """The view whose tiles and edge are looked at."""
    tile: int = 96
    """Side of the tiles that are compared with the whole picture, pixels of the capture."""
    out: Path = Path("upscaled-edge.png")
    """The picture."""


def shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(2,) by how many pixels `after`, (H, W) like `before`, is moved right and down, to first order (Lucas & Kanade 1981)."""
    slopes = np.stack([-np.gradient(before, axis=1).ravel(), -np.gradient(before, axis=0).ravel()], axis=1)
    return np.linalg.lstsq(slopes, (after - before).ravel(), rcond=None)[0]


def grey(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) -> (H, W) float32 in [0, 1], on white."""
    return framing.on_background(rgba).mean(axis=-1)


def edge_picture(versions: list[np.ndarray], alpha: np.ndarray, scale: int) -> np.ndarray:
    """The same piece of an edge of `alpha` (H, W) from each of the enlarged versions, beside each other, on black and on white."""
    rows, columns = np.nonzero(cv2.Canny(alpha, 50, 150))
    if not len(rows):
        raise UserError("nothing has an edge in this view; choose another --view")
    place = [rows[len(rows) // 3], columns[len(rows) // 3]]
    top, left = (int(np.clip(at, EDGE, side - EDGE)) - EDGE for at, side in zip(place, alpha.shape, strict=True))
    piece = slice(top * scale, (top + 2 * EDGE) * scale), slice(left * scale, (left + 2 * EDGE) * scale)
    strips = [np.concatenate([framing.on_background(v[piece], grey) for v in versions], axis=1) for grey in (0.0, 1.0)]
    return (np.concatenate(strips) * 255).round().astype(np.uint8)


def main() -> int:
    """The command."""
    options = config.parse(UpscaledCapture, "Show what upscaling does to a capture.")
    enlarge = upscale.find(options.weights)
    if not isinstance(enlarge, upscale.NetworkUpscaler):
        raise UserError(f"--weights {options.weights}: nothing is enlarged; name a network")
    tiled = upscale.find(options.weights, tile=options.tile)
    with CaptureReader(options.capture) as capture:
        pictures = [capture.picture("rgba", view) for view in range(len(capture))]
        depths = [capture.depth(view) for view in range(len(capture))]
        comparison = consistency.Comparison(capture.world_from_camera, capture.intrinsics, depths)
    larger = [enlarge(picture) for picture in pictures]
    for view, (picture, result) in enumerate(zip(pictures, larger, strict=True)):
        comparison.see(view, picture, result)
    rgba, result = pictures[options.view], larger[options.view]
    height, width = rgba.shape[:2]
    seam = np.abs(tiled(rgba).astype(int) - result).max()
    print(f"tiles of {options.tile} pixels differ from the whole picture by at most {seam} of 255")
    down = cv2.resize(grey(result), (width, height), interpolation=cv2.INTER_AREA)
    moved, error = shift(grey(rgba), down), np.abs(down - grey(rgba)).mean() * 255
    print(
        f"content moved by {moved[0]:+.4f}, {moved[1]:+.4f} pixels; averaged down, off by {error:.2f} of 255 in the mean"
    )
    print(f"disagreement of neighbouring views: {comparison.figures()}")
    # Behind the upscaler's own door: the colour as it lies in the file, with what transparent pixels hide.
    hidden = enlarge(np.dstack([rgba[..., :3], np.full_like(rgba[..., 3], 255)]))
    unbled = np.dstack([hidden[..., :3], result[..., 3]])
    repeated = rgba.repeat(enlarge.scale, axis=0).repeat(enlarge.scale, axis=1)
    cubic = framing.resize(rgba, width * enlarge.scale, height * enlarge.scale)
    shown = edge_picture([repeated, cubic, unbled, result], rgba[..., 3], enlarge.scale)
    cv2.imwrite(str(options.out), cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
    print(f"{options.out}: pixels repeated, cubic filter, without bleeding, as stored; on black and on white")
    return EXIT_OK


if __name__ == "__main__":
    config.run(main)
