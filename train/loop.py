"""The optimisation loop: draw, render, step, log, judge, save; continues exactly where it stopped, by however many processes."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from datasets.order import Draw, Order
from datasets.samples import ShardSamples
from datasets.shards import ShardError
from model.lrm import LRM
from train import checkpoints, lora
from train.checkpoints import State
from train.development import Development, Verdict
from train.distributed import ALONE, World, agreed, last_of_several, mean_over_processes, wait_for_all, whole
from train.grids import picture_grid
from train.history import History
from train.losses import RenderSettings
from train.metrics import decibels
from train.optimiser import GradientGuard, set_rate
from train.schedule import Progress, Schedule
from turntable.errors import UserError
from turntable.files import read_json, write_bytes
from turntable.report import encode_picture
from turntable.resources import peak_memory

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 20
LOG_EVERY = 20
"""Steps between two lines of the log."""


class Draws(Sampler[Draw]):
    """One process' part of an endless order, from any draw on. Runs in the trainer, so loader processes change nothing of it."""

    def __init__(self, order: Order, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.order, self.start, self.rank, self.world = order, start, rank, world

    def __iter__(self) -> Iterator[Draw]:
        return self.order.draws(self.start, self.rank, self.world)


@contextmanager
def interrupts() -> Iterator[list[bool]]:
    """Within it, the first Ctrl-C or SIGTERM only sets the flag that is yielded, and a second one kills as usual."""
    flag = [False]
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: Any) -> None:
        flag[0] = True
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, note)
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deaths_told_when_asked() -> Iterator[None]:
    """Within it a loader may be started that tells of a dead loader process where a batch is asked for, and nowhere else.

    torch's handler of SIGCHLD raises wherever the trainer is at that moment: in the middle of the optimiser's step, say, after
    which the weights are neither before it nor after. It is taken off even where another loader of this program brought it;
    that one's deaths are then told where its batches are asked for, too.
    """
    if threading.current_thread() is not threading.main_thread():  # there torch sets no handler either
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        torchs = str(getattr(before, "__module__", "")).startswith("torch.")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if torchs or before is None else before)


@dataclass(frozen=True)
class Stage:
    """What is trained on from some share of the run on: low resolutions first, since their steps are cheap."""

    begins: float
    """Share of the run, in [0, 1)."""
    samples: ShardSamples
    settings: RenderSettings


