"""Pictures to 3D: `python -m model.reconstruct INPUT… [--checkpoint runs/x] [--out DIR]`.

INPUT is a picture or a folder of pictures. Each gives a mesh (textured, upright), `turntable.mp4`, `preview.png` and
`reconstruction.json`: in DIR itself where a single picture and DIR are named, else in DIR/<name>. The object must be cut out (a
true alpha channel) or `--matte` must say how to find it. A run that is repeated does what is missing.

The camera: the field of view of the whole photo (`--fov`) and the camera's distance in object units (`--distance`) where they
are known. Where they are not, the photo is taken to show the object as the training pictures typically did: the
checkpoint remembers their median distance and framed focal length, and of the two the missing one follows from the
given one, since the framed object always fills the same share. Reconstruction happens in the frame of the input camera;
`--elevation`, the angle from which the photo looks down on the object, turns the result upright.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from model import inputs, pipeline, results
from model.checkpoints import obtain_checkpoint
from model.hub import DEFAULT
from model.lrm import LRM
from model.mesh import Mesh
from model.photograph import Photograph
from model.pipeline import Failure, Model, Reconstruction, Source, Stages, SurfaceSettings
from model.results import Identity, OutputSettings
from preprocess.matte import check
from turntable import config
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, EXIT_USAGE, UserError
from turntable.files import only_run, sha256

SHARED_OUT = Path("reconstructions")
"""Where results go of whoever names no folder."""


@dataclass(frozen=True)
class ReconstructConfig:
    """What to reconstruct and what to write."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures and folders of pictures."""
    checkpoint: Path = Path(DEFAULT)
    """A checkpoint, the folder of a training run or with a published model's files, or a name: turntable:furniture (small, and here
    already), openlrm:mix-base-1.1 (obj or mix; small, base or large), triposr."""
    out: Path = SHARED_OUT
    """Folder for the results; left out, also a single picture gets a folder of its own in it."""
    photograph: Photograph = field(default_factory=Photograph)
    surface: SurfaceSettings = field(default_factory=SurfaceSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    batch: int = 1
    """Pictures that go through the network at once."""
    device: str = "auto"
    """`cpu`, `cuda`, …; auto: a GPU where there is one."""
    overwrite: bool = False
    """Whether results that are there already are made anew."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no picture given")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    def deciding(self) -> dict[str, Any]:
        """The settings on which results depend. JSON values."""
        whole = config.resolved(self)
        photograph = {name: value for name, value in whole["photograph"].items() if name != "matte_device"}
        return {"photograph": photograph, "surface": whole["surface"], "output": whole["output"]}


def reconstruct(
    image: np.ndarray | Path | str,
    checkpoint: Path | str | tuple[LRM, dict[str, Any]],
    photograph: Photograph = Photograph(),
    resolution: int = 256,
    level: float | None = None,
    device: str = "auto",
) -> Mesh:
    """The mesh of the object in a picture, upright (+z up), seen from its -y side, with the field's colours at its vertices.

    image: a file, or (H, W, 3 or 4) uint8 sRGB with straight alpha. checkpoint: a file, a folder or a published model's name, or
    what `model.checkpoints.load_checkpoint` returned, where many pictures are reconstructed. `model.pipeline` does more.
    """
    model = Model(*checkpoint, "") if isinstance(checkpoint, tuple) else pipeline.load(checkpoint, device)
    source = Source("", image if isinstance(image, np.ndarray) else Path(image))
    stages = Stages()
    framed = pipeline.prepare(model, source, photograph, stages)
    (planes,) = pipeline.encode(model, [framed], [stages])
    settings = SurfaceSettings(resolution, level, floaters=0, texture=0, project_photo=False)
    return pipeline.surface(model, source, framed, planes, settings, stages).shape


@dataclass
class Tally:
    """What a run has come to."""

    done: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By stage, of the pictures that came to something."""

    def add(self, record: dict[str, Any]) -> None:
        """Counts a reconstruction by what its `reconstruction.json` says."""
        self.done += 1
        for stage, seconds in record["seconds"].items():
            self.seconds[stage] += seconds

    def summary(self) -> str:
        """A line of counts, a line of seconds, and a line a reason with its pictures."""
        counts = [f"{self.done} reconstructed"]
        counts += [f"{self.skipped} were there already"] if self.skipped else []
        counts += [f"{len(self.failed)} failed"] if self.failed else []
        lines = [", ".join(counts)]
        if self.done:
            total = sum(self.seconds.values())
            stages = ", ".join(f"{name} {seconds / self.done:.2f}" for name, seconds in self.seconds.items())
            lines.append(f"{total:.1f} s, {total / self.done:.2f} s a picture: {stages}")
        for reason, count in Counter(failure.reason for failure in self.failed).most_common():
            names = [str(failure.source.picture) for failure in self.failed if failure.reason == reason]
            lines.append(f"{reason}: {count} ({', '.join(names[:5])}{', …' if count > 5 else ''})")
        return "\n".join(lines)


def run(options: ReconstructConfig, sources: list[Source], folders: dict[str, Path]) -> Tally:
    """Reconstructs what is missing into `folders` (by the sources' names) and says of each picture what became of it."""
    tally = Tally()
    digest = sha256(obtain_checkpoint(options.checkpoint))
    identities = {
        source.name: results.identity_of(Path(str(source.picture)), digest, options.deciding()) for source in sources
    }
    left = _missing(options, sources, folders, identities, tally)
    if not left:
        return tally
    model = pipeline.load(options.checkpoint, options.device)
    print(f"{len(left)} to reconstruct on {model.device}", flush=True)
    for result in pipeline.reconstruct(model, left, options.photograph, options.surface, options.batch):
        folder, identity = folders[result.source.name], identities[result.source.name]
        written = _written(result, folder, options, model, identity)
        if isinstance(written, Failure):
            _tell_failure(written, tally)
        else:
            tally.add(written)
            print(_said(written, folder), flush=True)
    return tally


def _written(
    result: Reconstruction | Failure, folder: Path, options: ReconstructConfig, model: Model, identity: Identity
) -> dict[str, Any] | Failure:
    """Writes what there is of a picture; what `reconstruction.json` says, or why there is none."""
    if isinstance(result, Failure):
        results.write_failure(result, folder, options.output, model)
        return result
    arguments = result, folder, options.out, options.output, model, identity
    return pipeline.attempt(result.source, Stages(seconds=result.seconds), partial(results.write, *arguments))


def _missing(
    options: ReconstructConfig,
    sources: list[Source],
    folders: dict[str, Path],
    identities: dict[str, Identity],
    tally: Tally,
) -> list[Source]:
    """The sources without a complete result; of those whose folder holds something else, the tally is told."""
    left = []
    for source in sources:
        identity, folder = identities[source.name], folders[source.name]
        try:
            if not options.overwrite and results.is_complete(folder, options.out, identity):
                tally.skipped += 1
            else:
                left.append(source)
        except UserError as error:
            _tell_failure(Failure(source, getattr(error, "reason", "refused"), str(error), {}), tally)
    return left


def _tell_failure(failure: Failure, tally: Tally) -> None:
    tally.failed.append(failure)
    path = str(failure.source.picture)
    print(failure.message if path in failure.message else f"{path}: {failure.message}", file=sys.stderr, flush=True)


def _said(record: dict[str, Any], folder: Path) -> str:
    """A picture's line."""
    seconds = record["seconds"]
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    notes = "".join(f"; {note}" for note in record["notes"])
    total = sum(seconds.values())
    return f"{record['picture']} → {folder}: {record['faces']:,} triangles in {total:.1f} s ({parts}){notes}"


def main() -> int:
    options = config.parse(ReconstructConfig, __doc__ or "")
    check(options.photograph.matte)
    sources, others = inputs.sources(options.inputs)
    alone = len(options.inputs) == 1 and not options.inputs[0].is_dir()
    direct = alone and options.out != SHARED_OUT
    folders = {source.name: options.out if direct else options.out / source.name for source in sources}
    for path in others:
        print(f"{path}: not a picture by its name; passed over", file=sys.stderr)
    # What cannot be is said before anything is written.
    pipeline.pick_device(options.device)
    obtain_checkpoint(options.checkpoint)
    with only_run(options.out):
        config.write_config(options.out, options)
        tally = run(options, sources, folders)
    if alone and tally.failed:
        return EXIT_USAGE
    print(tally.summary())
    return EXIT_ITEMS_FAILED if tally.failed else EXIT_OK


if __name__ == "__main__":
    config.run(main)
