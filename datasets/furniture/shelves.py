"""Bookshelves: cases, open frames, ladders and cubbyholes, with doors, drawers and what stands in them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from datasets.furniture import supports
from datasets.furniture.materials import Material, cloth_colour, metal, paint, wood
from datasets.furniture.pieces import Draw, Piece
from datasets.furniture.shapes import Solid, X, Y, Z, box, circle, lathe, rectangle, sweep
from datasets.furniture.supports import Stance

STYLES = ("case", "frame", "cubbies", "ladder", "case", "stepped", "spine")
FILLINGS = ("full", "half", "sparse", "full", "empty")


@dataclass(frozen=True)
class Bay:
    """A compartment things can stand in, metres."""

    x: tuple[float, float]
    """Left and right."""
    z: tuple[float, float]
    """Upper side of its floor, underside of its ceiling."""
    y: tuple[float, float]
    """Front and rear."""


def bookshelf(draw: Draw) -> Piece:
    """A bookshelf unlike the others."""
    style = draw.pick("style", STYLES)
    piece = Piece("bookcase", f"{style} bookshelf")
    body = draw.any((wood, wood, paint))(draw.rng, "body")
    make = {"case": _case, "cubbies": _case, "stepped": _stepped, "frame": _frame, "ladder": _ladder, "spine": _spine}[
        style
    ]
    bays = make(piece, draw, body, style)
    _fill(piece, draw, bays, draw.pick("filling", FILLINGS))
    return piece


def _case(piece: Piece, draw: Draw, body: Material, style: str) -> list[Bay]:
    """Boards all round: regular shelves, or cubbyholes with shelves at different heights in each column."""
    height, depth = draw.between(0.7, 2.15), draw.between(0.24, 0.4)
    columns = draw.pick("columns", (1, 2, 1, 3)) if style == "case" else draw.whole(2, 4)
    width = columns * draw.between(0.32, 0.8 if columns == 1 else 0.5)
    t, foot = draw.between(0.016, 0.035), draw.pick("foot", (0.0, 0.07, 0.14))
    crown = draw.chance(0.25)
    edges = np.linspace(-width / 2, width / 2, columns + 1)
    for x in edges:
        piece.add(body, box((t, depth, height - foot), 0.002).moved(float(x), 0, (height + foot) / 2))
    over = 0.03 if crown else 0.0
    for z, extra in ((foot + t / 2, 0.0), (height, over)):
        piece.add(body, box((width + t + extra, depth + extra, t), 0.002).moved(0, 0, z))
    if draw.chance(0.7):
        back = body if draw.chance(0.6) else paint(draw.rng, "back")
        piece.add(back, box((width, 0.008, height - foot)).moved(0, depth / 2 - 0.004, (height + foot) / 2))
    _foot(piece, draw, body, (width, depth), foot)
    rows = max(2, round((height - foot) / draw.between(0.26, 0.42)))
    bays = []
    for left, right in pairwise(edges):
        levels = np.linspace(foot + t / 2, height, rows + 1)
        if style == "cubbies":
            inner = draw.rng.permutation(np.arange(1, rows))[: draw.whole(1, rows - 1)]
            levels = levels[[0, *sorted(inner), rows]]
            levels[1:-1] += draw.rng.uniform(-0.04, 0.04, len(levels) - 2)
        for z in levels[1:-1]:
            piece.add(body, box((right - left, depth - 0.012, t), 0.0).moved(float(left + right) / 2, 0.0, float(z)))
        for low, high in pairwise(levels):
            across, upright = (float(left) + t / 2, float(right) - t / 2), (float(low) + t / 2, float(high) - t / 2)
            bays.append(Bay(across, upright, (-depth / 2, depth / 2 - 0.01)))
    return _closed(piece, draw, body, bays) if draw.chance(0.4) else bays


def _foot(piece: Piece, draw: Draw, body: Material, size: tuple[float, float], foot: float) -> None:
    """A plinth set back, or short legs."""
    width, depth = size
    if foot > 0.1:
        stance = Stance((width / 2 - 0.03, depth / 2 - 0.035), foot + 0.01, 0.04, 0.015)
        piece.add(
            metal(draw.rng, "legs") if draw.chance(0.4) else body, *supports.corner_legs(draw, "round tapered", stance)
        )
    elif foot:
        piece.add(body, box((width - 0.01, depth - 0.03, foot + 0.01)).moved(0, 0.01, (foot + 0.01) / 2))


def _closed(piece: Piece, draw: Draw, body: Material, bays: list[Bay]) -> list[Bay]:
    """Doors or drawers before the lowest bays; the bays that stay open."""
    lowest = min(bay.z[0] for bay in bays)
    front = body if draw.chance(0.5) else paint(draw.rng, "doors")
    knob, drawers, open_bays = metal(draw.rng, "knob"), draw.chance(0.4), []
    for bay in bays:
        if bay.z[0] > lowest + 0.01:
            open_bays.append(bay)
            continue
        middle, width, height = sum(bay.x) / 2, bay.x[1] - bay.x[0], bay.z[1] - bay.z[0]
        leaves = 2 if not drawers and width > 0.5 else 1
        rows = 2 if drawers else 1
        for i in range(leaves):
            for j in range(rows):
                x = bay.x[0] + (i + 0.5) * width / leaves
                z = bay.z[0] + (j + 0.5) * height / rows
                leaf = box((width / leaves + 0.006, 0.02, height / rows + 0.006), 0.003)
                piece.add(front, leaf.moved(x, bay.y[0] - 0.004, z))
                side = 0.0 if drawers else (0.4 if i == 0 else -0.4) * width / leaves
                piece.add(
                    knob,
                    _knob().moved(
                        x + side if leaves == 1 or drawers else middle + (0.03 if i else -0.03), bay.y[0] - 0.012, z
                    ),
                )
    return open_bays


def _knob() -> Solid:
    return lathe([(0.005, 0), (0.005, 0.012), (0.013, 0.02), (0.011, 0.028)], 12).turned(X, 90)


def _stepped(piece: Piece, draw: Draw, body: Material, style: str) -> list[Bay]:
    """Cubes stacked like stairs."""
    side, depth, t = draw.between(0.32, 0.42), draw.between(0.28, 0.38), draw.between(0.016, 0.03)
    steps = draw.any(([4, 3, 2, 1], [1, 2, 3], [3, 2, 1], [2, 4, 3], [1, 3, 2, 1], [5, 3, 3, 1], [3, 1, 2], [2, 1, 3]))
    if draw.chance(0.5):
        steps = steps[::-1]
    left = -len(steps) * side / 2
    bays = []
    for i, count in enumerate(steps):
        x = left + (i + 0.5) * side
        for j in range(count + 1):
            piece.add(body, box((side + t, depth, t), 0.002).moved(x, 0, t / 2 + j * side))
        bays += [
            Bay((x - side / 2 + t / 2, x + side / 2 - t / 2), (j * side + t, (j + 1) * side), (-depth / 2, depth / 2))
            for j in range(count)
        ]
    for i in range(len(steps) + 1):
        tall = max(steps[max(i - 1, 0) : i + 1]) * side + t / 2
        piece.add(body, box((t, depth - 0.002, tall)).moved(left + i * side, 0, tall / 2 + t * 0.25))
    return bays


def _frame(piece: Piece, draw: Draw, body: Material, style: str) -> list[Bay]:
    """Metal posts and wooden boards, braced at the back."""
    width, depth, height = draw.between(0.6, 1.3), draw.between(0.28, 0.4), draw.between(0.8, 2.0)
    post, t = draw.between(0.02, 0.035), draw.between(0.018, 0.035)
    bar = metal(draw.rng, "frame")
    half = (width / 2, depth / 2)
    kind = draw.any(("square", "round"))
    piece.add(bar, *supports.corner_legs(draw, kind, Stance(half, height, post)))
    count = max(3, round(height / draw.between(0.3, 0.45)))
    levels = np.linspace(draw.between(0.06, 0.2), height - t / 2 - (0.0 if draw.chance(0.5) else 0.06), count)
    for z in levels:
        piece.add(body, box((width + (post if kind == "round" else 0.0), depth, t), 0.003).moved(0, 0, float(z)))
    if draw.chance(0.6):
        low, high = float(levels[0]), float(levels[-1])
        ends = [((-half[0], half[1], a), (half[0], half[1], b)) for a, b in ((low, high), (high, low))]
        piece.add(bar, *(sweep(e, circle(post * 0.22, 8)) for e in ends))
    else:
        rails = [
            box((post * 0.6, depth, post * 0.6)).moved(x, 0, float(z) - t) for z in levels for x in (-half[0], half[0])
        ]
        piece.add(bar, *rails)
    inner = (-width / 2 + post, width / 2 - post)
    return [
        Bay(inner, (float(a) + t / 2, float(b) - t / 2), (-depth / 2, depth / 2 - 0.02)) for a, b in pairwise(levels)
    ]


def _ladder(piece: Piece, draw: Draw, body: Material, style: str) -> list[Bay]:
    """Two leaning uprights, vertical ones behind, boards that grow deeper downwards."""
    width, height, deep = draw.between(0.5, 0.9), draw.between(1.3, 1.95), draw.between(0.38, 0.55)
    t, rear = 0.02, deep / 2
    top_depth = draw.between(0.12, 0.2)

    def front(z: float) -> float:
        return rear - deep + (deep - top_depth) * z / height

    section = rectangle(0.03, 0.045, 0.005, 1)
    lean = sweep([(0, 0, 0), (0, 0, height)], section, up=Y)
    lean = lean.bent(
        lambda p: (
            p
            + np.column_stack(
                [np.full(len(p), width / 2), rear - deep + (deep - top_depth) * p[:, 2] / height, 0 * p[:, 2]]
            )
        )
    )
    upright = box((0.03, 0.04, height), 0.004).moved(width / 2, rear - 0.02, height / 2)
    piece.pair(body, lean, upright)
    bays, levels = [], np.linspace(draw.between(0.12, 0.25), height - 0.03, draw.whole(3, 5))
    for low, high in zip(levels, [*levels[1:], levels[-1] + 0.4], strict=True):
        y = front(float(low)) - 0.015
        piece.add(body, box((width, rear - y, t), 0.003).moved(0, (rear + y) / 2, float(low)))
        bays.append(
            Bay(
                (-width / 2 + 0.03, width / 2 - 0.03),
                (float(low) + t / 2, float(high) - t / 2),
                (max(y, front(float(high))) + 0.02, rear - 0.01),
            )
        )
    return bays


def _spine(piece: Piece, draw: Draw, body: Material, style: str) -> list[Bay]:
    """Boards of different lengths on a central column, like a tree."""
    height, depth, t = draw.between(1.2, 1.9), draw.between(0.22, 0.3), 0.022
    width = draw.between(0.6, 1.0)
    piece.add(body, box((0.09, 0.05, height), 0.004).moved(0, depth / 2 - 0.03, height / 2))
    piece.add(body, box((0.6 * width, depth + 0.06, 0.03), 0.005).moved(0, 0, 0.015))
    bays, levels = [], np.linspace(0.22, height - 0.05, draw.whole(4, 6))
    for i, (low, high) in enumerate(zip(levels, [*levels[1:], levels[-1] + 0.3], strict=True)):
        span, shift = width * draw.between(0.55, 1.0), draw.between(0.05, 0.2) * width * (-1) ** i
        board = box((span, depth, t), 0.003).moved(shift, 0, float(low))
        bracket = sweep(
            [(0, 0.35 * depth, low - 0.09), (0, -0.2 * depth, low - 0.005)], rectangle(0.03, 0.015, 0.002, 1)
        )
        piece.add(body, board, bracket)
        x = (shift - span / 2 + 0.01, shift + span / 2 - 0.01)
        bays.append(Bay(x, (float(low) + t / 2, float(high) - t / 2), (-depth / 2, depth / 2 - 0.06)))
    return bays


def _fill(piece: Piece, draw: Draw, bays: list[Bay], filling: str) -> None:
    """Books, piles of books, boxes, vases."""
    if filling == "empty":
        return
    covers = [Material(f"book {i}", cloth_colour(draw.rng), 0.0, 0.7) for i in range(5)]
    share = {"full": 0.92, "half": 0.6, "sparse": 0.3}[filling]
    for bay in bays:
        room = min(bay.z[1] - bay.z[0], 0.4)
        if room < 0.12 or not draw.chance(min(1.0, share + 0.2)):
            continue
        content = draw.any(("books", "books", "books", "pile", "vase", "box"))
        if content == "books":
            _books(piece, draw, bay, covers, share, room)
        elif content == "pile":
            _pile(piece, draw, bay, covers, room)
        elif content == "vase":
            _vase(piece, draw, bay, room)
        else:
            width = min(bay.x[1] - bay.x[0] - 0.03, draw.between(0.2, 0.32))
            size = (width, (bay.y[1] - bay.y[0]) * 0.85, room * draw.between(0.5, 0.75))
            solid = box(size, 0.01, 2).moved(sum(bay.x) / 2, sum(bay.y) / 2, bay.z[0] + size[2] / 2 - 0.001)
            piece.add(covers[0], solid)


def _books(piece: Piece, draw: Draw, bay: Bay, covers: list[Material], share: float, room: float) -> None:
    """A row that starts at one end; the last book may lean against it."""
    tall = min(0.93 * room, draw.between(0.2, 0.3))
    depth = min(bay.y[1] - bay.y[0] - 0.01, 0.2)
    x, end = bay.x[0] + 0.004, bay.x[0] + (bay.x[1] - bay.x[0]) * min(0.97, share * draw.between(0.7, 1.1))
    row = []
    while True:
        width = draw.between(0.018, 0.05)
        if x + width > end:
            break
        size = (width, depth * draw.between(0.75, 1.0), tall * draw.between(0.72, 1.0))
        y = bay.y[1] - depth / 2 - (depth - size[1]) / 2 if draw.chance(0.2) else bay.y[1] - depth + size[1] / 2
        book = box((size[0] - 0.0015, *size[1:]), 0.0025).moved(
            x + width / 2, y - 0.004, bay.z[0] + size[2] / 2 - 0.001
        )
        row.append((draw.any(covers), book))
        x += width
    lean = x + 0.1 < bay.x[1] and row and draw.chance(0.5)
    if lean:
        size = (draw.between(0.02, 0.035), depth * 0.85, tall * 0.85)
        tilted = box(size, 0.0025).moved(size[0] / 2, 0, size[2] / 2).turned(Y, -draw.between(8, 16))
        row.append(
            (
                draw.any(covers),
                tilted.moved(x - float(tilted.vertices[:, 0].min()), bay.y[1] - depth / 2, bay.z[0] - 0.001),
            )
        )
    mirrored = draw.chance(0.5)
    shift = sum(bay.x)
    for cover, book in row:
        piece.add(cover, book.mirrored().moved(shift) if mirrored else book)


def _pile(piece: Piece, draw: Draw, bay: Bay, covers: list[Material], room: float) -> None:
    """Books lying on each other."""
    z, x = bay.z[0] - 0.001, draw.between(0.35, 0.65)
    middle = bay.x[0] + x * (bay.x[1] - bay.x[0])
    for _ in range(draw.whole(2, 6)):
        size = (draw.between(0.17, 0.25), min(0.8 * (bay.y[1] - bay.y[0]), 0.19), draw.between(0.018, 0.045))
        size = (min(size[0], bay.x[1] - bay.x[0] - 0.04), *size[1:])
        if z + size[2] > bay.z[0] + 0.9 * room:
            return
        lying = box(size, 0.0025).turned(Z, draw.between(-4, 4)).moved(middle, sum(bay.y) / 2, z + size[2] / 2)
        piece.add(draw.any(covers), lying)
        z += size[2] - 0.0005


def _vase(piece: Piece, draw: Draw, bay: Bay, room: float) -> None:
    height = room * draw.between(0.5, 0.85)
    widest = min(0.4 * height, 0.42 * (bay.y[1] - bay.y[0]), 0.4 * (bay.x[1] - bay.x[0]))
    shape = np.interp(
        np.linspace(0, 1, 12),
        [0, 0.35, 0.75, 0.85, 1],
        [0.6, *draw.rng.uniform(0.75, 1.0, 1), *draw.rng.uniform(0.35, 0.7, 2), 0.55],
    )
    profile = [(float(widest * s), float(height * i / 11)) for i, s in enumerate(shape)]
    x = bay.x[0] + draw.between(0.4, 0.6) * (bay.x[1] - bay.x[0])
    piece.add(
        paint(draw.rng, f"vase {len(piece.parts)}"), lathe(profile, 24).moved(x, sum(bay.y) / 2, bay.z[0] - 0.001)
    )
