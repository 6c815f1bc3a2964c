"""What the picture shows where a token or a texel lies: read at its projection, and added to it.

A token, or a texel, stands for a column of space: all points with its two coordinates. Some of them are projected into the picture
by its camera, and what is there is read: image tokens for tokens (`Lift`), and for texels the features of convolutions, which keep
outlines and colours that 16-pixel patches blur (`DetailLift`; Yu et al. 2021, "pixelNeRF", reads them at every point).
Without it a network must first learn, from nothing, which part of the picture lies where, and until it has it answers every
picture with the mean object.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.triplane import TriplaneConfig, bent

NEAREST = 0.1
"""Object units before the camera; nearer points, which no object has, are read as if they lay there."""


class Lift(nn.Module):
    """Image tokens at points of each triplane token's column -> what is added to the token."""

    points: Tensor

    def __init__(self, context_width: int, width: int, tokens: int, count: int, planes: TriplaneConfig) -> None:
        """`count` points a column."""
        super().__init__()
        with torch.device("cpu"):  # real also where the parameters are on `meta`
            points = columns(tokens, count, planes)
        self.register_buffer("points", points, persistent=False)
        self.linear = nn.Linear(count * context_width, width)

    def forward(self, image_tokens: Tensor, camera: Tensor) -> Tensor:
        """image tokens (B, 1 + s², E), class token first; camera (B, 16), see `LRM.planes` -> (B, T, W)."""
        side = round((image_tokens.shape[1] - 1) ** 0.5)
        picture = image_tokens[:, 1:].float().transpose(1, 2).unflatten(2, (side, side))
        uv = projected(self.points.flatten(0, 1), camera.float())
        read = F.grid_sample(picture, uv[:, None] * 2 - 1, align_corners=False)
        columns_read = read[:, :, 0].transpose(1, 2).unflatten(1, self.points.shape[:2])
        return self.linear(columns_read.flatten(2))


class DetailLift(nn.Module):
    """The picture at points of each texel's column -> what is added to the planes."""

    points: Tensor

    def __init__(self, resolution: int, planes: TriplaneConfig, own: bool = True) -> None:
        """`resolution` texels a side. `own`: the features are found here, at half the picture's size; or they are given."""
        super().__init__()
        with torch.device("cpu"):
            points = columns(resolution, planes.detail_points, planes)
        features = planes.detail
        self.register_buffer("points", points, persistent=False)
        self.convolutions = _few_convolutions(features) if own else None
        self.linear = nn.Linear(planes.detail_points * features, planes.channels)
        # What is read begins as large as what the planes hold: of few convolutions torch's start leaves little, a pyramid more.
        self.linear.weight.data *= 4 if own else 0.5

    def forward(self, picture: Tensor, camera: Tensor) -> Tensor:
        """image (B, 3, S, S) in [0, 1], or the features given, (B, detail, s, s); camera (B, 16) -> (B, 3, C, R, R)."""
        features = (picture if self.convolutions is None else self.convolutions((picture - 0.5) / 0.25)).float()
        uv = projected(self.points.flatten(0, 1), camera.float()).unflatten(1, self.points.shape[:2])
        # What lies beyond the picture is as its border is: background.
        read = F.grid_sample(features, uv * 2 - 1, align_corners=False, padding_mode="border")
        texels = self.linear(read.permute(0, 2, 3, 1).flatten(2))
        side = round((texels.shape[1] / 3) ** 0.5)
        return texels.transpose(1, 2).unflatten(2, (3, side, side)).transpose(1, 2)


def _few_convolutions(features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, features, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(features, features, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(features, features, 3, padding=1),
    )


def columns(tokens: int, count: int, config: TriplaneConfig) -> Tensor:
    """(3 · tokens², count, 3): points of each token's column, canonical frame, in the order of the tokens."""
    directions = config.directions
    places = (torch.arange(tokens) + 0.5) * (2 / tokens) - 1
    along = (torch.arange(count) + 0.5) * (2 / count) - 1
    row, column, depth = torch.meshgrid(places, places, along, indexing="ij")
    planes = []
    for (column_axis, column_sign), (row_axis, row_sign) in zip(directions[0::2], directions[1::2], strict=True):
        points = torch.empty(*row.shape, 3)
        points[..., column_axis] = column_sign * column
        points[..., row_axis] = row_sign * row
        points[..., 3 - column_axis - row_axis] = depth
        planes.append(points.flatten(0, 1))
    return bent(torch.cat(planes), config.perspective)


def projected(points: Tensor, camera: Tensor) -> Tensor:
    """Points (N, 3) and cameras (B, 16), see `LRM.planes` -> uv (B, N, 2), [0, 1] within the picture."""
    pose, lens = camera[:, :12].view(-1, 3, 4), camera[:, 12:]
    seen = (points - pose[:, None, :, 3]) @ pose[:, :, :3]
    depth = (-seen[..., 2]).clamp(min=NEAREST)
    across = torch.stack([seen[..., 0], -seen[..., 1]], dim=-1) / depth[..., None]
    return across * lens[:, None, :2] + lens[:, None, 2:]
