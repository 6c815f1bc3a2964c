"""What decides a capture's content beside the asset: one value that the command, the worker and the capture share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from render.checks import Thresholds
from render.lights import Lighting
from render.rigs import Rig, count, settled


@dataclass(frozen=True)
class Settings:
    """How an asset is rendered. The same asset, settings and versions give the same bytes."""

    views: int | None = None
    """Pictures an asset; default: 32, and with --rig zero123plus or list as many as it has."""
    resolution: int = 512
    """Side of the square pictures, pixels."""
    samples: int = 16
    """Light paths a pixel before denoising. Foreground PSNR at 256² against 512 paths: 8 give 38 dB, 16 41.5, 32 43.6."""
    denoise: bool = True
    """Whether the colour pictures are denoised (OpenImageDenoise, fast)."""
    seed: int = 0
    """Of lights (with the uid) and cameras (with the uid and the view)."""
    rig: Rig = field(default_factory=Rig)
    """Where the cameras are."""
    lighting: Lighting = field(default_factory=Lighting)
    """Where the lights are."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """When a view is doubtful."""

    def __post_init__(self) -> None:
        if self.views is not None and self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}")
        if not 16 <= self.resolution <= 4096:
            raise ValueError(f"resolution must lie in [16, 4096], got {self.resolution}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2³²), got {self.seed}")

    @property
    def view_count(self) -> int:
        """Pictures an asset."""
        return count(self.rig, self.views)


def complete(settings: Settings) -> Settings:
    """`settings` with every value stated and every file that they name read: what workers get and captures record."""
    rig = settled(settings.rig)
    return dataclasses.replace(settings, rig=rig, views=count(rig, settings.views))
