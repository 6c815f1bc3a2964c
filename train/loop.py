"""The optimisation loop: draw, render, step, log, save; continues exactly where it stopped."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from datasets.order import Draw, Order
from datasets.samples import ShardSamples
from model.lrm import LRM
from train import checkpoints
from train.grids import picture_grid
from train.losses import LossWeights, RenderSettings, reconstruction_loss
from train.lpips import LPIPS
from train.metrics import decibels
from turntable.errors import UserError
from turntable.files import write_bytes
from turntable.report import encode_picture

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 20


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

    def done(self, progress: checkpoints.Progress) -> float:
        """The share of the run that is behind, in [0, 1]."""
        by_steps = progress.step / self.steps if self.steps else 0.0
        by_time = progress.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(max(by_steps, by_time), 1.0)

    def learning_rate_at(self, progress: checkpoints.Progress) -> float:
        """Linear warm-up, then half a cosine down to `final_share`. Loshchilov & Hutter 2017."""
        warm = min((progress.step + 1) / max(self.warmup_steps, 1), 1.0)
        cosine = (1 + math.cos(math.pi * self.done(progress))) / 2
        return self.learning_rate * warm * (self.final_share + (1 - self.final_share) * cosine)


class Draws(Sampler[Draw]):
    """One rank's part of an endless order, from any draw on. Runs in the trainer, so loader processes change nothing of it."""

    def __init__(self, order: Order, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.order, self.start, self.rank, self.world = order, start, rank, world

    def __iter__(self) -> Iterator[Draw]:
        return self.order.draws(self.start, self.rank, self.world)


def adamw(lrm: LRM, learning_rate: float, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with decay on weight matrices only: not on biases, norms and position tokens."""
    decayed = [p for n, p in lrm.named_parameters() if p.requires_grad and p.ndim >= 2 and not _is_position(n)]
    chosen = {id(p) for p in decayed}
    others = [p for p in lrm.parameters() if p.requires_grad and id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def _is_position(name: str) -> bool:
    return any(word in name for word in ("position", "pos_embed", "cls_token", "register_tokens", ".tokens"))


@dataclass
class Trainer:
    """One run in one process. `extra` goes into every checkpoint's header."""

    lrm: LRM
    samples: ShardSamples
    order: Order
    out: Path
    schedule: Schedule
    weights: LossWeights
    settings: RenderSettings
    batch: int
    seed: int
    device: torch.device
    optimiser: torch.optim.Optimizer
    workers: int
    save_minutes: float
    clip: float
    extra: dict[str, Any]
    lpips: LPIPS | None = None
    region_side: int = 0

    def run(self, progress: checkpoints.Progress) -> checkpoints.Progress:
        """Trains to the schedule's end and returns where the run stands. Ctrl-C saves a checkpoint first."""
        writer = SummaryWriter(self.out / "tensorboard", purge_step=progress.step)
        history = History(self.out / "log.jsonl", progress.step)
        bar = tqdm(total=1.0, initial=self.schedule.done(progress), desc="train", bar_format=_BAR, mininterval=1)
        batches = self._batches(progress.draws)
        saved = last = time.monotonic()
        skipped_in_a_row = 0
        try:
            while self.schedule.done(progress) < 1:
                batch = {
                    k: v.to(self.device, non_blocking=True) for k, v in next(batches).items() if torch.is_tensor(v)
                }
                terms, taken = self.step(batch, progress)
                skipped_in_a_row = 0 if taken else skipped_in_a_row + 1
                if skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
                    raise UserError(
                        f"{self.out}: {MAX_SKIPPED_IN_A_ROW} steps in a row had no finite gradient at step {progress.step}; "
                        f"lower --learning-rate and continue from the last checkpoint with --resume"
                    )
                now = time.monotonic()
                progress.seconds, last = progress.seconds + now - last, now
                if progress.step % 20 == 0:
                    self._report(writer, history, bar, terms, progress)
                if now - saved > 60 * self.save_minutes:
                    self._save_and_show(writer, progress)
                    saved = time.monotonic()
            self._save_and_show(writer, progress)
        except KeyboardInterrupt:
            self.save(progress)
            raise
        finally:
            bar.close()
            writer.close()
        return progress

    def step(self, batch: dict[str, Tensor], progress: checkpoints.Progress) -> tuple[dict[str, Tensor], bool]:
        """One optimiser step; returns the loss terms and whether the step was taken (finite) or skipped."""
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + progress.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.learning_rate_at(progress)
        loss, terms = reconstruction_loss(
            self.lrm, batch, self.weights, self.settings, generator, self.lpips, self.region_side
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.lrm.parameters(), self.clip)
        taken = bool(torch.isfinite(norm))
        if taken:
            self.optimiser.step()
        else:
            progress.skipped += 1
        progress.step += 1
        progress.draws += self.batch
        return {**terms, "gradient_norm": norm.detach()}, taken

    def save(self, progress: checkpoints.Progress) -> None:
        """Writes a checkpoint of the run as it stands."""
        checkpoints.save(self.out, self.lrm, self.optimiser, progress, {**self.extra, "step": progress.step})

    def _save_and_show(self, writer: SummaryWriter, progress: checkpoints.Progress) -> None:
        self.save(progress)
        grid = picture_grid(self.lrm, self.samples, self.settings.samples)
        writer.add_image("views", grid, progress.step, dataformats="HWC")
        write_bytes(self.out / "pictures" / f"step-{progress.step:08d}.webp", encode_picture(grid))

    def _batches(self, start: int) -> Iterator[dict[str, Tensor]]:
        loader = DataLoader(
            self.samples,
            batch_size=self.batch,
            sampler=Draws(self.order, start),
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        return iter(loader)

    def _report(
        self,
        writer: SummaryWriter,
        history: History,
        bar: tqdm,
        terms: dict[str, Tensor],
        progress: checkpoints.Progress,
    ) -> None:
        values = {name: float(value) for name, value in terms.items()}
        values |= {
            "psnr": decibels(values["colour"]),
            "learning_rate": self.schedule.learning_rate_at(progress),
            "seconds": round(progress.seconds, 2),
        }
        history.append(progress.step, values)
        for name, value in values.items():
            writer.add_scalar(f"train/{name}", value, progress.step)
        bar.n = self.schedule.done(progress)
        bar.set_postfix_str(f"step {progress.step}, {values['psnr']:.1f} dB, {progress.skipped} skipped", refresh=False)
        bar.refresh()


_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"


class History:
    """`log.jsonl`: a line a logged step. Continuing from step n drops what a killed run logged after n."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_history(path) if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def append(self, step: int, values: dict[str, float]) -> None:
        """Adds one line, flushed."""
        with self.path.open("a") as handle:
            handle.write(json.dumps({"step": step, **values}) + "\n")


def read_history(path: Path) -> list[dict[str, float]]:
    """The logged steps of a run, oldest first; a line that a kill cut short is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:
            log.warning("%s: a cut line was left out", path)
    return parsed