@dataclass
class Trainer:
    """One run, in one process of those that share it. `extra` goes into every checkpoint's header."""

    state: State
    objective: nn.Module
    """`train.losses.Objective`, or what wraps it (`train.distributed.share`)."""
    stages: tuple[Stage, ...]
    """In their order; the first begins at 0."""
    order: Order
    out: Path
    schedule: Schedule
    batch: int
    """Objects a step, of all processes together."""
    micro_batch: int
    """Objects that a process computes at a time; several such batches make its part of a step."""
    workers: int
    save_minutes: float
    clip: float
    guard: GradientGuard
    extra: dict[str, Any]
    world: World = ALONE
    waited: float = 0.0
    """Seconds spent waiting for data since the last report."""
    reported: float = 0.0
    """`Progress.seconds` at the last report."""
    development: Development | None = None
    wandb: str = ""
    """Project of Weights & Biases that is told of the run as well; none where empty."""

    @property
    def progress(self) -> Progress:
        """Where the run stands."""
        return self.state.progress

    @property
    def stage(self) -> Stage:
        """The stage that the next step belongs to."""
        done = self.schedule.done(self.progress)
        return [stage for stage in self.stages if stage.begins <= done][-1]

    def run(self) -> None:
        """Trains to the schedule's end. Ctrl-C saves a checkpoint first."""
        watch = Watch(self) if self.world.first else None
        self.reported = self.progress.seconds
        stage: Stage | None = None
        batches: Iterator[dict[str, Tensor]] = iter(())
        saved = last = time.monotonic()
        skipped_in_a_row, verdict = 0, Verdict.GO_ON
        interrupted = [False]
        try:
            if self.development is not None and self.progress.best is None:
                self._judge(watch)  # what it begins from counts too: fine-tuning may only make it worse
                saved = last = time.monotonic()
            with interrupts() as interrupted:
                while self.schedule.done(self.progress) < 1 and verdict is not Verdict.STOP:
                    if self.stage is not stage:
                        stage = self.stage
                        batches = self.batches(self.progress.draws)
                    terms, taken = self.step(batches)
                    skipped_in_a_row = 0 if taken else skipped_in_a_row + 1
                    self._require_sense(skipped_in_a_row)
                    now = time.monotonic()
                    self.progress.seconds, last = self.progress.seconds + now - last, now
                    save, stop = self._agree(now - saved > 60 * self.save_minutes, interrupted[0])
                    if self.progress.step % LOG_EVERY == 0:
                        self._report(watch, terms)
                    if self.development is not None and self.development.due(self.progress.step):
                        verdict = self._judge(watch)
                        last = time.monotonic()
                    if save or stop:
                        self.save_and_show(watch)
                        saved = last = time.monotonic()
                    if stop:
                        raise self._interruption()
            self.save_and_show(watch)
        except LoadingError as error:
            kept = "the last checkpoint is whole"
            if self.world.size == 1:  # the others wait for this one's gradient, and cannot be asked for theirs
                self.save()
                kept = "the run is saved"
            if interrupted[0]:  # Ctrl-C reaches the loader's processes too
                raise self._interruption() from error
            raise UserError(
                f"{self.out}: step {self.progress.step}: {error}; {kept}: continue with --resume"
            ) from error
        finally:
            if watch is not None:
                watch.close()

    def step(self, batches: Iterator[dict[str, Tensor]]) -> tuple[dict[str, Tensor], bool]:
        """One optimiser step; returns the loss terms and whether the step was taken or skipped."""
        optimiser = self.state.optimiser
        set_rate(optimiser, self.schedule.learning_rate_at(self.progress))
        optimiser.zero_grad(set_to_none=True)
        count = self.batch // self.world.size // self.micro_batch
        settings = self.stage.settings
        total: dict[str, Tensor] = {}
        for number in range(count):
            asked = time.perf_counter()
            loaded = _loaded(batches)
            self.waited += time.perf_counter() - asked
            batch = {name: value.to(self.world.device, non_blocking=True) for name, value in loaded.items()}
            with last_of_several(self.objective, last=number == count - 1):
                loss, terms = self.objective(batch, settings)
                (loss / count).backward()
            total = {name: total.get(name, 0) + term / count for name, term in terms.items()}
        trained = [p for p in self.state.lrm.parameters() if p.requires_grad]
        norm = whole(nn.utils.clip_grad_norm_(trained, self.clip))
        taken = self.guard.trusts(float(norm), self.progress)
        if taken:
            optimiser.step()
        else:
            self.progress.skipped += 1
        self.progress.step += 1
        self.progress.draws += self.batch
        if taken and self.state.average is not None:
            self.state.average.follow(self.state.lrm.named_parameters(), self.progress.step)
        return {**total, "gradient_norm": norm.detach()}, taken

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint of the run as it stands."""
        checkpoints.save(self.out, self.state, self.extra, self.world, best)

    def save_and_show(self, watch: Watch | None) -> None:
        """Writes a checkpoint, and a sheet of what the model makes of some objects."""
        self.save()
        snapshot = self.snapshot()
        if watch is not None:
            assert snapshot is not None
            grid = picture_grid(snapshot, self.stage.samples, self.stage.settings.samples)
            watch.show(grid, self.progress.step)
        wait_for_all()

    def snapshot(self) -> LRM | None:
        """The model as it would be used now, average and all, unsharded; for the first process, but all must ask."""
        weights = dict(self.state.lrm.state_dict())
        if self.state.average is not None:
            weights |= self.state.average.values
        elif self.world.size == 1:
            return self.state.lrm
        gathered = checkpoints.gathered(weights, self.world)
        if not self.world.first:
            return None
        lrm = LRM(self.state.lrm.config, load_weights=False)
        lrm.load_state_dict(lora.merged(self.state.lrm, gathered))
        return lrm.to(self.world.device)

    def batches(self, start: int) -> Iterator[dict[str, Tensor]]:
        """This process' micro-batches from draw `start` on, for ever."""
        loader = DataLoader(
            self.stage.samples,
            batch_size=self.micro_batch,
            sampler=Draws(self.order, start, self.world.rank, self.world.size),
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.workers else None,
            pin_memory=self.world.device.type == "cuda",
        )
        with deaths_told_when_asked():
            return iter(loader)

    def _agree(self, save: bool, stop: bool) -> tuple[bool, bool]:
        """What all processes do next. Their clocks differ, and a signal may reach one of them only."""
        seconds, saves, stops = agreed([self.progress.seconds, float(save), float(stop)], self.world.device)
        self.progress.seconds = seconds
        return bool(saves), bool(stops)

    def _interruption(self) -> KeyboardInterrupt:
        step = checkpoints.finished(self.out)
        saved = f"{step[-1].name} is saved" if step else "nothing was saved yet"
        return KeyboardInterrupt(f"interrupted; {self.out}: {saved}: the same command with --resume continues")

    def _require_sense(self, skipped_in_a_row: int) -> None:
        if skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{self.out}: {MAX_SKIPPED_IN_A_ROW} steps in a row had no gradient to be trusted at step {self.progress.step};"
                " look for damage with datasets.verify, or begin in another --out with a lower --learning-rate (--init takes an"
                " earlier checkpoint's weights along)"
            )

    def _report(self, watch: Watch | None, terms: dict[str, Tensor]) -> None:
        names = list(terms)
        means = mean_over_processes(torch.stack([terms[name].float() for name in names])).tolist()
        values = dict(zip(names, means, strict=True))
        values |= {
            "psnr": decibels(values["colour"]),
            "learning_rate": self.schedule.learning_rate_at(self.progress),
            "skipped": self.progress.skipped,
            "seconds": round(self.progress.seconds, 2),
            **self._pace(),
        }
        if watch is not None:
            watch.write(self.progress.step, values)

    def _pace(self) -> dict[str, float]:
        """Objects a second of all processes, this one's share of time spent waiting for data, and its memory at most."""
        seconds = max(self.progress.seconds - self.reported, 1e-9)
        device = self.world.device
        if device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(device))
        else:
            peak = float(peak_memory())
        pace = {
            "objects_per_second": round(LOG_EVERY * self.batch / seconds, 3),
            "data_wait": round(self.waited / seconds, 4),
            "peak_memory_gb": round(peak / 2**30, 3),
        }
        self.reported, self.waited = self.progress.seconds, 0.0
        return pace

    def _judge(self, watch: Watch | None) -> Verdict:
        assert self.development is not None
        snapshot = self.snapshot()
        names = self.development.names
        found = self.development.figures(snapshot) if snapshot is not None else dict.fromkeys(names, 0.0)
        # The last value is not the first process' but the largest of all: nothing is asked by it here.
        *values, _ = agreed([*(found[name] for name in names), 0.0], self.world.device)
        figures = dict(zip(names, values, strict=True))
        best = self.development.learn(figures, self.progress)
        if watch is not None:
            watch.write(self.progress.step, {f"development_{name}": value for name, value in figures.items()})
            self.development.warn(self.out, self.progress)
        if best:
            self.save(best=True)
        return self.development.verdict(self.progress)


