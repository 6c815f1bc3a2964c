"""What render_throughput compares with: one Blender process renders one asset, with objaverse-xl's settings, into loose PNG files.

Import, normalisation, cameras and lights are ours, so that the pictures can be compared; what it saves by keeping the scene
between views, which objaverse-xl's script does not, is to its advantage. Started by `benchmarks.render_throughput`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.render_quality import OBJAVERSE_XL
from datasets.pictures import encode_png
from render import devices, fitting, lights, rigs, scene
from render.passes import Studio
from render.settings import Settings
from turntable.config import restored


def main() -> None:
    """`python -m benchmarks.process_per_asset JOB.json`."""
    job = json.loads(Path(sys.argv[1]).read_text())
    settings = restored(Settings, job["settings"])
    _, vertices, *_ = scene.load(Path(job["asset"]))
    drawn = rigs.draw(settings.rig, settings.view_count, settings.seed, job["uid"])
    fitted = fitting.fitted(settings.rig, drawn, vertices, settings.resolution)
    lighting = lights.draw(settings.lighting, settings.seed, job["uid"])
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    with Studio(settings, lighting, devices.choose(None)) as studio:
        for index, (camera, _) in enumerate(fitted):
            (out / f"{index:03d}.png").write_bytes(encode_png(studio.colour(camera, index, OBJAVERSE_XL)))


if __name__ == "__main__":
    main()
