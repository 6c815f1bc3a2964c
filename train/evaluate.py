"""`python -m train.evaluate --checkpoint runs/x --shards shards/ --out report/`: figures by a stated protocol, and pictures.

Several checkpoints are judged side by side on the same objects: `--checkpoint runs/x openlrm:mix-base-1.1 triposr`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from datasets import samples
from datasets.categories import Categories, read_categories
from datasets.shards import ShardSet
from model import mesh, mesh_files
from model.checkpoints import load_checkpoint
from model.pipeline import pick_device
from model.placement import supposed_camera
from train import lpips, methods, metrics
from train.baselines import MeanShapes, TrainingSet
from train.ceilings import ceilings
from train.report import object_picture, write_page
from train.summary import Judged, summarise, text, text_with_intervals
from turntable import config as command_line
from turntable import geometry
from turntable.errors import EXIT_OK
from turntable.files import write_json, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateConfig:
    """Judges checkpoints on the objects of shards, by the protocol of train/metrics.py."""

    checkpoint: tuple[Path, ...]
    """A run's folder, a model file, a folder with a published model's files, or a published model's name (openlrm:mix-base-1.1,
    triposr); several are judged side by side."""
    shards: Path
    """Objects to reconstruct."""
    out: Path
    """Folder for report.html, table.md, metrics.json and meshes/."""
    uids: Path | None = None
    """Only these objects: a file with a uid a line."""
    categories: Path | None = None
    """Rows by category: a file such as datasets/furniture.toml; left out: by LVIS class."""
    input_view: int = 0
    """The view given to the model."""
    held_out_views: int | None = None
    """Judge the last N views and list the others as supervised; 0: judge every view but the input. Left out: as trained."""
    size: int = 128
    """Side in pixels of the judged pictures."""
    samples: int = 64
    """Samples a ray."""
    resolution: int = 128
    """Marching cubes cells along the box [-1, 1]."""
    level: float | None = None
    """Density of the extracted surface; left out: the checkpoint's own."""
    baselines: bool = True
    """Also judge a white picture, the mean picture, the mean shape of the class, the wrong input picture and the nearest training
    object."""
    training_shards: Path | None = None
    """Where the baselines find the training objects; left out: --shards."""
    training_uids: Path | None = None
    """The training objects among them; left out: all."""
    lpips_weights: Path | None = None
    """Folder with LPIPS's weights; left out: torch.hub's checkpoint cache, and no LPIPS where they are not there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""

    def __post_init__(self) -> None:
        for name in ("size", "samples", "resolution", "level"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.input_view < 0 or (self.held_out_views or 0) < 0:
            raise ValueError(
                f"input_view and held_out_views must not be negative, got {self.input_view} and {self.held_out_views}"
            )
        if not self.checkpoint:
            raise ValueError("name at least one --checkpoint")


@dataclass(frozen=True)
class Candidate:
    """A model that is judged."""

    name: str
    """Its rows' name."""
    method: methods.ModelMethod
    views: samples.SampleConfig
    """How its input pictures are framed."""
    held_out: int
    """Views at the end that it was not trained on, as its checkpoint says."""


def candidates(config: EvaluateConfig) -> list[Candidate]:
    """The models of the command line."""
    device = pick_device(config.device)
    found = []
    for name, path in zip(names(config.checkpoint), config.checkpoint, strict=True):
        lrm, extra = load_checkpoint(path, device)
        settings = lrm.config
        supposed = supposed_camera(extra) if settings.camera == "supposed" else None
        level = config.level or settings.level
        method = methods.ModelMethod(lrm, config.samples, config.resolution, level, device, supposed)
        views = samples.SampleConfig(
            input_size=settings.encoder.image_size, fill=settings.fill, background=settings.background
        )
        found.append(Candidate(name, method, views, int(extra.get("held_out_views", 0))))
    return found


