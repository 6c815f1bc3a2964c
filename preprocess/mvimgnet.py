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
from preprocess.gates import Figures, Gates, complaints
from preprocess.scenes import FrameError, Scene, find_scenes, read_class_names
from preprocess.squares import Cut, Outline, outline, square_of
from turntable import config as command_line
from turntable.errors import UserError

logger = logging.getLogger(__name__)

LICENCE = "MVImgNet Terms of Use"
"""So the dataset's README calls it, https://github.com/GAP-LAB-CUHK-SZ/MVImgNet; they are shown before the download."""
SEEN_IN_MASK = 0.5
"""A mask into which fewer of the object's points fall than this share shows something else, or half of it; its frame is left out."""


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
        found = locate(scene, model, mattes, left_out, self._config.gates)
        size = stored_side(found, self._config)
        pictures, cuts, kept, shown = [], [], [], []
        for view in found.views:
            cut = Cut(view.frame.lens, square_of(view.outline, view.frame.lens, size), size)
            try:
                picture = scene.picture(view.frame.name, view.frame.lens)
            except FrameError as error:
                left_out[view.frame.name] = str(error)
                continue
            square, share = cut.resample(picture, view.matte)
            pictures.append(square)
            cuts.append(cut)
            kept.append(view.frame)
            shown.append(share)
        if len(kept) < self._config.gates.min_frames:
            why = f"{len(kept)} frames have a picture that can be used, {self._config.gates.min_frames} are needed"
            raise Unusable("few-frames", f"{scene.folder}: {why}{_left_out_text(left_out)}")
        record = self._record(scene, model, found, left_out)
        record["views"] = [_view_record(*each) for each in zip(kept, cuts, shown, strict=True)]
        world_from_camera = np.stack([poses.moved(found.object_from_colmap, frame.world_from_camera) for frame in kept])
        return Views(str(scene.folder), record, world_from_camera, np.stack([cut.intrinsics for cut in cuts]), pictures)

    def _mattes(self, scene: Scene, model: Model) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Frame -> its matte, (h, w) uint8 at whatever size, and frame -> why it has none."""
        own = scene.has_masks()
        if not own and self._config.matte == "alpha":
            raise Unusable(
                "no-masks",
                f"{scene.folder}: the dataset has no masks for it (looked for mask/{scene.label}/{scene.instance}/NNN.jpg.png); "
                "fetch the masks, a download of its own, or have them made: --matte rembg:u2net",
            )
        make = self._own_matte if own and not self._config.matte.startswith("masks:") else self._made_matte
        mattes, left_out = {}, dict.fromkeys(model.dropped_frames, "COLMAP gave it no finite pose")
        for frame in model.frames:
            try:
                mattes[frame.name] = make(scene, frame)
            except FrameError as error:
                left_out[frame.name] = str(error)
        return mattes, left_out

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

    def _record(self, scene: Scene, model: Model, found: Found, left_out: dict[str, str]) -> dict[str, Any]:
        """What is known of the scene, as JSON values."""
        name = self._names.get(scene.label)
        return {
            "uid": scene.uid,
            "source": "mvimgnet",
            "class": name or f"mvimgnet-{scene.label}",
            "path": f"{scene.label}/{scene.instance}",
            "licence": LICENCE,
            "object_from_colmap": found.object_from_colmap.tolist(),
            "up": {
                "method": found.up.method,
                "support": found.up.support,
                "disagreement_deg": round(found.up.disagreement_deg, 3),
            },
            "box": {"size": (found.box.size / found.box.radius).tolist(), "turned_deg": _turned_deg(found)},
            "azimuth_0": "the first stored frame; a video has no front",
            "mattes": "dataset" if scene.has_masks() else self._config.matte,
            "lenses": model.lens_count,
            "figures": found.figures.record(),
            "left_out": left_out,
        }


@dataclass(frozen=True)
class View:
    """A frame that is stored."""

    frame: Frame
    matte: np.ndarray
    """(h, w) uint8 at its own size."""
    outline: Outline


@dataclass(frozen=True)
class Found:
    """A scene's object, and what was measured on the way."""

    views: list[View]
    object_from_colmap: np.ndarray
    """(3, 4) similarity."""
    up: poses.Up
    box: poses.Box
    figures: Figures


