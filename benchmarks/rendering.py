"""One way of rendering a fitted field, measured in a process of its own; `benchmarks.model_speed` runs them all.

`python -m benchmarks.rendering FIELD --task view --renderer ours --out trial.json` writes seconds (the best of the repeats), peak
memory and, for agreement, the picture or the gradients (`trial.safetensors`).

view: a picture of 128², 96 samples a ray, without gradients. The renderers: `twin` (`benchmarks.dense_twin`: 48 even and 48
importance samples), `even` (ours, 96 even samples, nothing known of the field), `ours` (48 and 48, an occupancy made from the field
each time, which counts), `reused` (the occupancy was made for an earlier picture), `truth` (512 even samples).

step: forward and backward, 4 views × 64² × 96 samples, a random region of each of four 128² pictures. The pictures that they are
compared with are of the same field with disturbed planes, so that gradients are those of a model that still learns.

gradients: the same step with the same samples in both, 96 even ones by `model.march`: the twin is given their distances and lets
each stand for its span, as ours does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks import child, dense_twin
from benchmarks.fit_field import FittedField, load
from model import occupancy, volume
from model.march import GRADIENT_CUT, Marcher
from model.tensors import read_tensors
from train.metrics import decibels
from turntable import cameras, config
from turntable.errors import UserError
from turntable.files import atomic_path, read_json, write_json
from turntable.resources import peak_memory

SAMPLES = 96
DISTANCE, FOV = 2.6, 45.0
VIEW, REGION = 128, 64


@dataclass(frozen=True)
class Trial:
    """What to measure."""

    field: tyro.conf.Positional[Path]
    """A field of `benchmarks.fit_field`."""
    task: Literal["view", "step", "gradients"] = "view"
    renderer: Literal["twin", "even", "ours", "reused", "truth"] = "ours"
    repeats: int = 3
    """The best of so many counts; the first is not among them."""
    threads: int = 2
    out: Path = Path("trial.json")


def camera(azimuth: float) -> tuple[np.ndarray, np.ndarray]:
    """Pose and intrinsics of a camera above the object."""
    pose = cameras.look_at(cameras.spherical_position(azimuth, 20, DISTANCE))
    return pose, cameras.intrinsics_from_fov(FOV)


def view_rays(azimuth: float) -> tuple[Tensor, Tensor]:
    """(128, 128, 3) origins and directions."""
    pose, lens = camera(azimuth)
    origins, directions = cameras.rays(cameras.pixel_centres(VIEW, VIEW), pose, lens)
    return torch.tensor(origins, dtype=torch.float32).expand(VIEW, VIEW, 3), torch.tensor(
        directions, dtype=torch.float32
    )


def region_rays() -> tuple[Tensor, Tensor]:
    """(4, 64², 3): a random region of each of four views around the object."""
    rng = np.random.default_rng(0)
    parts = []
    for azimuth in (20, 110, 200, 290):
        x, y = rng.integers(0, VIEW - REGION + 1, 2)
        parts.append([rays[y : y + REGION, x : x + REGION].reshape(-1, 3) for rays in view_rays(azimuth)])
    origins, directions = zip(*parts, strict=True)
    return torch.stack(origins), torch.stack(directions)


def picture(fitted: FittedField, renderer: str) -> Callable[[], Tensor]:
    """What gives the view (128², 3)."""
    field, planes, (pose, lens) = fitted.field, fitted.planes, camera(30)
    if renderer == "twin":
        origins, directions = (rays.reshape(1, -1, 3) for rays in view_rays(30))
        return lambda: dense_twin.render(field, planes, origins, directions, SAMPLES).colour[0]
    if renderer in ("even", "truth"):
        count = SAMPLES if renderer == "even" else 512
        return lambda: volume.render_view(field, planes, pose, lens, VIEW, count).colour.view(-1, 3)
    known = occupancy.occupied(field, planes) if renderer == "reused" else None

    def ours() -> Tensor:
        voxels = known or occupancy.occupied(field, planes)
        half = SAMPLES // 2
        seen = volume.render_view(field, planes, pose, lens, VIEW, half, occupancy=voxels, importance=half)
        return seen.colour.view(-1, 3)

    return ours


def step(fitted: FittedField, renderer: str, same_samples: bool = False) -> Callable[[], dict[str, Tensor]]:
    """What gives the gradients of planes and field."""
    field, planes = fitted.field.requires_grad_(), fitted.planes.clone().requires_grad_()
    origins, directions = region_rays()
    flat = origins.view(1, -1, 3), directions.view(1, -1, 3)
    target = _target(fitted, *flat).view(len(origins), -1, 4)
    wanted = {"planes": planes, **dict(field.named_parameters())}
    distances = _even_distances(fitted, *flat).view(len(origins), -1, SAMPLES) if same_samples else None

    def run() -> dict[str, Tensor]:
        if renderer == "twin":
            rule: dense_twin.Quadrature = "spans" if same_samples else "midpoint"
            colour, opacity, _ = dense_twin.render(field, planes, origins, directions, SAMPLES, 1.0, distances, rule)
        else:
            seen = volume.render(field, planes, *flat, SAMPLES)
            colour, opacity = seen.colour, seen.opacity
        both = torch.cat([colour.view(target[..., :3].shape), opacity.view(target[..., 3:].shape)], dim=-1)
        found = torch.autograd.grad((both - target).square().mean(), list(wanted.values()))
        return dict(zip(wanted, found, strict=True))

    return run


@torch.no_grad()
def _target(fitted: FittedField, origins: Tensor, directions: Tensor) -> Tensor:
    """(1, R, 4) colour and opacity of the field with disturbed planes."""
    noise = torch.randn(fitted.planes.shape, generator=torch.Generator().manual_seed(0))
    seen = volume.render(fitted.field, fitted.planes + 0.1 * noise, origins, directions, SAMPLES)
    return torch.cat([seen.colour, seen.opacity[..., None]], dim=-1)


@torch.no_grad()
def _even_distances(fitted: FittedField, origins: Tensor, directions: Tensor) -> Tensor:
    marcher = Marcher(fitted.field, None, None, 1, GRADIENT_CUT)
    return marcher.sampled(origins, directions, SAMPLES, 0, None).distances


def rows(field: Path, repeats: int, threads: int) -> list[dict[str, Any]]:
    """Every trial with one field: seconds, peak memory, ratios to the twin, agreement."""
    with tempfile.TemporaryDirectory() as folder:

        def trial(task: str, renderer: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
            out = Path(folder) / f"{task}-{renderer}.json"
            words = [field, "--task", task, "--renderer", renderer, "--threads", threads, "--out", out]
            # Once is enough where time does not count.
            once = task == "gradients" or renderer == "truth"
            child.run("benchmarks.rendering", [*words, "--repeats", 0 if once else repeats])
            return {"task": task, "renderer": renderer, **read_json(out)}, read_tensors(
                out.with_suffix(".safetensors")
            )[0]

        _, truth = trial("view", "truth")
        twin, expected = trial("view", "twin")
        found = [{**twin, "truth_db": _agreement(expected["picture"], truth["picture"])}]
        for renderer in ("even", "ours", "reused"):
            figures, seen = trial("view", renderer)
            agreement = {
                "twin_db": _agreement(seen["picture"], expected["picture"]),
                "truth_db": _agreement(seen["picture"], truth["picture"]),
            }
            found.append({**figures, **_ratios(figures, twin), **agreement})
        twin, _ = trial("step", "twin")
        ours, _ = trial("step", "ours")
        errors = _gradient_errors(trial("gradients", "ours")[1], trial("gradients", "twin")[1])
    return [*found, twin, {**ours, **_ratios(ours, twin), "gradient_error": errors}]


def _agreement(picture: Tensor, expected: Tensor) -> float:
    return round(decibels(float((picture - expected).square().mean())), 2)


def _ratios(ours: dict[str, Any], twin: dict[str, Any]) -> dict[str, float]:
    return {
        "times_faster": round(twin["seconds"] / ours["seconds"], 2),
        "times_less_processor": round(twin["processor_seconds"] / ours["processor_seconds"], 2),
        "share_of_memory": round(ours["peak_mb"] / twin["peak_mb"], 3),
    }


def _gradient_errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Norm of the difference over the norm, tensor by tensor."""
    return {name: float(f"{(found[name] - value).norm() / value.norm():.1e}") for name, value in expected.items()}


