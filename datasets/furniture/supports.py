"""What furniture stands on: legs at the corners, frames at the sides, a column in the middle; stretchers between legs.

A support carries a top of height `height` over `half` = (half width, half depth), where the legs meet it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datasets.furniture.pieces import Draw
from datasets.furniture.shapes import Solid, X, Y, Z, box, circle, filleted, lathe, prism, rectangle, rod, sweep

CORNER_LEGS = ("square", "tapered", "round", "round tapered", "turned", "cabriole", "sabre", "hairpin")
STRAIGHT_LEGS = ("square", "tapered", "round", "round tapered", "turned")
"""Those that a stretcher can be joined to at any height."""


@dataclass(frozen=True)
class Stance:
    """Where four legs stand."""

    half: tuple[float, float]
    """Half width and half depth between the legs at the top, metres."""
    height: float
    """Metres from the ground to the legs' upper end."""
    thickness: float
    """Of a leg at the top, metres."""
    splay: float = 0.0
    """Metres that a foot stands further out than the leg's top, along x and y."""

    def at(self, z: float) -> tuple[float, float]:
        """Half width and half depth between the legs' axes at height z."""
        out = self.splay * (1 - z / self.height)
        return self.half[0] + out, self.half[1] + out


def corner_legs(draw: Draw, style: str, stance: Stance) -> list[Solid]:
    """Four legs."""
    upright = _LEGS[style](draw, stance.height, stance.thickness)
    legs = []
    for x_sign in (-1, 1):
        for y_sign in (-1, 1):
            corner = np.array([x_sign, y_sign, 0.0])
            legs += [_placed(solid, corner, stance) for solid in upright]
    return legs


def _placed(solid: Solid, corner: np.ndarray, stance: Stance) -> Solid:
    """A leg shaped for the corner (+x, +y), mirrored to its corner and sheared by the splay so that its foot stays level."""
    for axis in (0, 1):
        if corner[axis] < 0:
            flip = np.ones(3)
            flip[axis] = -1
            solid = Solid(solid.vertices * flip, solid.faces[:, ::-1])
    base = corner * [*stance.half, 0]
    return solid.bent(lambda p: p + base + corner * stance.splay * (1 - p[:, 2:] / stance.height))


def _square(draw: Draw, height: float, thickness: float) -> list[Solid]:
    return [prism(rectangle(thickness, thickness, thickness * 0.12, 2), height, 0.002)]


def _tapered(draw: Draw, height: float, thickness: float) -> list[Solid]:
    section = rectangle(thickness, thickness, thickness * 0.12, 2)
    taper = draw.between(0.5, 0.7)
    return [sweep([(0, 0, 0), (0, 0, height * 0.8), (0, 0, height)], section, [taper, 1, 1], up=Y)]


def _round(draw: Draw, height: float, thickness: float) -> list[Solid]:
    return [rod(thickness / 2, height)]


def _round_tapered(draw: Draw, height: float, thickness: float) -> list[Solid]:
    return [rod(thickness / 2, height, taper=draw.between(0.45, 0.65))]


def _turned(draw: Draw, height: float, thickness: float) -> list[Solid]:
    """Lathe work: a square-like block's radius at the top, then beads, coves and a vase down to a small foot."""
    r, profile, z = thickness / 2, [(0.35 * thickness, 0.0), (0.42 * thickness, 0.02 * height)], 0.06
    while z < 0.74:
        motif, span = draw.any(("vase", "bead", "ring")), draw.between(0.06, 0.2)
        swell = {"vase": (0.62, 1.0, 0.95, 0.66), "bead": (0.6, 0.9, 0.9, 0.6), "ring": (0.55, 0.72, 0.72, 0.55)}[motif]
        if motif == "ring":
            span *= 0.3
        places = {"vase": (0.0, 0.5, 0.7, 1.0)}.get(motif, (0.0, 0.3, 0.7, 1.0))
        profile += [(r * s, (z + span * p) * height) for s, p in zip(swell, places, strict=True)]
        z += span + 0.015
    return [lathe([*profile, (r, (z + 0.03) * height), (r, height)], 16)]


def _curved(height: float, thickness: float, offsets: list[tuple[float, float, float]]) -> list[Solid]:
    """A leg along (outward offset, height, thickness) shares of `height`, `height` and `thickness`."""
    out, up, scale = np.array(offsets).T
    fine = np.linspace(0, 1, 13)
    out, scale = np.interp(fine, up, out) * height, np.interp(fine, up, scale)
    kernel = np.array([0.25, 0.5, 0.25])
    out[1:-1] = np.convolve(out, kernel, "valid")
    section = rectangle(thickness, thickness, thickness * 0.3, 3)
    upright = sweep(np.stack([0 * fine, 0 * fine, fine * height], axis=1), section, scale, up=Y)
    return [upright.bent(lambda p: p + np.interp(p[:, 2:] / height, fine, out) * [1, 1, 0])]


