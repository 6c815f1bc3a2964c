"""The density that a model's surface is cut at, chosen on development objects: the one whose meshes fit best.

A network that is unsure of a surface spreads its density, and the level that training aims at then cuts too deep or too far out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from datasets.samples import SampleConfig, input_view
from datasets.shards import ShardSet
from model.lrm import LRM
from train.methods import ModelMethod
from train.metrics import ious
from turntable.geometry import solid_grid

STEPS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""Levels that are tried first, over the model's own."""
RESOLUTION = 64
"""Marching cubes cells along the box."""


@torch.no_grad()
def fits(
    lrm: LRM, shards: ShardSet, indices: Sequence[int], levels: Iterable[float], view: int = 0
) -> dict[float, float]:
    """Level -> mean IoU (of 32³, 64³ and 128³) over objects, each reconstructed from its view `view`, true camera given."""
    config = lrm.config
    frame = SampleConfig(input_size=config.encoder.image_size, fill=config.fill, background=config.background)
    method = ModelMethod(lrm, 64, RESOLUTION, config.level, next(lrm.parameters()).device)
    found: dict[float, list[float]] = {level: [] for level in levels}
    for index in tqdm(indices, desc="level", unit="object"):
        seen = input_view(shards, index, view, frame)
        answer, true = method.answer(seen), shards.geometry(index).solid
        for level, figures in found.items():
            method.level = level
            surface = method.surface(answer, seen.canonical_from_world)
            solid = None if surface is None else solid_grid(surface.vertices, surface.faces)
            figures.append(0.0 if solid is None else float(np.mean(list(ious(solid, true).values()))))
    return {level: float(np.mean(figures)) for level, figures in found.items()}


def best_level(lrm: LRM, shards: ShardSet, indices: Sequence[int]) -> tuple[float, dict[float, float]]:
    """The level of the largest mean IoU, and what was found at each that was tried: first some far apart, then beside the best."""
    found = fits(lrm, shards, indices, [lrm.config.level * step for step in STEPS])
    best = max(found, key=lambda level: found[level])
    found |= fits(lrm, shards, indices, [best / 2**0.5, best * 2**0.5])
    return max(found, key=lambda level: found[level]), dict(sorted(found.items()))