def main() -> int:
    trial = config.parse(Trial, __doc__ or "")
    torch.set_num_threads(trial.threads)
    fitted = load(trial.field)
    if fitted.config.field.heads != "joint" or fitted.config.field.density != "softplus":
        raise UserError(f"{trial.field}: the twin knows OpenLRM's one head with softplus only; fit with --model small")
    torch.set_grad_enabled(trial.task != "view")
    if trial.task == "view":
        work: Callable[[], Tensor | dict[str, Tensor]] = picture(fitted, trial.renderer)
    else:
        work = step(fitted, trial.renderer, same_samples=trial.task == "gradients")
    before, clock, processor = peak_memory() / 2**20, [], []
    for _ in range(trial.repeats + 1):
        start, started = time.perf_counter(), time.process_time()
        result = work()
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - started)
    figures = {
        "seconds": round(min(clock[1:], default=clock[0]), 4),
        "processor_seconds": round(min(processor[1:], default=processor[0]), 4),
        "peak_mb": round(peak_memory() / 2**20),
        "peak_mb_before": round(before),
    }
    _save(trial.out.with_suffix(".safetensors"), {"picture": result} if isinstance(result, Tensor) else result)
    write_json(trial.out, figures)
    print(figures)
    return 0


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


if __name__ == "__main__":
    config.run(main)