def _cabriole(draw: Draw, height: float, thickness: float) -> list[Solid]:
    knee = draw.between(0.03, 0.05)
    shape = [(0.02, 0, 0.85), (0.0, 0.05, 0.6), (-0.015, 0.3, 0.62), (knee, 0.78, 1.3), (0.01, 0.93, 1.15), (0, 1, 1.1)]
    return _curved(height, thickness, shape)


def _sabre(draw: Draw, height: float, thickness: float) -> list[Solid]:
    sweep_out = draw.between(0.1, 0.18)
    shape = [(sweep_out * (1 - z) ** 2.2, z, 0.7 + 0.35 * z) for z in np.linspace(0, 1, 9)]
    return _curved(height, thickness, shape)


def _hairpin(draw: Draw, height: float, thickness: float) -> list[Solid]:
    """A bent steel rod whose two ends are screwed under the top, and the plate that holds them."""
    wire, spread = max(0.006, thickness * 0.14), min(0.06, height * 0.18)
    path = filleted([(-spread, 0, height - 0.002), (0, 0, wire), (0, -spread, height - 0.002)], 0.02, 6)
    plate = box((spread * 2.2, spread * 2.2, 0.006), 0.002).moved(-spread / 2, -spread / 2, height - 0.003)
    bent = sweep(path, circle(wire, 10))
    low, high = bent.vertices[:, 2].min(), bent.vertices[:, 2].max()
    # Bending cut its corner off and its ends stand askew: stretched to reach from the ground into the plate.
    return [bent.bent(lambda p: np.column_stack([p[:, :2], (p[:, 2] - low) / (high - low) * height])), plate]


_LEGS: dict[str, Callable[[Draw, float, float], list[Solid]]] = {
    "square": _square,
    "tapered": _tapered,
    "round": _round,
    "round tapered": _round_tapered,
    "turned": _turned,
    "cabriole": _cabriole,
    "sabre": _sabre,
    "hairpin": _hairpin,
}


def stretchers(style: str, stance: Stance, z: float) -> list[Solid]:
    """Bars between straight legs at height z: an `H`, a `box` round all four, a `cross`, or `sides` only."""
    w, d = stance.at(z)
    bar = circle(0.32 * stance.thickness, 10)
    sides = [sweep([(x, -d, z), (x, d, z)], bar) for x in (-w, w)]
    if style == "sides":
        return sides
    if style == "H":
        return [*sides, sweep([(-w, 0, z), (w, 0, z)], bar)]
    if style == "box":
        low = z - 0.6 * stance.thickness
        w_low, d_low = stance.at(low)
        return [*sides, *(sweep([(-w_low, y, low), (w_low, y, low)], bar) for y in (-d_low, d_low))]
    return [sweep([(-w, -d, z), (w, d, z)], bar), sweep([(-w, d, z), (w, -d, z)], bar)]


def sled(stance: Stance, square: bool) -> list[Solid]:
    """A closed loop of bar at either side, and two bars across under the top."""
    (w, d), h, r = stance.half, stance.height, stance.thickness * 0.36
    section = rectangle(2 * r, 2 * r, 0.3 * r, 2) if square else circle(r, 12)
    x = w + stance.splay
    loop = filleted([(x, -d, r), (x, d, r), (w, d, h - r), (w, -d, h - r)], 0.02 if square else 0.07, 5, closed=True)
    side = sweep(loop, section, up=X, closed=True)
    return [side, side.mirrored(), *(sweep([(-w, y, h - r), (w, y, h - r)], section) for y in (-0.6 * d, 0.6 * d))]


def cantilever(stance: Stance) -> list[Solid]:
    """One bent tube: under the seat, down at the front, back along the ground and across behind."""
    (w, d), h, r = stance.half, stance.height, stance.thickness * 0.36
    side = [(w, 0.8 * d, h - r), (w, -d, h - r), (w, -d * 1.05, r), (w, d, r)]
    path = filleted([*side, *((-x, y, z) for x, y, z in side[::-1])], 0.06, 6)
    return [
        sweep(path, circle(r, 12), up=X),
        *(sweep([(-w, y, h - r), (w, y, h - r)], circle(r, 12)) for y in (-d / 2, d / 2)),
    ]


def crossed(stance: Stance) -> list[Solid]:
    """An X of two bars at either side, joined by a bar through both crossings and rails under the top."""
    (w, d), h, t = stance.half, stance.height, stance.thickness * 0.8
    section = rectangle(t * 0.7, t, t * 0.15, 2)

    def leg(x: float, sign: float) -> Solid:
        upright = sweep([(0, 0, 0), (0, 0, h)], section, up=Y)
        return upright.bent(
            lambda p: p + np.column_stack([np.full(len(p), x), sign * d * (2 * p[:, 2] / h - 1), 0 * p[:, 2]])
        )

    parts = [leg(sign * (w - inner * 0.7 * t), turn) for sign in (-1, 1) for inner, turn in ((0, 1), (1, -1))]
    parts.append(sweep([(-w, 0, h / 2), (w, 0, h / 2)], circle(t * 0.35, 10)))
    rails = [box((2 * w + t, t, t * 0.8), 0.003).moved(0, y, h - t * 0.4) for y in (-d, d)]
    return parts + rails


