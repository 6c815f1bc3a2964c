"""How fast views are read for training: `python -m benchmarks.shard_reading --captures captures/`.

The same pictures in three layouts: our shards, OpenLRM's folders (`<uid>/rgba/000.png`, one file a view), webdataset tars
(a member a view, in random order, as its users write them; read one after the other through a shuffle buffer). What a
training step needs of them, and what each reader is asked for, is pictures of 128² on white, float32 in [0, 1], in random order:

- *shards*: any view of any object; decoded at the smallest stored size that serves, every checksum compared.
- *OpenLRM*: its loader's way: the whole PNG decoded by Pillow, float32 tensor, put on white, bicubic to 128²; of each
  object four pictures, the first of which, the source view, it reads twice.
- *OpenLRM, whole pictures*: only decoded, by OpenCV, nothing else: what no reader of that layout can beat.
- *webdataset*: the library itself, its own Pillow decoder, area filter to 128². Rows: PNG at the rendered size; lossless
  WebP at the rendered size; and lossless WebP stored at 128², byte for byte what our shards hold.

Each row is measured in the process itself and with 1 and 2 loader processes (torch's DataLoader, batches of 16), the rows in
turn, in several rounds of which the best counts, since other processes share the machine. Everything is read from the page
cache. Prints a table and writes `benchmarks/results/shard_reading.json`.
"""

from __future__ import annotations

import importlib.metadata
import io
import itertools
import os
import platform
import shlex
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from datasets.captures import CaptureReader, capture_paths
from datasets.order import permutation
from datasets.packing import Packer
from datasets.shard_writer import ShardObject
from datasets.shards import ShardSet, encode_rgba
from preprocess.filling import stored_sizes
from turntable import config as command_line
from turntable import framing
from turntable.errors import EXIT_OK, UserError
from turntable.files import write_json

SIZE = 128
"""Pixels: what the trainers here and elsewhere look at."""
OPENLRM_VIEWS = 3
"""Supervised views an object in the OpenLRM row; with the source view read once more, four files a sample."""
BATCH = 16
SHUFFLE = 1000
"""webdataset's shuffle buffer, samples."""


@dataclass(frozen=True)
class ReadBenchmark:
    """What to measure."""

    captures: Path
    """Folder of captures; data sets of this kind hold pictures of 512² or 1024²."""
    objects: int = 40
    """At most so many of them."""
    rendered_size: int = 0
    """Enlarge the pictures to this size first, where the captures are smaller than real ones; 0: as they are."""
    seconds: float = 3.0
    """How long each row is read in each round."""
    rounds: int = 3
    """Rounds, of which each row's best counts."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Loader processes; 0: in the process itself."""
    out: Path = Path("benchmarks/results/shard_reading.json")
    """The result."""


class ShardViews(IterableDataset):
    """Views of shards in random order, for ever."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self.places = [(i, view) for i in range(len(shards)) for view in range(shards.view_count(i))]

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index, view in endless(self.places):
            yield torch.from_numpy(framing.on_background(self.shards.picture(index, view, SIZE)))


class LooseViews(IterableDataset):
    """OpenLRM's folders, as its loader reads them: the source view twice, everything in float32 at full size."""

    def __init__(self, folders: list[list[Path]]) -> None:
        self.folders = folders

    def __iter__(self) -> Iterator[torch.Tensor]:
        rng = np.random.default_rng(os.getpid())
        for (files,) in endless([(files,) for files in self.folders]):
            chosen = rng.choice(len(files), OPENLRM_VIEWS, replace=False)
            for number in [chosen[0], *chosen]:
                yield load_as_openlrm(files[number])


class DecodedViews(IterableDataset):
    """The same files decoded by OpenCV and nothing more; what comes out is a placeholder, so that nothing else is paid for."""

    def __init__(self, folders: list[list[Path]]) -> None:
        self.files = [(file,) for files in folders for file in files]
        self.nothing = torch.zeros(SIZE, SIZE, 3)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for (file,) in endless(self.files):
            assert cv2.imread(str(file), cv2.IMREAD_UNCHANGED) is not None
            yield self.nothing


def endless(items: list[Any]) -> Iterator[Any]:
    """The items in random order, again and again; each loader process its own part."""
    info = torch.utils.data.get_worker_info()
    mine = items[info.id :: info.num_workers] if info else items
    for epoch in itertools.count():
        for place in permutation(len(mine), epoch):
            yield mine[place]


