"""What suits a size of the model when the command line does not say otherwise; `train.presets` changes it for a memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A model size's own settings."""

    learning_rate: float
    warmup_steps: int
    batch: int
    """Objects a step."""
    views: int
    """Supervised views an object."""
    rays: int
    """Supervised rays a view."""
    samples: int
    """Samples a ray."""
    betas: tuple[float, float] = (0.9, 0.95)
    micro_batch: int | None = None
    """Objects at a time; None: all of a step's."""


# `tiny` is for a CPU and minutes, `mini` for a CPU and an hour: high rates, short warm-ups, few rays. The others follow
# Hong et al. 2024 (LRM), table of training details: 4e-4, 3,000 warm-up steps, input view and three side views, regions of 128².
_PAPER = Recipe(learning_rate=4e-4, warmup_steps=3000, batch=8, views=4, rays=4096, samples=96)
RECIPES: dict[str, Recipe] = {
    "tiny": Recipe(learning_rate=2e-3, warmup_steps=50, batch=4, views=4, rays=128, samples=48),
    "mini": Recipe(learning_rate=1.5e-3, warmup_steps=100, batch=4, views=2, rays=96, samples=32),
    "small": _PAPER,
    "base": _PAPER,
    "large": Recipe(learning_rate=4e-4, warmup_steps=3000, batch=8, views=4, rays=4096, samples=128),
    "paper": Recipe(learning_rate=4e-4, warmup_steps=3000, batch=8, views=4, rays=16384, samples=128),
}
