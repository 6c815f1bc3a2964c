"""Input views and whole samples changed at random, so that few objects teach more: mirrored worlds, other framings, uncertain cameras.

What changes the picture changes the cameras with it, or is a disturbance that a real photo has too and that the model is to
bear: a background that shines through, a camera that is known only roughly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from turntable import cameras


@dataclass(frozen=True)
class Augmentation:
    """How much is changed. The defaults change nothing."""

    mirror: bool = False
    """Half of the samples are mirrored, object, pictures and cameras: left becomes right."""
    fill_spread: float = 0.0
    """The object's share of the input picture is drawn from `fill` × [1 - spread, 1]; the focal length follows."""
    background_share: float = 0.0
    """Share of input pictures laid on a random grey instead of the background."""
    camera_noise: float = 0.0
    """Deviation by which the input camera's stated distance is wrong, relative. Its focal length is wrong with it: who guesses at a
    photo's lens still sees how large the object is in the picture."""
    light_spread: float = 0.0
    """The input picture's brightness is multiplied by exp(±spread) at most, as another exposure does; the targets stay."""

    def __post_init__(self) -> None:
        for name in ("fill_spread", "background_share", "camera_noise", "light_spread"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


STRONG = Augmentation(mirror=True, fill_spread=0.25, background_share=0.1, camera_noise=0.05, light_spread=0.3)
"""For tens or hundreds of objects."""


def draw_fill(rng: np.random.Generator, fill: float, settings: Augmentation) -> float:
    """The share of the picture that the object's longer side fills."""
    return fill * (1 - settings.fill_spread * rng.random()) if settings.fill_spread else fill


def draw_background(rng: np.random.Generator, background: float, settings: Augmentation) -> float:
    """The grey behind the object."""
    return float(rng.random()) if settings.background_share and rng.random() < settings.background_share else background


def exposed(rng: np.random.Generator, rgba: np.ndarray, settings: Augmentation) -> np.ndarray:
    """(H, W, 4) uint8 under another exposure; alpha stays."""
    if not settings.light_spread:
        return rgba
    factor = np.exp(rng.uniform(-1, 1) * settings.light_spread)
    colour = (rgba[..., :3] * factor).round().clip(0, 255).astype(np.uint8)
    return np.concatenate([colour, rgba[..., 3:]], axis=-1)


def misjudged(rng: np.random.Generator, camera: Tensor, settings: Augmentation) -> Tensor:
    """(16,) camera numbers with another distance and the focal length that shows the object as large from there, as a guess at a
    photo's camera would have. What lies as far away as the object's centre stays where it is in the picture."""
    if not settings.camera_noise:
        return camera
    factor = float(np.exp(rng.normal(0, settings.camera_noise)))
    changed = camera.clone()
    changed[[3, 7, 11]] *= factor
    changed[12:14] *= factor
    return changed


_MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def mirrored(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """A sample (`datasets.samples`) of the world mirrored left to right as its input camera sees it."""
    camera = sample["camera"]
    pose, lens = mirrored_camera(camera[:12].view(3, 4), camera[12:])
    poses, lenses = mirrored_camera(sample["world_from_camera"], sample["intrinsics"])
    uv = sample["uv"].clone()
    uv[..., 0] = 1 - uv[..., 0]
    turned: dict[str, Tensor] = {name: sample[name] * _MIRROR for name in ("normal", "points") if name in sample}
    return {
        **sample,
        **turned,
        "image": sample["image"].flip(-1),
        "camera": torch.cat([pose.reshape(12), lens]),
        "world_from_camera": poses,
        "intrinsics": lenses,
        "uv": uv,
        # The hull is looked up where the point would be had nothing been mirrored.
        "world_from_canonical": sample["world_from_canonical"] * _MIRROR,
    }


def mirrored_camera(world_from_camera: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Poses (..., 3, 4) and intrinsics (..., 4) -> those of the cameras that see the mirrored world (x → -x) as mirrored pictures."""
    pose = _MIRROR[:, None] * world_from_camera
    pose = cameras.compose(pose, torch.cat([torch.diag(_MIRROR), torch.zeros(3, 1)], dim=1).to(pose.dtype))
    lens = intrinsics.clone()
    lens[..., 2] = 1 - lens[..., 2]
    return pose, lens
