"""`python -m datasets.verify PATH`: checks every byte and every value of captures or shards.

Of a shard: its hash, every table, every checksum. Of both: that every picture decodes and has the right size, that cameras
are finite and rigid, that geometry lies in the field's box, that no uid occurs twice. Every damaged item is listed. Exit
code 0: sound; 1: something is damaged; 2: there is nothing to check at that path.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from datasets.captures import CaptureError, CaptureReader
from datasets.contents import contents
from datasets.pictures import decode_position
from datasets.shard_tables import USER_BLOCK, check_header, user_block
from datasets.shards import ShardError, ShardReader
from datasets.storage import BlockCache, open_content
from turntable import cameras
from turntable import config as command_line
from turntable.config import Location
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK
from turntable.geometry import Geometry

RIGID_TOLERANCE = 1e-5
"""Largest deviation of RᵀR from the identity. Cameras are stored in double precision; single precision keeps 1e-6."""
BOX_TOLERANCE = 1e-3
"""How far beyond the unit sphere a surface point may lie: half precision's step near 1 is 5e-4."""

POSITION_TOLERANCE = 1e-4
"""How far a stored position may lie from what depth and camera say, object units, beyond a step of depth."""


@dataclass(frozen=True)
class VerifyConfig:
    """Checks captures or shards."""

    path: tyro.conf.Positional[Location]
    """A capture, a folder of captures, a shard or a folder of shards; shards may be at a URL."""
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Objects checked at the same time."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")


@dataclass(frozen=True)
class Checked:
    """One object's result."""

    uid: str | None
    """None: its record cannot be read."""
    views: int
    problems: list[str]
    """A line a damaged item, beginning with its file."""


@dataclass
class Findings:
    """What was checked, and what is wrong with it."""

    objects: int = 0
    views: int = 0
    damage: list[str] = field(default_factory=list)
    """A line a damaged item, beginning with its file."""
    places: dict[str, Path] = field(default_factory=dict)
    """uid -> the file that holds it."""

    def add(self, path: Path, result: Checked) -> None:
        """Takes up one object of the file `path`."""
        self.objects += 1
        self.views += result.views
        self.damage += result.problems
        if result.uid is None:
            return
        if result.uid in self.places:
            self.damage.append(f"{path}: holds {result.uid}, as {self.places[result.uid]} does; remove one of them")
        self.places.setdefault(result.uid, path)


def verify(path: Path, threads: int = 1) -> Findings:
    """Checks everything at `path`. Raises UserError when there are neither captures nor shards."""
    kind, files = contents(path)
    findings = Findings()
    # What is at a URL now is to be checked, not what an earlier run has kept of it.
    with ThreadPoolExecutor(threads) as pool, tempfile.TemporaryDirectory(prefix="turntable-") as scratch:
        cache = BlockCache(Path(scratch), cache_bytes=2e9)
        if kind == "captures":
            for file, result in zip(
                files, _progress(pool.map(check_capture, files), len(files), "captures"), strict=True
            ):
                findings.add(file, result)
        for file in files if kind == "shards" else []:
            _verify_shard(file, cache, pool, findings)
    return findings


def _progress(results: Iterable[Checked], total: int, name: str) -> Iterable[Checked]:
    return tqdm(results, total=total, unit="object", desc=name)


def _verify_shard(path: Path, cache: BlockCache, pool: ThreadPoolExecutor, findings: Findings) -> None:
    problems = check_hash(path, cache)
    try:
        reader = ShardReader(path, cache)
        results = pool.map(partial(check_object, reader), range(len(reader)))
    except ShardError as error:
        findings.damage += problems or [str(error)]
        return
    findings.damage += problems
    for result in _progress(results, len(reader), path.name):
        findings.add(path, result)


def check_hash(path: Path, cache: BlockCache | None = None) -> list[str]:
    """Compares a shard's user block and hash with its content."""
    try:
        content = open_content(path, cache or BlockCache())
        stated = check_header(path, content)
    except ShardError as error:
        return [str(error)]
    digest = hashlib.sha256()
    for start in range(USER_BLOCK, len(content), 1 << 22):
        digest.update(content.read(start, min(1 << 22, len(content) - start)).data)
    if content.read(0, USER_BLOCK).tobytes() == user_block(len(content), digest.hexdigest()):
        return []
    found = "the user block is damaged" if stated == digest.hexdigest() else "its content does not fit its SHA-256"
    return [f"{path}: {found}; restore the shard, or delete it and preprocess again"]


def check_object(reader: ShardReader, number: int) -> Checked:
    """Checks one object of a shard."""
    where = f"{reader.path}: object {number}"
    views = reader.view_count(number)
    problems = _tried(where, partial(_decodes, reader.record, number))
    uid = None if problems else str(reader.record(number)["uid"])
    problems += _tried(where, lambda: camera_problems(*reader.cameras(number)))
    problems += _tried(where, lambda: box_problems(reader.matte_boxes(number)))
    for view in range(views):
        for name, size in reader.layout:
            problems += _tried(where, partial(_decodes, READ[name], reader, number, view, size))
    if reader.has_geometry:
        problems += _tried(where, lambda: geometry_problems(reader.geometry(number)))
    # Depth is read with its scale from the record: what is wrong with that is said once, not once a view.
    return Checked(uid, views, list(dict.fromkeys(problems)))