def names(checkpoints: tuple[Path, ...]) -> list[str]:
    """What the checkpoints' rows are called: `model` where there is one, else as much of each path's end as tells them apart."""
    if len(checkpoints) == 1:
        return ["model"]
    texts = [str(path).rstrip("/") for path in checkpoints]
    for depth in range(1, max(len(Path(each).parts) for each in texts) + 1):
        short = ["/".join(Path(each).parts[-depth:]) for each in texts]
        if len(set(short)) == len(short):
            return short
    return [f"{each} ({number})" for number, each in enumerate(texts, 1)]


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Judges checkpoints; prints the table, writes the report, and returns what metrics.json holds."""
    models = candidates(config)
    shards = ShardSet(config.shards)
    indices = shards.listed(config.uids)
    categories = read_categories(config.categories) if config.categories else None
    held_out = models[0].held_out if config.held_out_views is None else config.held_out_views
    for index in indices:  # an object that cannot be judged is named now, not hours later
        methods.require_truth(shards, index, config.input_view, held_out)
    perceptual = perceptual_measure(config)
    baselines = baseline_methods(models[0], shards, indices, config, categories) if config.baselines else {}
    command_line.claim_folder(config.out, config, set(vars(config)))
    objects, pictures = [], []
    try:
        for index in tqdm(indices, desc="evaluate", unit="object"):
            item, picture = judge_object(shards, index, held_out, models, baselines, config, categories, perceptual)
            objects.append(item)
            pictures.append(picture)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"interrupted after {len(objects)} of {len(indices)} objects; {config.out}: no report was written, and the same command"
            " begins anew"
        ) from error
    summary = summarise(objects)
    figures = [{"uid": item.uid, "class": item.category, "figures": item.figures} for item in objects]
    settings = command_line.resolved(config)
    result = {"protocol": metrics.PROTOCOL, "config": settings, "summary": summary, "objects": figures}
    write_json(config.out / "metrics.json", _without_nan(result))
    write_text(config.out / "table.txt", text(summary) + "\n")
    write_text(config.out / "table.md", text_with_intervals(summary) + "\n")
    write_page(config.out / "report.html", result, pictures)
    print(text(summary))
    print(f"\n{len(objects)} objects. {metrics.PROTOCOL}\nreport: {config.out / 'report.html'}")
    return result


def judge_object(
    shards: ShardSet,
    index: int,
    held_out: int,
    models: list[Candidate],
    baselines: dict[str, methods.Method],
    config: EvaluateConfig,
    categories: Categories | None,
    perceptual: metrics.Perceptual | None,
) -> tuple[Judged, np.ndarray]:
    """One object's figures by row, and its sheet of pictures; its meshes are written on the way."""
    figures: dict[str, dict[str, float]] = {}
    empty, answers = {}, {}
    for model in models:
        truth = methods.load_truth(shards, index, config.input_view, held_out, config.size, model.views)
        answer = answers[model.name] = model.method(truth)
        figures[model.name] = judge(answer, truth, perceptual)
        figures |= further_rows(model.name, answer, truth, perceptual)
        empty[model.name] = answer.surface is None
        if answer.surface is not None:
            folder = config.out if len(models) == 1 else config.out / model.name
            mesh_files.write(methods.mesh_path(folder, truth.uid), answer.surface)
    truth = methods.load_truth(shards, index, config.input_view, held_out, config.size, models[0].views)
    figures |= {name: judge(method(truth), truth, perceptual) for name, method in baselines.items()}
    figures |= ceilings(truth.shape, truth.judged, truth.input_view.canonical_from_world)
    category = (
        str(truth.record.get("lvis_class") or "-") if categories is None else categories.of(truth.record) or "other"
    )
    return Judged(truth.uid, category, figures, empty), object_picture(truth, answers)


def baseline_methods(
    model: Candidate, shards: ShardSet, indices: list[int], config: EvaluateConfig, categories: Categories | None
) -> dict[str, methods.Method]:
    """The baselines by the names of their rows. The wrong input is the next object's, in the order of the list."""
    training = ShardSet(config.training_shards) if config.training_shards else shards
    known, views = training.listed(config.training_uids), model.views
    memory = TrainingSet(training, known, views.fill)
    baselines: dict[str, methods.Method] = {
        "white picture": methods.constant_picture(1.0),
        "mean training picture": methods.constant_picture(memory.mean_picture(config.size)),
        "mean shape of the class": methods.mean_shape(MeanShapes(training, known, categories)),
        "nearest training object": methods.nearest_training_object(model.method, memory, views),
    }
    if len(indices) > 1:
        following = [*indices[1:], indices[0]]
        others = {
            shards.uids[index]: samples.input_view(shards, other, config.input_view, views)
            for index, other in zip(indices, following, strict=True)
        }
        baselines["wrong input picture"] = methods.wrong_input(model.method, others)
    return baselines


def perceptual_measure(config: EvaluateConfig) -> metrics.Perceptual | None:
    """LPIPS, where its weights are; a folder that was named must have them."""
    if config.lpips_weights is None and not lpips.found(None):
        log.info("no LPIPS: its weights are not in %s; see --lpips-weights", lpips.default_folder())
        return None
    return partial(lpips.of_pictures, lpips.load(config.lpips_weights).to(pick_device(config.device)))


def judge(
    answer: methods.Reconstruction, truth: methods.Truth, perceptual: metrics.Perceptual | None
) -> dict[str, float]:
    """The figures of one method on one object."""
    figures = picture_figures(answer.judged, truth.judged, perceptual) if answer.judged else {}
    if answer.gives_shape:
        figures |= metrics.shape_metrics(answer.shape, truth.shape)
    return figures


def picture_figures(
    pictures: list[np.ndarray], targets: list[samples.TargetView], perceptual: metrics.Perceptual | None
) -> dict[str, float]:
    """Mean picture figures over views."""
    rows = [
        metrics.picture_metrics(picture, target.rgb, target.alpha, perceptual)
        for picture, target in zip(pictures, targets, strict=True)
    ]
    return metrics.mean_figures(rows)


def further_rows(
    name: str, answer: methods.Reconstruction, truth: methods.Truth, perceptual: metrics.Perceptual | None
) -> dict[str, dict[str, float]]:
    """Rows beside a model's own: its supervised views, and its shape after alignment."""
    rows = {}
    if truth.supervised:
        rows[f"{name}, supervised views"] = picture_figures(answer.supervised, truth.supervised, perceptual)
    if answer.surface is not None and answer.shape is not None:
        step = max(len(answer.shape.points) // 3000, 1)
        aligned = geometry.align_upright(answer.shape.points[::step], truth.shape.points[::step])
        turned = mesh.transformed(answer.surface, aligned)
        shape = geometry.describe(turned.vertices, turned.faces, np.random.default_rng(0))
        rows[f"{name}, aligned"] = metrics.shape_metrics(shape, truth.shape)
    return rows


def _without_nan(value: Any) -> Any:
    """JSON knows no not-a-number: null instead."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    evaluate(command_line.parse(EvaluateConfig, "Judge checkpoints by the stated protocol."))
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
