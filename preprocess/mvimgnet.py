"""`python -m preprocess.mvimgnet --root DIR --out shards/`: object videos of MVImgNet become shards.

A scene is COLMAP's sparse model, the frames that it registered, and their masks. Its object is found (`preprocess.poses`), judged
(`preprocess.gates`) and moved to the origin; every frame is undistorted and cut to a square around it in one resampling
(`preprocess.squares`). A scene that cannot be used is named with its reason in `<out>/failures/` and passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preprocess import filling, matte, poses
from preprocess.colmap import Frame, Model, ModelError, read_model
from preprocess.filling import Filling, Unusable, Views
from preprocess.gates import Gates
from preprocess.locate import Found, View, left_out_text, locate
from preprocess.scenes import FrameError, Scene, find_scenes, read_class_names
from preprocess.squares import Cut, square_of
from turntable import config as command_line
from turntable.errors import UserError

logger = logging.getLogger(__name__)

LICENCE = "MVImgNet Terms of Use"
"""So the dataset's README calls them; whoever downloads it is shown them."""
SOURCE_URL = "https://github.com/GAP-LAB-CUHK-SZ/MVImgNet"


@dataclass(frozen=True, kw_only=True)
class MVImgNetConfig(Filling):
    """Turns object videos into shards. The same command again adds what is missing."""

    root: Path
    """Folder that holds <class>/<instance>/images and …/sparse/0."""
    matte: str = "alpha"
    """Where mattes come from: `alpha` is the dataset's own masks; `rembg:<model>` makes them where a scene has none."""
    classes: tuple[str, ...] = ()
    """Folders of classes (`7 43`); all of them if none is named."""
    instances: Path | None = None
    """File with a line `<class>/<instance>` a scene; all scenes if not given."""
    class_names: Path | None = None
    """The dataset's `mvimgnet_category.txt`, lines `number,name`. Without it a class is called by its number."""
    keep_cut_off: bool = False
    """Also store frames whose border cuts the object off: their mattes say that there is nothing where nothing was seen."""
    gates: Gates = field(default_factory=Gates)
    """What a scene must come up to."""

    FREE = Filling.FREE | {"root", "classes", "instances"}


class MVImgNet:
    """The scenes of a folder as a source of objects. Raises UserError where there are none."""

    plural = "scenes"

    def __init__(self, config: MVImgNetConfig) -> None:
        self._config = config
        self._names = read_class_names(config.class_names) if config.class_names else {}
        scenes = find_scenes(config.root, config.classes)
        if config.instances:
            scenes = _listed(scenes, config.instances)
        self._scenes = {scene.uid: scene for scene in scenes}
        self._matter = config.matter()

    def uids(self) -> list[str]:
        """By class and instance."""
        return list(self._scenes)

    def load(self, uid: str) -> Views:
        """One scene, whole."""
        scene = self._scenes[uid]
        model = _model(scene)
        mattes, left_out = self._mattes(scene, model)
        made = not self._takes_masks_of(scene)
        found = locate(scene, model, mattes, left_out, self._config.gates, made)
        size = stored_side(found, self._config)
        stored = list(self._stored(scene, found, size, left_out))
        if len(stored) < self._config.gates.min_frames:
            why = f"{len(stored)} frames can be stored, {self._config.gates.min_frames} are needed"
            raise Unusable("few-frames", f"{scene.folder}: {why}{left_out_text(left_out)}")
        object_from_colmap = poses.object_from_colmap(found.box, stored[0].view.frame.world_from_camera[:, 3])
        record = {
            **self._record(scene, found, object_from_colmap),
            "lenses": model.lens_count,
            "left_out": left_out,
            "views": [each.record() for each in stored],
        }
        world_from_camera = [poses.moved(object_from_colmap, each.view.frame.world_from_camera) for each in stored]
        intrinsics = [each.cut.intrinsics for each in stored]
        return Views(
            str(scene.folder), record, np.stack(world_from_camera), np.stack(intrinsics), [each.rgba for each in stored]
        )

    def _stored(self, scene: Scene, found: Found, size: int, left_out: dict[str, str]) -> Iterator[Stored]:
        """The frames of a scene as squares; those that cannot be had get their reason in `left_out`."""
        for view in found.views:
            if view.outline.cut_off and not self._config.keep_cut_off:
                left_out[view.frame.name] = "the frame's border cuts the object off"
                continue
            lens = view.frame.lens
            try:
                picture = scene.picture(view.frame.name, lens)
            except FrameError as error:
                left_out[view.frame.name] = str(error)
                continue
            cut = Cut(lens, square_of(view.outline, lens, size), size)
            yield Stored(view, cut, *cut.resample(picture, view.matte))

    def _mattes(self, scene: Scene, model: Model) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Frame -> its matte, (h, w) uint8 at whatever size, and frame -> why it has none."""
        if self._config.matte == "alpha" and not scene.has_masks():
            raise Unusable(
                "no-masks",
                f"{scene.folder}: the dataset has no masks for it (looked for mask/{scene.label}/{scene.instance}/NNN.jpg.png); "
                "fetch the masks, a download of its own, or have them made: --matte rembg:u2net",
            )
        make = self._own_matte if self._takes_masks_of(scene) else self._made_matte
        mattes, left_out = {}, dict.fromkeys(model.dropped_frames, "COLMAP gave it no finite pose")
        for frame in model.frames:
            try:
                mattes[frame.name] = make(scene, frame)
            except FrameError as error:
                left_out[frame.name] = str(error)
        return mattes, left_out

    def _takes_masks_of(self, scene: Scene) -> bool:
        """The dataset's own masks come first, unless other masks were named."""
        return scene.has_masks() and not self._config.matte.startswith("masks:")

    def _own_matte(self, scene: Scene, frame: Frame) -> np.ndarray:
        return scene.mask(frame.name, frame.lens)

    def _made_matte(self, scene: Scene, frame: Frame) -> np.ndarray:
        picture = scene.picture(frame.name, frame.lens)
        try:
            return self._matter(picture, f"{scene.label}/{scene.instance}/{frame.name}")[..., 3]
        except matte.MatteError as error:
            if error.reason in ("no-model", "no-device", "unknown"):
                raise  # the run's fault, not the frame's
            raise FrameError(f"no matte ({error})") from error

    def _record(self, scene: Scene, found: Found, object_from_colmap: np.ndarray) -> dict[str, Any]:
        """What is known of the scene, as JSON values."""
        x, y, _ = object_from_colmap[:, :3] @ found.box.axes[0]
        box = {"size": (found.box.size / found.box.radius).tolist(), "turned_deg": float(np.rad2deg(np.arctan2(y, x)))}
        up = {"method": found.up.method, "support": found.up.support, "disagreement_deg": found.up.disagreement_deg}
        return {
            "uid": scene.uid,
            "source": "mvimgnet",
            "lvis_class": self._names.get(scene.label) or f"mvimgnet-{scene.label}",
            "path": f"{scene.label}/{scene.instance}",
            "source_url": SOURCE_URL,
            "licence": LICENCE,
            "object_from_colmap": object_from_colmap.tolist(),
            "box": box,
            "up": up,
            "azimuth_0": "the first stored frame; a video has no front",
            "matting": {"matte": "dataset"} if self._takes_masks_of(scene) else self._matter.identity,
            "figures": found.figures.record(),
        }


