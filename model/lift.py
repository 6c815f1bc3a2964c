"""What the picture shows where a token lies: image tokens read at the token's projection and added to its start.

A token stands for a column of space, all points with its two coordinates. Some of them are projected into the picture by its
camera, and the image tokens there are read. Without it a network must first learn, from nothing, which part of the picture lies
where, and until it has it answers every picture with the mean object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEAREST = 0.1
"""Object units before the camera; nearer points, which no object has, are read as if they lay there."""


class Lift(nn.Module):
    """Image tokens at points of each triplane token's column -> what is added to the token."""

    points: Tensor

    def __init__(
        self, context_width: int, width: int, tokens: int, count: int, directions: Sequence[tuple[int, float]]
    ) -> None:
        """`count` points a column; `directions`: `TriplaneConfig.directions`."""
        super().__init__()
        with torch.device("cpu"):  # real also where the parameters are on `meta`
            points = columns(tokens, count, directions)
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


def columns(tokens: int, count: int, directions: Sequence[tuple[int, float]]) -> Tensor:
    """(3 · tokens², count, 3): points of each token's column in [-1, 1]³, canonical frame, in the order of the tokens."""
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
    return torch.cat(planes)


def projected(points: Tensor, camera: Tensor) -> Tensor:
    """Points (N, 3) and cameras (B, 16), see `LRM.planes` -> uv (B, N, 2), [0, 1] within the picture."""
    pose, lens = camera[:, :12].view(-1, 3, 4), camera[:, 12:]
    seen = (points - pose[:, None, :, 3]) @ pose[:, :, :3]
    depth = (-seen[..., 2]).clamp(min=NEAREST)
    across = torch.stack([seen[..., 0], -seen[..., 1]], dim=-1) / depth[..., None]
    return across * lens[:, None, :2] + lens[:, None, 2:]
