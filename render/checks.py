"""What can be said of a picture without a person: how much is object, whether it is cut off, too dark or blown out."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_view(rgba: np.ndarray, depth: np.ndarray) -> dict[str, Any]:
    """The checks of one view: rgba (H, W, 4) uint8 straight alpha, depth (H, W) object units, 0 = nothing hit. JSON values.

    `coverage`: share of pixels that are object. `hit`: share with a depth. `border`: whether the object touches the picture's
    border. `black`, `blown`: shares of the object's pixels whose channels are all below 8, all above 252. `brightness`: mean
    of the object's pixels over all channels, 0 … 255.
    """
    alpha = rgba[..., 3]
    edge = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    inside = rgba[alpha >= 128][:, :3]
    count = max(len(inside), 1)
    return {
        "coverage": _rounded((alpha >= 128).mean()),
        "hit": _rounded((depth > 0).mean()),
        "border": bool((edge >= 8).any()),
        "black": _rounded((inside < 8).all(axis=1).sum() / count),
        "blown": _rounded((inside > 252).all(axis=1).sum() / count),
        "brightness": _rounded(inside.sum() / (3 * count)),
    }


def _rounded(value: float) -> float:
    return round(float(value), 5)