def slab(stance: Stance, thickness: float) -> list[Solid]:
    """A panel at either side and one between them, set back."""
    (w, d), h = stance.half, stance.height
    side = box((thickness, 2 * d, h), 0.003).moved(w - thickness / 2, 0, h / 2)
    return [side, side.mirrored(), box((2 * w - thickness, thickness, 0.3 * h), 0.003).moved(0, 0.5 * d, 0.82 * h)]


def trestle(draw: Draw, stance: Stance) -> list[Solid]:
    """Two end frames, each a foot, a head and an upright or an A, and a beam between them."""
    (w, d), h, t = stance.half, stance.height, stance.thickness
    x = 0.78 * w
    foot = box((t, 1.8 * d, t * 0.8), 0.006, 2).moved(x, 0, 0.4 * t)
    head = box((t, 1.6 * d, t * 0.8), 0.006, 2).moved(x, 0, h - 0.4 * t)
    if draw.chance(0.5):
        struts = [box((t * 0.9, 0.5 * d, h - t), 0.004).moved(x, 0, h / 2)]
    else:
        lean = [((x, s * 0.75 * d, 0.5 * t), (x, s * 0.12 * d, h - 0.5 * t)) for s in (-1, 1)]
        struts = [sweep(ends, rectangle(t * 0.8, t * 0.8, 0.004, 1), up=Y) for ends in lean]
    z = draw.between(0.25, 0.5) * h
    beam = box((2 * x, t * 0.7, t * 1.5), 0.004).moved(0, 0, z)
    ties = [] if len(struts) == 1 else [box((t * 0.7, 1.2 * d, t), 0.004).moved(x, 0, z)]
    side = [foot, head, *struts, *ties]
    return [*side, *(s.mirrored() for s in side), beam]


def pedestal(draw: Draw, style: str, radius: float, height: float, thickness: float) -> list[Solid]:
    """A column in the middle, on a `disc`, a `tulip` that grows out of its foot, or four `feet`."""
    r = thickness
    plate = lathe([(0.55 * radius, height - 0.02), (0.6 * radius, height)], 32)
    if style == "tulip":
        curve = [
            (radius * (0.08 + 0.92 * (1 - s) ** 2.6) + r * 0.5 * s, s * 0.75 * height) for s in np.linspace(0, 1, 12)
        ]
        return [lathe([(radius, 0), *((x, z + 0.008) for x, z in curve), (r * 1.5, height)], 32), plate]
    if style == "disc":
        base = lathe([(radius, 0), (radius, 0.012), (radius * 0.96, 0.02), (r * 1.2, 0.035)], 40)
        return [base, lathe([(r * 0.8, 0.02), (r * 0.8, height)], 20), plate]
    turned = [(r * 0.9, 0.05), (r * 1.1, 0.12 * height + 0.05), (r * 0.7, 0.3 * height)]
    turned += [(r * draw.between(0.9, 1.3), 0.5 * height), (r * 0.7, 0.8 * height), (r, 0.9 * height), (r, height)]
    reach = [(0, 0, 0.3 * height), (radius * 0.45, 0, 0.24 * height), (radius * 0.85, 0, 0.05), (radius, 0, 0.02)]
    foot = sweep(filleted(reach, 0.08, 5), rectangle(r * 0.7, 0.04, 0.008, 2), up=Y)
    count = draw.any((3, 4))
    feet = [_pressed(foot, 0.0).turned(Z, 360 * i / count + 45) for i in range(count)]
    return [lathe(turned, 20), plate, *feet]


def _pressed(solid: Solid, ground: float) -> Solid:
    """What would reach below `ground` flattened onto it."""
    return solid.bent(lambda p: np.column_stack([p[:, :2], np.maximum(p[:, 2], ground)]))


def star(radius: float, height: float) -> list[Solid]:
    """An office chair's five-armed foot on castors, and its gas spring."""
    parts = [lathe([(0.028, 0.06), (0.028, height * 0.6), (0.016, height * 0.6 + 0.01), (0.016, height)], 16)]
    parts.append(lathe([(0.045, 0.07), (0.045, 0.115), (0.03, 0.135)], 20))
    parts.append(box((0.2, 0.22, 0.03), 0.008, 2).moved(0, 0, height - 0.014))
    for i in range(5):
        arm = sweep([(0.02, 0, 0.1), (radius, 0, 0.075)], rectangle(0.04, 0.026, 0.008, 2), [1.0, 0.65])
        wheel = lathe([(0.02, -0.018), (0.026, -0.012), (0.026, 0.012), (0.02, 0.018)], 16).turned(X, 90)
        pin = lathe([(0.009, 0.026), (0.009, 0.075)], 10).moved(radius - 0.012)
        whole = [arm, wheel.moved(radius - 0.012, 0, 0.026), pin]
        parts += [solid.turned(Z, 72 * i + 18) for solid in whole]
    return parts
