"""`python -m preprocess.openlrm --root DIR --out shards/`: OpenLRM's folders (rgba/, pose/, intrinsics.npy) become shards.

`datasets.layout_openlrm` says what is in them. A folder that we exported is taken over as it is. Others hold objects whose
box's longest side is 2, in OpenLRM's unit: centre and size are found from the mattes, unless `--normalise none`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.exported import FORMAT, FORMAT_VERSION
from datasets.folder import uid_of
from preprocess import filling, posed
from preprocess.colmap import Lens
from preprocess.filling import Unusable, Views
from preprocess.matte import Matter
from preprocess.nerf import scene_folders
from preprocess.posed import PosedConfig, PosedScene, Shot, rigid
from preprocess.transforms import json_object
from turntable import config as command_line
from turntable.errors import UserError
from turntable.files import inside

MAX_TABLE_BYTES = 1 << 16
"""Of a pose or of intrinsics: a dozen numbers."""


@dataclass(frozen=True, kw_only=True)
class OpenLRMConfig(PosedConfig):
    """Turns OpenLRM's folders into shards. The same command again adds what is missing."""


class OpenLRMFolders:
    """Every folder at or below the root that holds intrinsics.npy, as a source of objects."""

    plural = "objects"

    def __init__(self, config: PosedConfig, matter: Matter) -> None:
        self._config, self._matter = config, matter
        self._folders: dict[str, Path] = {}
        for folder in scene_folders(config.root, lambda path: (path / "intrinsics.npy").is_file()):
            uid = folder_uid(folder, config.root)
            if uid in self._folders:
                raise UserError(f"{folder} and {self._folders[uid]} are both {uid}; take one of them away")
            self._folders[uid] = folder
        if not self._folders:
            raise UserError(f"--root {config.root}: no <uid>/intrinsics.npy in it")

    def uids(self) -> list[str]:
        """In the order of the uids."""
        return sorted(self._folders)

    def load(self, uid: str) -> Views:
        """One object, whole."""
        folder = self._folders[uid]
        scene = read_folder(folder, self._config.root, uid, self._config.licence)
        return posed.load(scene, self._config, self._matter)


def folder_uid(folder: Path, root: Path) -> str:
    """The folder's name, which is OpenLRM's uid, where it stands directly below the root; else one made of the path."""
    name = folder.resolve().name
    plain = all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    return name if plain and (folder.parent == root or folder == root) else uid_of(folder.relative_to(root).as_posix())


def read_folder(folder: Path, root: Path, uid: str, licence: str = "unknown") -> PosedScene:
    """The object in `folder`; no picture is opened. Raises Unusable."""
    table = _table(folder, "intrinsics.npy", (3, 2))
    numbers = _view_names(folder)
    record = _own_record(folder / "turntable.json")
    ours = record is not None
    record = {"source": "openlrm", "licence": licence} if record is None else record
    shots = [_shot(folder, root, name, table, ours) for name in numbers]
    return PosedScene(folder, shots, {**record, "uid": uid}, ours)


def _view_names(folder: Path) -> list[str]:
    """The views' numbers as texts, each with a picture and a pose."""
    poses = {path.stem for path in folder.glob("pose/*.npy")}
    pictures = {path.stem for path in folder.glob("rgba/*.png")}
    if not poses or poses != pictures:
        odd = sorted(poses ^ pictures)
        raise Unusable(
            "incomplete",
            f"{folder}: {len(poses)} poses and {len(pictures)} pictures"
            + (f"; of {odd[0]} there is only one of the two" if odd else ""),
        )
    return sorted(poses)


def _shot(folder: Path, root: Path, name: str, table: np.ndarray, ours: bool) -> Shot:
    try:
        pose = rigid(_table(folder, f"pose/{name}.npy", (3, 4), (4, 4)))
    except ValueError as error:
        if isinstance(error, Unusable):
            raise
        raise Unusable("bad-pose", f"{folder}/pose/{name}.npy: {error}") from error
    picture = _inside(folder, f"rgba/{name}.png")
    passes = {kind: folder / kind / f"{name}.png" for kind in ("depth", "normal") if ours}
    passes = {kind: path for kind, path in passes.items() if _inside(folder, f"{kind}/{name}.png").is_file()}
    return Shot(f"{picture.relative_to(root).as_posix()}", picture, pose, lambda w, h: _lens(table, w, h), None, passes)


def _lens(table: np.ndarray, width: int, height: int) -> Lens:
    """OpenLRM divides its table by its own width and height and takes pictures of any size."""
    (fx, fy), (cx, cy), (across, down) = table
    if min(fx, fy, across, down) <= 0:
        raise ValueError(f"intrinsics.npy says {table.tolist()}")
    x, y = width / across, height / down
    return Lens("PINHOLE", width, height, (fx * x, fy * y, cx * x, cy * y))


def _inside(folder: Path, name: str) -> Path:
    try:
        return inside(folder, name)
    except (UserError, OSError) as error:
        raise Unusable("outside", f"{folder}: {error}") from error


def _table(folder: Path, name: str, *shapes: tuple[int, int]) -> np.ndarray:
    """A small .npy of one of the shapes, float64, finite."""
    path = _inside(folder, name)
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        with io.BytesIO(path.read_bytes()) as content:
            table = np.asarray(np.lib.format.read_array(content, allow_pickle=False))
        if table.shape not in shapes or table.dtype.kind not in "fiu":
            raise ValueError(f"{table.shape} {table.dtype}, expected {' or '.join(map(str, shapes))} numbers")
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise Unusable("malformed", f"{path}: {error}") from error
    values = table.astype(np.float64)
    if not np.isfinite(values).all():
        raise Unusable("bad-pose" if "pose" in name else "malformed", f"{path}: numbers that are not finite")
    return values


def _own_record(path: Path) -> dict[str, Any] | None:
    """What our export tells of the object; None where there is nothing of ours."""
    if not path.is_file():
        return None
    content = json_object(path)
    if (content.get("format"), content.get("format_version")) != (FORMAT, FORMAT_VERSION):
        found = f"{content.get('format')} {content.get('format_version')}"
        raise Unusable("unknown-version", f"{path}: {found}, this version reads {FORMAT} {FORMAT_VERSION}")
    if not isinstance(content.get("record"), dict):
        raise Unusable("malformed", f"{path}: an export without a record")
    return dict(content["record"])


def preprocess(config: OpenLRMConfig) -> filling.Summary:
    """Does what is missing in `config.out`."""
    return filling.fill(config, OpenLRMFolders(config, config.matter()))


COMMAND = filling.Command("preprocess.openlrm", OpenLRMConfig, lambda config: OpenLRMFolders(config, config.matter()))


def main() -> int:
    """The command."""
    return COMMAND.main("Turn OpenLRM's folders into shards.")


if __name__ == "__main__":
    command_line.run(main)
