"""Whether a network has found anything: objects pass, what is no object does not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from preprocess.subjects import probabilities, what_is_wrong

SIDE = 160


def blank(value: float) -> np.ndarray:
    return np.full((SIDE, SIDE), value, np.float32)


def drawn(draw: str, low: float = 0.02, high: float = 0.97) -> np.ndarray:
    """A soft shape."""
    picture = blank(low)
    if draw == "disc":
        cv2.circle(picture, (70, 90), 40, high, -1)
    elif draw == "chair":  # legs of three pixels
        cv2.rectangle(picture, (60, 70), (100, 80), high, -1)
        cv2.rectangle(picture, (60, 30), (100, 60), high, -1)
        for x in (60, 98):
            cv2.rectangle(picture, (x, 60), (x + 2, 130), high, -1)
    elif draw == "pair":
        cv2.circle(picture, (40, 90), 20, high, -1)
        cv2.circle(picture, (110, 90), 20, high, -1)
    elif draw == "small":
        cv2.circle(picture, (80, 80), 5, high, -1)
    return cv2.GaussianBlur(picture, (0, 0), 0.8)


@pytest.mark.parametrize("draw", ["disc", "chair", "pair", "small"])
def test_objects_pass(draw: str) -> None:
    assert what_is_wrong(drawn(draw)) is None
    assert what_is_wrong(drawn(draw, high=0.85)) is None  # an unsure network that has still seen it


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (blank(0.0), "0.00 % of it"),
        (blank(0.49), "0.00 % of it"),
        (blank(0.9), "100 % of it is taken"),
        (drawn("disc", high=0.4), "highest probability is 0.40"),
        (drawn("disc", low=0.3, high=0.6), "not sure"),
        (np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32), "scattered"),
        ((np.random.default_rng(1).random((SIDE, SIDE)) < 0.05).astype(np.float32), "scattered"),
        (0.45 + 0.1 * np.random.default_rng(2).random((SIDE, SIDE)).astype(np.float32), "not sure"),
    ],
)
def test_what_is_no_object_does_not(probability: np.ndarray, words: str) -> None:
    wrong = what_is_wrong(probability)
    assert wrong is not None and words in wrong


def test_logits_and_probabilities_mean_the_same() -> None:
    logits = np.linspace(-9, 9, 64).reshape(8, 8).astype(np.float32)
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(probabilities(logits), expected, rtol=1e-6)
    np.testing.assert_allclose(probabilities(expected), expected, rtol=1e-6)
