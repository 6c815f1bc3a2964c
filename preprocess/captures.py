"""`python -m preprocess.captures --captures captures/ --out shards/`: captures become shards.

An object is matted, measured (matte boxes), stored at several sizes and laid into a shard in the order of the uids, so that
the shards' bytes do not depend on how many threads worked. A capture that cannot be used is named in
`<out>/failures/<uid>.json` and passed over. Objects that are in finished shards already are skipped.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from datasets import index
from datasets.captures import CaptureError, CaptureReader, capture_paths
from datasets.shard_writer import ShardObject, ShardWriter
from datasets.shards import ShardSet, encode_rgba, shard_paths
from preprocess import matte, upscale
from turntable import config as command_line
from turntable import framing
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import write_json

FREE_BETWEEN_RUNS = {"captures", "out", "shard_bytes", "threads"}
"""Fields that may differ between the runs that fill one folder: they change no object's content."""


@dataclass(frozen=True)
class PreprocessConfig:
    """Turns captures into shards. The same command again adds what is missing."""

    captures: Path
    """Folder of captures, as `render` writes it."""
    out: Path
    """Folder of shards."""
    sizes: tuple[int, ...] = (512, 256, 128)
    """Sides of the stored pictures, pixels. Those above the rendered size are left out; below the smallest, the rendered size."""
    upscale: str = "none"
    """How pictures are enlarged before they are stored."""
    matte: str = "alpha"
    """Where mattes come from: `alpha` is the capture's own."""
    shard_bytes: float = 1.5e9
    """A shard is closed when it holds this many bytes."""
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Captures worked on at the same time."""

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be positive, got {self.sizes}")
        if self.shard_bytes < 1 or self.threads < 1:
            raise ValueError(f"shard_bytes and threads must be at least 1, got {self.shard_bytes} and {self.threads}")
        upscale.find(self.upscale)
        matte.find(self.matte)

    def settings(self) -> dict[str, Any]:
        """What decides an object's content."""
        return {k: v for k, v in command_line.resolved(self).items() if k not in FREE_BETWEEN_RUNS}


class UnusableCapture(UserError):
    """A readable capture that gives no training object; `reason` is its short name."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def stored_sizes(rendered: int, sizes: tuple[int, ...]) -> list[int]:
    """The sizes at which a picture rendered at `rendered` pixels is stored, largest first: never larger than it is."""
    return sorted({size for size in sizes if size <= rendered}, reverse=True) or [rendered]


def shard_object(path: Path, config: PreprocessConfig) -> ShardObject:
    """One capture as a shard stores it. Raises CaptureError or UnusableCapture."""
    with CaptureReader(path) as capture:
        _check(path, capture)
        boxes, images = [], collections.defaultdict(list)
        for view in range(len(capture)):
            rgba = _matted(path, view, capture.picture("rgba", view), config)
            boxes.append(framing.matte_box(rgba[..., 3]) or (0.0, 0.0, 0.0, 0.0))
            for size in stored_sizes(len(rgba), config.sizes):
                images["rgba", size].append(encode_rgba(framing.resize(rgba, size, size)))
            for name in ("depth", "normal"):
                if name in capture.passes:
                    capture.picture(name, view)  # decoded once, so that only sound pictures are stored
                    images[name, capture.width].append(capture.encoded(name, view))
        if not np.any(boxes):
            raise UnusableCapture("empty", f"{path}: nothing is seen in any of its {len(capture)} views; left out")
        return ShardObject(
            _record(capture), capture.world_from_camera, capture.intrinsics, np.array(boxes), images, capture.geometry()
        )


def _check(path: Path, capture: CaptureReader) -> None:
    if capture.uid != path.stem:
        raise CaptureError(f"{path}: says that it is {capture.uid}; give the file its own name")
    if capture.width != capture.height:
        raise UnusableCapture(
            "not-square", f"{path}: {capture.width}×{capture.height} pixels; shards hold square pictures"
        )
    if "rgba" not in capture.passes:
        raise UnusableCapture("no-pictures", f"{path}: not every view has an rgba picture, passes are {capture.passes}")


def _matted(path: Path, view: int, rgba: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    try:
        return matte.matte(upscale.upscale(rgba, config.upscale), config.matte)
    except matte.MatteError as error:
        raise UnusableCapture("no-matte", f"{path}: view {view}: {error}") from error


def _record(capture: CaptureReader) -> dict[str, Any]:
    """What the capture knows of its object, under the capture's own names (uid, source, lvis_class, licence, creator, …)."""
    return {
        **capture.record,
        "depth_scale": capture.depth_scale,
        "rendered_size": capture.width,
        "views": capture.view_records,
    }


@dataclass(frozen=True)
class Failure:
    """A capture that could not be used."""

    reason: str
    """`corrupt-capture`, `empty`, `no-matte`, `not-square`, `no-pictures`."""
    message: str


