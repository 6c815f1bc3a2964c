"""`python -m datasets.show PATH --out sheet.png`: a contact sheet of captures or shards, a row of pictures an object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro

from datasets.captures import CaptureReader
from datasets.contents import contents
from datasets.pictures import decode_normal, decode_position
from datasets.shards import ShardReader, ShardSet
from turntable import config as command_line
from turntable import framing, report
from turntable.errors import EXIT_OK, UserError
from turntable.files import write_bytes


@dataclass(frozen=True)
class ShowConfig:
    """Draws a contact sheet: of every object some of its views, then all other passes of the first."""

    path: tyro.conf.Positional[Path]
    """A capture, a folder of captures, a shard or a folder of shards."""
    out: Path
    """The picture to write: .png, .webp or .jpg."""
    objects: int = 40
    """At most so many; of more, evenly spaced ones are shown."""
    views: int = 6
    """Views an object, evenly spaced."""
    size: int = 160
    """Side of a picture, pixels."""

    def __post_init__(self) -> None:
        if min(self.objects, self.views, self.size) < 1:
            raise ValueError(
                f"objects, views and size must be at least 1, got {self.objects}, {self.views}, {self.size}"
            )
        if self.out.suffix not in (".png", ".webp", ".jpg"):
            raise ValueError(f"--out must end in .png, .webp or .jpg, got {self.out}")


@dataclass(frozen=True)
class Row:
    """One object's pictures, in captures and shards alike."""

    uid: str
    record: dict[str, Any]
    views: int
    rgba: Callable[[int], np.ndarray]
    """View -> (S, S, 4) uint8."""
    others: dict[str, Callable[[int], np.ndarray]]
    """Pass -> view -> (S, S, 3) uint8 picture of it, white where nothing is hit."""


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` numbers, evenly spaced, the first always; all of them where there are fewer."""
    return sorted({i * count // wanted for i in range(wanted)}) if count > wanted else list(range(count))


def contact_sheet(config: ShowConfig) -> np.ndarray:
    """The sheet of `config.path` as an (H, W, 3) uint8 picture."""
    kind, files = contents(config.path)
    rows = _capture_rows(files, config) if kind == "captures" else _shard_rows(files, config)
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    drawn = [_tiles(row, config) for row in rows]
    columns = max(len(tiles) for tiles in drawn)
    for tiles in drawn:
        tiles += [("", np.full((config.size, config.size, 3), 255, np.uint8))] * (columns - len(tiles))
        captions += [caption for caption, _ in tiles]
        pictures += [picture for _, picture in tiles]
    # Several objects a line once there are many: the sheet stays nearer a square than a ribbon.
    objects_a_line = max(round((len(pictures) / columns / columns) ** 0.5), 1)
    return report.contact_sheet(pictures, columns * objects_a_line, captions)


def _capture_rows(files: list[Path], config: ShowConfig) -> Iterator[Row]:
    for number in evenly(len(files), config.objects):
        with CaptureReader(files[number]) as capture:
            yield Row(
                capture.uid,
                capture.record,
                len(capture),
                partial(capture.picture, "rgba"),
                {name: partial(DRAWN[name], capture) for name in capture.passes if name in DRAWN},
            )


def _shard_rows(files: list[Path], config: ShowConfig) -> Iterator[Row]:
    shards = ShardSet(files)
    for index in evenly(len(shards), config.objects):
        reader, number = shards.place(index)
        passes = {name for name, _ in reader.layout}
        yield Row(
            shards.uids[index],
            reader.record(number),
            reader.view_count(number),
            partial(reader.picture, number, size=reader.stored_size(config.size)),
            {name: partial(draw, reader, number) for name, draw in SHARD_DRAWN.items() if name in passes},
        )


def _tiles(row: Row, config: ShowConfig) -> list[tuple[str, np.ndarray]]:
    """Captions and (size, size, 3) uint8 pictures of one row."""
    views = evenly(row.views, config.views)
    tiles = []
    for view in views:
        rgba = framing.resize(row.rgba(view), config.size, config.size)
        tiles.append((f"view {view}", (framing.on_background(rgba) * 255).round().astype(np.uint8)))
    name = row.record.get("lvis_class") or row.record.get("name") or ""
    tiles[0] = (f"{row.uid[:8]} {name}", tiles[0][1])
    for name, draw in row.others.items():
        tiles.append((f"{name} {views[0]}", _shrunk(draw(views[0]), config.size)))
    return tiles


def _grey_depth(depth: np.ndarray) -> np.ndarray:
    """(S, S) depth -> (S, S, 3) uint8: near is dark, far is light, nothing is white."""
    hit = depth > 0
    low, high = (depth[hit].min(), depth[hit].max()) if hit.any() else (0.0, 1.0)
    grey = np.where(hit, 30 + 190 * (depth - low) / max(high - low, 1e-6), 255)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def _coloured_normal(normal: np.ndarray) -> np.ndarray:
    """(S, S, 3) unit normals -> (S, S, 3) uint8: x, y, z as red, green, blue, nothing is white."""
    return np.where(normal.any(axis=-1, keepdims=True), (normal + 1) * 127.5, 255).astype(np.uint8)


def _on_white(values: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 -> the same, white where it is black."""
    return np.where(values.any(axis=-1, keepdims=True), values, 255).astype(np.uint8)


def _coloured_position(encoded: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint16 -> (S, S, 3) uint8: x, y, z as red, green, blue, from -1 to 1."""
    points = decode_position(encoded)
    return np.where(np.isnan(points), 255, (np.nan_to_num(points) + 1) * 127.5).clip(0, 255).astype(np.uint8)


DRAWN: dict[str, Callable[[CaptureReader, int], np.ndarray]] = {
    "depth": lambda capture, view: _grey_depth(capture.depth(view)),
    "normal": lambda capture, view: _coloured_normal(decode_normal(capture.picture("normal", view))),
    "albedo": lambda capture, view: _on_white(capture.picture("albedo", view)),
    "position": lambda capture, view: _coloured_position(capture.picture("position", view)),
    "material": lambda capture, view: _on_white(capture.picture("material", view)),
    "mask": lambda capture, view: np.repeat(255 - capture.picture("mask", view)[..., None], 3, axis=2),
}
"""Pass -> a capture's picture of it for people."""
SHARD_DRAWN: dict[str, Callable[[ShardReader, int, int], np.ndarray]] = {
    "depth": lambda reader, number, view: _grey_depth(reader.depth(number, view)),
    "normal": lambda reader, number, view: _coloured_normal(reader.normal(number, view)),
}
"""The same of a shard's."""


def _shrunk(picture: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def main() -> int:
    config = command_line.parse(ShowConfig, "Draw a contact sheet of captures or shards.")
    sheet = contact_sheet(config)
    if max(sheet.shape[:2]) > 16383 and config.out.suffix == ".webp":
        raise UserError(
            f"--out {config.out}: {sheet.shape[0]} rows of pixels are more than WebP can hold; write a .png"
        )
    write_bytes(config.out, report.encode_picture(sheet, config.out.suffix))
    print(f"{config.out}: {sheet.shape[1]}×{sheet.shape[0]} pixels")
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
