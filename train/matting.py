"""`python -m train.matting --shards shards/ --out runs/matting`: a small matting network for `--matte rembg:u2net_custom=…`.

It learns from the shards' renders laid over made-up surroundings (train/composites.py), in minutes on a CPU, and is written
as `matte.onnx`. It knows objects like those of the shards on surroundings like those made up; for
photos of anything, rembg's own networks are the better choice. The same command continues a run; more `--steps` prolong it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from datasets.shards import ShardSet
from model.matting import REMBG_SIZE, MattingConfig, MattingNet, export, normalised
from train.composites import composite, texture_bank
from train.schedule import Progress, Schedule
from turntable import config as command_line
from turntable.errors import EXIT_OK, UserError
from turntable.files import atomic_path, write_bytes
from turntable.report import contact_sheet, encode_picture

STATE = "state.pt"
SIZE = REMBG_SIZE // 2
"""Pixels, the side at which the network works."""
EARLY_SIZE = 96
"""Pixels, the side of the pictures it first learns from."""


@dataclass(frozen=True)
class MattingTraining:
    """What to learn from, and how long."""

    shards: tuple[Path, ...]
    """Folders of shards whose pictures have true mattes."""
    out: Path
    """Folder of the run."""
    widths: tuple[int, ...] = MattingConfig().widths
    """Channels of the network's levels, the finest first."""
    leave_out: tuple[str, ...] = ()
    """Uids of objects not to learn from, because mattes of them will be judged."""
    steps: int = 4000
    """Optimiser steps of the whole run."""
    early_share: float = 0.8
    """Share of the steps, the first ones, in which pictures have 96² pixels: a step takes a third of the time there."""
    batch: int = 16
    """Pictures a step."""
    learning_rate: float = 3e-3
    """Peak; AdamW, half a cosine down."""
    empty_share: float = 0.04
    """Share of pictures without any object, in [0, 1): of them the network learns to be sure of nothing."""
    textures: int = 400
    """Textures to make surroundings of."""
    views: int = 6
    """At most so many views of each object, evenly spread."""
    save_every: int = 100
    """Steps between one saving and the next."""
    threads: int = 1
    """CPU threads."""
    seed: int = 0
    """Weights, textures and pictures."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.textures, self.views, self.save_every, self.threads) < 1:
            raise ValueError("steps, batch, textures, views, save_every and threads must be at least 1")
        if not (0 <= self.empty_share < 1 and 0 <= self.early_share <= 1):
            raise ValueError(f"empty_share and early_share are shares, got {self.empty_share} and {self.early_share}")

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.learning_rate, warmup_steps=30, steps=self.steps)


def boxes_of(folder: Path, leave_out: tuple[str, ...], views: int) -> list[np.ndarray]:
    """The pictures of a folder of shards, cut to their mattes' boxes, (h, w, 4) uint8 each."""
    shards, pictures = ShardSet(folder), []
    for index in (i for i, uid in enumerate(shards.uids) if uid not in leave_out):
        count = shards.view_count(index)
        for view in np.unique(np.linspace(0, count - 1, min(views, count)).round().astype(int)):
            rgba = shards.picture(index, int(view), shards.stored_size(index, 256))
            rows, columns = np.nonzero(rgba[..., 3] >= 8)
            if len(rows) > 64:
                box = rgba[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                pictures.append(np.ascontiguousarray(box))
    return pictures


class Batches:
    """Endless batches; that of a step depends on (seed, step) alone."""

    def __init__(self, config: MattingTraining) -> None:
        self.config = config
        self.renders = [box for folder in config.shards for box in boxes_of(folder, config.leave_out, config.views)]
        if not self.renders:
            raise UserError(f"--shards {' '.join(map(str, config.shards))}: no picture with a matte in them")
        self.textures = texture_bank(np.random.default_rng([config.seed, 0]), config.textures, self.renders)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) in [0, 1] and (N, 1, S, S) mattes."""
        rng = np.random.default_rng([self.config.seed, 1, step])
        size = EARLY_SIZE if step < self.config.early_share * self.config.steps else SIZE
        pairs = [composite(rng, self._render(rng), self.textures, size) for _ in range(self.config.batch)]
        pictures, mattes = (np.stack(parts) for parts in zip(*pairs, strict=True))
        return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()), torch.from_numpy(mattes)[:, None]

    def _render(self, rng: np.random.Generator) -> np.ndarray | None:
        if rng.random() < self.config.empty_share:
            return None
        return self.renders[rng.integers(len(self.renders))]


def matting_loss(logits: Tensor, matte: Tensor) -> Tensor:
    """Binary cross-entropy, and the share by which the two mattes fail to overlap, which counts small objects as much as large."""
    probability = torch.sigmoid(logits)
    both = (probability * matte).sum(dim=(1, 2, 3))
    either = (probability + matte - probability * matte).sum(dim=(1, 2, 3))
    return F.binary_cross_entropy_with_logits(logits, matte) + (1 - (both + 1) / (either + 1)).mean()


def train(config: MattingTraining) -> Path:
    """Trains to `config.steps` and returns the network's file."""
    config.out.mkdir(parents=True, exist_ok=True)
    command_line.claim_folder(config.out, config, {"shards", "out", "steps", "save_every", "threads"})
    torch.manual_seed(config.seed)
    net = MattingNet(MattingConfig(config.widths)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    progress = _resume(config.out / STATE, net, optimiser)
    batches = Batches(config)
    with tqdm(total=config.steps, initial=progress.step, unit="step", desc="matting") as bar:
        for loss in _steps(config, net, optimiser, progress, batches):
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if progress.step % config.save_every == 0 or progress.step == config.steps:
                _save(config.out, net, optimiser, progress)
    export(net.to(memory_format=torch.contiguous_format), config.out / "matte.onnx")  # type: ignore[call-overload]
    write_bytes(config.out / "sheet.png", encode_picture(sheet(net, batches, progress.step), ".png"))
    return config.out / "matte.onnx"


def _steps(
    config: MattingTraining,
    net: MattingNet,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    batches: Batches,
) -> Iterator[float]:
    """One optimiser step after another; yields each one's loss."""
    while progress.step < config.steps:
        start = time.perf_counter()
        pictures, mattes = batches.batch(progress.step)
        for group in optimiser.param_groups:
            group["lr"] = config.schedule.learning_rate_at(progress)
        net.train()
        with torch.autocast(
            "cpu", torch.bfloat16
        ):  # halves the time where the CPU has it, and changes nothing to speak of
            logits = net(normalised(pictures).to(memory_format=torch.channels_last))
        loss = matting_loss(logits.float(), mattes)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        progress.step += 1
        progress.seconds += time.perf_counter() - start
        yield float(loss.detach())


def _save(folder: Path, net: MattingNet, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    state: dict[str, Any] = {
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": dataclasses.asdict(progress),
    }
    with atomic_path(folder / STATE) as temporary:
        torch.save(state, temporary)


def _resume(path: Path, net: MattingNet, optimiser: torch.optim.Optimizer) -> Progress:
    if not path.exists():
        return Progress()
    try:
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        return Progress(**state["progress"])
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise UserError(
            f"{path}: damaged, or of another network ({type(error).__name__}); it cannot be continued, delete it to begin anew"
        ) from error


@torch.no_grad()
def sheet(net: MattingNet, batches: Batches, step: int) -> np.ndarray:
    """(H, W, 3) uint8: a batch that was not trained on, its mattes, and the network's."""
    pictures, mattes = batches.batch((1 << 31) + step)  # steps of training never come this far
    found = torch.sigmoid(net.eval()(normalised(pictures)))
    rows = [pictures, mattes.expand(-1, 3, -1, -1), found.expand(-1, 3, -1, -1)]
    tiles = [(tile.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for row in rows for tile in row]
    return contact_sheet(tiles, len(pictures))


def main() -> int:
    config = command_line.parse(MattingTraining, "Train a small matting network for rembg's u2net_custom.")
    cv2.setNumThreads(1)
    torch.set_num_threads(config.threads)
    print(train(config))
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
