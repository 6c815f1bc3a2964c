"""How long a run lasts, how its learning rate moves, and where it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Optimiser steps taken."""
    seconds: float = 0.0
    """Seconds spent training, over all the runs that continued one another."""
    skipped: int = 0
    """Steps not taken because the gradient was not finite or exploded."""
    draws: int = 0
    """Objects drawn, by all processes together: where the data order goes on (datasets.order)."""
    typical_log_norm: float = 0.0
    """Moving average of the gradient norm's logarithm, see `train.optimiser.GradientGuard`."""
    best: float | None = None
    """The best figure on the development objects so far, larger where better."""
    since_best: int = 0
    """How often they were judged since, in vain."""


@dataclass(frozen=True)
class Schedule:
    """How long to train and how the learning rate moves. A run ends at `steps` or after `minutes`, whichever comes first."""

    learning_rate: float
    """Peak, reached after the warm-up."""
    warmup_steps: int
    """Steps of linear warm-up from 0."""
    steps: int | None = None
    """Optimiser steps of the whole run."""
    minutes: float | None = None
    """Minutes of training of the whole run, all continuations together."""
    final_share: float = 0.02
    """The learning rate at the end as a share of the peak; a half cosine in between."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("say how long to train: --steps or --minutes")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and self.minutes <= 0):
            raise ValueError(f"steps and minutes must be positive, got {self.steps} and {self.minutes}")

    def done(self, progress: Progress) -> float:
        """The share of the run that is behind, in [0, 1]."""
        by_steps = progress.step / self.steps if self.steps else 0.0
        by_time = progress.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(max(by_steps, by_time), 1.0)

    def learning_rate_at(self, progress: Progress) -> float:
        """Linear warm-up, then half a cosine down to `final_share`. Loshchilov & Hutter 2017."""
        warm = min((progress.step + 1) / max(self.warmup_steps, 1), 1.0)
        cosine = (1 + math.cos(math.pi * self.done(progress))) / 2
        return self.learning_rate * warm * (self.final_share + (1 - self.final_share) * cosine)
