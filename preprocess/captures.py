"""`python -m preprocess.captures --captures captures/ --out shards/`: captures become shards."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.captures import CaptureError, CaptureReader, capture_paths
from preprocess import filling, matte
from preprocess.filling import Filling, Unusable, Views
from preprocess.matte import Matter
from turntable import config as command_line
from turntable.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(Filling):
    """Turns captures into shards. The same command again adds what is missing."""

    captures: Path
    """Folder of captures, as `render` writes it."""

    FREE = Filling.FREE | {"captures"}


class Captures:
    """A folder of captures as a source of objects. Raises UserError where there is none in it."""

    plural = "captures"

    def __init__(self, folder: Path, matter: Matter) -> None:
        if not folder.is_dir():
            raise UserError(f"--captures {folder}: no such folder; `python -m render.objaverse` writes captures")
        self._paths = {path.stem: path for path in capture_paths(folder)}
        self._matter = matter
        if not self._paths:
            raise UserError(
                f"--captures {folder}: no capture (??/<uid>.zip) in it; `python -m render.objaverse` writes them"
            )

    def uids(self) -> list[str]:
        """In the order of the files' names."""
        return list(self._paths)

    def load(self, uid: str) -> Views:
        """One capture, whole."""
        path = self._paths[uid]
        try:
            with CaptureReader(path) as capture:
                _check(path, capture)
                pictures = list(self._pictures(path, capture))
                passes, geometry = _passes(capture), capture.geometry()
                cameras = capture.world_from_camera, capture.intrinsics
                return Views(str(path), _record(capture, self._matter), *cameras, pictures, passes, geometry)
        except CaptureError as error:
            raise Unusable("corrupt-capture", str(error)) from error

    def _pictures(self, path: Path, capture: CaptureReader) -> Iterator[np.ndarray]:
        for view in range(len(capture)):
            try:
                yield self._matter(capture.picture("rgba", view), f"{capture.uid}/{view:03d}.png")
            except matte.MatteError as error:
                raise Unusable(error.reason, f"{path}: view {view}: {error}") from error


def _passes(capture: CaptureReader) -> dict[tuple[str, int], list[bytes]]:
    passes: dict[tuple[str, int], list[bytes]] = collections.defaultdict(list)
    for name in (name for name in ("depth", "normal") if name in capture.passes):
        for view in range(len(capture)):
            capture.picture(name, view)  # decoded once, so that only sound pictures are stored
            passes[name, capture.width].append(capture.encoded(name, view))
    return passes


def _check(path: Path, capture: CaptureReader) -> None:
    if capture.uid != path.stem:
        raise CaptureError(f"{path}: says that it is {capture.uid}; give the file its own name")
    if capture.width != capture.height:
        raise Unusable("not-square", f"{path}: {capture.width}×{capture.height} pixels; shards hold square pictures")
    if "rgba" not in capture.passes:
        raise Unusable("no-pictures", f"{path}: not every view has an rgba picture, passes are {capture.passes}")


def _record(capture: CaptureReader, matter: Matter) -> dict[str, Any]:
    """What the capture knows of its object, under the capture's own names (uid, source, lvis_class, licence, creator, …)."""
    made = {} if matter.identity["matte"] == "alpha" else {"matting": matter.identity}
    return {
        **made,
        **capture.record,
        "depth_scale": capture.depth_scale,
        "rendered_size": capture.width,
        "views": capture.view_records,
    }


def preprocess(config: PreprocessConfig) -> filling.Summary:
    """Does what is missing in `config.out`."""
    return filling.fill(config, Captures(config.captures, config.matter()))


COMMAND = filling.Command(
    "preprocess.captures", PreprocessConfig, lambda config: Captures(config.captures, config.matter())
)


def main() -> int:
    """The command."""
    return COMMAND.main("Turn captures into shards.")


if __name__ == "__main__":
    command_line.run(main)
