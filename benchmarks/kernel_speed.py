"""The fused kernels beside the plain path: `python -m benchmarks.kernel_speed [--field chair.safetensors]`.

On a GPU: milliseconds (median) of one view without gradients and of one training step (forward and backward), the ratio to the
plain path, and two floors that no kernel passes: every byte of the inputs read once and of the outputs written once at this
GPU's measured bandwidth, and the MLP's arithmetic at its measured rate of float32 products. Without a GPU nothing is timed:
the agreement in Triton's interpreter on a few rays is printed, and what the compiler says of the kernels for an sm_90.
"""

from __future__ import annotations

import inspect
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import record
from benchmarks.fit_field import load
from model import fused, occupancy, volume
from model.lrm import SIZES
from model.triplane import TriplaneField
from turntable import cameras, config
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK


@dataclass(frozen=True)
class KernelBenchmark:
    """What to render."""

    field: Path | None = None
    """A field of `benchmarks.fit_field`. None: OpenLRM-small's sizes with random weights."""
    view: int = 128
    """Pixels, the side of the view."""
    samples: int = 96
    """Samples a ray."""
    repeats: int = 50
    """The median of so many counts."""
    agreement_rays: int = 24
    """Rays of the comparison; the interpreter takes a second or so for every 16 rays and sample."""
    agreement_samples: int = 6
    tolerance: float = 1e-3
    """Largest relative difference of values and gradients with which the benchmark passes."""
    out: Path = Path("benchmarks/results/kernel_speed.json")


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes of each thread."""

    registers: int
    spilled: int
    """Bytes that did not fit into registers."""


@dataclass(frozen=True)
class Scene:
    """What is rendered."""

    field: TriplaneField
    planes: Tensor
    origins: Tensor
    directions: Tensor
    occupancy: volume.Occupancy

    def some(self, count: int) -> Scene:
        """With `count` of the rays, spread evenly."""
        every = torch.linspace(0, self.origins.shape[1] - 1, count, device=self.planes.device).long()
        return Scene(self.field, self.planes, self.origins[:, every], self.directions[:, every], self.occupancy)


def scene(options: KernelBenchmark, device: str) -> Scene:
    """A view of the whole object from 2.6 units, and the voxels where there is something."""
    torch.manual_seed(0)
    if options.field is None:
        size = SIZES["small"]
        field = TriplaneField(size.field, size.triplane)
        planes = 3 * torch.randn(1, 3, size.triplane.channels, size.resolution, size.resolution)
    else:
        fitted = load(options.field)
        field, planes = fitted.field, fitted.planes
    field, planes = field.to(device).requires_grad_(), planes.to(device)
    pose = cameras.look_at(cameras.spherical_position(30.0, 20.0, 2.6))
    uv = cameras.pixel_centres(options.view, options.view).reshape(-1, 2)
    rays = cameras.rays(uv, pose, cameras.intrinsics_from_fov(45.0))
    origins, directions = (torch.tensor(part[None], dtype=torch.float32, device=device) for part in rays)
    return Scene(field, planes, origins, directions, occupancy.occupied(field, planes))


def rendered(given: Scene, samples: int, kernel: volume.Kernel) -> list[Tensor]:
    """Colour on black, opacity, depth."""
    seen = volume.render(
        given.field, given.planes, given.origins, given.directions, samples, 0.0, given.occupancy, kernel=kernel
    )
    return [seen.colour, seen.opacity, seen.depth]


def plain(given: Scene, samples: int) -> list[Tensor]:
    """By the plain path."""
    return rendered(given, samples, "plain")


def by_kernel(given: Scene, samples: int) -> list[Tensor]:
    """By the fused kernels."""
    return rendered(given, samples, "fused")


Render = Callable[[Scene, int], list[Tensor]]


def gradients(render: Render, given: Scene, samples: int) -> list[Tensor]:
    """Of planes and parameters, for a loss with fixed random weights."""
    planes = given.planes.detach().requires_grad_()
    parts = render(Scene(given.field, planes, given.origins, given.directions, given.occupancy), samples)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(part.shape, generator=generator).to(part.device) for part in parts]
    loss = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
    return list(torch.autograd.grad(loss, [planes, *given.field.parameters()]))


def agreement(given: Scene, samples: int) -> dict[str, float]:
    """Differences of the fused path to the plain one, relative to the norm; of several tensors the worst."""

    def worst(ours: list[Tensor], theirs: list[Tensor]) -> float:
        return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))

    with torch.no_grad():
        values = worst(by_kernel(given, samples), plain(given, samples))
    return {
        "values": values,
        "gradients": worst(gradients(by_kernel, given, samples), gradients(plain, given, samples)),
    }


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median by the GPU's own clock, after three runs that compile and warm up."""
    for _ in range(3):
        work()
    found = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return statistics.median(found)


