"""`python -m train.export --checkpoint runs/furniture --out model/weights/furniture.safetensors`: a model to hand on.

Half the size: weights in half precision, which are read as float32 again; and without what continuing a run needs. `--shards`
shows what that changes: pictures of a few objects by both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from datasets.samples import InputView, SampleConfig, TargetView, input_view, target_view
from datasets.shards import ShardSet
from model.checkpoints import load_checkpoint, save_model
from model.lrm import LRM
from train import checkpoints, methods
from train.levels import best_level
from train.metrics import decibels
from turntable import config as command_line
from turntable.errors import EXIT_OK, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportConfig:
    """Writes a model in half precision."""

    checkpoint: Path
    """A run's folder (its blended model where it has one, else its best, else its newest), or a model file."""
    out: Path
    """The file to write, .safetensors."""
    name: str = ""
    """What the model is called, kept in the file."""
    level: float | None = None
    """Density of the surface that meshes are cut at; left out: the model's, or what --level-uids choose."""
    level_uids: Path | None = None
    """Development objects of --shards on which the level is chosen, by IoU; a file with a uid a line."""
    shards: Path | None = None
    """Objects to compare both models on."""
    objects: int = 4
    """How many of them."""

    def __post_init__(self) -> None:
        if self.out.suffix != ".safetensors":
            raise ValueError(f"--out {self.out}: a model is a .safetensors file")
        if self.objects < 1 or not (self.level is None or self.level > 0):
            raise ValueError(f"objects must be at least 1 and level above 0, got {self.objects} and {self.level}")
        if self.level_uids is not None and (self.shards is None or self.level is not None):
            raise ValueError("--level-uids chooses the level on objects of --shards: name those, and leave --level out")


def export(config: ExportConfig) -> None:
    """Writes the file, and says how large it is and what half precision changed."""
    source = checkpoints.to_use(config.checkpoint)
    lrm, extra = load_checkpoint(source)
    lrm.config = replace(lrm.config, level=config.level or chosen_level(config, lrm) or lrm.config.level)
    if config.out.exists() and config.out.samefile(source):
        raise UserError(f"{config.out}: is the model that is to be read; write to another file")
    save_model(config.out, lrm, extra | ({"name": config.name} if config.name else {}), halved(lrm, source))
    log.info("%s → %s, %.1f MB", source, config.out, config.out.stat().st_size / 1e6)
    if config.shards is not None:
        halves, _ = load_checkpoint(config.out)
        log.info("pictures by both agree to %.1f dB", agreement(lrm, halves, ShardSet(config.shards), config.objects))


def chosen_level(config: ExportConfig, lrm: LRM) -> float | None:
    """The level that fits the objects of --level-uids best; None where none are named."""
    if config.level_uids is None or config.shards is None:
        return None
    shards = ShardSet(config.shards)
    level, found = best_level(lrm.eval(), shards, shards.listed(config.level_uids))
    log.info("level %g: mean IoU at %s", level, ", ".join(f"{at:.3g}: {fit:.3f}" for at, fit in found.items()))
    return level


def halved(lrm: LRM, source: Path) -> dict[str, torch.Tensor]:
    """The network's tensors in half precision; one that does not fit into it is a UserError."""
    found = {name: tensor.half() for name, tensor in lrm.state_dict().items()}
    beyond = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if beyond:
        raise UserError(f"{source}: {', '.join(beyond[:3])}: beyond what half precision holds (65,504)")
    return found


def agreement(one: LRM, other: LRM, shards: ShardSet, count: int, size: int = 64) -> float:
    """Decibels of one model's pictures against the other's, of the first objects seen from their last view."""
    settings = SampleConfig(
        input_size=one.config.encoder.image_size, fill=one.config.fill, background=one.config.background
    )
    errors = []
    for index in range(min(count, len(shards))):
        seen = input_view(shards, index, 0, settings)
        target = target_view(shards, index, shards.view_count(index) - 1, size, seen.canonical_from_world)
        pictures = [_picture(lrm, seen, target) for lrm in (one, other)]
        errors.append(float(np.square(pictures[0] - pictures[1]).mean()))
    return decibels(float(np.mean(errors)))


def _picture(lrm: LRM, seen: InputView, target: TargetView) -> np.ndarray:
    method = methods.ModelMethod(lrm, 64, 64, lrm.config.level, torch.device("cpu"))
    return method.pictures(method.answer(seen), [target])[0]


def main() -> int:
    export(command_line.parse(ExportConfig, "Write a model in half precision, to hand on."))
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
