"""Chairs, armchairs and stools: a seat, something to stand on, a back, arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.furniture import supports
from datasets.furniture.materials import FRAME_MATERIALS, UPHOLSTERY, Material, metal, paint, plastic, wood
from datasets.furniture.pieces import Draw, Piece
from datasets.furniture.shapes import (
    Solid,
    X,
    Y,
    box,
    circle,
    corner_share,
    filleted,
    prism,
    rectangle,
    rod,
    superellipse,
    sweep,
)
from datasets.furniture.supports import Stance

BACKS = (
    "slats",
    "ladder",
    "panel",
    "padded",
    "hoop",
    "comb",
    "cross",
    "splat",
    "barrel",
    "shell",
    "cushion",
    "none",
)
FRAMED = ("slats", "ladder", "panel", "cross", "splat")
"""Backs between two posts, which go on from the rear legs."""
BASES = (
    "square",
    "tapered",
    "round tapered",
    "turned",
    "sabre",
    "sled",
    "star",
    "cantilever",
    "cabriole",
    "round",
    "crossed",
    "pedestal",
    "hairpin",
)
SEATS = ("square", "trapezoid", "round", "horseshoe", "soft")


@dataclass(frozen=True)
class Seat:
    """The plane that is sat on."""

    width: float
    """Metres, at its widest."""
    depth: float
    """Metres."""
    height: float
    """Metres from the ground to its upper side, without a cushion."""
    thickness: float
    """Metres."""
    outline: np.ndarray
    """(N, 2) counter-clockwise, the origin in its middle."""

    @property
    def rear_width(self) -> float:
        """Metres across, just before its rear edge."""
        return 2 * self.half_width(0.42 * self.depth)

    def half_width(self, y: float) -> float:
        """Metres from the middle to the right edge at y."""
        right = self.outline[self.outline[:, 0] > 0]
        right = right[np.argsort(right[:, 1], kind="stable")]
        return float(np.interp(y, right[:, 1], right[:, 0]))

    def rear_edge(self, x: np.ndarray) -> np.ndarray:
        """y of the rear edge at x."""
        rear = self.outline[self.outline[:, 1] > 0]
        rear = rear[np.argsort(rear[:, 0], kind="stable")]
        return np.interp(x, rear[:, 0], rear[:, 1])


@dataclass(frozen=True)
class Back:
    """The curved surface that a back lies in: u runs from -1 (right side seen from the front) to 1, s from 0 (seat) to 1 (top)."""

    seat: Seat
    width: tuple[float, float]
    """Metres between its sides at the seat and at the top."""
    height: float
    """Metres above the seat."""
    rake: float
    """Degrees that it leans back."""
    bow: float
    """Metres that its middle lies further back than its sides."""
    curl: float = 0.0
    """Metres that its top bends further back."""

    def point(self, u: np.ndarray | float, s: np.ndarray | float) -> np.ndarray:
        """(..., 3) world positions."""
        u, s = np.broadcast_arrays(np.asarray(u, dtype=float), np.asarray(s, dtype=float))
        x = u * (self.width[0] + (self.width[1] - self.width[0]) * s) / 2
        lean = np.deg2rad(self.rake)
        # Its foot follows the seat's rear edge, which may be round.
        rear = self.seat.rear_edge(u * self.width[0] / 2) - 0.02
        y = rear + s * self.height * np.sin(lean) + self.curl * s**2 + self.bow * (1 - u**2) * np.minimum(1, 2 * s)
        return np.stack([x, y, self.seat.height + s * self.height * np.cos(lean)], axis=-1)

    def rail(self, s: float, section: np.ndarray, reach: float = 1.0) -> Solid:
        """A bar across at s."""
        return sweep(self.point(np.linspace(-reach, reach, 9), s), section)

    def upright(
        self, u: float, section: np.ndarray, s0: float = 0.0, s1: float = 1.0, scale: Sequence[float] = (1, 1)
    ) -> Solid:
        """A bar from s0 up to s1."""
        s = np.linspace(s0, s1, 6)
        return sweep(self.point(np.full(6, u), s), section, np.interp(s, [s0, s1], scale), up=Y)

    def sheet(
        self,
        thickness: float,
        u: tuple[float, float] = (-1, 1),
        s: tuple[float, float] = (0, 1),
        top: Callable[[np.ndarray], np.ndarray] = np.ones_like,
        radius: float = 0.006,
    ) -> Solid:
        """A board or a padded panel over a part of the back; `top(u)` is the share of its height that it reaches at u."""
        extent = (self.width[0] * (u[1] - u[0]) / 2, thickness, self.height * (s[1] - s[0]))

        def wrap(p: np.ndarray) -> np.ndarray:
            across = u[0] + (u[1] - u[0]) * (p[:, 0] / extent[0] + 0.5)
            up = (p[:, 2] / extent[2] + 0.5) * top(across)
            return self.point(across, s[0] + (s[1] - s[0]) * up) + np.outer(p[:, 1], [0, 1, 0])

        return box(extent, radius, segments=2, divisions=10).bent(wrap)


def chair(draw: Draw) -> Piece:
    """A chair unlike the others."""
    style, base = draw.pick("back", BACKS), draw.pick("base", BASES)
    seat = _seat_of(draw, style)
    title = f"stool on {base} legs" if style == "none" else f"{style} chair on {base} legs"
    piece = Piece("stool" if style == "none" else "chair", title)
    frame = _frame_material(draw, base)
    body = draw.any((wood, wood, paint))(draw.rng, "seat") if draw.chance(0.35) else frame
    if style in ("shell", "barrel"):
        body = draw.any((plastic, *UPHOLSTERY))(draw.rng, "shell")
    pad = draw.any(UPHOLSTERY)(draw.rng, "pad")
    _stand(piece, draw, base, seat, frame, style)
    if style == "shell":
        _shell(piece, draw, seat, body)
    else:
        _seat(piece, draw, seat, body, pad)
        _BACKS[style](piece, draw, seat, body if style == "barrel" else frame, pad)
    if (style in FRAMED or style in ("cushion", "shell")) and draw.chance(0.4):
        _arms(piece, draw, seat, frame, pad, style)
    return piece


def _seat_of(draw: Draw, style: str) -> Seat:
    stool = style == "none"
    tall = stool and draw.chance(0.5)
    if style in FRAMED:
        shape = draw.pick("framed seat", ("square", "trapezoid"))
    else:
        shape = draw.pick("seat", ("round", "horseshoe", "soft") if style in ("barrel", "hoop", "comb") else SEATS)
    width = draw.between(0.33, 0.40) if stool else draw.between(0.41, 0.52)
    depth = draw.between(0.32, 0.38) if stool else draw.between(0.40, 0.48)
    height = draw.between(0.62, 0.76) if tall else draw.between(0.41, 0.47)
    # A moulded shell is thin: what carries it must reach up into it.
    thickness = 0.012 if style == "shell" else draw.between(0.018, 0.045)
    return Seat(width, depth, height, thickness, _outline(shape, width, depth))


def _frame_material(draw: Draw, base: str) -> Material:
    if base in ("star", "cantilever", "hairpin"):
        return metal(draw.rng, "frame")
    if base in ("turned", "cabriole", "sabre", "tapered"):
        return draw.any((wood, wood, wood, paint))(draw.rng, "frame")
    return draw.any(FRAME_MATERIALS)(draw.rng, "frame")


def _stand(piece: Piece, draw: Draw, base: str, seat: Seat, frame: Material, style: str) -> None:
    """What carries the seat, from the ground to a little inside it."""
    continuous = style in FRAMED
    top = seat.height - seat.thickness * 0.6
    thickness = draw.between(0.032, 0.045)
    inset = thickness / 2 if continuous else draw.between(0.03, 0.05)
    splay = draw.between(0.0, 0.03) if continuous else draw.between(0.02, 0.06)
    if base in ("cabriole", "sabre", "turned"):
        splay = 0.0
    if style == "shell":
        # Its sides turn up; it is held in the middle, on a plate.
        inset, splay = 0.1, splay + 0.05
        piece.add(frame, box((seat.width - 0.2, seat.depth - 0.2, 0.024), 0.004).moved(z=top - 0.01))
    share = corner_share(seat.outline)
    half = (share * seat.width / 2 - inset, share * seat.depth / 2 - max(inset, 0.02))
    stance = Stance(half, top, thickness, splay)
    if base in supports.CORNER_LEGS:
        piece.add(frame, *supports.corner_legs(draw, base, stance))
        if base in supports.STRAIGHT_LEGS and (seat.height > 0.6 or draw.chance(0.6)):
            z = draw.between(0.25, 0.5) * top
            piece.add(frame, *supports.stretchers(draw.any(("H", "box", "cross", "sides")), stance, z))
        if base != "hairpin" and draw.chance(0.7):
            apron = rectangle(2 * half[0], 2 * half[1])
            piece.add(frame, prism(apron, 0.05, 0.002).moved(z=top - 0.045))
    elif base == "pedestal":
        style = draw.any(("disc", "tulip", "feet"))
        piece.add(frame, *supports.pedestal(draw, style, draw.between(0.22, 0.27), top, 0.03))
    elif base == "star":
        piece.add(frame, *supports.star(draw.between(0.27, 0.31), top))
    else:
        wide = replace(stance, half=(half[0], max(half[1], 0.42 * seat.depth)), splay=0.0)
        square = draw.chance(0.5)
        solids = {"sled": lambda: supports.sled(wide, square), "cantilever": lambda: supports.cantilever(wide)}
        piece.add(frame, *solids.get(base, lambda: supports.crossed(wide))())


def _seat(piece: Piece, draw: Draw, seat: Seat, body: Material, pad: Material) -> None:
    piece.add(body, prism(seat.outline, seat.thickness, 0.008).moved(z=seat.height - seat.thickness))
    if draw.chance(0.5):
        cover = prism(
            seat.outline * draw.between(0.9, 0.98), draw.between(0.02, 0.05), 0.014, draw.between(0.005, 0.02)
        )
        piece.add(pad, cover.moved(z=seat.height - 0.002))


def _outline(shape: str, width: float, depth: float) -> np.ndarray:
    """(N, 2) of a seat; its middle lies at the origin."""
    if shape == "round":
        return superellipse(width, depth, 2.0)
    if shape == "soft":
        return superellipse(width, depth, 3.2)
    square = rectangle(width, depth, 0.035, 5)
    if shape == "trapezoid":
        return square * np.column_stack([1 - 0.14 * (square[:, 1] / depth + 0.5), np.ones(len(square))])
    if shape == "horseshoe":
        rear, front = superellipse(width, depth, 2.4, 56), superellipse(width, depth, 6.0, 56)
        return np.where(rear[:, 1:] > 0, rear, front)
    return square


def _posts(piece: Piece, draw: Draw, back: Back, frame: Material, s0: float = -0.02) -> float:
    """The two uprights of a framed back; their thickness."""
    thickness = draw.between(0.024, 0.034)
    section = circle(thickness / 2, 12) if draw.chance(0.4) else rectangle(thickness, thickness, 0.005, 2)
    piece.pair(frame, back.upright(1.0, section, s0, 1.0, (1.0, draw.between(0.7, 1.0))))
    return thickness


def _framed(draw: Draw, seat: Seat) -> Back:
    base = seat.rear_width - 0.03
    height = draw.between(0.36, 0.62)
    return Back(
        seat,
        (base * 0.94, base * draw.between(0.86, 1.08)),
        height,
        draw.between(4, 14),
        draw.between(0, 0.035),
        draw.between(0, 0.04),
    )


def _slats(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    back = _framed(draw, seat)
    t = _posts(piece, draw, back, frame)
    low, crest = draw.between(0.12, 0.35), draw.between(0.05, 0.11)
    piece.add(frame, back.rail(low, rectangle(t * 0.6, t, 0.003, 1)))
    arch = draw.between(0, 0.35)
    piece.add(frame, back.sheet(t * 0.7, s=(1 - crest / back.height, 1.02), top=lambda u: 1 - arch * u**2))
    count = draw.whole(3, 9)
    width = min(draw.between(0.012, 0.05), 0.7 * seat.width / count)
    for u in (np.arange(count) + 1) / (count + 1) * 2 - 1:
        piece.add(frame, back.upright(float(u), rectangle(width, 0.011, 0.003, 1), low, 1 - 0.6 * crest / back.height))


def _ladder(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    back = _framed(draw, seat)
    _posts(piece, draw, back, frame)
    count, arch = draw.whole(2, 6), draw.between(0, 0.5)
    height = draw.between(0.3, 0.65) * 0.8 / count
    for s in np.linspace(0.22, 0.98 - height, count):
        piece.add(
            frame, back.sheet(0.013, s=(float(s), float(s + height)), top=lambda u: 1 - arch * u**2, radius=0.004)
        )


def _panel(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    back = _framed(draw, seat)
    t = _posts(piece, draw, back, frame)
    low, arch = draw.between(0.1, 0.55), draw.between(0, 0.2)
    covered = draw.chance(0.5)
    piece.add(frame, back.sheet(t * 0.5, s=(low, 1.0), top=lambda u: 1 - arch * u**2))
    if covered:
        piece.add(pad, back.sheet(t * 1.2, (-0.86, 0.86), (low + 0.04, 0.96), lambda u: 1 - arch * u**2, radius=0.012))


def _padded(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    """Upholstered from the seat to the top, tall or low, square or rounded."""
    back = replace(_framed(draw, seat), bow=draw.between(0.0, 0.06), height=draw.between(0.34, 0.66))
    arch, power = draw.between(0, 0.3), draw.any((2, 4))
    piece.add(
        pad,
        back.sheet(draw.between(0.05, 0.09), s=(-0.06, 1.0), top=lambda u: 1 - arch * np.abs(u) ** power, radius=0.022),
    )
    if draw.chance(0.5):
        rows = draw.whole(2, 4)
        for row in range(1, rows):
            s = row / rows * (1 - arch * 0.8)
            piece.add(frame, *(_stud(back, u, s) for u in np.linspace(-0.6, 0.6, 4)))


def _stud(back: Back, u: float, s: float) -> Solid:
    x, y, z = back.point(u, s)
    return box((0.018, 0.10, 0.018), 0.007, 2).moved(x, y - 0.004, z)


def _hoop(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    """A bent bow with spindles inside it, after the chairs of Windsor."""
    back = replace(_framed(draw, seat), width=(seat.width * 0.74, seat.width * 0.84), bow=draw.between(0.02, 0.05))
    theta, power = np.linspace(0, np.pi, 25), draw.between(0.55, 0.9)
    u, s = np.cos(theta), np.maximum(np.sin(theta), 0) ** power
    s[[0, -1]] = -0.03
    piece.add(frame, sweep(back.point(u, s), circle(draw.between(0.010, 0.015)), up=Y))
    count = draw.whole(4, 9)
    for place in np.linspace(-0.74, 0.74, count):
        reach = float(np.interp(place, u[::-1], s[::-1]))
        piece.add(frame, back.upright(float(place), circle(0.007, 8), -0.02, reach))
    if draw.chance(0.3):
        piece.add(frame, back.rail(0.45, circle(0.011), 0.93))


def _comb(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    """Spindles that fan out into a broad crest."""
    fan = draw.between(1.0, 1.25)
    back = replace(
        _framed(draw, seat), width=(seat.width * 0.74, seat.width * 0.74 * fan), bow=draw.between(0.02, 0.06)
    )
    crest, arch = draw.between(0.12, 0.24), draw.between(-0.2, 0.4)
    piece.add(frame, back.sheet(0.02, (-1.12, 1.12), (1 - crest, 1.0), lambda u: 1 - max(arch, 0) * u**2, radius=0.008))
    count = draw.whole(5, 11)
    for place in np.linspace(-1, 1, count):
        edge = abs(place) == 1
        piece.add(frame, back.upright(float(place), circle(0.011 if edge else 0.007, 10), -0.02, 1 - 0.7 * crest))


def _cross(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    back = _framed(draw, seat)
    t = _posts(piece, draw, back, frame)
    low, crest = draw.between(0.1, 0.25), draw.between(0.1, 0.2)
    piece.add(frame, back.sheet(t * 0.7, s=(1 - crest, 1.01)), back.rail(low, rectangle(t * 0.6, t, 0.003, 1)))
    line, section = np.linspace(-1, 1, 9), rectangle(0.026, 0.012, 0.003, 1)
    bows = draw.between(-0.25, 0.25)
    for sign in (-1, 1):
        s = low + (1 - crest * 0.6 - low) * (sign * line + 1) / 2
        path = back.point(line * (1 - abs(bows) * (1 - line**2)), s)
        piece.add(frame, sweep(path, section, up=Y))


def _splat(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    """A vase-shaped board between the seat and a yoke."""
    back = _framed(draw, seat)
    _posts(piece, draw, back, frame)
    crest, waist = draw.between(0.12, 0.2), draw.between(0.15, 0.3)
    arch = draw.between(-0.3, 0.35)
    piece.add(
        frame,
        back.sheet(0.024, (-1.1, 1.1), (1 - crest, 1.03), lambda u: 1 - 0.3 * np.abs(arch) - arch * (u**2 - 0.5) * 0.6),
    )
    board = back.sheet(0.014, (-waist, waist), (-0.03, 1 - 0.7 * crest))
    waves, swell = draw.between(1.0, 2.2), draw.between(0.3, 0.7)
    low, high = board.vertices[:, 2].min(), board.vertices[:, 2].max()

    def vase(p: np.ndarray) -> np.ndarray:
        t = (p[:, 2] - low) / (high - low)
        return p * np.column_stack(
            [1 + swell * np.sin(waves * 2 * np.pi * t - 0.6) * np.sin(np.pi * t), np.ones((len(p), 2))]
        )

    piece.add(frame, board.bent(vase))


def _barrel(piece: Piece, draw: Draw, seat: Seat, body: Material, pad: Material) -> None:
    """A back that wraps round the seat and falls towards the front."""
    reach, height = np.deg2rad(draw.between(85, 125)), draw.between(0.28, 0.42)
    thickness, fall, flare = draw.between(0.022, 0.06), draw.between(0.1, 0.6), draw.between(0, 0.06)
    length = reach * (seat.width + seat.depth) / 2
    solid = box((length, thickness, height + 0.05), thickness * 0.45, 2, divisions=16)

    def wrap(p: np.ndarray) -> np.ndarray:
        u, s = 2 * p[:, 0] / length, p[:, 2] / (height + 0.05) + 0.5
        out = p[:, 1] - thickness * 0.2 + flare * s
        x = np.sin(u * reach) * (seat.width / 2 + out)
        y = np.cos(u * reach) * (seat.depth / 2 + out)
        return np.column_stack([x, y, seat.height - 0.05 + s * (height + 0.05) * (1 - fall * u**2)])

    piece.add(body, solid.bent(wrap))


def _cushion_back(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    """A pad held clear of the seat by two bars."""
    back = replace(_framed(draw, seat), height=draw.between(0.38, 0.56), bow=draw.between(0.0, 0.04))
    gap = draw.between(0.2, 0.5)
    spread = draw.between(0.12, 0.6)
    bar = rectangle(0.034, 0.012, 0.003, 1)
    piece.pair(frame, back.upright(spread, bar, -0.02, 0.9))
    power = draw.any((2, 6))
    shape = {2: lambda u: 1 - 0.25 * u**2, 6: lambda u: 1 - 0.3 * np.abs(u) ** 6}[power]
    piece.add(pad, back.sheet(draw.between(0.035, 0.06), s=(gap, 1.0), top=shape, radius=0.016))


def _shell(piece: Piece, draw: Draw, seat: Seat, body: Material) -> None:
    """Seat and back moulded in one, its sides turned up."""
    width, rise, lip = draw.between(0.44, 0.54), draw.between(0.34, 0.46), draw.between(0.02, 0.09)
    thickness, lean = draw.between(0.014, 0.03), draw.between(0.04, 0.12)
    d, h = seat.depth / 2, seat.height
    side = [(0, -d, h - 0.03), (0, -d + 0.06, h), (0, d - 0.02, h - 0.01), (0, d + lean, h + rise)]
    path = filleted(side, draw.between(0.08, 0.16), 6)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    solid = box((width, along[-1], thickness), thickness * 0.4, 1, divisions=22)
    narrow, waist = draw.between(0.0, 0.25), draw.between(0.0, 0.12)

    def wrap(p: np.ndarray) -> np.ndarray:
        place = np.clip(p[:, 1] + along[-1] / 2, 0, along[-1])
        t, u = place / along[-1], 2 * p[:, 0] / width
        base = np.stack([np.interp(place, along, path[:, k]) for k in range(3)], axis=1)
        slope = np.stack([np.interp(place, along, np.gradient(path[:, k], along)) for k in (1, 2)], axis=1)
        slope /= np.linalg.norm(slope, axis=1, keepdims=True)
        normal = np.column_stack([0 * t, -slope[:, 1], slope[:, 0]])
        x = p[:, 0] * (1 - narrow * t**2 - waist * np.sin(np.pi * t) ** 4 - 0.18 * (1 - t) ** 8)
        corner = 1 - 0.12 * np.abs(u) ** 4 * np.clip((t - 0.8) / 0.2, 0, 1)
        lifted = base + normal * (
            p[:, 2:] + (lip * np.abs(u) ** 2.5 * np.sin(np.pi * np.clip(t, 0, 0.75) / 0.9))[:, None]
        )
        return np.column_stack([x, lifted[:, 1], h + (lifted[:, 2] - h) * corner])

    piece.add(body, solid.bent(wrap))


def _no_back(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material) -> None:
    """A stool has none."""


_BACKS: dict[str, Callable[[Piece, Draw, Seat, Material, Material], None]] = {
    "slats": _slats,
    "ladder": _ladder,
    "panel": _panel,
    "padded": _padded,
    "hoop": _hoop,
    "comb": _comb,
    "cross": _cross,
    "splat": _splat,
    "barrel": _barrel,
    "cushion": _cushion_back,
    "none": _no_back,
}


def _arms(piece: Piece, draw: Draw, seat: Seat, frame: Material, pad: Material, style: str) -> None:
    """A rest at either side: a loop of bar, or a post at the front with a board on it that runs into the back.

    Where the back has no posts to run into, the loop returns to the seat; under a moulded seat it ends at the plate.
    """
    x, rear = seat.width / 2 + 0.012, seat.depth / 2 + 0.02
    free, moulded = style not in FRAMED, style == "shell"
    z, front = seat.height + draw.between(0.17, 0.23), -seat.depth * draw.between(0.15, 0.2 if moulded else 0.38)
    under = seat.height - (0.017 if moulded else seat.thickness * 0.5)
    inset = 0.13 if moulded else 0.025
    held = seat.half_width(front) - inset
    if free or draw.chance(0.5):
        corners = [(held, front, under), (x + 0.01, front, under), (x + 0.02, front, z)]
        if free:
            end = (0.2 if moulded else 0.3) * seat.depth
            corners += [(x + 0.02, end, z), (x + 0.01, end, under), (seat.half_width(end) - inset, end, under)]
        else:
            corners += [(x, rear, z), (seat.rear_width / 2 - 0.03, rear, z)]
        piece.pair(frame, sweep(filleted(corners, 0.045, 5), circle(0.011), up=X))
    else:
        post = rod(0.013, z - under + 0.01).moved(held, front + 0.03, under)
        board = [(held + 0.01, front - 0.01, z), (x, 0.05, z + 0.008), (seat.rear_width / 2 - 0.025, rear + 0.01, z)]
        piece.pair(frame, post, sweep(filleted(board, 0.1, 5), rectangle(0.045, 0.022, 0.008, 2)))
        return
    if draw.chance(0.5):
        middle = (front + (0.3 * seat.depth if free else rear)) / 2
        piece.pair(pad, box((0.05, 0.2, 0.025), 0.01, 2).moved(x + 0.012, middle, z + 0.016))
