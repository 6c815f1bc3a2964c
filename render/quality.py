"""How much work a colour picture is worth: named presets, chosen from the table that `benchmarks/render_quality.py` measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Preset = Literal["draft", "train", "final"]
Denoise = Literal["none", "fast", "balanced", "high"]


@dataclass(frozen=True)
class Quality:
    """Cycles' settings of a colour picture, beyond those that all pictures share."""

    samples: int
    """Light paths a pixel; with adaptive sampling, at most."""
    adaptive: float = 0.0
    """Noise at which a pixel is done early (Cycles' adaptive threshold); 0 = every pixel gets all samples."""
    denoise: Denoise = "fast"
    """OpenImageDenoise's quality."""
    prefilter: Literal["none", "fast", "accurate"] = "fast"
    """How the denoiser cleans its guides (albedo and normal) first."""
    bounces: int = 6
    """Times a path may be scattered."""
    light_tree: bool = True
    """Chooses lamps by what they give each point: a tenth more time for about half a decibel."""
    caustics: bool = True
    """Light that reaches a matt surface by way of a mirror."""
    pattern: Literal["AUTOMATIC", "TABULATED_SOBOL", "BLUE_NOISE"] = "AUTOMATIC"
    """Cycles' sequence of random numbers."""


PRESETS: dict[Preset, Quality] = {
    "draft": Quality(samples=8, bounces=4),
    "train": Quality(samples=24),
    "final": Quality(samples=256, adaptive=0.005, denoise="high", prefilter="accurate", bounces=12),
}
