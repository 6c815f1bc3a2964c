"""Pictures with cameras from elsewhere, whatever said where they were taken: how they become an object's views.

Two cases. *As they are*: the world is already the object's (our own exports and captures, or `--normalise none`) and the
pictures are squares without distortion; then they are taken over untouched. *Found*: the object is looked for with its
mattes (`preprocess.whereabouts`), cameras move to its units, and pictures that are not square, of several sizes or
distorted become object-centred squares as video frames do (`preprocess.squares`).
"""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from datasets.captures import MAX_ENTRY_BYTES, parse_geometry
from datasets.pictures import PASS_CHANNELS, decode_png, encode_png
from preprocess import filling, masks, matte, poses
from preprocess.colmap import Frame, Lens, ModelError
from preprocess.filling import Filling, Unusable, Views
from preprocess.squares import Cut, Outline, outline, square_of
from preprocess.whereabouts import UP_AXES, Whereabouts, find_object
from turntable import cameras
from turntable.geometry import Geometry

Normalise = Literal["auto", "mattes", "none"]
MAX_PICTURE_BYTES = 1 << 27
MAX_PICTURE_PIXELS = 1 << 26
RIGID = 1e-6
"""Deviation of RᵀR from the identity up to which a rotation is taken as it is: what single precision leaves."""
NEARLY_RIGID = 1e-2
"""… and up to which the nearest rotation stands for it: matrices printed with few digits."""


@dataclass(frozen=True, kw_only=True)
class PosedConfig(Filling):
    """What all commands share that take pictures with cameras."""

    root: Path
    """A scene's folder, or a folder of such folders, however deep."""
    normalise: Normalise = "auto"
    """`mattes`: centre and size are found from mattes and cameras. `none`: the world is the object's already, centred and with
    its farthest point at distance 1. `auto`: none where the files say that they are ours, else mattes."""
    up: Literal["x", "y", "z", "-x", "-y", "-z"] = "z"
    """Which axis of the files' world points up; z is Blender's, nerfstudio's and instant-ngp's."""
    licence: str = "unknown"
    """Licence of scenes that state none."""

    FREE = Filling.FREE | {"root"}


@dataclass(frozen=True)
class Shot:
    """One picture and its camera."""

    name: str
    """The picture's path below the root, for messages and masks."""
    picture: Path
    world_from_camera: np.ndarray
    """(3, 4) float64, OpenGL axes, the files' own world."""
    lens: Callable[[int, int], Lens]
    """Width and height of the picture, pixels -> its lens. Raises ValueError when the two do not fit together."""
    mask: Path | None = None
    passes: dict[str, Path] = field(default_factory=dict)
    """Pass beside rgba -> its PNG, where the files are ours."""


@dataclass(frozen=True)
class PosedScene:
    """One object's pictures and cameras."""

    folder: Path
    shots: list[Shot]
    record: dict[str, Any]
    """What is known of the object; `uid` among it."""
    ours: bool = False
    """Whether the world is the object's: the files were written by Turntable."""
    geometry: Path | None = None
    """A `geometry.npz` of ours."""


def rigid(matrix: Any) -> np.ndarray:
    """3 or 4 rows of 4 numbers, camera to world in OpenGL axes -> (3, 4) float64. Raises ValueError for what is no such pose."""
    pose = np.asarray(matrix, dtype=np.float64)
    if pose.shape == (3, 4):
        pose = cameras.homogeneous(pose)
    pose = cameras.world_from_opengl(pose)
    rotation = pose[:, :3]
    deviation = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if deviation > NEARLY_RIGID or np.linalg.det(rotation) <= 0:
        raise ValueError(
            f"not a rotation and a position (RᵀR deviates by {deviation:.3g}, det {np.linalg.det(rotation):.3g})"
        )
    if deviation > RIGID:
        u, _, vt = np.linalg.svd(rotation)  # the nearest rotation; Schönemann 1966
        rotation = u @ vt
    return np.concatenate([rotation, pose[:, 3:]], axis=1)


