"""Tables, coffee tables and desks: a top of some outline, what carries it, aprons, drawers, shelves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from datasets.furniture import supports
from datasets.furniture.materials import FRAME_MATERIALS, Material, metal, paint, stone, wood
from datasets.furniture.pieces import Draw, Piece
from datasets.furniture.shapes import Solid, box, corner_share, lathe, prism, rectangle, superellipse
from datasets.furniture.supports import Stance

TOPS = ("rectangle", "round", "oval", "rounded", "boat", "drop", "octagon", "square")
BASES = (
    "square",
    "pedestal",
    "tapered",
    "trestle",
    "hairpin",
    "turned",
    "sled",
    "crossed",
    "slab",
    "round tapered",
    "cabriole",
    "sabre",
)
ROUND_TOPS = ("round", "octagon", "square", "drop")
"""As wide as deep: a column can carry them; two end frames cannot."""


def table(draw: Draw) -> Piece:
    """A dining table, a coffee or side table, or a desk."""
    use = draw.pick("use", ("dining", "coffee", "desk", "dining", "side"))
    return _desk(draw) if use == "desk" else _table(draw, use)


def _table(draw: Draw, use: str) -> Piece:
    shape, base = draw.pick("top", TOPS), draw.pick("base", BASES)
    if shape in ROUND_TOPS and base in ("trestle", "slab", "crossed"):
        base = "pedestal"
    elif shape not in ROUND_TOPS and base == "pedestal":
        base = "trestle"
    size, height = _size(draw, use, shape)
    thickness = draw.between(0.018, 0.05)
    piece = Piece("coffee_table" if use == "coffee" else "table", f"{shape} {use} table on {base} legs")
    frame = metal(draw.rng, "frame") if base == "hairpin" else draw.any(FRAME_MATERIALS)(draw.rng, "frame")
    top = draw.any((wood, wood, paint, stone))(draw.rng, "top") if draw.chance(0.6) else frame
    outline = _outline(shape, *size)
    piece.add(top, prism(outline, thickness, draw.any((0.003, 0.008, 0.35 * thickness))).moved(z=height - thickness))
    _carry(piece, draw, base, outline, height - thickness, frame)
    return piece


def _size(draw: Draw, use: str, shape: str) -> tuple[tuple[float, float], float]:
    """Width, depth and height in metres."""
    width = {"dining": draw.between(1.1, 2.1), "coffee": draw.between(0.8, 1.25), "side": draw.between(0.4, 0.65)}[use]
    height = {"dining": draw.between(0.71, 0.77), "coffee": draw.between(0.34, 0.46), "side": draw.between(0.45, 0.65)}[
        use
    ]
    if shape in ROUND_TOPS:
        width = {"dining": draw.between(0.85, 1.3), "coffee": draw.between(0.6, 0.95), "side": width}[use]
        return (width, width * (0.8 if shape == "drop" else 1.0)), height
    return (width, float(np.clip(width * draw.between(0.45, 0.7), 0.32, 1.0))), height


def _outline(shape: str, width: float, depth: float) -> np.ndarray:
    """(N, 2) of a top round the origin."""
    if shape in ("round", "oval"):
        return superellipse(width, depth, 2.0, 64)
    if shape == "boat":
        ends = superellipse(width, depth, 8.0, 64)
        return ends * np.column_stack([np.ones(len(ends)), 1 - 0.25 * (2 * ends[:, 0] / width) ** 2])
    if shape == "drop":
        angle = (np.arange(64) + 0.5) * (2 * np.pi / 64)
        radius = 1 + 0.32 * np.clip(np.cos(angle), 0, 1) ** 6
        drop = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return (drop - [0.16, 0]) * [width / 2.32, depth / 2.0]
    if shape == "octagon":
        angle = (np.arange(8) + 0.5) * (np.pi / 4)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1) * width / 2
    return rectangle(width, depth, {"rounded": 0.3 * depth, "rectangle": 0.012, "square": 0.03}[shape], 8)


def _carry(piece: Piece, draw: Draw, base: str, outline: np.ndarray, under: float, frame: Material) -> None:
    """Everything below the top, whose underside lies at height `under`."""
    width, depth = np.ptp(outline, axis=0)
    thickness = draw.between(0.05, 0.085) if under > 0.6 else draw.between(0.035, 0.05)
    share = corner_share(outline)
    inset = thickness / 2 + draw.between(0.005, 0.05)
    stance = Stance((share * width / 2 - inset, share * depth / 2 - inset), under + 0.002, thickness)
    if base == "pedestal":
        style = draw.pick("pedestal", ("disc", "feet", "tulip"))
        radius = min(width, depth) * draw.between(0.28, 0.36)
        piece.add(frame, *supports.pedestal(draw, style, radius, under + 0.002, 0.05 if under > 0.6 else 0.035))
        return
    frames: dict[str, Callable[[], list[Solid]]] = {
        "trestle": lambda: supports.trestle(draw, stance),
        "sled": lambda: supports.sled(stance, draw.chance(0.6)),
        "crossed": lambda: supports.crossed(stance),
        "slab": lambda: supports.slab(stance, draw.between(0.02, 0.05)),
    }
    if base in frames:
        piece.add(frame, *frames[base]())
        return
    splay = draw.between(0.0, 0.07) if base in ("round tapered", "tapered", "hairpin") else 0.0
    stance = Stance(stance.half, stance.height, thickness, splay)
    piece.add(frame, *supports.corner_legs(draw, base, stance))
    if base != "hairpin":
        _between_legs(piece, draw, base, stance, frame)


def _between_legs(piece: Piece, draw: Draw, base: str, stance: Stance, frame: Material) -> None:
    """Apron and drawers, stretchers or a lower shelf."""
    (w, d), h, t = stance.half, stance.height, stance.thickness
    apron = draw.between(0.06, 0.11)
    for y, length, turn in ((d, 2 * w, 0), (w, 2 * d, 90)):
        for sign in (-1, 1):
            board = box((length, 0.4 * t, apron), 0.002).moved(0, sign * y, h - apron / 2)
            piece.add(frame, board.turned((0, 0, 1), turn))
    if w > 0.35 and draw.chance(0.4):
        count = draw.whole(1, 3)
        _drawers(
            piece,
            frame,
            metal(draw.rng, "knob"),
            (-w + t, w - t),
            count,
            -d - 0.2 * t,
            (h - apron * 0.92, h - apron * 0.08),
        )
    if base in supports.STRAIGHT_LEGS:
        extra = draw.any(("none", "none", "H", "box", "shelf", "cross"))
        z = draw.between(0.15, 0.35) * h
        if extra == "shelf":
            half_w, half_d = stance.at(z)
            piece.add(frame, box((2 * half_w, 2 * half_d, 0.02), 0.003).moved(z=z))
        elif extra != "none":
            piece.add(frame, *supports.stretchers(extra, stance, z))


def _drawers(
    piece: Piece, front: Material, knob: Material, x: tuple[float, float], count: int, y: float, z: tuple[float, float]
) -> None:
    """A row of `count` drawer fronts with knobs, standing out a little from the plane at y, between x[0] … x[1] and z[0] … z[1]."""
    width = (x[1] - x[0]) / count
    for i in range(count):
        middle = (x[0] + width * (i + 0.5), (z[0] + z[1]) / 2)
        piece.add(front, box((width - 0.008, 0.016, z[1] - z[0]), 0.003).moved(middle[0], y, middle[1]))
        handles = [0.0] if width < 0.45 else [-width / 4, width / 4]
        for offset in handles:
            turned = lathe([(0.005, 0), (0.005, 0.012), (0.012, 0.018), (0.012, 0.024), (0.008, 0.028)], 12)
            piece.add(knob, turned.turned((1, 0, 0), 90).moved(middle[0] + offset, y - 0.006, middle[1]))


def _desk(draw: Draw) -> Piece:
    """A writing desk: drawers on one side or both, or none, a modesty panel, sometimes a shelf on top."""
    width, depth, height = draw.between(1.0, 1.7), draw.between(0.5, 0.75), draw.between(0.72, 0.76)
    thickness, kind = draw.between(0.02, 0.035), draw.pick("desk", ("left", "both", "right", "drawer", "hutch"))
    piece = Piece("desk", f"desk, {kind}")
    body, knob = draw.any((wood, wood, paint))(draw.rng, "body"), metal(draw.rng, "knob")
    top = wood(draw.rng, "top") if draw.chance(0.4) else body
    under = height - thickness
    piece.add(top, box((width, depth, thickness), 0.004, 2).moved(z=height - thickness / 2))
    chest = draw.between(0.34, 0.44)
    sides = {"left": (1,), "right": (-1,), "both": (-1, 1)}.get(kind, ())
    for sign in sides:
        _chest(piece, draw, body, knob, (sign * (width / 2 - chest / 2 - 0.015), chest), depth - 0.04, under)
    if sides:
        piece.add(body, box((width - 0.06, 0.018, 0.35), 0.002).moved(0, depth / 2 - 0.05, under - 0.175))
    half, t = (width / 2 - 0.035, depth / 2 - 0.035), draw.between(0.035, 0.05)
    legs_frame = body if draw.chance(0.5) else draw.any((paint, metal))(draw.rng, "legs")
    legs = supports.corner_legs(draw, draw.any(("square", "tapered", "round tapered")), Stance(half, under + 0.002, t))
    count = len(legs) // 2
    # Legs come left side first.
    piece.add(legs_frame, *([] if -1 in sides else legs[:count]), *([] if 1 in sides else legs[count:]))
    if not sides:
        rails = [box((2 * half[0], 0.018, 0.1), 0.002).moved(0, s * half[1], under - 0.05) for s in (-1, 1)]
        rails += [box((0.018, 2 * half[1], 0.1), 0.002).moved(s * half[0], 0, under - 0.05) for s in (-1, 1)]
        piece.add(body, *rails)
        _drawers(
            piece,
            body,
            knob,
            (-half[0] + t, half[0] - t),
            draw.whole(1, 3),
            -half[1] - 0.01,
            (under - 0.095, under - 0.006),
        )
    if kind == "hutch":
        _hutch(piece, draw, body, width, depth, height)
    return piece


def _chest(
    piece: Piece, draw: Draw, body: Material, knob: Material, x: tuple[float, float], depth: float, under: float
) -> None:
    """A stack of drawers below a desk's top. `x`: its middle and its width."""
    foot = draw.between(0.0, 0.08)
    piece.add(body, box((x[1], depth, under - foot + 0.002), 0.004).moved(x[0], 0, (under + foot) / 2))
    if foot:
        piece.add(body, box((x[1] - 0.04, depth - 0.06, foot + 0.01), 0.0).moved(x[0], 0, foot / 2 + 0.005))
    levels = np.linspace(foot + 0.02, under - 0.01, draw.whole(3, 5))
    for low, high in pairwise(levels):
        edges = (x[0] - x[1] / 2 + 0.012, x[0] + x[1] / 2 - 0.012)
        _drawers(piece, body, knob, edges, 1, -depth / 2 - 0.003, (low + 0.004, high - 0.004))


def _hutch(piece: Piece, draw: Draw, body: Material, width: float, depth: float, height: float) -> None:
    """A row of pigeon-holes at the back of a desk."""
    rise, deep, y = draw.between(0.2, 0.45), 0.22, depth / 2 - 0.11
    piece.add(body, box((width, deep, 0.018), 0.002).moved(0, y, height + rise))
    piece.add(body, box((width - 0.02, 0.012, rise), 0.0).moved(0, depth / 2 - 0.008, height + rise / 2))
    for x in np.linspace(-width / 2 + 0.01, width / 2 - 0.01, draw.whole(3, 6)):
        piece.add(body, box((0.018, deep, rise + 0.01), 0.002).moved(float(x), y, height + rise / 2))
