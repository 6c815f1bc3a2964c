"""Between a model and what fine-tuning made of it: weights blended, the share chosen on development objects.

Tuned on few objects, a model gains on their kind and loses a little of what it knew. Of the way between the two sets of weights
the first part brings most of the gain and little of the loss (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from model.checkpoints import FILE_NAME, load_checkpoint, save_model
from model.lrm import LRM
from train.assembly import choose_device, development_objects
from train.checkpoints import BEST_NAME, BLENDED_NAME
from train.development import Development, merit
from train.settings import TrainConfig
from turntable.files import disk_errors, write_json

log = logging.getLogger(__name__)

SHARES = tuple(step / 10 for step in range(1, 11))
"""Of the tuned weights, tried beside 0, which is the model that tuning began from."""


@dataclass(frozen=True)
class Blend:
    """One set of weights between two, and what the development objects say of it."""

    tuned: str
    """File in the run's folder that holds the tuned weights."""
    share: float
    """Of the tuned weights; the rest are those of the beginning."""
    figures: dict[str, float]
    """`train.development.Development.figures`."""

    def __str__(self) -> str:
        return f"{self.share:.0%} of {self.tuned} ({_words(self.figures)})"


def _words(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def choose(blends: list[Blend], start: Blend, by: str) -> Blend:
    """The best by `by` of those that are nowhere worse than the start; the start itself where there is none."""
    fit = [b for b in blends if all(merit(b.figures, name) >= merit(start.figures, name) for name in start.figures)]
    return max([start, *fit], key=lambda blend: merit(blend.figures, by))


def blended(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The weights `share` of the way from `start` to `tuned`; what is no floating point number is the tuned one's."""
    return {
        name: start[name].lerp(value, share) if value.is_floating_point() else value for name, value in tuned.items()
    }


def blend_run(config: TrainConfig) -> Blend:
    """Blends the best and the newest model of a finished run with the one that it began from, `--init`, and writes what does best
    on its development objects without being worse than the beginning in any of their figures: <run>/blended.safetensors.

    For a run with --init and --dev-uids; of several processes the first one calls it.
    """
    assert config.init is not None
    device, _ = choose_device(config.device, config.precision)
    start = load_checkpoint(config.init, device)[0].state_dict()
    files = [config.out / BEST_NAME, config.out / FILE_NAME]
    if files[0].samefile(files[1]):
        files.pop()
    lrm, _ = load_checkpoint(files[0], device)
    development = development_objects(config, lrm.config)
    lrm.load_state_dict(start)
    beginning = Blend(files[0].name, 0.0, development.figures(lrm))
    found = [blend for file in files for blend in _along(start, file, lrm, development)]
    chosen = choose(found, beginning, config.development.dev_by)
    lrm, extra = load_checkpoint(config.out / chosen.tuned, device)
    weights = blended(start, lrm.state_dict(), chosen.share)
    with disk_errors(config.out):
        save_model(config.out / BLENDED_NAME, lrm, {**extra, "blend": chosen.share}, weights)
        write_json(config.out / "blends.json", [vars(blend) for blend in (beginning, *found)])
    log.info("%s: %s; began with %s", config.out / BLENDED_NAME, chosen, _words(beginning.figures))
    return chosen


def _along(start: Mapping[str, Tensor], file: Path, lrm: LRM, development: Development) -> Iterator[Blend]:
    """What lies on the way from `start` to the weights in `file`. `lrm` is left with other weights."""
    tuned = load_checkpoint(file, next(lrm.parameters()).device)[0].state_dict()
    for share in tqdm(SHARES, desc="blend", unit="share", leave=False):
        lrm.load_state_dict(blended(start, tuned, share))
        yield Blend(file.name, share, development.figures(lrm))
