"""What decides a capture's content beside the asset: one value that the command, the worker and the capture share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from datasets.pictures import PASS_CHANNELS
from render import lights
from render.checks import Thresholds
from render.lights import Lighting
from render.quality import PRESETS, Denoise, Preset, Quality
from render.rigs import Rig, count, settled

Pass = Literal["rgba", "depth", "normal", "albedo", "position", "material", "mask"]


@dataclass(frozen=True)
class Settings:
    """How an asset is rendered. The same asset, settings and versions give the same bytes."""

    views: int | None = None
    """Pictures an asset; default: 32, and with --rig zero123plus or list as many as it has."""
    resolution: int = 512
    """Side of the square pictures, pixels."""
    passes: tuple[Pass, ...] = ("rgba", "depth", "normal")
    """Pictures a view: rgba (always there), depth, normal, albedo, position, material, mask."""
    engine: Literal["cycles", "eevee"] = "cycles"
    """What renders colour: Cycles traces paths; EEVEE is quicker on a GPU and approximate. The other passes are always Cycles'."""
    quality: Preset = "train"
    """How much work a colour picture is worth: draft, train or final; benchmarks/render_quality.py measures them."""
    samples: int = 0
    """Light paths a pixel before denoising; 0 = the preset's."""
    denoise: bool = True
    """Whether Cycles' colour pictures are denoised as the preset says."""
    frame: int = 0
    """Frame at which animated assets are shown; 0 is time 0 of their animations, 24 a second unless the file says otherwise."""
    seed: int = 0
    """Of lights (with the uid) and cameras (with the uid and the view)."""
    rig: Rig = field(default_factory=Rig)
    """Where the cameras are."""
    lighting: Lighting = field(default_factory=Lighting)
    """Where the lights are."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """When a view is doubtful."""

    def __post_init__(self) -> None:
        # One order, and colour always, so that equal choices are equal values.
        chosen = tuple(name for name in PASS_CHANNELS if name == "rgba" or name in self.passes)
        object.__setattr__(self, "passes", chosen)
        if self.views is not None and self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}")
        if not 16 <= self.resolution <= 4096:
            raise ValueError(f"resolution must lie in [16, 4096], got {self.resolution}")
        if self.samples < 0:
            raise ValueError(f"samples must be at least 1, or 0 for the preset's, got {self.samples}")
        if not -(2**20) < self.frame < 2**20:
            raise ValueError(f"frame must lie within Blender's ±1048574, got {self.frame}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2³²), got {self.seed}")

    @property
    def view_count(self) -> int:
        """Pictures an asset."""
        return count(self.rig, self.views)

    @property
    def needs_geometry(self) -> bool:
        """Whether any pass beside colour is asked for."""
        return len(self.passes) > 1

    @property
    def needs_values(self) -> bool:
        """Whether any pass shows what surfaces are made of."""
        return "albedo" in self.passes or "material" in self.passes

    @property
    def colour_quality(self) -> Quality:
        """The preset with what overrides it."""
        preset = PRESETS[self.quality]
        denoise: Denoise = preset.denoise if self.denoise else "none"
        return replace(preset, samples=self.samples or preset.samples, denoise=denoise)


def complete(settings: Settings) -> Settings:
    """`settings` with every value stated and every file that they name read: what workers get and captures record."""
    rig = settled(settings.rig)
    lighting = lights.settled(settings.lighting)
    return replace(settings, rig=rig, lighting=lighting, views=count(rig, settings.views))
