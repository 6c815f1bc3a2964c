"""A run's curves as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.history import read_history
from turntable.files import atomic_path


def draw_curves(run: Path) -> Path:
    """Draws `<run>/curves.png` (PSNR, loss terms and gradient norm over the steps) from `<run>/log.jsonl`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_history(run / "log.jsonl")
    history = [line for line in lines if "psnr" in line]
    steps = [line["step"] for line in history]
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("psnr", "PSNR of supervised rays, dB"),
        ("colour", "colour loss"),
        ("solid", "solid loss") if any("solid" in line for line in history) else ("mask", "mask loss"),
        ("gradient_norm", "gradient norm"),
    )
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        values = np.array([line.get(name, np.nan) for line in history])
        axes.plot(steps, values, alpha=0.3, linewidth=0.8)
        axes.plot(steps, _smoothed(values), linewidth=1.6)
        judged = [(line["step"], line[key]) for key in (f"development_{name}",) for line in lines if key in line]
        if judged:
            axes.plot(*zip(*judged, strict=True), "o-", markersize=3, label="development objects")
            axes.legend()
        axes.set(title=title, xlabel="step")
        if name != "psnr" and (values > 0).any():
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    with atomic_path(run / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return run / "curves.png"


def _smoothed(values: np.ndarray, window: int = 25) -> np.ndarray:
    """Trailing mean over `window` logged steps."""
    sums = np.cumsum(np.nan_to_num(values))
    lagged = np.concatenate([np.zeros(min(window, len(values))), sums[:-window]]) if len(values) else sums
    return (sums - lagged) / np.minimum(np.arange(len(values)) + 1, window)
