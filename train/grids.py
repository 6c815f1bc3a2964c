"""A picture of how far a run has come: input, truth and prediction of a few objects."""

from __future__ import annotations

import numpy as np
import torch

from datasets import samples
from model import occupancy, volume
from model.lrm import LRM
from turntable import report


@torch.no_grad()
def picture_grid(lrm: LRM, data: samples.ShardSamples, samples_per_ray: int, objects: int = 4) -> np.ndarray:
    """(H, W, 3) uint8 sheet: a row an object with its input picture, its last view as it is, and as the model renders it.

    The last view is the one held out from training where any is.
    """
    device = next(lrm.parameters()).device
    size = data.config.render_size
    pictures = []
    for index in data.indices[:objects]:
        given = samples.input_view(data.shards, index, data.config.input_view or 0, data.config)
        last = data.shards.view_count(index) - 1
        target = samples.target_view(data.shards, index, last, size, given.canonical_from_world)
        planes = lrm.planes(given.image[None].to(device), given.camera[None].to(device)).float()
        view = volume.render_view(
            lrm.field,
            planes,
            target.world_from_camera,
            target.intrinsics,
            size,
            samples_per_ray,
            occupancy=occupancy.occupied(lrm.field, planes),
        )
        seen = torch.nn.functional.interpolate(given.image[None], (size, size), mode="area")[0].permute(1, 2, 0)
        pictures += [seen.numpy(), target.rgb, view.colour.cpu().numpy()]
    as_bytes = [(np.clip(picture, 0, 1) * 255).round().astype(np.uint8) for picture in pictures]
    return report.contact_sheet(as_bytes, 3, ["input", "true", "model"] * (len(as_bytes) // 3))
