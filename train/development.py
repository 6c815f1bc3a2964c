"""Objects that training does not see, judged on the way: which checkpoint is best, when to stop, when to be warned.

A model of few objects learns them by heart: the loss on what it sees falls while what it makes of anything else gets worse.
Only a list of development objects tells.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from datasets.samples import ShardSamples
from model.lrm import LRM
from train.history import read_history
from train.losses import LossWeights, Objective, RenderSettings
from train.metrics import decibels
from train.schedule import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DevelopmentConfig:
    """Objects that are judged and not trained on."""

    dev_uids: Path | None = None
    """A file with a uid a line; they are in --shards, and left out of training."""
    dev_every: int = 250
    """Optimiser steps between two judgements."""
    dev_by: Literal["psnr", "solid"] = "psnr"
    """Which figure is best: of pictures; or of the shape, the `--solid` loss at points of the objects. The two do not choose alike."""
    patience: int = 0
    """Stop when so many judgements in a row were no better than the best; 0: never."""

    def __post_init__(self) -> None:
        if self.dev_every < 1 or self.patience < 0:
            raise ValueError(f"dev_every ≥ 1 and patience ≥ 0, got {self.dev_every} and {self.patience}")
        if self.patience and self.dev_uids is None:
            raise ValueError("--patience waits for better figures on development objects: name them with --dev-uids")


class Verdict(enum.Enum):
    """Whether training goes on."""

    GO_ON = "go on"
    STOP = "stop"


@dataclass
class Development:
    """The development objects and what is done about them."""

    config: DevelopmentConfig
    samples: ShardSamples
    settings: RenderSettings
    warned: bool = False

    def due(self, step: int) -> bool:
        """Whether the objects are judged after this step."""
        return step % self.config.dev_every == 0

    @torch.no_grad()
    def figures(self, lrm: LRM) -> dict[str, float]:
        """Of the same rays and points of the same views every time, means over objects: `psnr` in dB, and where `--solid` is trained
        on, `solid`, that loss."""
        lrm.eval()
        told = self.samples.config.solid_points > 0
        objective = Objective(lrm, LossWeights(colour=1.0, mask=0.0, empty=0.0, depth=0.0, solid=float(told)))
        device = next(lrm.parameters()).device
        found: dict[str, list[float]] = {"psnr": [], "solid": []} if told else {"psnr": []}
        for number in range(len(self.samples)):
            sample = {name: value[None].to(device) for name, value in self.samples[number].items()}
            _, terms = objective(sample, self.settings)
            found["psnr"].append(decibels(float(terms["colour"])))
            if told:
                found["solid"].append(float(terms["solid"]))
        lrm.train()
        return {name: float(np.mean(values)) for name, values in found.items()}

    @property
    def names(self) -> list[str]:
        """What `figures` has."""
        return ["psnr", "solid"] if self.samples.config.solid_points else ["psnr"]

    def learn(self, figures: dict[str, float], progress: Progress) -> bool:
        """Notes the figures; whether the one that counts is the best. What `Progress.best` keeps is larger where better."""
        figure = merit(figures, self.config.dev_by)
        if progress.best is None or figure > progress.best:
            progress.best, progress.since_best = figure, 0
            return True
        progress.since_best += 1
        return False

    def best(self, progress: Progress) -> str:
        """The best figure so far, in words."""
        assert progress.best is not None
        return f"solid loss {-progress.best:.4f}" if self.config.dev_by == "solid" else f"{progress.best:.2f} dB"

    def verdict(self, progress: Progress) -> Verdict:
        """Whether patience has run out."""
        patience = self.config.patience
        return Verdict.STOP if patience and progress.since_best >= patience else Verdict.GO_ON

    def warn(self, run: Path, progress: Progress) -> None:
        """Says so, once, when what is held out gets worse while what is trained on gets better."""
        if self.warned:
            return
        history = read_history(run / "log.jsonl")
        held_out = [line["development_psnr"] for line in history if "development_psnr" in line]
        seen = [line["psnr"] for line in history if "psnr" in line]
        if falls_apart(held_out, seen):
            self.warned = True
            log.warning(
                "step %d: objects in training get better (%.1f dB) while the development objects get worse (%.1f dB, best %.1f):"
                " the model learns its few objects by heart. Stop here (best.safetensors is kept), or give it more objects,"
                " --freeze encoder, a lower --learning-rate, --mirror, --fill-spread",
                progress.step,
                seen[-1],
                held_out[-1],
                max(held_out),
            )


def merit(figures: dict[str, float], name: str) -> float:
    """A figure as it is compared, larger where better: PSNR as it is, the loss of the solid negated."""
    return -figures[name] if name == "solid" else figures[name]


def falls_apart(held_out: list[float], seen: list[float]) -> bool:
    """Whether the last three judgements (dB) all lie half a decibel below the best, while training's last third beats its second."""
    if len(held_out) < 4 or len(seen) < 6:
        return False
    third = len(seen) // 3
    rising = np.mean(seen[-third:]) > np.mean(seen[-2 * third : -third])
    return bool(rising and max(held_out[-3:]) < max(held_out) - 0.5)
