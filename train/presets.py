"""`train.lrm --preset 12gb`: the model's size and a step's, so that it fits a GPU's memory; and how that was worked out.

`cpu` is for trying things out and for a few objects, in minutes; `8gb` trains the small model an object at a time, `12gb` the base
model; `24gb` the base model, several objects at a time; `80gb` the large one. None recomputes: a single object at a time fills a
GPU, and recomputing would cost a third of the time. Precision is left to `--precision auto`; `8gb` and `12gb` hold without
bfloat16 as well.

None has been run on such a card: `Preset.needed` is arithmetic on what was measured on a CPU. Each needs at most `MOST` of its card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from model.lrm import SIZES, without_weights
from train.recipes import RECIPES, Recipe

Size = Literal["tiny", "mini", "small", "base", "large", "paper"]
PresetName = Literal["cpu", "8gb", "12gb", "24gb", "80gb"]
MOST = 0.85
"""Share of a card's memory that a preset may need: allocators leave gaps, and the screen takes some."""
GIB = 2**30
PROGRAM = 1.0
"""GiB of CUDA's context, kernels and workspaces, or of Python and torch on a CPU."""
KEPT = {"tiny": 0.010, "small": 1.72, "base": 2.84, "large": 5.10}
"""GiB an object that image → planes keeps for the backward pass in float32: the storages that autograd saves, counted."""
KEPT_BF16 = {"tiny": 0.009, "small": 1.12, "base": 1.83, "large": 3.29}
"""The same under autocast to bfloat16: norms, softmax sums and what is added up stay float32."""
POINT = 942
"""Bytes a sample that rendering keeps for the backward pass: features and hidden layers of the field, float32."""
POINTS = 1 << 21
"""Samples whose activations are kept at most, see `model.chunks.default_chunk`."""


@dataclass(frozen=True)
class Preset:
    """A model and steps that fit a memory. What it does not say is the model size's recipe."""

    memory: float
    """GiB of the card, or of the machine."""
    model: Size
    batch: int
    """Objects a step, of each process."""
    micro_batch: int
    """Of these, as many at a time."""
    views: int
    rays: int
    samples: int

    def over(self, recipe: Recipe) -> Recipe:
        """A model size's recipe with this preset's steps."""
        return replace(
            recipe,
            batch=self.batch,
            micro_batch=self.micro_batch,
            views=self.views,
            rays=self.rays,
            samples=self.samples,
        )

    def needed(self, bf16: bool = True) -> float:
        """GiB that a step needs at most, as if every sample lay in the object's hull."""
        parameters = sum(p.numel() for p in without_weights(SIZES[self.model]).parameters()) / GIB
        # float32 weight, gradient and AdamW's two moments; under autocast a copy of the weights in half the size.
        weights = (18 if bf16 else 16) * parameters
        points = min(self.micro_batch * self.views * self.rays * self.samples, POINTS) * POINT / GIB
        return PROGRAM + weights + self.micro_batch * (KEPT_BF16 if bf16 else KEPT)[self.model] + points


PRESETS: dict[PresetName, Preset] = {
    "cpu": Preset(8, "tiny", batch=4, micro_batch=4, views=4, rays=128, samples=48),
    "8gb": Preset(8, "small", batch=8, micro_batch=1, views=4, rays=4096, samples=96),
    "12gb": Preset(12, "base", batch=8, micro_batch=1, views=4, rays=4096, samples=96),
    "24gb": Preset(24, "base", batch=12, micro_batch=6, views=4, rays=4096, samples=96),
    "80gb": Preset(80, "large", batch=32, micro_batch=16, views=4, rays=4096, samples=128),
}


def size_of(model: Size | None, preset: PresetName | None) -> Size:
    """The model's size: as given, else the preset's, else `tiny`."""
    return model or (PRESETS[preset].model if preset else "tiny")


def recipe_of(model: Size | None, preset: PresetName | None) -> Recipe:
    """What is done where the command line does not say: the size's recipe, the preset's steps over it."""
    recipe = RECIPES[size_of(model, preset)]
    return PRESETS[preset].over(recipe) if preset else recipe


def described(name: PresetName) -> str:
    """What a preset chooses, and what for."""
    it = PRESETS[name]
    chosen = f"--model {it.model} --batch {it.batch} --micro-batch {it.micro_batch} --views {it.views} --rays {it.rays}"
    return f"{name}: {chosen} --samples {it.samples}, for {it.memory:g} GiB, of which it needs {it.needed():.1f} by arithmetic"