class LoadingError(UserError):
    """A batch that did not come."""


def _loaded(batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return next(batches)
    except ShardError as error:
        # What comes from a loader process brings its traceback along, the message last.
        raise LoadingError(str(error).rpartition("ShardError: ")[2].strip()) from error
    except (
        RuntimeError,
        ConnectionError,
        EOFError,
    ) as error:  # the last two where it died while it handed a batch over
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
        raise LoadingError(
            f"a loader process died ({said}), perhaps for want of memory: try fewer --workers"
        ) from error


_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"


class Watch:
    """What the first process shows of a run: a progress bar, `log.jsonl`, TensorBoard, sheets of pictures."""

    def __init__(self, trainer: Trainer) -> None:
        out, progress = trainer.out, trainer.progress
        self.out, self.trainer = out, trainer
        self.history = History(out / "log.jsonl", progress.step)
        self.writer = SummaryWriter(out / "tensorboard", purge_step=progress.step)
        self.wandb = wandb_run(out, trainer.wandb) if trainer.wandb else None
        done = trainer.schedule.done(progress)
        self.bar = tqdm(total=1.0, initial=done, desc="train", bar_format=_BAR, mininterval=1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Figures of one step."""
        self.history.append(step, values)
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)
        if self.wandb is not None:
            self.wandb.log(values, step=step)
        progress = self.trainer.progress
        self.bar.n = self.trainer.schedule.done(progress)
        if "psnr" in values:
            text = f"step {step}, {values['psnr']:.1f} dB, {progress.skipped} skipped"
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.refresh()

    def show(self, grid: Any, step: int) -> None:
        """A sheet (H, W, 3) uint8."""
        self.writer.add_image("views", grid, step, dataformats="HWC")
        write_bytes(self.out / "pictures" / f"step-{step:08d}.webp", encode_picture(grid))

    def close(self) -> None:
        """Ends the bar and flushes the log."""
        self.bar.close()
        self.writer.close()
        if self.wandb is not None:
            self.wandb.finish()


def wandb_run(out: Path, project: str) -> Any:
    """A run of Weights & Biases for the run in `out`, continued where it was begun before."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "--wandb needs the package wandb: pip install -e .[wandb]; TensorBoard needs nothing"
        ) from error
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    return wandb.init(
        project=project,
        id=name,
        name=out.name,
        resume="allow",
        dir=out,
        config=read_json(out / "config.json")["config"],
    )