def load(scene: PosedScene, config: PosedConfig, matter: matte.Matter) -> Views:
    """One object's views. Raises Unusable."""
    taken = Taken(_with_matting(scene, matter), matter)
    how = ("none" if scene.ours else "mattes") if config.normalise == "auto" else config.normalise
    lenses = taken.lenses()
    plain = all(_is_plain_square(lens) for lens in lenses) and len({lens.width for lens in lenses}) == 1
    if how == "none" and plain:
        return _as_they_are(taken, lenses, config)
    return _found(taken, lenses, config, how, plain)


def _with_matting(scene: PosedScene, matter: matte.Matter) -> PosedScene:
    """The scene with what made its mattes in its record, where that is not the pictures' own alpha."""
    if matter.identity["matte"] == "alpha":
        return scene
    return dataclasses.replace(scene, record={**scene.record, "matting": matter.identity})


def _is_plain_square(lens: Lens) -> bool:
    return lens.model == "PINHOLE" and lens.width == lens.height


def _as_they_are(taken: Taken, lenses: list[Lens], config: PosedConfig) -> Views:
    scene = taken.scene
    world_from_camera = np.stack([shot.world_from_camera for shot in scene.shots])
    if not scene.ours:
        turn = poses_turned(config.up)
        world_from_camera = np.stack([cameras.compose(turn, pose) for pose in world_from_camera])
    how = {} if scene.ours else {"normalise": {"method": "none", "up": config.up}}
    return Views(
        str(scene.folder),
        {**scene.record, **how},
        world_from_camera,
        np.stack([_normalised(lens) for lens in lenses]),
        (taken.rgba(number) for number in range(len(scene.shots))),
        taken.passes(lenses[0].width),
        taken.geometry(),
    )


def poses_turned(up: str) -> np.ndarray:
    """(3, 4) rotation from a world in which `up` points up to ours."""
    return np.concatenate([UP_AXES[up], np.zeros((3, 1))], axis=1)


def _normalised(lens: Lens) -> np.ndarray:
    """(4,) intrinsics of a lens without distortion."""
    return cameras.normalised_intrinsics(np.array(lens.parameters[:4]), lens.width, lens.height)


def _found(taken: Taken, lenses: list[Lens], config: PosedConfig, how: str, plain: bool) -> Views:
    """The object looked for, its views moved to its units and, unless all are plain squares of one size, cut out."""
    scene = taken.scene
    alphas, shapes = taken.outlines(lenses)
    kept = [number for number, shape in enumerate(shapes) if shape is not None]
    if len(kept) < 2:
        raise Unusable("empty", f"{scene.folder}: {len(kept)} of its {len(shapes)} mattes show anything; left out")
    frames = [(_frame(scene.shots[k], lenses[k]), shape) for k, shape in enumerate(shapes) if shape is not None]
    if how == "none":
        place = Whereabouts(poses_turned(config.up), {"method": "none", "up": config.up})
    else:
        try:
            place = find_object(frames, config.up)
        except ValueError as error:
            raise Unusable(
                "no-object",
                f"{scene.folder}: {error}; if the world is the object's already (centred, farthest point at distance 1), say "
                "--normalise none; if another axis points up, --up",
            ) from error
    used = list(range(len(lenses))) if plain else kept
    world_from_camera = np.stack([poses.moved(place.object_from_world, scene.shots[k].world_from_camera) for k in used])
    record = {**scene.record, "normalise": place.record}
    if plain:
        intrinsics = np.stack([_normalised(lens) for lens in lenses])
        pictures: Iterator[np.ndarray] = (taken.rgba(k, alphas[k]) for k in used)
        return Views(str(scene.folder), record, world_from_camera, intrinsics, pictures)
    cuts = _cuts([lenses[k] for k in used], [shapes[k] for k in used], config)
    record["views"] = [_cut_record(scene.shots[k], cut) for k, cut in zip(used, cuts, strict=True)]
    pictures = (square(cut, taken.rgba(k, alphas[k])) for k, cut in zip(used, cuts, strict=True))
    return Views(str(scene.folder), record, world_from_camera, np.stack([cut.intrinsics for cut in cuts]), pictures)