def attempt(path: Path, config: PreprocessConfig) -> ShardObject | Failure:
    """`shard_object`, with what is wrong with a capture as a value."""
    try:
        return shard_object(path, config)
    except UnusableCapture as error:
        return Failure(error.reason, str(error))
    except CaptureError as error:
        return Failure("corrupt-capture", str(error))


@dataclass
class Summary:
    """What a run did."""

    done: int = 0
    skipped: int = 0
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    """Reason -> captures."""
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
            lines.append(f"{count} captures could not be used: {reason}, see failures/")
        return "\n".join(lines)


def preprocess(config: PreprocessConfig) -> Summary:
    """Does what is missing in `config.out`."""
    if not config.captures.is_dir():
        raise UserError(f"--captures {config.captures}: no such folder; `python -m render.objaverse` writes captures")
    paths = capture_paths(config.captures)
    if not paths:
        raise UserError(
            f"--captures {config.captures}: no capture (??/<uid>.zip) in it; `python -m render.objaverse` writes them"
        )
    with _locked(config.out):
        command_line.claim_folder(config.out, config, FREE_BETWEEN_RUNS)
        for leftover in config.out.glob(".shard-*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        there = set(ShardSet(config.out).uids) if shard_paths(config.out) else set()
        missing = [path for path in paths if path.stem not in there]
        summary = Summary(skipped=len(paths) - len(missing))
        if missing:
            _fill(config, missing, summary)
        if shard_paths(config.out) and not index.is_current(config.out):
            index.write_index(config.out)
        return summary


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps a second run out of `folder` for as long as this process lives."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another run is writing shards here; wait for it, or use another --out"
            ) from None
        yield


def _fill(config: PreprocessConfig, paths: list[Path], summary: Summary) -> None:
    """Writes the objects of `paths`. Ctrl-C closes the shard in hand with what it holds."""
    writer: ShardWriter | None = None
    results = tqdm(_results(config, paths), total=len(paths), unit="object", desc="preprocess")
    try:
        with _StopRequest() as stop, contextlib.closing(results):
            for path, result in zip(paths, results, strict=True):
                if isinstance(result, Failure):
                    _report_failure(config, path, result, summary)
                else:
                    writer = _add(writer, result, config, summary)
                    _failure_path(config, path).unlink(missing_ok=True)
                if stop.asked:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if writer:
            _finish(writer, summary)
        raise
    except BaseException:
        if writer:
            writer.discard()
        raise
    if writer:
        _finish(writer, summary)


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


def _add(writer: ShardWriter | None, item: ShardObject, config: PreprocessConfig, summary: Summary) -> ShardWriter:
    """Lays an object into the open shard, or into a new one where that is full or holds other sizes."""
    if writer and (writer.layout != item.layout or writer.size >= config.shard_bytes):
        _finish(writer, summary)
        writer = None
    if writer is None:
        writer = ShardWriter(config.out / f"shard-{_next_number(config.out):06d}.h5", config.settings())
    writer.add(item)
    summary.done += 1
    summary.empty_views += int((~item.matte_box.any(axis=1)).sum())
    return writer


def _failure_path(config: PreprocessConfig, path: Path) -> Path:
    return config.out / "failures" / f"{path.stem}.json"


def _report_failure(config: PreprocessConfig, path: Path, failure: Failure, summary: Summary) -> None:
    summary.failed[failure.reason] += 1
    write_json(_failure_path(config, path), {"uid": path.stem, "reason": failure.reason, "message": failure.message})


def _finish(writer: ShardWriter, summary: Summary) -> None:
    if not len(writer):  # its first object did not fit on the disk
        return
    writer.close()
    summary.shards.append(writer.path.name)


def _next_number(folder: Path) -> int:
    """One more than the highest number in use."""
    numbers = [int(path.stem.removeprefix("shard-")) for path in shard_paths(folder) if path.stem[6:].isdigit()]
    return max(numbers, default=-1) + 1


def _results(config: PreprocessConfig, paths: list[Path]) -> Iterator[ShardObject | Failure]:
    """Every path's result, in order, a bounded number of them ahead of whoever takes them."""
    # Threads, not processes: decoding, resizing and encoding leave the interpreter's lock, results need not be copied,
    # and a process that is killed while it hands over a result of megabytes leaves a pool waiting for ever.
    pool = concurrent.futures.ThreadPoolExecutor(config.threads)
    try:
        rest = iter(paths)
        first = itertools.islice(rest, 2 * config.threads)
        ahead = collections.deque(pool.submit(attempt, path, config) for path in first)
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(attempt, path, config) for path in [next(rest, None)] if path)
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> int:
    config = command_line.parse(PreprocessConfig, "Turn captures into shards.")
    start = time.monotonic()
    cv2.setNumThreads(1)  # the threads are ours; OpenCV's own would only get in their way
    summary = preprocess(config)
    print(summary.text(time.monotonic() - start))
    return EXIT_ITEMS_FAILED if summary.failed else EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
