"""Whether a network has found anything.

rembg stretches every prediction to the full range before it returns it, so that the faintest stir in a picture without an
object becomes a matte. What the network itself said, before that, is judged here.
"""

from __future__ import annotations

import cv2
import numpy as np

LEAST_AREA = 0.002
"""Share of the picture: an object of 60×60 pixels in a full-HD frame. Less is a speck, and too small to learn from."""
LARGEST_AREA = 0.98
"""Share of the picture: more cuts nothing out."""
LEAST_CONFIDENCE = 0.7
"""Mean probability where it is above one half. Networks that see an object are at 0.9 and more, those that guess near 0.55."""
LEAST_CONCENTRATION = 0.25
"""Share of the area that lies in the largest piece, specks and threads removed. Objects of several parts pass, noise does not."""


def probabilities(raw: np.ndarray) -> np.ndarray:
    """(h, w) raw output -> probabilities: networks end in them, or in logits, which do not stay within [0, 1]."""
    if raw.min() >= -0.01 and raw.max() <= 1.01:
        return raw.clip(0, 1)
    return 1 / (1 + np.exp(-raw.clip(-50, 50)))


def what_is_wrong(probability: np.ndarray) -> str | None:
    """(h, w) probability of being the object -> why there is no object to be seen in it, or None."""
    found = probability > 0.5
    area = float(found.mean())
    if area < LEAST_AREA:
        return f"{100 * area:.2f} % of it is rather object than background, the highest probability is {probability.max():.2f}"
    if area > LARGEST_AREA:
        return f"{100 * area:.0f} % of it is taken for the object"
    confidence = float(probability[found].mean())
    if confidence < LEAST_CONFIDENCE:
        return f"the network is not sure of any object (mean probability {confidence:.2f} where it sees one)"
    concentration = _largest_piece(found) / found.sum()
    if concentration < LEAST_CONCENTRATION:
        return f"what is found lies scattered, its largest piece is {100 * concentration:.0f} % of it"
    return None


def _largest_piece(found: np.ndarray) -> int:
    """Pixels of the largest connected piece of (h, w) bool, after an opening by 3×3."""
    opened = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, _, statistics, _ = cv2.connectedComponentsWithStats(opened)
    return int(statistics[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0
