"""Beds: single to king, bunk beds, four-posters; headboards, mattresses, blankets, pillows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.furniture import supports
from datasets.furniture.materials import UPHOLSTERY, Material, cloth, linen, metal, paint, wood
from datasets.furniture.pieces import Draw, Piece
from datasets.furniture.shapes import Solid, X, Y, box, circle, lathe, pillow, rectangle, rod, sweep
from datasets.furniture.supports import Stance

HEADS = ("panel", "slats", "arched", "padded", "bars", "shelf", "wings", "planks", "low", "channels", "none")
BASES = ("legs", "box", "plinth", "storage", "low legs")
DRESSINGS = ("blanket", "duvet", "throw", "bare", "half")


@dataclass(frozen=True)
class Frame:
    """Measures of a bed, metres; its head lies at +y."""

    width: float
    """Of the mattress."""
    length: float
    """Of the mattress."""
    under: float
    """Underside of the mattress above the ground."""
    rail: float
    """Height of the side rails."""
    mattress: float
    """Thickness of the mattress."""

    @property
    def top(self) -> float:
        """Top of the mattress above the ground."""
        return self.under + self.mattress


def bed(draw: Draw) -> Piece:
    """A bed unlike the others."""
    style = draw.pick("style", ("plain", "plain", "plain", "four-poster", "plain", "bunk"))
    return _bunk(draw) if style == "bunk" else _bed(draw, four_poster=style == "four-poster")


def _bed(draw: Draw, four_poster: bool) -> Piece:
    head, base = draw.pick("head", HEADS), draw.pick("base", BASES)
    if four_poster:
        head, base = draw.any(("panel", "slats", "bars", "planks")), "legs"
    frame = Frame(
        width=draw.pick("width", (0.9, 1.6, 1.4, 1.2, 1.8)) * draw.between(0.97, 1.03),
        length=draw.between(1.95, 2.1),
        under=draw.between(0.2, 0.26) if base == "low legs" else draw.between(0.27, 0.36),
        rail=draw.between(0.12, 0.24),
        mattress=draw.between(0.16, 0.26),
    )
    piece = Piece("bed", f"{'four-poster ' if four_poster else ''}bed, {head} head, {base} base")
    body = _body_material(draw, head)
    soft = draw.any(UPHOLSTERY)(draw.rng, "upholstery") if head in ("padded", "wings", "channels") else body
    _base(piece, draw, frame, base, soft if draw.chance(0.7) else body, body)
    _head(piece, draw, frame, head, body, soft)
    if four_poster:
        _posts(piece, draw, frame, body)
    elif draw.chance(0.4):
        _foot(piece, draw, frame, head, body)
    _dress(piece, draw, frame)
    return piece


def _body_material(draw: Draw, head: str) -> Material:
    return metal(draw.rng, "frame") if head == "bars" else draw.any((wood, wood, paint))(draw.rng, "frame")


def _base(piece: Piece, draw: Draw, frame: Frame, style: str, cover: Material, body: Material) -> None:
    """Rails or a box under the mattress, and what it stands on."""
    width, length = frame.width + 0.06, frame.length + 0.06
    top = frame.under + 0.05
    if style in ("box", "plinth", "storage"):
        foot = {"box": 0.03, "plinth": 0.09, "storage": 0.0}[style]
        piece.add(cover, box((width, length, top - foot), 0.012, 2).moved(0, 0, (top + foot) / 2))
        if foot:
            inset = 0.1 if style == "box" else 0.3
            piece.add(body, box((width - inset, length - inset, foot + 0.02)).moved(0, 0, foot / 2 + 0.01))
        else:
            _storage(piece, draw, frame, width, top, cover)
        return
    low = top - frame.rail
    for x in (-width / 2, width / 2):
        piece.add(body, box((0.03, length, frame.rail), 0.004).moved(x, 0, low + frame.rail / 2))
    for y in (-length / 2, length / 2):
        piece.add(body, box((width + 0.03, 0.03, frame.rail), 0.004).moved(0, y, low + frame.rail / 2))
    piece.add(body, box((width, length, 0.025)).moved(0, 0, frame.under - 0.0125))
    leg = draw.any(("square", "tapered", "turned", "round tapered"))
    stance = Stance((width / 2 - 0.03, length / 2 - 0.03), low + 0.02, draw.between(0.05, 0.08))
    piece.add(body, *supports.corner_legs(draw, leg, stance))


def _storage(piece: Piece, draw: Draw, frame: Frame, width: float, top: float, body: Material) -> None:
    """Drawer fronts along both sides."""
    count = draw.whole(2, 3)
    length = frame.length / count
    knob = metal(draw.rng, "handle")
    for i in range(count):
        y = (i + 0.5) * length - frame.length / 2
        piece.pair(body, box((0.02, length - 0.03, top - 0.08), 0.004).moved(width / 2 + 0.004, y, top / 2))
        piece.pair(knob, box((0.03, 0.12, 0.014), 0.005).moved(width / 2 + 0.02, y, top * 0.66))


def _head(piece: Piece, draw: Draw, frame: Frame, style: str, body: Material, soft: Material) -> None:
    """What stands behind the pillows, from the ground up."""
    if style == "none":
        return
    width, y = frame.width + draw.between(0.06, 0.16), frame.length / 2 + 0.05
    top = frame.top + (draw.between(0.12, 0.2) if style == "low" else draw.between(0.3, 0.65))
    if style in ("panel", "low", "arched"):
        piece.add(
            body, _board(width, 0.04, 0.0, top, draw.between(0.1, 0.25) if style == "arched" else 0.0).moved(0, y)
        )
        if style == "panel" and draw.chance(0.6):
            piece.add(body, *_fields(draw, width, frame.top, top, y - 0.022))
    elif style in ("padded", "wings", "channels"):
        arch = draw.any((0.0, 0.0, 0.15))
        piece.add(soft, _board(width, 0.1, 0.05, top, arch, 0.035).moved(0, y + 0.02))
        if style == "wings":
            piece.pair(soft, box((0.07, 0.26, top - 0.05), 0.03, 2).moved(width / 2, y - 0.06, top / 2 + 0.025))
        if style == "channels":
            count = round(width / draw.between(0.1, 0.2))
            for x in (np.arange(count) + 0.5) * width / count - width / 2:
                peak = top - arch * (2 * x / width) ** 2 * (top - frame.under)
                height = peak - frame.under
                roll = box((width / count, 0.08, height), 0.038, 3)
                piece.add(soft, roll.moved(float(x), y - 0.03, frame.under + height / 2))
    elif style == "shelf":
        piece.add(body, box((width, 0.24, top), 0.005).moved(0, y + 0.1, top / 2))
        piece.add(body, box((width + 0.03, 0.28, 0.025), 0.005).moved(0, y + 0.1, top))
    elif style == "planks":
        _planks(piece, draw, frame, width, y, top, body)
    else:
        _railing(piece, draw, style, width, y, (frame.under - 0.05, top), body)


def _board(width: float, thickness: float, low: float, top: float, arch: float, radius: float = 0.008) -> Solid:
    """An upright board whose sides stop `arch` of its height short of its middle."""
    height = top - low
    board = box((width, thickness, height), radius, 2, divisions=12)

    def curve(p: np.ndarray) -> np.ndarray:
        share = 1 - arch * (2 * p[:, 0] / width) ** 2
        return np.column_stack([p[:, :2], low + (p[:, 2] + height / 2) * share])

    return board.bent(curve)


def _fields(draw: Draw, width: float, low: float, top: float, y: float) -> list[Solid]:
    """Raised panels on a headboard."""
    count = draw.whole(2, 4)
    span = (width - 0.08) / count
    size = (span - 0.05, 0.02, top - low - 0.02)
    return [box(size, 0.006, 2).moved((i + 0.5) * span - width / 2 + 0.04, y, (top + low) / 2) for i in range(count)]


def _planks(piece: Piece, draw: Draw, frame: Frame, width: float, y: float, top: float, body: Material) -> None:
    """Horizontal boards on two posts."""
    count = draw.whole(2, 4)
    piece.pair(body, box((0.07, 0.05, top), 0.005).moved(width / 2 - 0.035, y + 0.02, top / 2))
    height = (top - frame.under) / count
    for i in range(count):
        z = frame.under + (i + 0.5) * height
        piece.add(body, box((width + 0.04, 0.028, height - 0.025), 0.005).moved(0, y - 0.012, z - 0.01))


def _railing(
    piece: Piece, draw: Draw, style: str, width: float, y: float, z: tuple[float, float], body: Material
) -> None:
    """Posts with slats of wood or bars of metal between two rails."""
    low, top = z
    metal_bars = style == "bars"
    post = rod(0.022, top + 0.03) if metal_bars else box((0.06, 0.06, top + 0.03), 0.006).moved(0, 0, (top + 0.03) / 2)
    piece.pair(body, post.moved(width / 2 - 0.03, y))
    if metal_bars:
        knob = lathe([(0.01, 0), (0.03, 0.02), (0.033, 0.04), (0.02, 0.06), (0, 0.065)], 16)
        piece.pair(body, knob.moved(width / 2 - 0.03, y, top + 0.02))
        line = np.linspace(-1, 1, 15)
        bow = draw.between(0, 0.2)
        path = np.column_stack([line * (width / 2 - 0.03), np.full(15, y), top + bow * (1 - line**2)])
        piece.add(body, sweep(path, circle(0.016)), sweep([*path[[0, -1]] - [0, 0, top - low]], circle(0.014)))
        count, section = draw.whole(5, 11), circle(0.009, 10)
    else:
        bow = 0.0
        rails = [box((width - 0.06, 0.03, 0.09), 0.005).moved(0, y, z_rail) for z_rail in (low + 0.02, top - 0.03)]
        piece.add(body, *rails)
        count = draw.whole(5, 12)
        section = rectangle(min(0.09, 0.55 * width / count), 0.014, 0.003, 1)
    for u in (np.arange(count) + 1) / (count + 1) * 2 - 1:
        x = float(u) * (width / 2 - 0.03)
        piece.add(body, sweep([(x, y, low), (x, y, top - 0.02 + bow * (1 - u**2) + 0.015)], section, up=Y))


def _foot(piece: Piece, draw: Draw, frame: Frame, head: str, body: Material) -> None:
    """A lower board or railing at the foot."""
    width, y, top = frame.width + 0.08, -frame.length / 2 - 0.05, frame.top + draw.between(0.02, 0.2)
    if head in ("bars", "slats"):
        _railing(piece, draw, head, width, y, (frame.under - 0.05, top), body)
    else:
        piece.add(body, _board(width, 0.04, 0.0, top, draw.any((0.0, 0.08))).moved(0, y))


def _posts(piece: Piece, draw: Draw, frame: Frame, body: Material) -> None:
    """Four tall posts with a frame on top."""
    height, t = draw.between(1.8, 2.1), draw.between(0.05, 0.07)
    x, y = frame.width / 2 + 0.04, frame.length / 2 + 0.04
    style = draw.any(("square", "turned", "round"))
    piece.add(body, *supports.corner_legs(draw, style, Stance((x, y), height, t)))
    bar = 0.6 * t
    for sign in (-1, 1):
        piece.add(body, box((2 * x + bar, bar, bar), 0.004).moved(0, sign * y, height - bar / 2))
        piece.add(body, box((bar, 2 * y, bar), 0.004).moved(sign * x, 0, height - bar / 2))


def _dress(piece: Piece, draw: Draw, frame: Frame, z: float | None = None, plain: bool = False) -> None:
    """Mattress, pillows, and a cover over all or a part of it."""
    under = frame.under if z is None else z
    top = under + frame.mattress
    sheet = linen(draw.rng, "sheet")
    piece.add(sheet, box((frame.width, frame.length, frame.mattress), 0.05, 3).moved(0, 0, under + frame.mattress / 2))
    count = (1 if frame.width < 1.3 else 2) * (1 if plain else draw.any((1, 1, 2)))
    across = 1 if frame.width < 1.3 else 2
    for i in range(count):
        row, column = divmod(i, across)
        size = (min(0.7, frame.width / across * 0.82), draw.between(0.38, 0.48), draw.between(0.14, 0.19))
        x = (column + 0.5) * frame.width / across - frame.width / 2
        y = frame.length / 2 - 0.28 - 0.1 * row
        tilted = pillow(size).turned(X, 14 + 22 * row)
        piece.add(sheet, tilted.moved(x, y, top + 0.02 + 0.06 * row - float(tilted.vertices[:, 2].min()) - 0.03))
    style = "half" if plain else draw.pick("dressing", DRESSINGS)
    if style != "bare":
        _cover(piece, draw, frame, style, top)


def _cover(piece: Piece, draw: Draw, frame: Frame, style: str, top: float) -> None:
    """A blanket or duvet: a soft slab over the mattress, hanging down its sides, its upper hem folded back."""
    share = {"blanket": 0.72, "duvet": 0.66, "throw": 0.28, "half": 0.5}[style]
    thick = {"blanket": 0.03, "duvet": 0.075, "throw": 0.025, "half": 0.035}[style]
    hang = min(frame.mattress * draw.between(0.5, 0.95), frame.mattress - 0.015)
    length = share * frame.length
    start = -frame.length / 2 - (0.012 if style != "throw" else -0.12)
    material = cloth(draw.rng, "blanket")
    slab = box((frame.width + 0.04, length, hang + thick), min(0.05, 0.45 * (hang + thick)), 3, divisions=18)
    waves, phase = draw.whole(2, 5), draw.between(0, 6)

    def soften(p: np.ndarray) -> np.ndarray:
        rise = 0.006 * np.sin(waves * 2.1 * p[:, 0] / frame.width * np.pi + phase) * np.sin(5 * p[:, 1] + phase)
        return p + np.outer(np.where(p[:, 2] > 0, rise, 0), [0, 0, 1])

    piece.add(material, slab.bent(soften).moved(0, start + length / 2, top + thick - (hang + thick) / 2))
    if style in ("blanket", "duvet"):
        fold = box((frame.width + 0.05, 0.24, hang + thick + 0.015), 0.03, 2)
        y = start + length - 0.1
        piece.add(linen(draw.rng, "fold"), fold.moved(0, y, top + thick + 0.008 - (hang + thick) / 2))


def _bunk(draw: Draw) -> Piece:
    """Two beds one above the other, a ladder, guard rails."""
    frame = Frame(
        draw.between(0.85, 1.0),
        draw.between(1.9, 2.05),
        draw.between(0.28, 0.36),
        draw.between(0.1, 0.16),
        draw.between(0.12, 0.17),
    )
    piece = Piece("bunk_bed", "bunk bed")
    body = draw.any((wood, paint, metal))(draw.rng, "frame")
    upper, t = frame.under + draw.between(0.95, 1.1), draw.between(0.05, 0.08)
    x, y, height = frame.width / 2 + t / 2, frame.length / 2 + t / 2, upper + draw.between(0.35, 0.5)
    piece.add(body, *supports.corner_legs(draw, draw.any(("square", "round")), Stance((x, y), height, t)))
    for z in (frame.under, upper):
        rail = frame.rail
        piece.pair(body, box((0.028, 2 * y, rail), 0.004).moved(x, 0, z))
        piece.add(body, *(box((2 * x, 0.028, rail), 0.004).moved(0, s * y, z) for s in (-1, 1)))
        piece.add(body, box((2 * x, 2 * y, 0.022)).moved(0, 0, z - 0.011))
        _dress(piece, draw, frame, z, plain=True)
    # The guard rail on the ladder's side leaves a gap to climb through; this post holds its free end.
    piece.add(body, box((0.03, 0.05, height - upper), 0.004).moved(x, -0.34 * y, (height + upper) / 2 - 0.03))
    for z in (upper + 0.24, height - 0.06):
        bar = 0.05
        piece.add(body, box((0.022, 2 * y, bar), 0.004).moved(-x, 0, z))
        piece.add(body, *(box((2 * x, 0.022, bar), 0.004).moved(0, s * y, z) for s in (-1, 1)))
        piece.add(body, box((0.022, 1.35 * y, bar), 0.004).moved(x, 0.325 * y, z))
    piece.add(body, *(box((2 * x, 0.022, 0.07), 0.004).moved(0, s * y, frame.under + 0.35) for s in (-1, 1)))
    _ladder(piece, draw, body, (x + 0.02, -0.6 * y), upper + 0.25)
    return (
        piece if draw.chance(0.5) else Piece(piece.lvis_class, piece.name, [(m, s.mirrored()) for m, s in piece.parts])
    )


def _ladder(piece: Piece, draw: Draw, body: Material, foot: tuple[float, float], height: float) -> None:
    """Leaning against the upper rail, at the right side."""
    x, y = foot
    lean, half = draw.between(0.02, 0.22), 0.19
    section = rectangle(0.05, 0.025, 0.005, 1)
    upright = sweep([(0, 0, 0), (0, 0, height)], section, up=Y).bent(
        lambda p: p + np.outer(x + lean * (1 - p[:, 2] / height), X)
    )
    piece.add(body, upright.moved(y=y - half), upright.moved(y=y + half))
    for z in np.linspace(0.25, height - 0.15, 5):
        piece.add(body, box((0.05, 2 * half, 0.028), 0.005).moved(x + lean * (1 - z / height), y, float(z)))
