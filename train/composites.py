"""Pictures to learn matting from: renders laid over made-up surroundings. Everything is drawn from an argument `rng`.

Surroundings are a texture, or a floor in perspective before a wall, with the object's shadow on it. Textures are noise of
several octaves, checks, stripes, gradients, tiles of random outline, and enlarged pieces of other renders. Pictures have
three channels in [0, 1], float32, sRGB; mattes lie in [0, 1]. As rembg squashes any picture to a square, so do these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Rng = np.random.Generator
TEXTURE_SIDE = 256


def clouds(rng: Rng, side: int = TEXTURE_SIDE) -> np.ndarray:
    """(side, side) noise of several octaves in [0, 1]."""
    total, amplitude, roughness = np.zeros((side, side), np.float32), 1.0, rng.uniform(0.35, 0.8)
    for octave in range(int(rng.integers(1, 3)), 8):
        cells = rng.random((2**octave, 2**octave), dtype=np.float32)
        total += amplitude * cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC)
        amplitude *= roughness
    return (total - total.min()) / max(float(np.ptp(total)), 1e-6)


def colours(rng: Rng, count: int) -> np.ndarray:
    """(count, 3): colours of one mood, from grey to gaudy."""
    base, spread = rng.random(3), rng.uniform(0.05, 1.0)
    return (base + spread * (rng.random((count, 3)) - base)).clip(0, 1).astype(np.float32)


def _coloured(rng: Rng, value: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3) by a ramp of colours."""
    count = int(rng.integers(2, 6))
    ramp, places = colours(rng, count), np.linspace(0, 1, count)
    return np.stack([np.interp(value, places, ramp[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def cells(rng: Rng, side: int = TEXTURE_SIDE) -> np.ndarray:
    """Tiles of random outline (Voronoi 1908), each of one colour with a little noise."""
    count = int(rng.integers(8, 120))
    points = rng.random((count, 2), dtype=np.float32) * side
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).astype(np.float32)
    nearest = np.argmin(((grid[:, :, None] - points) ** 2).sum(-1), axis=-1)
    return colours(rng, count)[nearest] + rng.uniform(0, 0.4) * (clouds(rng, side)[..., None] - 0.5)


def checks(rng: Rng, side: int = TEXTURE_SIDE) -> np.ndarray:
    """Squares or boards, turned, with joints or without."""
    angle, size = rng.uniform(0, np.pi), rng.uniform(6, 60, size=2)
    y, x = np.mgrid[:side, :side]
    u = (x * np.cos(angle) + y * np.sin(angle)) / size[0] + 1000
    v = (y * np.cos(angle) - x * np.sin(angle)) / size[1] + 1000
    if rng.random() < 0.5:
        kind = (u.astype(int) + v.astype(int)) % 2
    else:
        kind = (u.astype(int) * 7919 + (v + u.astype(int) * 0.37).astype(int) * 104729) % 13
    picture = colours(rng, 13)[kind] + rng.uniform(0, 0.3) * (clouds(rng, side)[..., None] - 0.5)
    joint = (u % 1 < rng.uniform(0, 0.08)) | (v % 1 < rng.uniform(0, 0.08))
    return np.where(joint[..., None], colours(rng, 1)[0], picture)


def stripes(rng: Rng, side: int = TEXTURE_SIDE) -> np.ndarray:
    """Wood-like: waves along a direction, bent by noise."""
    angle, pitch, bend = rng.uniform(0, np.pi), rng.uniform(4, 60), rng.uniform(0, 6)
    y, x = np.mgrid[:side, :side]
    phase = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / pitch
    return _coloured(rng, (0.5 + 0.5 * np.sin(phase + bend * clouds(rng, side))).astype(np.float32))


def gradient(rng: Rng, side: int = TEXTURE_SIDE) -> np.ndarray:
    """From one colour to others, in one direction, with hardly any grain."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:side, :side] / side - 0.5
    slope = (0.5 + 0.7 * (x * np.cos(angle) + y * np.sin(angle))).clip(0, 1)
    return _coloured(rng, slope) + rng.uniform(0, 0.1) * (clouds(rng, side)[..., None] - 0.5)


def noise(rng: Rng, side: int = TEXTURE_SIDE) -> np.ndarray:
    """Clouds by a ramp of colours, or in each channel for itself."""
    if rng.random() < 0.5:
        return _coloured(rng, clouds(rng, side))
    return np.stack([clouds(rng, side) for _ in range(3)], axis=-1) * rng.uniform(0.3, 1) + rng.uniform(0, 0.4)


TEXTURES = (noise, cells, checks, stripes, gradient)
SHARES = (0.3, 0.35, 0.15, 0.1, 0.1)
"""How often each of them is drawn."""


def piece_of(rng: Rng, render: np.ndarray, side: int = TEXTURE_SIDE) -> np.ndarray:
    """A quarter of a render's box or less, enlarged: real materials as surroundings."""
    height, width = render.shape[:2]
    h, w = max(int(height * rng.uniform(0.15, 0.5)), 2), max(int(width * rng.uniform(0.15, 0.5)), 2)
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    piece = render[top : top + h, left : left + w].astype(np.float32) / 255
    share = piece[..., 3:]
    mean = (piece[..., :3] * share).sum((0, 1)) / max(float(share.sum()), 1e-3)
    return cv2.resize(piece[..., :3] * share + mean * (1 - share), (side, side), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Ground:
    """What lies behind the object."""

    picture: np.ndarray
    """(S, S, 3)."""
    horizon: float
    """Share of the height above which there is wall; 0: floor or flat texture everywhere."""


def surroundings(rng: Rng, textures: Sequence[np.ndarray], size: int) -> Ground:
    """A flat texture, or a floor in perspective before a wall."""
    picture = _view_of(rng, textures[rng.integers(len(textures))], size)
    if rng.random() < 0.2:
        return Ground(picture, 0.0)
    horizon = rng.uniform(-0.3, 0.65)
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    depth = 1 / np.maximum(y - horizon, 0.02)
    turn, zoom = rng.uniform(0, 2 * np.pi), TEXTURE_SIDE * rng.uniform(0.08, 0.6)
    across, along = (x - rng.uniform(0.2, 0.8)) * depth * zoom, depth * zoom * rng.uniform(0.3, 1.2)
    u = across * np.cos(turn) - along * np.sin(turn)
    v = across * np.sin(turn) + along * np.cos(turn)
    texture = textures[rng.integers(len(textures))].astype(np.float32) / 255
    near, far = (
        cv2.remap(each, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        for each in (texture, cv2.blur(texture, (13, 13)))
    )
    # Far away a pixel covers many of the texture's, and would sparkle.
    covered = ((zoom * depth**2 / size - 1) / 5).clip(0, 1)[..., None]
    floor = near * (1 - covered) + far * covered
    light = 1 + rng.uniform(-0.3, 0.3) * (y - horizon)[..., None]
    return Ground(np.where(y[..., None] > horizon, floor * light, picture), max(horizon, 0.0))


def _view_of(rng: Rng, texture: np.ndarray, size: int) -> np.ndarray:
    side = int(rng.integers(TEXTURE_SIDE // 4, TEXTURE_SIDE + 1))
    top, left = rng.integers(0, TEXTURE_SIDE - side + 1, size=2)
    piece = cv2.resize(texture[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    return piece.astype(np.float32) / 255


def placed(rng: Rng, render: np.ndarray, horizon: float, size: int) -> np.ndarray:
    """A render's box (h, w, 4) uint8 -> (S, S, 4) float32 premultiplied, somewhere in a picture of some aspect, squashed."""
    aspect = rng.choice([16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16])
    height, width = render.shape[:2]
    longer = rng.uniform(0.3, 0.9) * min(aspect, 1) / max(width, height)  # shares of the picture's height, a pixel
    w, h = max(int(size * longer * width / aspect), 4), max(int(size * longer * height), 4)
    colour = render.astype(np.float32) / 255
    colour[..., :3] *= colour[..., 3:]
    if rng.random() < 0.5:
        colour = colour[:, ::-1]
    small = cv2.resize(np.ascontiguousarray(colour), (w, h), interpolation=cv2.INTER_AREA)
    # A tenth of it at most is cut off by the border.
    left = np.clip(rng.normal(0.5, 0.12) * size - w / 2, -0.1 * w, size - 0.9 * w)
    top = np.clip(max(rng.normal(0.7, 0.12), horizon + 0.05) * size - h, -0.1 * h, size - 0.9 * h)
    move = np.array([[1, 0, left], [0, 1, top]])
    return cv2.warpAffine(small, move, (size, size), flags=cv2.INTER_LINEAR)


def shadow(rng: Rng, matte: np.ndarray) -> np.ndarray:
    """(S, S) light that is left: the matte laid flat at its foot, blurred."""
    rows = np.flatnonzero(matte.max(axis=1) > 0.3)
    if len(rows) == 0 or rng.random() < 0.15:
        return np.ones_like(matte)
    foot, flat, lean = rows[-1], rng.uniform(0.1, 0.5) * rng.choice([-1, 1], p=[0.3, 0.7]), rng.uniform(-0.8, 0.8)
    lift = rng.uniform(0, 0.12) * (rows[-1] - rows[0])
    lay = np.array([[1, -lean * flat, lean * flat * foot], [0, flat, foot - lift - flat * foot]])
    fallen = cv2.warpAffine(matte, lay, matte.shape[::-1], flags=cv2.INTER_LINEAR)
    blur = rng.uniform(0.5, 6)
    return 1 - rng.uniform(0.1, 0.7) * cv2.GaussianBlur(fallen, (0, 0), blur)


def relit(rng: Rng, rgb: np.ndarray, strength: float) -> np.ndarray:
    """Other brightness, white balance, contrast and saturation."""
    gain = np.exp(rng.normal(0, 0.25 * strength) + rng.normal(0, 0.1 * strength, 3)).astype(np.float32)
    grey = rgb.mean(axis=-1, keepdims=True)
    saturated = grey + (rgb - grey) * np.float32(np.exp(rng.normal(0, 0.4 * strength)))
    return (saturated * gain).clip(0, 1) ** np.float32(np.exp(rng.normal(0, 0.2 * strength)))


def repainted(rng: Rng, rgb: np.ndarray, textures: Sequence[np.ndarray]) -> np.ndarray:
    """Another object of the same shape and shading: channels exchanged, a pattern or a tint laid on it, or neither."""
    if rng.random() < 0.5:
        rgb = rgb[..., rng.permutation(3)]
    if rng.random() < 0.4:
        pattern = _view_of(rng, textures[rng.integers(len(textures))], len(rgb))
        rgb = rgb * (rng.uniform(0.2, 0.6) + pattern)
    return rgb.clip(0, 1)


def composite(
    rng: Rng, render: np.ndarray | None, textures: Sequence[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """One picture (S, S, 3) and its matte (S, S). `render` is an object's box (h, w, 4) uint8; None: there is no object."""
    ground = surroundings(rng, textures, size)
    front = np.zeros((size, size, 4), np.float32) if render is None else placed(rng, render, ground.horizon, size)
    matte = front[..., 3]
    behind = relit(rng, ground.picture.clip(0, 1), 0.7) * shadow(rng, matte)[..., None]
    straight = front[..., :3] / np.maximum(matte, 1e-3)[..., None]
    object_colour = relit(rng, repainted(rng, straight, textures), 0.6)
    picture = relit(rng, object_colour * matte[..., None] + behind * (1 - matte[..., None]), 0.3)
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.8))
    noisy = picture + rng.normal(0, 1, picture.shape).astype(np.float32) * np.float32(rng.uniform(0, 0.025))
    return noisy.clip(0, 1).astype(np.float32), matte.clip(0, 1)


def texture_bank(rng: Rng, count: int, renders: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`count` textures (side, side, 3) uint8, an eighth of them pieces of renders."""
    bank = []
    for number in range(count):
        if number % 8 == 7:
            texture = piece_of(rng, renders[rng.integers(len(renders))])
        else:
            texture = TEXTURES[rng.choice(len(TEXTURES), p=SHARES)](rng)
        bank.append((texture.clip(0, 1) * 255).round().astype(np.uint8))
    return bank
