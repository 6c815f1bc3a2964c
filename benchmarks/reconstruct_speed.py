"""A picture to a textured .glb, by stage: `python -m benchmarks.reconstruct_speed FIELD.safetensors --picture photo.png`.

A published network's weights cannot be redistributed, and a random network's answer has no surface. So the network (`--model`,
OpenLRM's sizes, random weights) is timed on the picture, and everything after it on a field of that size that
`benchmarks.fit_field` fitted to a real model: the same work as with trained weights, on a real shape. The stages are those of
`model.pipeline`; loading a checkpoint is not counted. Each is the least of several repeats, since other processes share the machine.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks import record
from benchmarks.fit_field import load
from model import mesh_files, pipeline
from model.lrm import LRM, SIZES
from model.photograph import Photograph
from model.pipeline import Model, Source, Stages, SurfaceSettings
from turntable import config
from turntable.errors import UserError


@dataclass(frozen=True)
class ReconstructBenchmark:
    """What to time."""

    field: tyro.conf.Positional[Path]
    """A field by `benchmarks.fit_field`."""
    picture: Path
    """A picture with a matte."""
    model: str = "small"
    """A key of `model.lrm.SIZES`: the network that is timed. The field may be of another size."""
    surface: SurfaceSettings = field(default_factory=lambda: SurfaceSettings(resolution=384))
    device: str = "auto"
    """`cpu`, `cuda`; auto: a GPU where there is one."""
    repeats: int = 3
    threads: int = 2
    """Of torch, on the CPU."""
    out: Path = Path("benchmarks/results/reconstruct_speed.json")

    def __post_init__(self) -> None:
        if self.model not in SIZES:
            raise ValueError(f"model must be one of {', '.join(SIZES)}, got {self.model}")
        if min(self.repeats, self.threads) < 1:
            raise ValueError(f"repeats and threads must be at least 1, got {self.repeats} and {self.threads}")


def measure(options: ReconstructBenchmark) -> dict[str, Any]:
    """Seconds of each stage and in all, and what came out."""
    device = pipeline.pick_device(options.device)
    fitted = load(options.field)
    torch.manual_seed(0)
    lrm = LRM(SIZES[options.model], load_weights=False)
    lrm.field = fitted.field
    model = Model(lrm.to(device).eval(), {"camera_distance": 2.0, "camera_focal": 0.75}, options.model)
    planes = fitted.planes.to(device)
    # The first run compiles kernels and fills caches.
    runs = [_once(model, planes, options) for _ in range(options.repeats + 1)][1:]
    best = {stage: min(seconds[stage] for seconds, _ in runs) for stage in runs[0][0]}
    return {
        "seconds": {stage: round(value, 4) for stage, value in best.items()},
        "total": round(min(sum(seconds.values()) for seconds, _ in runs), 4),
        **runs[0][1],
    }


def _once(model: Model, planes: torch.Tensor, options: ReconstructBenchmark) -> tuple[dict[str, float], dict[str, int]]:
    source, stages = Source(options.picture.stem, options.picture), Stages()
    framed = pipeline.prepare(model, source, Photograph(), stages)
    pipeline.encode(model, [framed], [stages])
    result = pipeline.surface(model, source, framed, planes, options.surface, stages)
    with tempfile.TemporaryDirectory() as scratch, stages("write"):
        path = Path(scratch) / "mesh.glb"
        mesh_files.write(path, result.surface)
        size = path.stat().st_size
    return stages.seconds, {"faces": len(result.shape.faces), "vertices": len(result.shape.vertices), "glb_bytes": size}


def main() -> int:
    options = config.parse(ReconstructBenchmark, __doc__ or "")
    if not options.picture.is_file():
        raise UserError(f"{options.picture}: no such picture")
    torch.set_num_threads(options.threads)
    result = measure(options)
    for stage, seconds in result["seconds"].items():
        print(f"{stage:10s} {seconds:9.3f} s")
    print(f"{'total':10s} {result['total']:9.3f} s   {result['faces']:,} triangles, {result['glb_bytes']:,} bytes")
    on_gpu = pipeline.pick_device(options.device).type == "cuda"
    record.write(options.out, options, result, torch.cuda.get_device_name() if on_gpu else None)
    return 0


if __name__ == "__main__":
    config.run(main)
