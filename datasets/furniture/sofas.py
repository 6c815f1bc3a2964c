"""Sofas: one to four seats, with arms, cushions, legs, and sometimes a chaise that makes it an L."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.furniture import supports
from datasets.furniture.materials import UPHOLSTERY, Material, cloth, metal, paint, wood
from datasets.furniture.pieces import Draw, Piece
from datasets.furniture.shapes import Solid, X, box, circle, cushion, filleted, pillow, rectangle, sweep
from datasets.furniture.supports import Stance

ARMS = ("box", "rolled", "sloped", "slim", "frame", "none", "low", "flared")
LEGS = ("tapered", "block", "plinth", "metal", "turned", "sled", "round tapered", "bun")
BACKS = ("cushions", "tight", "buttoned", "channels", "curved")


@dataclass(frozen=True)
class Body:
    """Measures of a sofa, metres."""

    seats: int
    pitch: float
    """Width of one seat."""
    depth: float
    """From the front of the seat to the rear of the back."""
    clear: float
    """Underside above the ground."""
    seat: float
    """Top of the seat cushions above the ground."""
    back: float
    """Top of the back above the ground."""
    back_depth: float
    """Thickness of the back's frame."""
    arm: float
    """Thickness of an arm."""
    chaise: int
    """-1 or 1: the side of a chaise; 0: none."""

    @property
    def inner(self) -> float:
        """Width between the arms."""
        return self.seats * self.pitch


def sofa(draw: Draw) -> Piece:
    """A sofa unlike the others."""
    seats = draw.pick("seats", (2, 3, 1, 3, 2, 4))
    arms, legs, back = draw.pick("arms", ARMS), draw.pick("legs", LEGS), draw.pick("back", BACKS)
    chaise = draw.any((-1, 1)) if seats >= 2 and draw.chance(0.3) else 0
    clear = {"plinth": 0.04, "block": draw.between(0.06, 0.1), "bun": 0.09}.get(legs, draw.between(0.11, 0.18))
    body = Body(
        seats=seats,
        pitch=draw.between(0.55, 0.72),
        depth=draw.between(0.8, 0.98),
        clear=clear,
        seat=draw.between(0.39, 0.46),
        back=draw.between(0.7, 0.95),
        back_depth=draw.between(0.12, 0.2),
        arm={"slim": 0.07, "frame": 0.05, "none": 0.0}.get(arms, draw.between(0.13, 0.24)),
        chaise=chaise,
    )
    shape = "L-shaped " if chaise else ""
    piece = Piece(
        "armchair" if seats == 1 else "sofa", f"{shape}sofa of {seats}, {arms} arms, {back} back, {legs} legs"
    )
    cover = draw.any((cloth, cloth, *UPHOLSTERY))(draw.rng, "cover")
    frame = metal(draw.rng, "legs") if legs in ("metal", "sled") else draw.any((wood, wood, paint))(draw.rng, "legs")
    _base(piece, body, cover)
    _legs(piece, draw, body, legs, frame)
    _seat_cushions(piece, draw, body, cover)
    _back(piece, draw, body, back, cover)
    _arms(piece, draw, body, arms, cover, frame)
    _pillows(piece, draw, body)
    return piece


def _front(body: Body) -> float:
    return -body.depth / 2


def _chaise_length(body: Body) -> float:
    """How far a chaise reaches in front of the seats."""
    return 0.62 * body.depth


def _base(piece: Piece, body: Body, cover: Material) -> None:
    """The upholstered frame under the cushions."""
    height = body.seat - 0.13 - body.clear
    z = body.clear + height / 2
    piece.add(cover, box((body.inner + 2 * body.arm * 0.9, body.depth - 0.02, height), 0.018, 2).moved(0, 0.0, z))
    if body.chaise:
        length = _chaise_length(body)
        x = body.chaise * (body.inner - body.pitch) / 2
        y = _front(body) - length / 2 + 0.03
        piece.add(cover, box((body.pitch, length + 0.06, height), 0.018, 2).moved(x, y, z))