def floors(given: Scene, options: KernelBenchmark) -> dict[str, float]:
    """Milliseconds of a view that memory and arithmetic alone need, and what they were computed from."""
    row = given.planes.shape[-1] ** 2 * 3 * 4
    columns = given.field.project(given.planes).rows.shape[1]
    moved = (
        row * columns + given.origins.shape[1] * (4 * options.samples + 4 * 7 + 4 * 5) + given.occupancy.grid.numel()
    )
    distances, steps = volume.sample_distances(
        given.origins, given.directions, options.samples, given.field.region, None
    )
    kept = given.occupancy.along(given.origins, given.directions, distances) & (steps > 0)[..., None]
    layers = [m.weight.numel() for m in given.field.modules() if isinstance(m, torch.nn.Linear)]
    first = columns * 3 * given.planes.shape[2]
    products = 2.0 * int(kept.sum()) * (sum(layers) - first)
    large = torch.rand(1 << 28, device=given.planes.device)
    copy = milliseconds(large.clone, 20)
    square = torch.rand(8192, 8192, device=given.planes.device)
    multiply = milliseconds(lambda: square @ square, 10)
    bandwidth, rate = 2 * large.numel() * 4 / copy, 2 * 8192.0**3 / multiply
    return {
        "bandwidth GB/s": bandwidth / 1e6,
        "float32 TFLOP/s": rate / 1e9,
        "samples kept": int(kept.sum()),
        "memory floor ms": moved / bandwidth,
        "arithmetic floor ms": products / rate,
    }


def timed(given: Scene, options: KernelBenchmark) -> dict[str, float]:
    """Everything that is timed, on a GPU."""
    result = {}
    for name, render in (("plain", plain), ("fused", by_kernel)):
        with torch.no_grad():
            result[f"view, {name} ms"] = milliseconds(lambda r=render: r(given, options.samples), options.repeats)
        step = milliseconds(lambda r=render: gradients(r, given, options.samples), options.repeats)
        result[f"step, {name} ms"] = step
    result |= floors(given, options)
    floor = max(result["memory floor ms"], result["arithmetic floor ms"])
    result["view, plain / fused"] = result["view, plain ms"] / result["view, fused ms"]
    result["step, plain / fused"] = result["step, plain ms"] / result["step, fused ms"]
    result["view, fused / floor"] = result["view, fused ms"] / floor
    return result


def compiled(field: TriplaneField, kernel: str, architecture: int, grid: bool = True) -> Resources:
    """A kernel compiled for a GPU by its number (80, 90, …), which need not be here."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model import kernels

    function = getattr(kernels, kernel)
    constants = fused.settings_of(field) | {"STOP": fused.STOP, "PATH": False, "RAY": 12 if grid else 6, "GRID": grid}
    warps = constants.pop("num_warps")
    if kernel == "march_backward":
        constants["COPIES"] = fused.COPIES
    names = list(inspect.signature(function.fn).parameters)
    integers = ("ray_count", "samples", "size", "cells")
    types = {name: "i32" if name in integers else "*u8" if name == "grid" else "*fp32" for name in names}
    signature = types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(function, signature, {(names.index(name),): value for name, value in constants.items()})
    binary = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary.asm["cubin"])
        said = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found, said
    return Resources(int(found[1]), int(found[2]))


def interpreted(options: KernelBenchmark) -> int:
    """Runs this command again in Triton's interpreter, which must be chosen before Triton is imported."""
    print("no GPU here: nothing is timed; the kernels' agreement is that of Triton's interpreter", flush=True)
    for kernel in ("march", "march_backward"):
        found = compiled(scene(options, "cpu").field, kernel, 90)
        print(
            f"{kernel:24s} compiled for sm_90: {found.registers} registers, {found.spilled} bytes spilled", flush=True
        )
    return subprocess.run(sys.orig_argv, env={**os.environ, "TRITON_INTERPRET": "1"}).returncode


def main() -> int:
    options = config.parse(KernelBenchmark, __doc__)
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not fused.interpreted():
        return interpreted(options)
    given = scene(options, "cuda" if on_gpu else "cpu")
    result: dict[str, Any] = agreement(given.some(options.agreement_rays), options.agreement_samples)
    if on_gpu:
        result |= timed(given, options)
    for name, value in result.items():
        print(f"{name:24s} {value:12.4g}")
    record.write(
        options.out, options, result, torch.cuda.get_device_name() if on_gpu else "Triton's interpreter: untimed"
    )
    agrees = max(result["values"], result["gradients"]) <= options.tolerance
    return EXIT_OK if agrees else EXIT_ITEMS_FAILED


if __name__ == "__main__":
    config.run(main)
