"""What every preprocess command does with its objects: they are stored at several sizes and laid into shards.

An object comes from a `Source` as `Views`: pictures with their mattes, cameras, whatever else there is. It is measured
(matte boxes), stored at several sizes and laid into a shard in the order of the uids, so that the shards' bytes do not
depend on how many threads worked. One that cannot be used is named in `<out>/failures/<uid>.json` and passed over. Objects
that are in finished shards already are skipped.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from datasets import index
from datasets.packing import writing
from datasets.pictures import decode_png
from datasets.shard_writer import ShardObject
from datasets.shards import ShardSet, encode_rgba, shard_paths
from preprocess import consistency, matte, tiles, upscale
from preprocess.matte import Device, Matter
from preprocess.open_shards import OpenShards, names_after
from preprocess.upscale import Upscaler
from turntable import config as command_line
from turntable import framing
from turntable.cluster import ClusterConfig
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, DiskFullError, UserError
from turntable.files import is_local, listing, read_json, write_json
from turntable.geometry import Geometry
from turntable.jobs import Limits
from turntable.outcomes import failure_path, read_failures
from turntable.parallel import in_order

logger = logging.getLogger(__name__)
Config = TypeVar("Config", bound="Filling")
UPSCALED_TOGETHER = 8
"""Views that go through an upscaler at once; a GPU is idle between single ones."""


@dataclass(frozen=True, kw_only=True)
class Filling:
    """How objects are stored. The same command again adds what is missing."""

    out: command_line.Location
    """Folder of shards; with --processes or --ray also a URL that fsspec knows (s3://bucket/shards)."""
    sizes: tuple[int, ...] = (512, 256, 128)
    """Sides of the stored pictures, pixels. Those above the pictures' own size are left out; below the smallest, their own size."""
    upscale: str = "none"
    """How pictures are enlarged before they are stored: `none`, `realesrgan-x4plus`, `realesrgan-x2plus`, `realesr-general-x4v3`
    or a file of an ESRGAN network's weights (.pth, .safetensors)."""
    upscale_device: str = "auto"
    """Where that network runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`."""
    upscale_tile: int = 0
    """Side, in pixels before enlarging, of the square that goes through the network at once; 0: as memory allows."""
    matte: str = "alpha"
    """Where mattes come from: `alpha` is the pictures' own; `rembg:NAME`, `masks:DIR` and more: see `preprocess.matte`."""
    matte_device: Device = "cpu"
    """Where a matting network runs."""
    shard_bytes: float = 1.5e9
    """A shard is closed when it holds this many bytes."""
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Objects worked on at the same time."""
    processes: int = 0
    """Processes of this machine that each write shards of their own, and share its cores; 0: threads of this one do it all."""
    objects_per_job: int = 128
    """Objects that such a process is handed at a time. They fill a shard, or a few where they need more than --shard-bytes."""
    limits: Limits = field(default_factory=Limits)
    """What such a process may take; the times are for one object."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Many machines, with such processes on each."""
    retry: tuple[str, ...] = ("all",)
    """Reasons of earlier failures to try again; `none` passes over all that failed before."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {"out", "shard_bytes", "threads", "retry", "matte_device", "upscale_device", "upscale_tile"}
        | {"processes", "objects_per_job", "limits", "cluster"}
    )
    """Fields that may differ between the runs that fill one folder: they change no object's content."""

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be positive, got {self.sizes}")
        if self.shard_bytes < 1 or self.threads < 1:
            raise ValueError(f"shard_bytes and threads must be at least 1, got {self.shard_bytes} and {self.threads}")
        if self.processes < 0 or self.objects_per_job < 1:
            raise ValueError(
                f"processes must be 0 or more, objects_per_job 1 or more, got {self.processes} and {self.objects_per_job}"
            )
        if self.processes and self.cluster.ray:
            raise ValueError("--processes are of this machine, --ray hands its work to others; name one of them")
        if self.upscale_tile < 0:
            raise ValueError(f"upscale_tile must be 0 or more pixels, got {self.upscale_tile}")
        upscale.check(self.upscale)
        matte.check(self.matte)

    def matter(self) -> Matter:
        """The way of making mattes that was asked for."""
        return matte.find(self.matte, self.matte_device)

    def upscaler(self) -> Upscaler:
        """The way of enlarging pictures that was asked for, its network loaded."""
        return upscale.find(self.upscale, self.upscale_device, self.upscale_tile)

    def settings(self) -> dict[str, Any]:
        """What decides an object's content."""
        return {k: v for k, v in command_line.resolved(self).items() if k not in self.FREE}


class Unusable(UserError):
    """An object that can be read but gives nothing to train on, or that cannot be read; `reason` is its short name."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Views:
    """One object as its source gives it."""

    place: str
    """Its file or folder, for messages."""
    record: dict[str, Any]
    """JSON values, see `ShardObject.record`; `uid` among them."""
    world_from_camera: np.ndarray
    """(V, 3, 4), OpenGL axes, object units, world frame."""
    intrinsics: np.ndarray
    """(V, 4), normalised."""
    rgba: Iterable[np.ndarray]
    """V pictures (S, S, 4) uint8, straight alpha, sRGB, the alpha being the matte. Gone through once: they may be made on the way."""
    passes: Mapping[tuple[str, int], list[bytes]] = field(default_factory=dict)
    """(pass, size in pixels) -> V encoded pictures that are stored as they are."""
    geometry: Geometry | None = None


class Source(Protocol):
    """Where objects come from."""

    plural: str
    """What its objects are called: captures, scenes, …"""

    def uids(self) -> Sequence[str]:
        """All objects, in the order in which they are stored."""

    def load(self, uid: str) -> Views:
        """One of them. Raises `Unusable`. Called from several threads at a time."""


def stored_sizes(own: int, sizes: tuple[int, ...]) -> list[int]:
    """The sizes at which a picture of `own` pixels is stored, largest first: never larger than it is."""
    return sorted({size for size in sizes if size <= own}, reverse=True) or [own]


def shard_object(views: Views, config: Filling, upscaler: Upscaler) -> ShardObject:
    """An object as a shard stores it. Raises `Unusable`."""
    boxes, images = [], collections.defaultdict(list, {key: list(kept) for key, kept in views.passes.items()})
    record = dict(views.record)
    for rgba in _enlarged(views, upscaler, record):
        boxes.append(framing.matte_box(rgba[..., 3]) or (0.0, 0.0, 0.0, 0.0))
        for size in stored_sizes(len(rgba), config.sizes):
            images["rgba", size].append(encode_rgba(framing.resize(rgba, size, size)))
    if not np.any(boxes):
        raise Unusable("empty", f"{views.place}: nothing is seen in any of its {len(boxes)} views; left out")
    return ShardObject(record, views.world_from_camera, views.intrinsics, np.array(boxes), dict(images), views.geometry)


def _enlarged(views: Views, upscaler: Upscaler, record: dict[str, Any]) -> Iterator[np.ndarray]:
    """The views' pictures through the upscaler. Notes in `record`, at the end, how much neighbours disagree thereafter."""
    if isinstance(upscaler, upscale.Unchanged):
        yield from views.rgba
        return
    depths = next((kept for (name, _), kept in views.passes.items() if name == "depth"), None)
    scale = np.float32(record.get("depth_scale", 1))
    planar = None if depths is None else [decode_png(depth) * scale for depth in depths]
    comparison = consistency.Comparison(views.world_from_camera, views.intrinsics, planar)
    numbered = enumerate(views.rgba)
    while batch := list(itertools.islice(numbered, UPSCALED_TOGETHER)):
        try:
            larger = upscaler(np.stack([picture for _, picture in batch]))
        except (upscale.UpscaleError, tiles.TileError) as error:
            raise Unusable("upscaling", f"{views.place}: {error}") from error
        for (view, picture), result in zip(batch, larger, strict=True):
            comparison.see(view, picture, result)
            yield result
    record["upscaling"] = {**upscaler.identity, "disagreement": comparison.figures()}


@dataclass(frozen=True)
class Failure:
    """An object that could not be used."""

    reason: str
    """As `Unusable` names it; `error`: something that we did not foresee, with where it happened."""
    message: str


@dataclass(frozen=True)
class Laid:
    """An object that lies in a shard."""

    empty_views: int
    """Its views in which nothing is seen."""


def attempt(source: Source, uid: str, config: Filling, upscaler: Upscaler) -> ShardObject | Failure:
    """An object as a shard stores it, or what is wrong with it."""
    try:
        return shard_object(source.load(uid), config, upscaler)
    except Unusable as error:
        return Failure(error.reason, str(error))
    except (DiskFullError, MemoryError):
        raise
    except Exception:
        # One object in a hundred thousand must not end the run, and end it again when it is continued.
        logger.exception("%s: not foreseen; the run goes on without it", uid)
        return Failure("error", traceback.format_exc(limit=-3))


@dataclass
class Summary:
    """What a run did."""

    plural: str
    """What the objects are called where they come from."""
    done: int = 0
    skipped: int = 0
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    """Reason -> objects."""
    passed_over: int = 0
    """Objects that failed before and were not tried again."""
    failed_before: frozenset[str] = frozenset()
    """Objects that failed before."""
    left: int = 0
    """Objects of jobs that were lost with their workers or on the way to a URL; the next run does them."""
    empty_views: int = 0
    """Views, of the objects done, in which nothing is seen."""
    shards: list[str] = field(default_factory=list)

    def text(self, seconds: float) -> str:
        """For a person."""
        lines = [f"{self.done} objects preprocessed into {len(self.shards)} shards, {self.skipped} were there already"]
        if self.done:
            lines[0] += f"; {self.done / max(seconds, 1e-9) * 3600:.0f} objects an hour"
        if self.empty_views:
            lines.append(f"{self.empty_views} of their views show nothing")
        for reason, count in sorted(self.failed.items()):
            lines.append(f"{count} {self.plural} could not be used: {reason}, see failures/")
        if self.left:
            lines.append(f"{self.left} were not reached, see jobs/failures/; the same command does them")
        if self.passed_over:
            lines.append(f"{self.passed_over} failed before and were not tried again (--retry all tries them)")
        return "\n".join(lines)


Lay = Callable[["Filling", Source, Upscaler, list[str], Summary], None]
"""Lays the objects of those uids into shards, and notes in the summary what becomes of each."""


def fill(config: Filling, source: Source, lay: Lay | None = None) -> Summary:
    """Does what is missing in `config.out`, with threads of this process unless `lay` has another way."""
    if not lay and not is_local(config.out):
        raise UserError(f"--out {config.out}: threads of one process write into a folder; add --processes 1, or more")
    with writing(config.out) if is_local(config.out) else contextlib.nullcontext():
        # Loaded before the folder is taken: what is wrong with them is said while another one can still be chosen.
        upscaler, mattes = config.upscaler(), config.matter().identity
        command_line.claim_folder(config.out, config, set(config.FREE))
        if mattes["matte"] != "alpha":
            _claim(config.out / "matting.json", "mattes", mattes)
        if not isinstance(upscaler, upscale.Unchanged):
            # Precision depends on the device, which may change from run to run.
            _claim(config.out / "upscaling.json", "upscaling", {k: upscaler.identity[k] for k in ("name", "sha256")})
        present = listing(config.out)
        there = set(ShardSet(config.out).uids) if shard_paths(config.out) else set()
        uids = source.uids()
        missing = [uid for uid in uids if uid not in there]
        failures = read_failures(config.out, present)
        again = {uid for uid, record in failures.items() if {"all", record["reason"]} & {*config.retry}}
        todo = [uid for uid in missing if uid not in failures or uid in again]
        summary = Summary(source.plural, skipped=len(uids) - len(missing), failed_before=frozenset(failures))
        summary.passed_over = len(missing) - len(todo)
        if todo:
            (lay or _fill)(config, source, upscaler, todo, summary)
        if shard_paths(config.out) and not index.is_current(config.out):
            index.write_index(config.out)
        return summary


def _claim(path: Path, what: str, identity: dict[str, Any]) -> None:
    """Notes in `path` what a network is, and keeps another one out of the folder.

    A file given by path may have been replaced since the folder was begun.
    """
    if path.exists() and (before := read_json(path)) != identity:
        raise UserError(f"{path.parent}: its {what} came of {before}, now it would be {identity}; use another --out")
    write_json(path, identity)


def _fill(config: Filling, source: Source, upscaler: Upscaler, uids: list[str], summary: Summary) -> None:
    """Writes the objects `uids`. Ctrl-C closes the shards in hand with what they hold."""
    shards = OpenShards(config.out, names_after(config.out), config.shard_bytes, config.settings(), summary.shards)
    made = laid_out(config, source, upscaler, uids, shards)
    results = tqdm(made, total=len(uids), unit="object", desc="preprocess")
    try:
        with _StopRequest() as stop, contextlib.closing(made):
            for uid, result in results:
                note(config, uid, result, summary)
                if stop.asked:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        shards.close()
        raise
    except BaseException:
        shards.discard()
        raise
    shards.close()


def laid_out(
    config: Filling, source: Source, upscaler: Upscaler, uids: Sequence[str], shards: OpenShards
) -> Generator[tuple[str, Laid | Failure], None, None]:
    """Lays objects into shards, in order -> (uid, what became of it), as they go."""
    work = partial(attempt, source, config=config, upscaler=upscaler)
    with contextlib.closing(in_order(work, uids, config.threads)) as results:
        for uid, result in zip(uids, results, strict=True):
            if isinstance(result, Failure):
                yield uid, result
            else:
                shards.add(result)
                yield uid, Laid(int((~result.matte_box.any(axis=1)).sum()))


def note(config: Filling, uid: str, result: Laid | Failure, summary: Summary) -> None:
    """Counts an object, and keeps its failure's record up to date."""
    path = failure_path(config.out, uid)
    if isinstance(result, Failure):
        summary.failed[result.reason] += 1
        write_json(path, {"uid": uid, "reason": result.reason, "message": result.message})
    else:
        summary.done += 1
        summary.empty_views += result.empty_views
        if uid in summary.failed_before:
            path.unlink(missing_ok=True)


class _StopRequest(contextlib.AbstractContextManager["_StopRequest"]):
    """While it is open, the first Ctrl-C or SIGTERM only sets `asked`, so that no object is half in a shard.

    The next one interrupts.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopRequest:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.asked = True
        signal.signal(number, signal.default_int_handler)


@dataclass(frozen=True)
class Command(Generic[Config]):
    """A command of preprocessing, so that a process elsewhere can be told to do a part of it."""

    module: str
    """Where it stands, under the name `COMMAND`: preprocess.captures, …"""
    config: type[Config]
    source: Callable[[Config], Source]

    def main(self, description: str) -> int:
        """Runs it as the command line says: prints its summary, returns its exit code."""
        from preprocess import workforce

        start = time.monotonic()
        cv2.setNumThreads(1)  # the threads are ours; OpenCV's own would only get in their way
        config = command_line.parse(self.config, description)
        by_workers = config.processes or config.cluster.ray
        summary = fill(config, self.source(config), workforce.laying(self.module) if by_workers else None)
        print(summary.text(time.monotonic() - start))
        return EXIT_ITEMS_FAILED if summary.failed or summary.left else EXIT_OK