def _seat_cushions(piece: Piece, draw: Draw, body: Body, cover: Material) -> None:
    thickness, softness = 0.15, draw.between(0.2, 1.0)
    depth = body.depth - body.back_depth + 0.01
    count = body.seats if draw.chance(0.75) or body.chaise else 1
    pitch = body.inner / count
    for i in range(count):
        x = (i + 0.5) * pitch - body.inner / 2
        is_chaise = body.chaise == (1 if i == count - 1 else -1 if i == 0 else 0) and body.chaise != 0
        length = depth + (_chaise_length(body) + 0.02 if is_chaise else 0.0)
        y = _front(body) - 0.015 - (length - depth) + length / 2
        piece.add(
            cover, cushion((pitch - 0.004, length, thickness), softness, 8).moved(x, y, body.seat - thickness / 2)
        )


def _back(piece: Piece, draw: Draw, body: Body, style: str, cover: Material) -> None:
    """The frame behind, and what is leant on."""
    width, height = body.inner + 2 * body.arm * 0.9, body.back - body.clear - 0.02
    rear = body.depth / 2
    lean = draw.between(4, 11)
    low = style == "cushions" and draw.chance(0.6)
    frame_height = height - (0.12 if low else 0.0)
    frame = box((width, body.back_depth, frame_height), 0.05, 3, divisions=8)
    if style == "curved":
        frame = frame.bent(lambda p: p - np.outer(np.clip(p[:, 2], 0, None) * (2 * p[:, 0] / width) ** 2, [0, 0, 0.35]))
    piece.add(
        cover,
        _raked(frame.moved(0, rear - body.back_depth / 2, body.clear + 0.02 + frame_height / 2), lean, body, rear),
    )
    face = rear - body.back_depth
    top = body.back - body.seat
    if style in ("cushions", "curved"):
        for x in _centres(body):
            soft = cushion((body.pitch - 0.01, top + 0.02, draw.between(0.15, 0.2)), draw.between(0.6, 1.0), 8)
            upright = soft.turned(X, 90 - draw.between(6, 12)).moved(x, face - 0.05, body.seat + top / 2 - 0.005)
            piece.add(cover, upright)
        return
    panel = box((body.inner, 0.08, top), 0.03, 2).moved(0, face - 0.01, body.seat - 0.03 + top / 2)
    piece.add(cover, _raked(panel, lean, body, rear))
    if style == "channels":
        count = round(body.inner / draw.between(0.09, 0.16))
        width = body.inner / count
        for x in (np.arange(count) + 0.5) * width - body.inner / 2:
            roll = box((width, 0.1, top), 0.4 * width, 3).moved(float(x), face - 0.03, body.seat - 0.02 + top / 2)
            piece.add(cover, _raked(roll, lean, body, rear))
    elif style == "buttoned":
        _buttons(piece, body, lean, face, top, rear, cover)


def _buttons(piece: Piece, body: Body, lean: float, face: float, top: float, rear: float, cover: Material) -> None:
    """Puffs in rows, staggered, pressed together as deep buttoning presses them."""
    columns, rows = max(3, round(body.inner / 0.16)), 3
    width, height = body.inner / columns, top / rows
    for row in range(rows):
        for column in range(columns - row % 2):
            x = (column + 0.5 + 0.5 * (row % 2)) * width - body.inner / 2
            puff = box((width * 1.05, 0.1, height * 1.05), 0.045, 2).moved(
                x, face - 0.025, body.seat - 0.02 + (row + 0.5) * height
            )
            piece.add(cover, _raked(puff, lean, body, rear))


def _raked(solid: Solid, lean: float, body: Body, rear: float) -> Solid:
    """Sheared backwards above the seat: a back leans, its lower part stays upright on the frame."""
    slope = np.tan(np.deg2rad(lean))
    return solid.bent(lambda p: p + np.outer(np.clip(p[:, 2] - body.seat + 0.1, 0, None) * slope, [0, 1, 0]))


def _centres(body: Body) -> list[float]:
    return [(i + 0.5) * body.pitch - body.inner / 2 for i in range(body.seats)]


