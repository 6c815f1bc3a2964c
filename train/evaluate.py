"""`python -m train.evaluate --checkpoint runs/x --shards shards/ --out report/`: figures by a stated protocol, and pictures."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from datasets import samples
from datasets.shards import ShardSet
from model import mesh, mesh_files
from model.checkpoints import load_checkpoint
from model.pipeline import pick_device
from model.placement import supposed_camera
from train import methods, metrics
from train.baselines import TrainingSet
from train.report import object_picture, write_page
from turntable import config as command_line
from turntable import geometry
from turntable.errors import EXIT_OK
from turntable.files import write_json, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateConfig:
    """Judges a checkpoint on the objects of shards, by the protocol of train/metrics.py."""

    checkpoint: Path
    """A run's folder, a model file, a folder with a published model's files, or a published model's name (openlrm:mix-base-1.1,
    triposr)."""
    shards: Path
    """Objects to reconstruct."""
    out: Path
    """Folder for report.html, metrics.json and meshes/."""
    uids: Path | None = None
    """Only these objects: a file with a uid a line."""
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
    """Also judge a white picture, the mean picture, the wrong input picture and the nearest training object."""
    training_shards: Path | None = None
    """Where the baselines find the training objects; left out: --shards."""
    training_uids: Path | None = None
    """The training objects among them; left out: all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""

    def __post_init__(self) -> None:
        for name in ("size", "samples", "resolution", "level"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Judges a checkpoint; prints the table, writes the report, and returns what metrics.json holds."""
    device = pick_device(config.device)
    lrm, extra = load_checkpoint(config.checkpoint, device)
    shards = ShardSet(config.shards)
    indices = shards.listed(config.uids)
    held_out = config.held_out_views
    if held_out is None:
        held_out = int(extra.get("held_out_views", 0))
    views = samples.SampleConfig(
        input_size=lrm.config.encoder.image_size, fill=lrm.config.fill, background=lrm.config.background
    )
    supposed = supposed_camera(extra) if lrm.config.camera == "supposed" else None
    level = config.level or lrm.config.level
    model = methods.ModelMethod(lrm, config.samples, config.resolution, level, device, supposed)
    judged: dict[str, methods.Method] = {"model": model}
    if config.baselines:
        judged |= baseline_methods(model, shards, indices, config, views)
    command_line.claim_folder(config.out, config, set(vars(config)))
    objects, pictures = [], []
    for index in tqdm(indices, desc="evaluate", unit="object"):
        truth = methods.load_truth(shards, index, config.input_view, held_out, config.size, views)
        answers = {name: method(truth) for name, method in judged.items()}
        figures = {name: judge(answer, truth) for name, answer in answers.items()}
        figures |= model_only_rows(answers["model"], truth)
        objects.append({"uid": truth.uid, "class": truth.lvis_class, "figures": figures})
        pictures.append(object_picture(truth, answers["model"]))
        surface = answers["model"].surface
        if surface is not None:
            mesh_files.write(methods.mesh_path(config.out, truth.uid), surface)
    summarised = summary(objects)
    settings = command_line.resolved(config)
    result = {"protocol": metrics.PROTOCOL, "config": settings, "summary": summarised, "objects": objects}
    write_json(config.out / "metrics.json", _without_nan(result))
    write_text(config.out / "table.txt", table(summarised) + "\n")
    write_page(config.out / "report.html", result, pictures)
    print(table(summarised))
    print(f"\n{len(objects)} objects. {metrics.PROTOCOL}\nreport: {config.out / 'report.html'}")
    return result


def baseline_methods(
    model: methods.ModelMethod,
    shards: ShardSet,
    indices: list[int],
    config: EvaluateConfig,
    views: samples.SampleConfig,
) -> dict[str, methods.Method]:
    """The four baselines by the names of their rows. The wrong input is the next object's, in the order of the list."""
    training = ShardSet(config.training_shards) if config.training_shards else shards
    memory = TrainingSet(training, training.listed(config.training_uids), views.fill)
    baselines: dict[str, methods.Method] = {
        "white picture": methods.constant_picture(1.0),
        "mean training picture": methods.constant_picture(memory.mean_picture(config.size)),
        "nearest training object": methods.nearest_training_object(model, memory, views),
    }
    if len(indices) > 1:
        following = [*indices[1:], indices[0]]
        others = {
            shards.uids[index]: samples.input_view(shards, other, config.input_view, views)
            for index, other in zip(indices, following, strict=True)
        }
        baselines["wrong input picture"] = methods.wrong_input(model, others)
    return baselines


def judge(answer: methods.Reconstruction, truth: methods.Truth) -> dict[str, float]:
    """The figures of one method on one object."""
    figures = picture_figures(answer.judged, truth.judged)
    if answer.gives_shape:
        figures |= metrics.shape_metrics(answer.shape, truth.shape)
    return figures


def picture_figures(pictures: list[np.ndarray], targets: list[samples.TargetView]) -> dict[str, float]:
    """Mean picture figures over views."""
    rows = [
        metrics.picture_metrics(picture, target.rgb, target.alpha)
        for picture, target in zip(pictures, targets, strict=True)
    ]
    return metrics.mean_figures(rows)


def model_only_rows(answer: methods.Reconstruction, truth: methods.Truth) -> dict[str, dict[str, float]]:
    """Rows beside the model's: its supervised views, its shape after alignment, and the ceiling of IoU on this object."""
    rows = {"ceiling: truth moved by a voxel": metrics.ceiling(truth.shape)}
    if truth.supervised:
        rows["model, supervised views"] = picture_figures(answer.supervised, truth.supervised)
    if answer.surface is not None and answer.shape is not None:
        step = max(len(answer.shape.points) // 3000, 1)
        aligned = geometry.align_upright(answer.shape.points[::step], truth.shape.points[::step])
        turned = mesh.transformed(answer.surface, aligned)
        shape = geometry.describe(turned.vertices, turned.faces, np.random.default_rng(0))
        rows["model, aligned"] = metrics.shape_metrics(shape, truth.shape)
    return rows


def summary(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Row name -> figure -> mean over objects with its bootstrap interval, and the number of empty surfaces."""
    names = list(dict.fromkeys(name for item in objects for name in item["figures"]))
    rng = np.random.default_rng(0)
    rows: dict[str, Any] = {}
    for name in names:
        rows[name] = {}
        for column in metrics.COLUMNS:
            values = [item["figures"][name][column] for item in objects if column in item["figures"].get(name, {})]
            if values:
                rows[name][column] = vars(metrics.bootstrap(values, rng))
    empty = sum(1 for item in objects if math.isnan(item["figures"]["model"].get("chamfer", 0.0)))
    return {"rows": rows, "objects": len(objects), "empty_surfaces": empty}


def table(summary: dict[str, Any]) -> str:
    """The summary as aligned text: means over objects; a dash where a method has no such figure."""
    width = max(len(name) for name in summary["rows"])
    lines = [
        " " * width
        + "".join(f"{column:>17}" if column == "psnr_foreground" else f"{column:>9}" for column in metrics.COLUMNS)
    ]
    for name, row in summary["rows"].items():
        cells = []
        for column in metrics.COLUMNS:
            digits = 2 if column.startswith("psnr") else 3
            text = f"{row[column]['mean']:.{digits}f}" if column in row else "-"
            cells.append(f"{text:>17}" if column == "psnr_foreground" else f"{text:>9}")
        lines.append(f"{name:<{width}}" + "".join(cells))
    if summary["empty_surfaces"]:
        lines.append(f"{summary['empty_surfaces']} of {summary['objects']} surfaces were empty at this level")
    return "\n".join(lines)


def _without_nan(value: Any) -> Any:
    """JSON knows no not-a-number: null instead."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    evaluate(command_line.parse(EvaluateConfig, "Judge a checkpoint by the stated protocol."))
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
