"""LPIPS (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features"), version 0.1 over VGG-16, in plain torch.

The published package needs torchvision, whose build must match torch's; the measure itself is a stack of convolutions and
five linear heads. The weights are not ours to ship: `load` takes the two published files from a folder, and a missing one
is an error, never a loss that is silently left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from turntable.errors import UserError

BACKBONE_FILE = "vgg16-397923af.pth"
"""torchvision's VGG-16 (ImageNet, V1), as torch.hub caches it."""
HEADS_FILE = "vgg.pth"
"""The linear heads of LPIPS v0.1 for VGG, as the lpips package ships them in `lpips/weights/v0.1/`."""

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Perceptual distance between two pictures; 0 for equal ones. All parameters are frozen."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = 3
        for widths in _STAGES:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1, bias=False) for widths in _STAGES)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [0, 1] -> five maps of unit length along the channels."""
        x = (pictures * 2 - 1 - self.mean) / self.deviation
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(functional.max_pool2d(x, 2) if index else x)
            maps.append(functional.normalize(x, dim=1, eps=1e-10))
        return maps

    def forward(self, pictures_a: Tensor, pictures_b: Tensor) -> Tensor:
        """(N, 3, H, W) twice, in [0, 1], sides of at least 16 pixels -> (N,) distances."""
        distance = pictures_a.new_zeros(len(pictures_a))
        for a, b, head in zip(self.features(pictures_a), self.features(pictures_b), self.heads, strict=True):
            distance = distance + head((a - b) ** 2).mean(dim=(1, 2, 3))
        return distance


def found(folder: Path | None) -> bool:
    """Whether the weights are where `load` looks for them."""
    folder = folder or default_folder()
    return all((folder / name).is_file() for name in (BACKBONE_FILE, HEADS_FILE))


def default_folder() -> Path:
    """torch.hub's checkpoint cache."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def of_pictures(model: LPIPS, a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two pictures (S, S, 3) in [0, 1]."""
    device = model.mean.device
    first, second = (
        torch.as_tensor(each, dtype=torch.float32, device=device).permute(2, 0, 1)[None] for each in (a, b)
    )
    with torch.no_grad():
        return float(model(first, second))


def load(folder: Path | None) -> LPIPS:
    """LPIPS with the published weights from `folder` (default: torch.hub's checkpoint cache). Never downloads.

    Raises UserError naming the file that is missing or does not fit.
    """
    folder = folder or default_folder()
    backbone, heads = (_read(folder / name) for name in (BACKBONE_FILE, HEADS_FILE))
    state = {}
    layer = 0
    for stage, widths in enumerate(_STAGES):
        for convolution in range(len(widths)):
            for kind in ("weight", "bias"):
                state[f"stages.{stage}.{2 * convolution}.{kind}"] = backbone.get(f"features.{layer}.{kind}")
            layer += 2
        layer += 1  # the pooling layer between two stages
        state[f"heads.{stage}.weight"] = heads.get(f"lin{stage}.model.1.weight")
    model = LPIPS()
    expected = model.state_dict()
    wrong = [name for name, tensor in state.items() if tensor is None or tensor.shape != expected[name].shape]
    if wrong:
        raise UserError(
            f"{folder}: {BACKBONE_FILE} or {HEADS_FILE} lacks what {wrong[0]} needs ({len(wrong)} tensors in all)"
        )
    model.load_state_dict({**state, "mean": model.mean, "deviation": model.deviation})
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise UserError(
            f"{path}: LPIPS was asked for and this file is not there; put {BACKBONE_FILE} (torchvision's VGG-16) and "
            f"{HEADS_FILE} (lpips v0.1) into one folder and name it with --lpips-weights, or leave --lpips at 0"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a weights file ({type(error).__name__}: {str(error)[:200]})") from error
