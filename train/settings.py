"""What `train.lrm` is told, and what follows where it is not told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets.augmentation import Augmentation
from datasets.storage import BlockCache
from train import sets
from train.development import DevelopmentConfig
from train.distributed import Sharing
from train.losses import LossWeights
from train.optimiser import OptimiserConfig
from train.presets import PresetName, Size, recipe_of, size_of
from train.recipes import Recipe
from turntable.config import Location
from turntable.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class FineStage:
    """The end of a run, at a higher resolution: pictures, rays and samples. Most is learned sooner from small pictures."""

    fine_from: float = 1.0
    """Share of the run after which it begins; 1: never."""
    fine_size: int = 256
    """Side in pixels of the pictures that rays are then taken from."""
    fine_rays: int | None = None
    """Rays a view; left out: twice as many."""
    fine_samples: int | None = None
    """Samples a ray; left out: one and a half times as many."""

    def __post_init__(self) -> None:
        if not 0 < self.fine_from <= 1 or self.fine_size < 1:
            raise ValueError(
                f"fine_from must lie in (0, 1], fine_size be at least 1, got {self.fine_from} and {self.fine_size}"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Trains an LRM on shards. Fields left out are the preset's, or else those of the model size's recipe."""

    shards: Location
    """A folder of shards or one shard, here or at a URL."""
    out: Path
    """The run's folder: checkpoints, curves, pictures, configuration. All processes must see it."""
    preset: PresetName | None = None
    """Model and steps that fit a CPU, or a GPU with so much memory; whatever else is given wins."""
    model: Size | None = None
    """Size of the model; left out: the preset's, or `tiny`, which trains on a CPU in minutes; `mini` does in an hour."""
    init: Path | None = None
    """Begin from this checkpoint's weights, which also say how large the model is: a run, a file, a published model's name. --model
    then only chooses the recipe."""
    uids: Path | None = None
    """Train on these objects only: a file with a uid a line; a weight behind a uid says how often it is drawn."""
    mix: tuple[str, ...] = ()
    """Further shards, each with the draws from it for one draw from --shards: --mix mvimgnet/shards=3."""
    shuffle_shards: int = 0
    """Shuffle the objects of so many shards together, then of the next, which suits shards at URLs; 0: of all."""
    cache: BlockCache = field(default_factory=BlockCache)
    """Where shards at URLs keep what was read of them."""
    development: DevelopmentConfig = field(default_factory=DevelopmentConfig)
    """Objects that judge on the way."""
    steps: int | None = None
    """Optimiser steps."""
    minutes: float | None = None
    """Minutes of training; with --steps, whichever ends first."""
    plan: bool = False
    """Say what a step will take on this machine, and what would fit, and end."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint; a run that has none yet begins."""
    overfit: int = 0
    """Self-test on the first N objects: one input view each, then a verdict from training views and held-out views (a fifth of the
    views, unless --held-out-views says how many)."""
    input_view: int | None = None
    """Always this view as input; left out: a random one a sample (0 with --overfit)."""
    held_out_views: int | None = None
    """The last N views of every object are neither input nor supervised; left out: none, with --overfit a fifth."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How weights are moved."""
    batch: int | None = None
    """Objects a step, of all processes together; left out: the recipe's number for each process."""
    micro_batch: int | None = None
    """Objects that a process computes at a time, for less memory: gradients of several add up to a step's. Left out: all of its."""
    views: int | None = None
    """Supervised views an object."""
    rays: int | None = None
    """Supervised rays a view."""
    samples: int | None = None
    """Samples a ray."""
    render_size: int = 128
    """Side in pixels of the pictures that rays are taken from."""
    further_sizes: tuple[int, ...] = ()
    """Further such sides; each sample draws one of all."""
    fine: FineStage = field(default_factory=FineStage)
    """The end of the run at a higher resolution."""
    augment: Augmentation = field(default_factory=Augmentation)
    """What is changed at random."""
    weights: LossWeights = field(default_factory=LossWeights)
    """The loss's terms."""
    lpips_weights: Path | None = None
    """Folder with LPIPS's weights (default: torch.hub's checkpoint cache); read only when --lpips is above 0."""
    encoder_weights: str | None = None
    """Pre-trained ViT for the encoder: a folder or a hub name (facebook/dino-vitb16 …); left out: from scratch."""
    precision: Precision = "auto"
    """auto: bfloat16 on a GPU that has it, float32 elsewhere."""
    recompute: bool = False
    """Keep only each transformer block's input for the backward pass and compute the rest again: a third slower, far less memory."""
    sharing: Sharing = "ddp"
    """With torchrun: ddp, every process has the whole model; fsdp, each has a part of every parameter (torch's fully_shard)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    threads: int | None = None
    """torch's CPU threads; left out: one a core. On a machine that is busy otherwise, fewer are far faster."""
    workers: int = 0
    """Loader processes; 0 loads in the training process."""
    decoded_bytes: float = 1e9
    """Memory for decoded pictures and shapes that each loading process keeps, bytes."""
    wandb: str = ""
    """Project of Weights & Biases to report to, beside TensorBoard; needs the extra `wandb`."""
    save_minutes: float = 5.0
    """Minutes between checkpoints."""
    seed: int = 0
    """Initial weights, data order, rays."""

    def __post_init__(self) -> None:
        for name in ("overfit", "held_out_views", "workers", "shuffle_shards"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.save_minutes <= 0:
            raise ValueError(f"save_minutes must be positive, got {self.save_minutes}")
        if self.init is not None and self.encoder_weights is not None:
            raise ValueError("--init brings the encoder's weights; leave --encoder-weights out")
        if self.optimiser.lora and self.init is None:
            raise ValueError("--lora adapts a trained model; name it with --init")
        if self.development.dev_by == "solid" and not self.weights.solid:
            raise ValueError("--dev-by solid judges by the solid loss; train on it too (--solid 0.1)")
        sets.mixture(self.shards, self.mix)

    @property
    def size(self) -> Size:
        """The model's size, given or not."""
        return size_of(self.model, self.preset)

    @property
    def recipe(self) -> Recipe:
        """What holds where a field was left out."""
        return recipe_of(self.model, self.preset)


FREE_ON_RESUME = {
    "resume", "steps", "minutes", "threads", "workers", "save_minutes", "device", "shards", "plan", "wandb", "cache", "micro_batch",
    "sharing", "recompute", "decoded_bytes", "batch", "rays",
}  # fmt: skip
"""Fields that a continued run may change. What --batch and --rays came to, with as many processes, must be what it was."""


def choose(config: TrainConfig, name: str) -> Any:
    """A field of the command line, or the recipe's where it was left out."""
    given = getattr(config, name)
    return getattr(config.recipe, name) if given is None else given


@dataclass(frozen=True)
class StepSize:
    """How much a step is of, with the objects and processes that there are."""

    batch: int
    """Objects, of all processes together."""
    micro_batch: int
    """Objects that a process computes at a time."""
    rays: int
    """Rays a view."""


def step_size(config: TrainConfig, objects: int, processes: int = 1) -> StepSize:
    """A step's size. With fewer objects than the recipe's batch, each gets as many more rays, as far as a preset's memory allows.

    Raises UserError where the objects of a step cannot be shared out evenly.
    """
    recipe = config.recipe
    wanted = config.batch or recipe.batch * processes
    batch = max(min(wanted, objects) // processes, 1) * processes if config.batch is None else min(wanted, objects)
    share = max(batch // processes, 1)
    most = min(recipe.micro_batch or share, share)
    each = config.micro_batch or max(count for count in range(1, most + 1) if share % count == 0)
    if batch % (processes * each):
        raise UserError(
            f"{batch} objects a step cannot be shared out evenly among {processes} processes, {each} objects at a time; make"
            " --batch a multiple"
        )
    if config.rays:
        return StepSize(batch, each, config.rays)
    rays = recipe.rays * wanted // batch
    if recipe.micro_batch:
        rays = min(rays, recipe.rays * max(recipe.micro_batch, each) // each)
    return StepSize(batch, each, rays)