def _frame(shot: Shot, lens: Lens) -> Frame:
    """As `preprocess.poses` takes it; no points were seen in it."""
    return Frame(shot.name, lens, shot.world_from_camera, np.zeros((0, 2)), np.zeros(0, np.int64))


def _cuts(lenses: list[Lens], shapes: list[Outline | None], config: PosedConfig) -> list[Cut]:
    """Object-centred squares, all stored at one size: the largest that the pictures have without being enlarged."""
    pairs = [(lens, shape) for lens, shape in zip(lenses, shapes, strict=True) if shape is not None]
    own = int(np.median([square_of(shape, lens).side for lens, shape in pairs]))
    size = min(own, max(config.sizes)) if config.upscale != "none" else filling.stored_sizes(own, config.sizes)[0]
    return [Cut(lens, square_of(shape, lens, size), size) for lens, shape in pairs]


def square(cut: Cut, rgba: np.ndarray) -> np.ndarray:
    """A picture's square. Colour under transparent pixels must not be mixed in: it is filled up from around first."""
    hidden = (rgba[..., 3] == 0).astype(np.uint8)
    colour = np.ascontiguousarray(rgba[..., :3])
    if hidden.any() and not hidden.all():
        _, nearest = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        known = np.zeros((nearest.max() + 1, 3), np.uint8)
        known[nearest[hidden == 0]] = colour[hidden == 0]
        colour = known[nearest]
    return cut.resample(colour, np.ascontiguousarray(rgba[..., 3]))[0]


def _cut_record(shot: Shot, cut: Cut) -> dict[str, Any]:
    lens = {"model": cut.lens.model, "size": [cut.lens.width, cut.lens.height], "parameters": list(cut.lens.parameters)}
    return {"file": shot.name, "square": [cut.square.left, cut.square.top, cut.square.side], "lens": lens}


@dataclass(frozen=True)
class Taken:
    """A scene's pictures, read as they are needed. Every error is an `Unusable` that names the file."""

    scene: PosedScene
    matter: matte.Matter

    def lenses(self) -> list[Lens]:
        """One a shot; of the pictures only headers are read."""
        lenses = []
        for shot in self.scene.shots:
            width, height = picture_size(shot)
            try:
                lens = shot.lens(width, height)
                lens.check()
            except (ValueError, ModelError) as error:
                raise Unusable("bad-lens", f"{self.scene.folder}: {shot.name}: {error}") from error
            lenses.append(lens)
        return lenses

    def rgba(self, number: int, alpha: bytes | None = None) -> np.ndarray:
        """(H, W, 4) uint8 with its matte: the mask that the files name, or the one that is asked for. `alpha`: found before."""
        shot = self.scene.shots[number]
        picture = read_picture(shot)
        if alpha is not None:
            return np.dstack([picture[..., :3], decode_png(alpha)])
        try:
            if shot.mask is not None:
                mask = masks.fitted(self._mask(shot), picture.shape[1], picture.shape[0], shot.mask)
                return masks.cut_out(picture, mask)
            return self.matter(picture, shot.name)
        except matte.MatteError as error:
            raise Unusable(error.reason, f"{self.scene.folder}: {shot.name}: {error}") from error

    def _mask(self, shot: Shot) -> np.ndarray:
        assert shot.mask is not None
        try:
            return masks.grey(decode_png(_content(shot.mask, shot.name)))
        except ValueError as error:
            if isinstance(error, Unusable):
                raise
            raise Unusable("bad-mask", f"{shot.mask}: {error}; make the mask again") from error

    def outlines(self, lenses: list[Lens]) -> tuple[list[bytes], list[Outline | None]]:
        """Every shot's matte as PNG bytes, which take little room, and its outline."""
        alphas, shapes = [], []
        for number, lens in enumerate(lenses):
            alpha = self.rgba(number)[..., 3]
            alphas.append(encode_png(np.ascontiguousarray(alpha)))
            shapes.append(outline(alpha, lens))
        return alphas, shapes

    def passes(self, side: int) -> dict[tuple[str, int], list[bytes]]:
        """(pass, side) -> the PNG of every shot, of passes that all have and that shards keep."""
        kept: dict[tuple[str, int], list[bytes]] = {}
        for name in ("depth", "normal"):
            if not all(name in shot.passes for shot in self.scene.shots):
                continue
            if name == "depth" and not isinstance(self.scene.record.get("depth_scale"), float):
                continue
            contents = [_content(shot.passes[name], shot.name) for shot in self.scene.shots]
            own = {_pass_side(name, content, shot) for content, shot in zip(contents, self.scene.shots, strict=True)}
            if len(own) != 1:
                raise Unusable("size-differs", f"{self.scene.folder}: {name} pictures of several sizes: {sorted(own)}")
            kept[name, own.pop()] = contents
        return kept

    def geometry(self) -> Geometry | None:
        """The shape that lies beside our own pictures."""
        if self.scene.geometry is None:
            return None
        try:
            return parse_geometry(_content(self.scene.geometry, self.scene.geometry.name))
        except ValueError as error:
            if isinstance(error, Unusable):
                raise
            raise Unusable("bad-geometry", f"{self.scene.geometry}: {error}") from error