def _arms(piece: Piece, draw: Draw, body: Body, style: str, cover: Material, frame: Material) -> None:
    """Left and right; a chaise's side keeps its arm, which ends at the seats."""
    if style == "none":
        return
    t, depth = body.arm, body.depth
    x, top = body.inner / 2 + t / 2, body.seat + draw.between(0.14, 0.22)
    if style == "frame":
        section = rectangle(0.045, 0.03, 0.008, 2)
        loop = filleted(
            [
                (x, _front(body) + 0.04, body.clear),
                (x, _front(body) + 0.02, top),
                (x, depth / 2 - 0.02, top - 0.02),
                (x, depth / 2 - 0.05, body.clear),
            ],
            0.05,
            4,
        )
        piece.pair(frame, sweep(loop, section, up=X))
        bars = [(_front(body) + s * depth) for s in np.linspace(0.2, 0.75, draw.whole(3, 6))]
        piece.pair(frame, *(sweep([(x, y, body.seat - 0.2), (x, y, top - 0.008)], circle(0.009, 8)) for y in bars))
        return
    if style == "low":
        top = body.seat + 0.04
    if style == "rolled":
        top -= 0.05
    height = top - body.clear
    block = box((t, depth, height), min(0.035, 0.4 * t), 3, divisions=6).moved(x, 0, body.clear + height / 2)
    if style == "sloped":
        drop = draw.between(0.06, 0.14)
        block = block.bent(
            lambda p: (
                p - np.outer(np.clip(p[:, 2] - body.seat, 0, None) / 0.2 * drop * (0.5 - p[:, 1] / depth), [0, 0, 1])
            )
        )
    if style == "flared":
        flare = draw.between(0.25, 0.5)
        block = block.bent(lambda p: p + np.outer(np.clip(p[:, 2] - body.seat + 0.1, 0, None) * flare, [1, 0, 0]))
    piece.pair(cover, block)
    if style == "rolled":
        radius = t * 0.55
        path = np.column_stack([np.full(2, x + 0.02), [_front(body) - 0.012, depth / 2 - 0.03], np.full(2, top)])
        piece.pair(cover, sweep(path, circle(radius, 24)))


def _legs(piece: Piece, draw: Draw, body: Body, style: str, frame: Material) -> None:
    width, depth = body.inner + 2 * body.arm * 0.9, body.depth
    top = body.clear + 0.02
    if style == "plinth":
        piece.add(frame, box((width - 0.08, depth - 0.1, top), 0.0).moved(0, 0, top / 2))
        if body.chaise:
            x = body.chaise * (body.inner - body.pitch) / 2
            length = _chaise_length(body)
            piece.add(
                frame, box((body.pitch - 0.08, length, top), 0.0).moved(x, _front(body) - length / 2 + 0.06, top / 2)
            )
        return
    half = (width / 2 - 0.07, depth / 2 - 0.08)
    kinds = {"metal": "round", "block": "square", "sled": "square", "bun": "round tapered"}
    thickness = {"block": 0.08, "metal": 0.028, "bun": 0.09}.get(style, 0.045)
    stance = Stance(
        half, top, thickness, draw.between(0, 0.03) if style in ("tapered", "round tapered", "metal") else 0.0
    )
    if style == "sled":
        piece.add(frame, *supports.sled(stance, square=True))
    else:
        piece.add(frame, *supports.corner_legs(draw, kinds.get(style, style), stance))
    if body.inner > 2.0 and style != "sled":
        middle = Stance((0.05, half[1]), top, thickness)
        piece.add(frame, *supports.corner_legs(draw, kinds.get(style, style), middle)[-2:])
    if body.chaise:
        x = body.chaise * (body.inner - body.pitch) / 2
        spread = Stance((body.pitch / 2 - 0.06, 0.02), top, thickness)
        legs = supports.corner_legs(draw, kinds.get(style, style) if style != "sled" else "square", spread)
        # Left and right of the two rows; one row is enough.
        chosen = [legs[0], legs[len(legs) // 2]]
        piece.add(frame, *(leg.moved(x, _front(body) - _chaise_length(body) + 0.1) for leg in chosen))


def _pillows(piece: Piece, draw: Draw, body: Body) -> None:
    """Loose cushions that lean in the corners."""
    count = draw.any((0, 1, 2, 2, 3)) if body.seats > 1 else draw.any((0, 1))
    material = cloth(draw.rng, "pillow")
    for i in range(count):
        size = draw.between(0.38, 0.46)
        side = -1 if i % 2 == 0 else 1
        x = side * (body.inner / 2 - size * 0.55) + (0.3 * side * -1 if i == 2 else 0)
        soft = pillow((size, size, 0.16)).turned(X, 68).turned((0, 0, 1), -side * draw.between(5, 25))
        lowest = float(soft.vertices[:, 2].min())
        y = body.depth / 2 - body.back_depth - 0.24
        piece.add(material, soft.moved(x, y, body.seat - 0.008 - lowest))
