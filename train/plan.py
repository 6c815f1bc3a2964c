"""`train.lrm --plan`: what a step of a run will take on this machine, measured on one and two objects, before hours depend on it.

Memory and time are a fixed part (weights, gradients, moments, the program itself) and a part an object; two small measurements
give both, whatever the device, the precision and the model are. Nothing of the run is written.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor

from train.loop import Trainer
from turntable.resources import memory_gb, peak_memory

STEPS = 3
"""Steps a measurement; the fastest counts."""


@dataclass(frozen=True)
class Step:
    """What a step takes."""

    seconds: float
    peak: float
    """Bytes at most: of the device where it has memory of its own, else of the process."""


@dataclass(frozen=True)
class Plan:
    """What was measured, and what follows from it."""

    parameters: dict[str, int]
    """Part of the model -> parameters."""
    one: Step
    """A step of one object."""
    two: Step
    """A step of two objects at once."""
    loading: float
    """Seconds that one object takes to load, in a loader process or between steps."""
    cache: float
    """Bytes of decoded pictures that each loading process keeps in the end."""

    def step(self, objects: int, at_once: int) -> Step:
        """What a step of so many objects, so many of them at once, will take."""
        seconds = max(self.two.seconds - self.one.seconds, 0.0)
        grown = max(self.two.peak - self.one.peak, 0.0)
        rounds = objects / at_once
        return Step(
            rounds * (self.one.seconds + (at_once - 1) * seconds), self.one.peak + self.cache + (at_once - 1) * grown
        )

    def most_at_once(self, memory: float) -> int:
        """How many objects at once `memory` bytes hold; 0 where not even one."""
        grown = max(self.two.peak - self.one.peak, 1.0)
        free = memory - self.one.peak - self.cache
        return int(free / grown) + 1 if free >= 0 else 0


def measure(trainer: Trainer) -> Plan:
    """Takes a few steps of one object and of two. The trainer is not to be used afterwards: its weights have moved."""
    lrm = trainer.state.lrm
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in lrm.named_children()}
    batches = replaced(trainer, 1).batches(0)
    start = time.perf_counter()
    batch = [next(batches) for _ in range(STEPS)][-1]
    loading = (time.perf_counter() - start) / STEPS
    one, two = (_measured(replaced(trainer, count), _repeated(batch, count)) for count in (1, 2))
    # Where the process' own memory is measured and it loads by itself, what it will have decoded comes on top.
    inside = trainer.world.device.type == "cpu" and not trainer.workers
    return Plan(parameters, one, two, loading, trainer.stage.samples.bytes_when_full() if inside else 0.0)


def replaced(trainer: Trainer, objects: int) -> Trainer:
    """The same run with so many objects a step, all at once."""
    return replace(trainer, batch=objects, micro_batch=objects, workers=0)


def _repeated(batch: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: torch.cat([value] * count) for name, value in batch.items()}


def _measured(trainer: Trainer, batch: dict[str, Tensor]) -> Step:
    batches: Iterator[dict[str, Tensor]] = itertools.repeat(batch)
    device = trainer.world.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        trainer.step(batches)  # ends with the gradient's norm on the host: the device has finished
        seconds.append(time.perf_counter() - start)
    if device.type == "cuda":
        return Step(min(seconds), torch.cuda.max_memory_reserved(device))
    # The process' highest so far. Two objects take more than one, so that the second measurement is the second's own.
    return Step(min(seconds), peak_memory())


def memory_of(device: torch.device) -> float:
    """Bytes that a run may take there."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    return min(free, memory_gb() * 2**30)


def text(plan: Plan, trainer: Trainer) -> str:
    """The plan in words."""
    device, at_once = trainer.world.device, trainer.micro_batch
    memory, step = memory_of(device), plan.step(trainer.batch // trainer.world.size, at_once)
    total = sum(plan.parameters.values())
    parts = ", ".join(f"{name} {count / 1e6:.2f}" for name, count in plan.parameters.items())
    lines = [
        f"parameters   {total / 1e6:.2f} M ({parts})",
        f"measured     one object {_said(plan.one)}; two {_said(plan.two)}; on {device}; loading one {plan.loading:.2f} s",
        f"predicted    {trainer.batch} objects a step, {at_once} at once: {_said(step)}",
        f"memory       {memory / 2**30:.1f} GiB to be had",
    ]
    return "\n".join([*lines, *advice(plan, step, memory, at_once)])


def advice(plan: Plan, step: Step, memory: float, at_once: int) -> list[str]:
    """What to change so that a step fits, or what would fit as well."""
    most = plan.most_at_once(0.9 * memory)
    if step.peak <= 0.9 * memory:
        return [f"fits         up to {most} objects at once would (--micro-batch)"]
    if most:
        return [f"does not fit --micro-batch {most} does, in as many rounds; --recompute leaves room for more at once"]
    return [
        "does not fit not even one object at once: --recompute, fewer --rays or --samples, a smaller --model, or with torchrun"
        " --sharing fsdp"
    ]


def _said(step: Step) -> str:
    return f"{step.seconds:.2f} s, {step.peak / 2**30:.2f} GiB"
