"""Several processes training one model: `torchrun --nproc-per-node 8 -m train.lrm …`.

Two ways to share the work. `ddp` (torch's DistributedDataParallel): every process has the whole model and its optimiser, and
gradients are averaged. `fsdp` (torch's `fully_shard`): every process keeps one part of each parameter, of its gradient and of
its moments, and collects a block's weights while the block computes; for models that do not fit otherwise.

Both compute what one process would with the same objects in a step: losses are means over objects, every process has equally
many, and random numbers belong to a draw, not to a process.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from model.lrm import LRM
from turntable.errors import UserError
from turntable.files import write_text

Sharing = Literal["ddp", "fsdp"]
PATIENCE = datetime.timedelta(minutes=30)
"""How long a process waits for the others, for instance while the first one writes a checkpoint and pictures."""


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a value, not an object that changes

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0


ALONE = World()
"""One process on the CPU."""


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """This process' place among those that torchrun started; alone where it did not. `device` names a kind (cpu, cuda)."""
    if "WORLD_SIZE" not in os.environ or "LOCAL_RANK" not in os.environ:
        yield World(device=device)
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started {local + 1} processes or more on this machine, which has {torch.cuda.device_count()} GPUs;"
                " lower --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def first_process() -> bool:
    """Whether this is the one process, or the first that torchrun started; also where they have parted."""
    return os.environ.get("RANK", "0") == "0"


def write_once(path: Path, text: str, patience_s: float = 60.0) -> None:
    """A file that the first process writes and every one reads, before they have found one another; the others wait for it."""
    if first_process():
        write_text(path, text)
    deadline = time.monotonic() + patience_s
    while not (path.is_file() and path.read_text() == text):
        if time.monotonic() > deadline:
            raise UserError(
                f"{path}: the first process did not write it; --out must be a folder that all processes see"
            )
        time.sleep(0.05)


def share(objective: nn.Module, lrm: LRM, sharing: Sharing, world: World) -> nn.Module:
    """`objective`, a module around `lrm`, so that its backward pass leaves every process with the mean gradient.

    With `fsdp` the model's parameters become DTensors in place; the optimiser is to be made after this.
    """
    if world.size == 1:
        return objective
    if sharing == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        devices = [world.device] if world.device.type == "cuda" else None
        return DistributedDataParallel(objective, device_ids=devices, gradient_as_bucket_view=True)
    _shard(objective, lrm, world)
    return objective


def _shard(objective: nn.Module, lrm: LRM, world: World) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in [*lrm.encoder.blocks, *lrm.decoder.blocks]:
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    whole = [name for name, parameter in lrm.named_parameters() if not isinstance(parameter, DTensor)]
    assert not whole, f"not sharded: {whole}"


@contextmanager
def last_of_several(shared: nn.Module, last: bool) -> Iterator[None]:
    """Within it, a backward pass exchanges gradients only if `last`: of a step's several micro-batches, the last one does."""
    if last or not dist.is_initialized():
        yield
    elif isinstance(shared, nn.parallel.DistributedDataParallel):
        with shared.no_sync():
            yield
    else:
        shared.set_requires_gradient_sync(False)  # type: ignore[operator]
        yield
        shared.set_requires_gradient_sync(True)  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """A tensor or the whole of a sharded one, on every process. All processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """A tensor, or this process' part of a sharded one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as `parameter` is kept: the same, or sharded alike. All processes must ask."""
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def mean_over_processes(values: Tensor) -> Tensor:
    """(K,) -> their mean over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def agreed(values: list[float], device: torch.device) -> list[float]:
    """The first process' values with the largest of all the processes' last one: what all are to decide by."""
    if not dist.is_initialized():
        return values
    mine = torch.tensor(values, dtype=torch.float64, device=device)
    worst = mine[-1:].clone()
    dist.broadcast(mine, 0)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return [*mine[:-1].tolist(), float(worst)]


def any_failed(failed: bool) -> bool:
    """Whether any process failed; every process must ask, and so waits for the others."""
    if not dist.is_initialized():
        return failed
    flag = torch.tensor(float(failed), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if dist.is_initialized():
        dist.barrier()