@dataclass(frozen=True)
class Stored:
    """A frame as it is stored."""

    view: View
    cut: Cut
    rgba: np.ndarray
    """(S, S, 4) uint8."""
    shown: float
    """Share of the square that the frame shows; the rest is transparent because nobody saw it."""

    def record(self) -> dict[str, Any]:
        """Enough to find its pixels in the frame again, as JSON values."""
        square, lens = self.cut.square, self.cut.lens
        return {
            "file": self.view.frame.name,
            "cut_off": self.view.outline.cut_off,
            "shown": round(self.shown, 4),
            "square": [square.left, square.top, square.side],
            "lens": {"model": lens.model, "size": [lens.width, lens.height], "parameters": list(lens.parameters)},
        }


def _model(scene: Scene) -> Model:
    """The scene's model, checked so far that it can be worked with. Raises Unusable."""
    if not (scene.model / "images.bin").exists():
        raise Unusable(
            "no-model", f"{scene.folder}: no sparse model in sparse/0; COLMAP found none, the scene is left out"
        )
    try:
        model = read_model(scene.model)
        for lens in {frame.lens for frame in model.frames}:
            lens.check()
    except ModelError as error:
        raise Unusable("bad-model", str(error)) from error
    if not model.frames or not len(model.points):
        raise Unusable(
            "empty-model",
            f"{scene.model}: {len(model.frames)} frames with a pose and {len(model.points)} points; left out",
        )
    return model


def stored_side(found: Found, config: Filling) -> int:
    """Pixels a side of the squares that are handed on: the largest stored size that the frames have without being enlarged."""
    own = int(np.median([square_of(view.outline, view.frame.lens).side for view in found.views]))
    if config.upscale != "none":
        return min(own, max(config.sizes))
    size = filling.stored_sizes(own, config.sizes)[0]
    return size if size in config.sizes else max(size // 32 * 32, 32)  # few small sizes: a shard holds one


def _listed(scenes: list[Scene], path: Path) -> list[Scene]:
    """The scenes that a file names."""
    try:
        wanted = {line.strip().strip("/") for line in path.read_text("utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--instances {path}: cannot be read ({error}); it needs lines such as `7/1a0012d7`") from error
    chosen = [scene for scene in scenes if f"{scene.label}/{scene.instance}" in wanted]
    missing = sorted(wanted - {f"{scene.label}/{scene.instance}" for scene in chosen})
    if not chosen:
        raise UserError(
            f"--instances {path}: none of its {len(wanted)} lines names a scene; lines are <class>/<instance>"
        )
    if missing:
        logger.warning("%s: %d scenes are not there, such as %s", path, len(missing), ", ".join(missing[:3]))
    return chosen


COMMAND = filling.Command("preprocess.mvimgnet", MVImgNetConfig, MVImgNet)


def main() -> int:
    """The command."""
    return COMMAND.main("Turn object videos of MVImgNet into shards.")


if __name__ == "__main__":
    command_line.run(main)
