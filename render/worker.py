"""One Blender process: a job in, a capture out. Started by `turntable.jobs.Worker`, never by hand.

A job names the asset's file, the capture's path, the settings and what the catalogue knows. All views of an asset are rendered
in one scene made afresh, with seeds that depend on (seed, uid, view): the capture's bytes are the same from any worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from datasets import captures
from render import checks, devices, fitting, lights, rigs, scene, selftest
from render.formats import BOUNDS, Bounds
from render.passes import Studio, encode_view
from render.settings import Settings
from render.stages import Stages
from turntable import framing, geometry, report
from turntable.config import resolved, restored
from turntable.jobs import ItemError, serve

PREVIEW_SIDE = 192
"""Side of a view in the contact sheet, pixels."""


@dataclass(frozen=True)
class Job:
    """One asset to render."""

    uid: str
    asset: Path
    """File of the asset."""
    out: Path
    """Path of the capture."""
    settings: Settings
    record: dict[str, Any]
    """What the catalogue knows: source, class, licence, attribution. JSON values."""
    strict: bool = False
    """Whether an asset about which anything is doubtful fails."""
    bounds: Bounds = BOUNDS
    """What is too large to be read."""


def read_job(values: dict[str, Any]) -> Job:
    """A job's JSON values."""
    settings = restored(Settings, values["settings"])
    asset, out = Path(values["asset"]), Path(values["out"])
    bounds = restored(Bounds, values.get("bounds", {}))
    return Job(values["uid"], asset, out, settings, values["record"], values.get("strict", False), bounds)


def render_asset(
    job: Job, gpu: int | None, threads: int, beat: Callable[[str], None], backend: str = "auto"
) -> dict[str, Any]:
    """Renders one asset on a GPU, or on the CPU (None), and writes its capture -> seconds by stage, views, what is doubtful."""
    stages, settings = Stages(), job.settings
    with stages.stage("load"):
        normalisation, vertices, faces, asset = scene.load(job.asset, settings.frame, job.bounds)
    device = devices.choose(gpu, backend)  # a fresh scene comes with fresh preferences, in which no GPU is chosen
    drawn = rigs.draw(settings.rig, settings.view_count, settings.seed, job.uid)
    fitted = fitting.fitted(settings.rig, drawn, vertices, settings.resolution)
    depth_scale = rigs.depth_scale([camera for camera, _ in fitted])
    with Studio(settings, lights.draw(settings.lighting, settings.seed, job.uid), device, threads) as studio:
        lighting = studio.light_record
        views, pictures = _views(job, studio, fitted, depth_scale, stages, beat)
    doubts = _judge(job, views, asset)
    with stages.stage("encode"):
        preview = _contact_sheet(pictures)
    beat("surface and solid")
    with stages.stage("shape"):
        shape = _shape(job, vertices, faces)
    record = {
        **job.record,
        "seed": settings.seed,
        "lights": {"per_view": True} if settings.lighting.light_per_view else lighting,
        "normalisation": normalisation.record(),
        "asset": asset,
        "doubts": doubts,
        "settings": resolved(settings),
        "versions": {"blender": bpy.app.version_string, "device": device},
    }
    with stages.stage("write"):
        size = settings.resolution
        captures.write_capture(
            job.out, captures.Capture(job.uid, size, size, depth_scale, views, shape, preview, record)
        )
    return {"seconds": stages.record(), "counts": {"views": len(views)}, "doubts": doubts}


def _views(
    job: Job,
    studio: Studio,
    fitted: list[tuple[rigs.Camera, float]],
    depth_scale: float,
    stages: Stages,
    beat: Callable[[str], None],
) -> tuple[list[captures.View], list[np.ndarray]]:
    """Every view, encoded, and its colour picture (H, W, 4) uint8. All colour first: changing passes costs a scene update."""
    settings = job.settings
    pictures, lit = [], []
    for index, (camera, _) in enumerate(fitted):
        beat(f"view {index + 1} of {len(fitted)}")
        if settings.lighting.light_per_view:
            studio.light(lights.draw(settings.lighting, settings.seed, job.uid, index))
            lit.append({"lights": studio.light_record})
        else:
            lit.append({})
        noise = int(rigs.stream(settings.seed, job.uid, f"noise {index}").integers(2**31))
        with stages.render("colour"):
            pictures.append(studio.colour(camera, noise))
    views = []
    for index, ((camera, factor), rgba, light) in enumerate(zip(fitted, pictures, lit, strict=True)):
        beat(f"passes of view {index + 1} of {len(fitted)}")
        seen = None
        if settings.needs_geometry:
            with stages.render("passes"):
                seen = studio.geometry(camera)
        with stages.stage("encode"):
            images = encode_view(settings.passes, rgba, seen, camera, depth_scale)
            depth = None if seen is None else seen.depth
            found = checks.check_view(rgba, depth, settings.thresholds) | {"fit_factor": factor, **light}
        views.append(captures.View(camera.world_from_camera, camera.intrinsics, images, found))
    return views, pictures


def _judge(job: Job, views: list[captures.View], asset: dict[str, Any]) -> list[str]:
    """What is doubtful about the asset. Nothing to be seen is a failure, and with --strict any doubt is."""
    if not any(view.record["hit"] or view.record["seen"] for view in views):
        there = (
            f"its {asset['triangles']} triangles stand before the camera, but their materials are wholly transparent"
        )
        raise ItemError("empty", f"{job.asset}: nothing of it is seen in any of {len(views)} views: {there}")
    doubts = checks.asset_doubts([view.record for view in views], asset)
    if doubts and job.strict:
        raise ItemError("doubtful", f"{job.asset}: {'; '.join(doubts)}; --strict lets no doubtful asset pass")
    return doubts


def _shape(job: Job, vertices: np.ndarray, faces: np.ndarray) -> geometry.Geometry:
    try:
        return geometry.describe(vertices, faces, rigs.stream(job.settings.seed, job.uid, "surface"))
    except ValueError as error:
        raise ItemError("empty", f"{job.asset}: {error}") from error


def _contact_sheet(pictures: list[np.ndarray]) -> bytes:
    small = [framing.resize(picture, PREVIEW_SIDE, PREVIEW_SIDE) for picture in pictures]
    on_white = [(framing.on_background(picture) * 255).round().astype(np.uint8) for picture in small]
    columns = max(round((len(pictures) * 4 / 3) ** 0.5), 1)
    return report.encode_picture(report.contact_sheet(on_white, columns))


def main() -> None:
    """`python -m render.worker cpu 2` or `python -m render.worker 0 0 optix cycles`: the CPU or a GPU's number, threads (0 = all),
    backend and engine."""
    device, threads, backend, engine = (sys.argv[1:] + ["auto", "cycles"][len(sys.argv) - 3 :])[:4]
    gpu = None if device == "cpu" else int(device)

    def prepare() -> dict[str, Any]:
        selftest.check(gpu, backend, engine)
        return {"blender": bpy.app.version_string}

    serve(lambda job, beat: render_asset(read_job(job), gpu, int(threads), beat, backend), prepare)
    sys.stdout.flush()
    os._exit(0)  # once EEVEE has drawn, Blender's own way out waits for ever


if __name__ == "__main__":
    main()