def load_as_openlrm(file: Path) -> torch.Tensor:
    """A PNG as OpenLRM's dataset gives it (openlrm/datasets/objaverse.py, written anew)."""
    rgba = torch.from_numpy(np.array(Image.open(file))).float().permute(2, 0, 1)[None] / 255
    rgb = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    small = torch.nn.functional.interpolate(rgb, (SIZE, SIZE), mode="bicubic", align_corners=True)
    return small.clamp(0, 1)[0].permute(1, 2, 0).contiguous()


def shrunk(sample: dict[str, Any]) -> torch.Tensor:
    """webdataset's decoded picture (H, W, 4) uint8 -> (128, 128, 3) float32 on white."""
    (picture,) = (value for key, value in sample.items() if not key.startswith("__"))
    return torch.from_numpy(framing.on_background(framing.resize(picture, SIZE, SIZE)))


def tar_views(files: list[Path], extension: str) -> IterableDataset:
    """webdataset over tars, shuffled, decoded by its own handler for pictures."""
    import webdataset

    return (
        webdataset.WebDataset(
            [str(f) for f in files], shardshuffle=len(files), nodesplitter=webdataset.split_by_node, empty_check=False
        )
        .shuffle(SHUFFLE, initial=SHUFFLE // 4)
        .decode(webdataset.imagehandler("rgba8", [extension]))
        .map(shrunk)
        .repeat()
    )


def pictures_of(path: Path, rendered_size: int) -> Iterator[np.ndarray]:
    """A capture's pictures (S, S, 4) uint8, enlarged where that is asked for."""
    with CaptureReader(path) as capture:
        for view in range(len(capture)):
            rgba = capture.picture("rgba", view)
            if rendered_size and len(rgba) != rendered_size:
                rgba = cv2.resize(rgba, (rendered_size, rendered_size), interpolation=cv2.INTER_CUBIC)
            yield rgba


def png(rgba: np.ndarray) -> bytes:
    """As Pillow writes it unasked."""
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    return buffer.getvalue()


def lay_out_loose(captures: list[Path], root: Path, rendered_size: int) -> list[list[Path]]:
    """OpenLRM's layout of the captures' pictures; a list of files an object."""
    folders = []
    for path in captures:
        folder = root / path.stem / "rgba"
        folder.mkdir(parents=True)
        files = []
        for view, rgba in enumerate(pictures_of(path, rendered_size)):
            files.append(folder / f"{view:03d}.png")
            files[-1].write_bytes(png(rgba))
        folders.append(files)
    return folders


def lay_out_tars(folders: list[list[Path]], root: Path, extension: str, encode: Callable[[Path], bytes]) -> list[Path]:
    """Tars of the loose pictures, in random order: four, so that two loader processes have two each."""
    files = [file for files in folders for file in files]
    order = permutation(len(files), 0)
    paths = []
    root.mkdir()
    for number in range(4):
        paths.append(root / f"{number:06d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for place in order[number::4]:
                content = encode(files[place])
                member = tarfile.TarInfo(f"{files[place].parent.parent.name}-{files[place].stem}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return paths


def webp(file: Path, size: int = 0) -> bytes:
    """A loose picture as our shards hold it, at its own size or another."""
    rgba = np.asarray(Image.open(file))
    return encode_rgba(framing.resize(rgba, size, size) if size else rgba)


def rate(views: IterableDataset, workers: int, seconds: float) -> float:
    """Views a second, once everything runs."""
    loader = DataLoader(views, BATCH, num_workers=workers, worker_init_fn=one_thread)
    batches = iter(loader)
    for _ in range(4 + 8 * workers):
        next(batches)  # processes started, buffers full
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += len(next(batches))
    return count / (time.perf_counter() - start)


def one_thread(_: int = 0) -> None:
    """As many threads as there are loader processes, not more."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def rows(captures: list[Path], scratch: Path, rendered_size: int) -> dict[str, IterableDataset]:
    """Every layout, written and ready to be read."""
    folders = lay_out_loose(captures, scratch / "loose", rendered_size)
    large = len(cv2.imread(str(folders[0][0]), cv2.IMREAD_UNCHANGED))
    shards = shards_of(captures, scratch / "shards", rendered_size)
    png_tars = lay_out_tars(folders, scratch / "png", "png", Path.read_bytes)
    webp_tars = lay_out_tars(folders, scratch / "webp", "webp", webp)
    small_tars = lay_out_tars(folders, scratch / "small", "webp", lambda file: webp(file, SIZE))
    return {
        "shards": ShardViews(shards),
        f"OpenLRM, PNG {large}²": LooseViews(folders),
        f"OpenLRM's PNG {large}², only decoded": DecodedViews(folders),
        f"webdataset, PNG {large}²": tar_views(png_tars, "png"),
        f"webdataset, WebP {large}²": tar_views(webp_tars, "webp"),
        f"webdataset, WebP {SIZE}²": tar_views(small_tars, "webp"),
    }


def shards_of(captures: list[Path], folder: Path, rendered_size: int) -> ShardSet:
    """The captures' pictures as `preprocess.captures` stores them."""
    with Packer(folder) as packer:
        for path in captures:
            images: dict[tuple[str, int], list[bytes]] = {}
            for rgba in pictures_of(path, rendered_size):
                for size in stored_sizes(len(rgba), (512, 256, 128)):
                    images.setdefault(("rgba", size), []).append(encode_rgba(framing.resize(rgba, size, size)))
            with CaptureReader(path) as capture:
                boxes = np.zeros((len(capture), 4))
                packer.add(
                    ShardObject({"uid": capture.uid}, capture.world_from_camera, capture.intrinsics, boxes, images), {}
                )
    return ShardSet(folder)


def measure(options: ReadBenchmark) -> tuple[dict[str, dict[int, float]], dict[str, Any]]:
    """Row -> loader processes -> views a second; and what was read."""
    captures = capture_paths(options.captures)[: options.objects]
    if not captures:
        raise UserError(f"--captures {options.captures}: no capture in it; `python -m render.objaverse` writes them")
    one_thread()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        layouts = rows(captures, scratch, options.rendered_size)
        rates = {row: dict.fromkeys(options.workers, 0.0) for row in layouts}
        for _ in range(options.rounds):
            for row, views in layouts.items():
                for workers in options.workers:
                    rates[row][workers] = max(rates[row][workers], rate(views, workers, options.seconds))
        data = {"objects": len(captures), "pictures_enlarged_to": options.rendered_size or None}
        for kind in ("loose", "shards", "png", "webp", "small"):
            data[f"{kind}_bytes"] = sum(p.stat().st_size for p in (scratch / kind).rglob("*") if p.is_file())
    return rates, data


def ratios(rates: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """How many times as many views a second the shards give."""
    return {
        row: {workers: rates["shards"][workers] / value for workers, value in found.items()}
        for row, found in rates.items()
        if row != "shards"
    }


def table(rates: dict[str, dict[int, float]]) -> str:
    """Views a second and the shards' multiple of it."""
    processes = list(rates["shards"])
    lines = [f"{'views/s (shards: times as many)':36}" + "".join(f"{f'{w} processes':>20}" for w in processes)]
    times = ratios(rates)
    for row, found in rates.items():
        cells = [f"{found[w]:.0f}" + (f" ({times[row][w]:.1f}×)" if row in times else "") for w in processes]
        lines.append(f"{row:36}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def main() -> int:
    options = command_line.parse(ReadBenchmark, "Measure how fast views are read from shards and from other layouts.")
    rates, data = measure(options)
    print(table(rates))
    words = [f"--captures {options.captures.name}", f"--objects {options.objects}"]
    words += [f"--rendered-size {options.rendered_size}"] * (options.rendered_size > 0)
    packages = ("numpy", "opencv-python", "h5py", "pillow", "torch", "webdataset")
    write_json(
        options.out,
        {
            "command": shlex.join(["python", "-m", "benchmarks.shard_reading", *" ".join(words).split()]),
            "machine": {
                "cores": len(os.sched_getaffinity(0)),
                "architecture": platform.machine(),
                "system": platform.system(),
            },
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in packages},
            },
            "settings": {"seconds": options.seconds, "rounds": options.rounds, "size": SIZE, "shuffle": SHUFFLE},
            "data": data,
            "views_a_second": rates,
            "times_as_fast": ratios(rates),
        },
    )
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
