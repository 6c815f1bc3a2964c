"""One object's figures by the stated protocol, and their summary over objects.

PROTOCOL, below, is printed with every table: a figure is comparable only inside its own protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity

from turntable import geometry
from turntable.geometry import Geometry

PROTOCOL = (
    "Object units (bounding sphere of radius 1). Pictures on white: PSNR over the whole picture and over the foreground "
    "(true opacity above one half), SSIM with an 11-pixel Gaussian window (deviation 1.5), LPIPS 0.1 over VGG-16. Shapes: "
    "100,000 surface points; Chamfer = mean over both directions of the mean Euclidean distance; F-score at 0.05, 0.1, 0.2; "
    "normal consistency = mean |n·n'| of nearest neighbours, both ways; IoU over [-1,1]³, solid = surface voxels at 128³ and "
    "what a flood fill from outside does not reach once gaps of two voxels are closed, both shapes by the same rule, coarser "
    "grids by any-pooling. True input camera, no alignment; the aligned row adds rotation about the up axis, scale and ICP. An "
    "object whose surface is empty counts 0 in F-score, normal consistency and IoU and is left out of Chamfer."
)
COLUMNS = (
    "psnr",
    "psnr_foreground",
    "ssim",
    "lpips",
    "chamfer",
    "f@0.05",
    "f@0.1",
    "f@0.2",
    "normals",
    "iou32",
    "iou64",
    "iou128",
)
"""The figures of an object, in the order of the table."""


Perceptual = Callable[[np.ndarray, np.ndarray], float]
"""Two pictures (S, S, 3) in [0, 1] -> their LPIPS distance."""


def picture_metrics(
    predicted: np.ndarray, true: np.ndarray, alpha: np.ndarray, perceptual: Perceptual | None = None
) -> dict[str, float]:
    """PSNR and SSIM of one picture, and LPIPS where there is something to measure it with.

    predicted and true: (S, S, 3) in [0, 1] on white; alpha: (S, S) true opacity.
    """
    error = (np.clip(predicted, 0, 1) - true) ** 2
    foreground = alpha > 0.5
    similarity = structural_similarity(
        true, np.clip(predicted, 0, 1), channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )  # fmt: skip
    inside = error[foreground].mean() if foreground.any() else np.nan
    figures = {"psnr": decibels(error.mean()), "psnr_foreground": decibels(inside), "ssim": float(similarity)}
    return figures if perceptual is None else figures | {"lpips": perceptual(np.clip(predicted, 0, 1), true)}


def decibels(mean_squared_error: float) -> float:
    """PSNR for values in [0, 1]; equal pictures are called 100 dB."""
    return float(-10 * np.log10(max(mean_squared_error, 1e-10)))


def shape_metrics(predicted: Geometry | None, true: Geometry) -> dict[str, float]:
    """Chamfer, F-scores, normal consistency and IoU of two shapes in the same frame; None is an empty shape."""
    if predicted is None:
        return {"chamfer": np.nan} | {name: 0.0 for name in COLUMNS if name.startswith(("f@", "normals", "iou"))}
    distance = geometry.surface_distance(predicted.points, predicted.normals, true.points, true.normals)
    figures = {"chamfer": distance.chamfer, "normals": distance.normal_consistency}
    figures |= {f"f@{threshold:g}": score for threshold, score in distance.f_score.items()}
    return figures | ious(predicted.solid, true.solid)


def ious(solid_a: np.ndarray, solid_b: np.ndarray) -> dict[str, float]:
    """IoU of two solids of 128³ on every grid of the protocol."""
    pairs = {n: (geometry.coarsen(solid_a, n), geometry.coarsen(solid_b, n)) for n in (32, 64, 128)}
    return {f"iou{n}": geometry.iou(a, b) for n, (a, b) in pairs.items()}


def mean_figures(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean over rows of every figure that at least one row has; not-a-number is left out."""
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    means = {}
    for name in names:
        values = np.array([row[name] for row in rows if name in row], dtype=np.float64)
        means[name] = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    return means


@dataclass(frozen=True)
class Interval:
    """A mean over objects with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: list[float], rng: np.random.Generator, draws: int = 2000) -> Interval:
    """Percentile bootstrap over objects (Efron 1979). Not-a-number is left out; without values everything is NaN."""
    kept = np.array([v for v in values if np.isfinite(v)])
    if len(kept) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    means = kept[rng.integers(0, len(kept), (draws, len(kept)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(kept.mean()), float(low), float(high))
