"""MVImgNet on disk: where scenes, frames and masks lie, and reading them without trusting them.

    <root>/<class>/<instance>/images/NNN.jpg
    <root>/<class>/<instance>/sparse/0/{cameras,images,points3D}.bin     empty or missing for a part of the videos
    <root>/mask/<class>/<instance>/NNN.jpg.png                           a download of its own, for about half of them

MVImgNet 2.0 has `<root>/<class>/<instance>/masks/` instead. https://github.com/GAP-LAB-CUHK-SZ/MVImgNet (empty folders: issue 18),
https://github.com/luyues/MVImgNet2.0.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.pictures import decode_png
from preprocess.colmap import Lens
from preprocess.masks import ASPECT_TOLERANCE, grey
from turntable.errors import UserError
from turntable.files import inside

MASK_FOLDERS = ("mask", "masks")
"""Below the root; `mask/mask/…`, which unpacking into a folder of that name gives, is found too."""
MAX_PICTURE_BYTES = 1 << 27


class FrameError(UserError):
    """A frame's picture or mask that cannot be used; the message is short, its scene is named elsewhere."""


@dataclass(frozen=True)
class Scene:
    """One video's folder."""

    root: Path
    label: str
    """Name of the class's folder, a number."""
    instance: str
    """Name of the video's folder."""

    @property
    def uid(self) -> str:
        """Safe as a file's name; two scenes never share one."""
        name = f"{self.label}-{self.instance}"
        if re.fullmatch(r"[0-9]+-[A-Za-z0-9_]+", name):
            return f"mvimgnet-{name}"
        digest = hashlib.sha256(f"{self.label}/{self.instance}".encode("utf-8", "surrogateescape")).hexdigest()
        return f"mvimgnet-{re.sub(r'[^A-Za-z0-9_]+', '-', name)[:48]}-{digest[:8]}"

    @property
    def folder(self) -> Path:
        """Where images and model lie."""
        return self.root / self.label / self.instance

    @property
    def model(self) -> Path:
        """COLMAP's files."""
        return self.folder / "sparse" / "0"

    def picture_count(self) -> int:
        """Frames that the video has, registered or not."""
        try:
            return sum(
                entry.name.lower().endswith((".jpg", ".jpeg", ".png")) for entry in os.scandir(self.folder / "images")
            )
        except OSError:
            return 0

    def has_masks(self) -> bool:
        """Whether there is a folder of masks for it."""
        return any(folder.is_dir() for folder in self._mask_folders())

    def _mask_folders(self) -> Iterator[Path]:
        for name in MASK_FOLDERS:
            yield self.root / name / self.label / self.instance
            yield self.root / name / name / self.label / self.instance
            yield self.folder / name

    def picture(self, name: str, lens: Lens) -> np.ndarray:
        """(height, width, 3) uint8: the frame `name` as the lens took it. Raises FrameError."""
        path = _within(self.folder / "images", name)
        return _read_picture(path, lens)

    def mask(self, name: str, lens: Lens) -> np.ndarray:
        """(h, w) uint8: the frame's own mask at its own size, soft where it is. Raises FrameError."""
        for folder in self._mask_folders():
            for candidate in (f"{name}.png", str(Path(name).with_suffix(".png"))):
                path = _within(folder, candidate)
                if path.is_file():
                    return _read_mask(path, lens)
        raise FrameError("no mask")


def find_scenes(root: Path, classes: tuple[str, ...] = ()) -> list[Scene]:
    """Every scene below `root`, of all classes or of some, in the order of their names. Only folders' names are read."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder; it must hold <class>/<instance>/images and …/sparse/0")
    labels = sorted((e.name for e in os.scandir(root) if e.is_dir() and e.name not in MASK_FOLDERS), key=_by_number)
    missing = sorted(set(classes) - set(labels))
    if missing:
        raise UserError(f"--classes {' '.join(missing)}: no such folder in {root}, which has {' '.join(labels[:20])} …")
    scenes = [
        Scene(root, label, entry)
        for label in labels
        if not classes or label in classes
        for entry in sorted(e.name for e in os.scandir(root / label) if e.is_dir())
    ]
    if not scenes:
        raise UserError(f"--root {root}: no scene in it; it must hold <class>/<instance>/images and …/sparse/0")
    return scenes


def _by_number(label: str) -> tuple[int, str]:
    return (int(label), "") if label.isdecimal() else (1 << 60, label)


def read_class_names(path: Path) -> dict[str, str]:
    """Class folder -> name, from lines `number,name`, as the dataset's `mvimgnet_category.txt` has them."""
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names {path}: cannot be read ({error}); it needs lines such as `7,stove`") from error
    pairs = [line.partition(",") for line in lines]
    wrong = next(
        (line for line, (_, comma, name) in zip(lines, pairs, strict=True) if not comma or not name.strip()), None
    )
    if wrong is not None:
        raise UserError(f"--class-names {path}: {wrong!r} is no line `number,name`")
    return {number.strip(): name.strip() for number, _, name in pairs}


def _within(folder: Path, name: str) -> Path:
    try:
        return inside(folder, name)
    except (UserError, ValueError, OSError):  # a name may lead out, hold a zero byte, be too long
        raise FrameError("a name that leads elsewhere") from None


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_PICTURE_BYTES:
            raise FrameError(f"a picture of {path.stat().st_size} bytes; refused")
        return path.read_bytes()
    except FileNotFoundError:
        raise FrameError("no picture") from None
    except OSError as error:
        raise FrameError(f"a picture that cannot be read ({error.strerror})") from error


def _read_picture(path: Path, lens: Lens) -> np.ndarray:
    """EXIF's rotation is not applied: COLMAP does not either (https://github.com/colmap/colmap/issues/1456)."""
    from PIL import Image

    content = _content(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as picture:
                if picture.size != (lens.width, lens.height):
                    found = f"{picture.size[0]}×{picture.size[1]}"
                    raise FrameError(f"a picture of {found} pixels by a camera of {lens.width}×{lens.height}")
                return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"a damaged picture ({error})") from error


def _read_mask(path: Path, lens: Lens) -> np.ndarray:
    try:
        mask = grey(decode_png(_content(path)))
    except ValueError as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"a mask that cannot be read ({error})") from error
    height, width = mask.shape
    if abs(width / height * lens.height / lens.width - 1) > ASPECT_TOLERANCE:
        raise FrameError(f"a mask of {width}×{height} for a frame of {lens.width}×{lens.height} pixels")
    return mask
