"""Where the time of one training step of the tiny model goes: `python -m benchmarks.model_step`.

One object, 2,048 rays × 48 samples, a hull like a chair's. Prints a table (minimum over repeats, since other processes share
the machine) and writes `benchmarks/results/model_step.json`.
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.lrm import LRM, SIZES, camera_numbers
from model.volume import Occupancy, clip, render
from turntable import cameras, config
from turntable.files import write_json


@dataclass(frozen=True)
class StepBenchmark:
    """What to measure."""

    model: str = "tiny"
    """A key of `model.lrm.SIZES`."""
    rays: int = 2048
    samples: int = 48
    """Samples a ray."""
    repeats: int = 30
    """The best of so many steps counts."""
    threads: int = 2
    out: Path = Path("benchmarks/results/model_step.json")


def chair_hull(resolution: int = 64) -> np.ndarray:
    """(n, n, n) bool: seat, back and four legs of a chair in the unit ball, fattened as a visual hull is."""
    axis = (np.arange(resolution) + 0.5) * (2 / resolution) - 1
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    leg = (abs(abs(x) - 0.35) < 0.15) & (abs(abs(y) - 0.35) < 0.15) & (z < 0) & (z > -0.75)
    seat = (abs(x) < 0.5) & (abs(y) < 0.5) & (abs(z) < 0.2)
    back = (abs(x) < 0.5) & (abs(y - 0.35) < 0.17) & (z > 0) & (z < 0.75)
    return leg | seat | back


def chair_rays(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, count, 3) origins and directions from twelve cameras around the object, through the middle of their pictures."""
    rng = np.random.default_rng(seed)
    lens = cameras.intrinsics_from_fov(45.0)
    origins, directions = [], []
    for index in range(12):
        pose = cameras.look_at(cameras.spherical_position(30 * index, rng.uniform(-10, 50), 2.6))
        o, d = cameras.rays(rng.uniform(0.27, 0.73, (-(-count // 12), 2)), pose, lens)
        origins.append(o)
        directions.append(d)
    return tuple(
        torch.tensor(np.concatenate(part)[None, :count], dtype=torch.float32) for part in (origins, directions)
    )  # type: ignore[return-value]


def measure(options: StepBenchmark) -> dict[str, float]:
    """Milliseconds of each part of a step, and the share of samples that the hull keeps."""
    torch.manual_seed(0)
    lrm = LRM(SIZES[options.model])
    size = lrm.config.encoder.image_size
    image = torch.rand(1, 3, size, size)
    pose = torch.tensor(cameras.look_at(np.array([0, -2.6, 0])), dtype=torch.float32)
    camera = camera_numbers(pose[None], torch.tensor([[1.2, 1.2, 0.5, 0.5]]))
    origins, directions = chair_rays(options.rays, seed=0)
    hull = Occupancy(torch.from_numpy(chair_hull())[None], torch.eye(3)[None])
    target = torch.rand(1, options.rays, 3)
    optimiser = torch.optim.AdamW(lrm.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)
    marks: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        start = time.perf_counter()
        result = work()
        marks.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    for _ in range(options.repeats):
        start = time.perf_counter()
        planes = timed("planes", lambda: lrm.planes(image, camera))
        loss = timed(
            "render", lambda p=planes: _loss(lrm, p, origins, directions, options.samples, hull, generator, target)
        )
        timed("backward", lambda value=loss: value.backward())
        timed("optimiser", lambda: update(optimiser))
        marks.setdefault("whole step", []).append(1e3 * (time.perf_counter() - start))
    best = {f"{name} ms": min(values) for name, values in marks.items()}
    near, far = clip(origins, directions, lrm.field.region)
    distances = near[..., None] + (far - near)[..., None] * (torch.arange(options.samples) + 0.5) / options.samples
    kept = hull.along(origins, directions, distances) & (far > near)[..., None]
    return {**best, "samples kept": int(kept.sum()), "samples": kept.numel()}


def update(optimiser: torch.optim.Optimizer) -> None:
    optimiser.step()
    optimiser.zero_grad()


def _loss(lrm, planes, origins, directions, samples, hull, generator, target) -> torch.Tensor:
    picture = render(lrm.field, planes, origins, directions, samples, 1.0, hull, generator)
    return (picture.colour - target).square().mean() + 0.1 * picture.opacity.square().mean()


def main() -> int:
    options = config.parse(StepBenchmark, __doc__)
    torch.set_num_threads(options.threads)
    result = measure(options)
    for name, value in result.items():
        print(f"{name:16s} {value:10.1f}")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    write_json(
        options.out,
        {
            "command": shlex.join(sys.orig_argv[1:]),
            "config": config.resolved(options),
            "machine": machine,
            "result": result,
        },
    )
    return 0


if __name__ == "__main__":
    config.run(main)