def _pass_side(name: str, content: bytes, shot: Shot) -> int:
    channels, dtype = PASS_CHANNELS[name]
    try:
        picture = decode_png(content)
    except ValueError as error:
        raise Unusable("bad-picture", f"{shot.passes[name]}: {error}") from error
    side = picture.shape[0]
    if picture.size != side * side * channels or picture.dtype != dtype or picture.shape[1] != side:
        raise Unusable(
            "bad-picture", f"{shot.passes[name]}: {picture.shape} {picture.dtype}, not a square {name} picture"
        )
    return side


def _content(path: Path, name: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > max(MAX_PICTURE_BYTES, MAX_ENTRY_BYTES):
            raise Unusable("bad-picture", f"{path}: {size} bytes; refused")
        return path.read_bytes()
    except FileNotFoundError:
        raise Unusable("missing-picture", f"{path}: not there, though {name} is listed") from None
    except OSError as error:
        raise Unusable("bad-picture", f"{path}: cannot be read ({error.strerror})") from error


def picture_size(shot: Shot) -> tuple[int, int]:
    """Width and height by the file's header."""
    with _opened(shot) as picture:
        return picture.size


def read_picture(shot: Shot) -> np.ndarray:
    """(H, W, 3 or 4) uint8 sRGB, straight alpha. EXIF's rotation is not applied: cameras are those of the file as it is."""
    with _opened(shot) as picture:
        try:
            if picture.mode.startswith("I") or picture.mode == "F":
                raise ValueError(f"of mode {picture.mode}, not 8-bit colour")
            transparent = "A" in picture.getbands() or "transparency" in picture.info
            return np.array(picture.convert("RGBA" if transparent else "RGB"))
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise Unusable("bad-picture", f"{shot.picture}: a damaged picture ({error})") from error


def _opened(shot: Shot) -> Any:
    """The picture with its header read and its size limited."""
    from PIL import Image

    content = _content(shot.picture, shot.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Unusable("bad-picture", f"{shot.picture}: not a picture that can be read ({error})") from error
    if picture.size[0] * picture.size[1] > MAX_PICTURE_PIXELS:
        raise Unusable("bad-picture", f"{shot.picture}: {picture.size[0]}×{picture.size[1]} pixels; refused")
    return picture