def locate(scene: Scene, model: Model, mattes: dict[str, np.ndarray], left_out: dict[str, str], gates: Gates) -> Found:
    """Finds the object of a scene. Raises Unusable when a gate says so; frames that are not used get their reason in `left_out`."""
    views = list(_outlined(model, mattes, left_out))
    sights = [poses.sights(view.frame, view.matte, model.points) for view in views]
    none = np.zeros(len(model.points), np.int64)
    seen, inside = sum((s for s, _ in sights), none), sum((i for _, i in sights), none)
    is_object, is_around = poses.split_points(seen, inside)
    kept = []
    for view, (s, i) in zip(views, sights, strict=True):
        share = (i & is_object).sum() / max((s & is_object).sum(), 1)
        if is_object.any() and share < SEEN_IN_MASK:
            left_out[view.frame.name] = f"{share:.0%} of the object's points fall into its mask"
        else:
            kept.append(view)
    counts = {
        "frames_in_video": max(scene.picture_count(), len(model.frames)),
        "registered": len(model.frames),
        "used": len(kept),
        "points": len(model.points),
        "object_points": int(is_object.sum()),
    }
    _judge(scene, Figures(**counts), gates, left_out)
    up = poses.up_axis(model, is_object, is_around, np.random.default_rng(0))
    planes = np.concatenate([poses.half_spaces(view.frame, view.outline) for view in kept])
    box = poses.upright_box(model.points[is_object], planes, up)
    figures = Figures(
        **counts,
        track=float(model.track_lengths()[is_object].mean()),
        reprojection=_reprojection(kept, model.points, is_object),
        object_side=float(
            np.median([np.ptp(view.outline.slopes, axis=0).max() * view.frame.lens.focal for view in kept])
        ),
        border=float(np.mean([view.outline.at_border.any() for view in kept])),
        coverage=float(np.median([poses.outline_coverage(box, view.frame, view.outline) for view in kept])),
        disagreement=box.disagreement,
        up_disagreement=up.disagreement_deg if up.method == "ground-plane" else None,
        level_spread=up.level_spread,
    )
    _judge(scene, figures, gates, left_out)
    return Found(kept, poses.object_from_colmap(box, kept[0].frame.world_from_camera[:, 3]), up, box, figures)


def _outlined(model: Model, mattes: dict[str, np.ndarray], left_out: dict[str, str]) -> Iterator[View]:
    for frame in model.frames:
        if frame.name in mattes:
            shape = outline(mattes[frame.name], frame.lens)
            if shape is None:
                left_out[frame.name] = "an empty mask"
            else:
                yield View(frame, mattes[frame.name], shape)


def _reprojection(views: list[View], points: np.ndarray, is_object: np.ndarray) -> float:
    """Mean distance, pixels, between where the object's points were seen and where they project to."""
    errors = [np.zeros(0)]
    for frame in (view.frame for view in views):
        rows = is_object[frame.points]
        errors.append(np.linalg.norm(frame.project(points[frame.points[rows]]) - frame.pixels[rows], axis=1))
    found = np.concatenate(errors)
    return float(found.mean()) if len(found) else 0.0


def _judge(scene: Scene, figures: Figures, gates: Gates, left_out: dict[str, str]) -> None:
    found = complaints(figures, gates)
    if found:
        text = "; ".join(sentence for _, sentence in found)
        raise Unusable(found[0][0], f"{scene.folder}: {text}{_left_out_text(left_out)}")


def _left_out_text(left_out: dict[str, str]) -> str:
    """Which frames were left out and why, for a message; three of them."""
    if not left_out:
        return ""
    examples = ", ".join(f"{name}: {why}" for name, why in sorted(left_out.items())[:3])
    return f" ({len(left_out)} frames left out: {examples}{', …' if len(left_out) > 3 else ''})"


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
    return filling.stored_sizes(own, config.sizes)[0]


def _turned_deg(found: Found) -> float:
    """Angle of the box's first axis from +x, about +z."""
    x, y, _ = found.object_from_colmap[:, :3] @ found.box.axes[0]
    return float(np.rad2deg(np.arctan2(y, x)))


def _view_record(frame: Frame, cut: Cut, shown: float) -> dict[str, Any]:
    """Of one stored frame: enough to find its pixels again."""
    return {
        "file": frame.name,
        "square": [cut.square.left, cut.square.top, cut.square.side],
        "lens": {
            "model": cut.lens.model,
            "size": [cut.lens.width, cut.lens.height],
            "parameters": list(cut.lens.parameters),
        },
        "shown": round(shown, 4),
    }


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


def main() -> int:
    """The command."""
    config = command_line.parse(MVImgNetConfig, "Turn object videos of MVImgNet into shards.")
    return filling.run(config, MVImgNet(config))


if __name__ == "__main__":
    command_line.run(main)