READ: dict[str, Callable[[ShardReader, int, int, int], np.ndarray]] = {
    "rgba": lambda reader, number, view, size: reader.picture(number, view, size),
    "depth": lambda reader, number, view, _: reader.depth(number, view),
    "normal": lambda reader, number, view, _: reader.normal(number, view),
}
"""Pass -> how one picture of it is read from a shard."""


def _decodes(read: Callable[..., object], *arguments: object) -> list[str]:
    """Reading raises an error, or nothing is wrong."""
    read(*arguments)
    return []


def _tried(where: str, check: Callable[[], Iterable[str]]) -> list[str]:
    """The problems that a check finds, each with its place; an error that it raises says its place itself."""
    try:
        return [f"{where}: {problem}" for problem in check()]
    except (ShardError, CaptureError) as error:
        return [str(error)]


def check_capture(path: Path) -> Checked:
    """Checks one capture."""
    try:
        reader = CaptureReader(path)
    except CaptureError as error:
        return Checked(path.stem, 0, [str(error)])
    where = str(path)
    with reader:
        problems = _tried(where, lambda: camera_problems(reader.world_from_camera, reader.intrinsics))
        problems += _tried(where, lambda: geometry_problems(reader.geometry()))
        if reader.uid != path.stem or path.parent.name != path.stem[:2]:
            problems.append(f"{path}: is the capture of {reader.uid}; its name does not fit")
        if "rgba" not in reader.passes:
            problems.append(f"{path}: not every view has an rgba picture; its passes are {reader.passes}")
        for view in range(len(reader)):
            unreadable = [
                p for name in reader.passes for p in _tried(where, partial(_decodes, reader.picture, name, view))
            ]
            problems += unreadable or _tried(where, partial(pass_problems, reader, view))
        return Checked(path.stem, len(reader), problems)


HITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "depth": lambda picture: picture > 0,
    "normal": lambda picture: picture.any(axis=-1),
    "position": lambda picture: picture.any(axis=-1),
    "material": lambda picture: picture[..., 0] > 0,
    "mask": lambda picture: picture > 0,
}
"""Pass -> where its picture says that something is hit."""


def pass_problems(reader: CaptureReader, view: int) -> Iterator[str]:
    """In what the passes of one view, all of one render, do not fit together."""
    hits = {name: HITS[name](reader.picture(name, view)) for name in reader.passes if name in HITS}
    first = next(iter(hits), None)
    for name, hit in hits.items():
        differing = int((hit != hits[first]).sum()) if first else 0
        if differing:
            yield f"view {view}: {name} and {first} differ in whether {differing} pixels hit anything"
    if "position" in hits and "depth" in hits and (hits["position"] == hits["depth"]).all():
        uv = cameras.pixel_centres(reader.width, reader.height)
        pose, lens = reader.world_from_camera[view], reader.intrinsics[view]
        points = cameras.backproject(uv, reader.depth(view), pose, lens)
        error = np.abs(points - decode_position(reader.picture("position", view)))[hits["depth"]].max(initial=0)
        # Depth is rounded to a step, and position to its own, of less than half this.
        if error > POSITION_TOLERANCE + reader.depth_scale:
            yield f"view {view}: position and depth are {error:.4f} apart"


def camera_problems(world_from_camera: np.ndarray, intrinsics: np.ndarray) -> Iterator[str]:
    """What is wrong with cameras (V, 3, 4) and intrinsics (V, 4), a line a view."""
    for view, (pose, lens) in enumerate(zip(world_from_camera, intrinsics, strict=True)):
        if not (np.isfinite(pose).all() and np.isfinite(lens).all()):
            yield f"view {view}: its camera is not finite"
            continue
        rotation = pose[:, :3]
        if np.abs(rotation.T @ rotation - np.eye(3)).max() > RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
            yield f"view {view}: its camera's axes are not a rotation"
        if (lens[:2] <= 0).any():
            yield f"view {view}: its focal length is not positive ({lens[:2].tolist()})"


def box_problems(matte_boxes: np.ndarray) -> Iterator[str]:
    """What is wrong with matte boxes (V, 4), a line a view."""
    for view, box in enumerate(matte_boxes):
        sound = (box >= 0).all() and (box <= 1).all() and (not box.any() or (box[:2] < box[2:]).all())
        if not sound:
            yield f"view {view}: its matte box {box.tolist()} is not a box in the picture"


def geometry_problems(shape: Geometry) -> Iterator[str]:
    """What is wrong with an object's geometry."""
    if not (np.isfinite(shape.points).all() and np.isfinite(shape.normals).all()):
        yield "its surface points or normals are not finite"
        return
    farthest = float(np.linalg.norm(shape.points, axis=1).max(initial=0))
    if farthest > 1 + BOX_TOLERANCE:
        yield f"its farthest surface point lies at {farthest:.4f}, outside the unit sphere"
    length = np.linalg.norm(shape.normals, axis=1)
    if np.abs(length - 1).max(initial=0) > 1e-2:
        yield "its normals are not of unit length"
    if not shape.solid.any():
        yield "its solid is empty"


def main() -> int:
    config = command_line.parse(VerifyConfig, "Check captures or shards, every byte of them.")
    findings = verify(config.path, config.threads)
    for line in findings.damage:
        print(line)
    checked = f"{findings.objects} objects, {findings.views} views checked"
    print(f"{checked}: {f'{len(findings.damage)} items are damaged' if findings.damage else 'all sound'}")
    return EXIT_ITEMS_FAILED if findings.damage else EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
