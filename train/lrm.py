"""`python -m train.lrm --shards shards/ --model tiny --out runs/x`: trains an LRM on shards.

Several processes: `torchrun --nproc-per-node 8 -m train.lrm …`; see `train.distributed`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from datasets.augmentation import Augmentation
from datasets.samples import SampleConfig, ShardSamples
from datasets.shards import ShardSet, found
from datasets.storage import BlockCache
from model.checkpoints import FILE_NAME, load_checkpoint
from model.lrm import LRM, SIZES, LRMConfig
from train import checkpoints, lora, lpips, plan, selftest, sets
from train.checkpoints import State
from train.curves import draw_curves
from train.development import Development, DevelopmentConfig
from train.distributed import Sharing, World, joined, share, wait_for_all
from train.evaluate import EvaluateConfig, evaluate
from train.loop import Stage, Trainer
from train.losses import LossWeights, Objective, RenderSettings
from train.optimiser import Average, GradientGuard, OptimiserConfig, adamw, freeze
from train.presets import PRESETS, PresetName, Size, described, recipe_of, size_of
from train.recipes import Recipe
from train.schedule import Progress, Schedule
from turntable import config as command_line
from turntable.config import Location
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import disk_errors, write_json, write_text

log = logging.getLogger(__name__)


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
        sets.mixture(self.shards, self.mix)

    @property
    def size(self) -> Size:
        """The model's size, given or not."""
        return size_of(self.model, self.preset)

    @property
    def recipe(self) -> Recipe:
        """What holds where a field was left out."""
        return recipe_of(self.model, self.preset)


NEEDED: dict[str, sets.Stored] = {"depth": "depth", "normal": "normal", "solid": "geometry"}
"""Loss -> what the shards must store for it."""
SOLID_POINTS = 4096
"""Points an object that the solid loss looks at."""
FREE_ON_RESUME = {
    "resume", "steps", "minutes", "threads", "workers", "save_minutes", "device", "shards", "plan", "wandb", "cache", "micro_batch",
    "sharing", "recompute", "decoded_bytes", "batch", "rays",
}  # fmt: skip
"""Fields that a continued run may change. What --batch and --rays came to, with as many processes, must be what it was."""


def open_shards(config: TrainConfig) -> ShardSet:
    """The objects of all sets that the run draws from."""
    paths = [path for place in sets.mixture(config.shards, config.mix) for path in found(place)]
    return ShardSet(paths, config.cache)


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


def choose_device(device: str, precision: str) -> tuple[torch.device, bool]:
    """The device, and whether planes are computed in bfloat16. Asking for what is not there is a UserError."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu or leave it out")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    able = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" and chosen.type == "cuda" and not able:
        raise UserError("--precision bfloat16: this GPU has no bfloat16; use --precision float32")
    return chosen, precision == "bfloat16" or (precision == "auto" and able)


def held_out_views(config: TrainConfig, shards: ShardSet, indices: list[int]) -> int:
    """How many of every object's views are kept for judging."""
    views = min(shards.view_count(i) for i in indices)
    held_out = config.held_out_views
    if held_out is None:
        held_out = views // 5 if config.overfit else 0
    if held_out >= views:
        raise UserError(
            f"--held-out-views {held_out}: an object of {config.shards} has only {views} views; hold out fewer"
        )
    return held_out


def sample_config(
    config: TrainConfig, lrm: LRMConfig, shards: ShardSet, indices: list[int], processes: int = 1
) -> SampleConfig:
    """How samples are drawn, from the command line and the model's size."""
    held_out = held_out_views(config, shards, indices)
    return SampleConfig(
        input_size=lrm.encoder.image_size,
        fill=lrm.fill,
        background=lrm.background,
        views=choose(config, "views"),
        rays=step_size(config, len(indices), processes).rays,
        render_size=config.render_size,
        further_sizes=config.further_sizes,
        input_view=0 if config.overfit and config.input_view is None else config.input_view,
        held_out_views=held_out,
        region_share=1.0 if config.weights.lpips else 0.0,
        with_depth=config.weights.depth > 0,
        with_normals=config.weights.normal > 0,
        solid_points=SOLID_POINTS if config.weights.solid else 0,
        augment=config.augment,
        cache_bytes=config.decoded_bytes,
        seed=config.seed,
    )


def build_model(config: TrainConfig) -> LRM:
    """The network that the run begins with."""
    if config.init is not None:
        lrm, _ = load_checkpoint(config.init)
        if not lrm.config.decoder.camera_width:
            raise UserError(
                f"--init {config.init}: its network is not told the picture's camera, which training needs; begin from one that"
                " is (openlrm:…, or a model of ours)"
            )
        lrm.config = replace(lrm.config, camera="true")  # whatever it supposed before, it is now told
        return lrm.train()
    size = SIZES[config.size]
    with torch.random.fork_rng():  # torch initialises from its global generator; ours leaves it as it was
        torch.manual_seed(config.seed)
        return LRM(replace(size, encoder=replace(size.encoder, weights=config.encoder_weights)))


def stages(config: TrainConfig, samples: ShardSamples, settings: RenderSettings) -> tuple[Stage, ...]:
    """The run's stages: all of it, or a coarse one and a fine one."""
    whole, fine = Stage(0.0, samples, settings), config.fine
    if fine.fine_from == 1:
        return (whole,)
    finer = replace(
        samples.config, render_size=fine.fine_size, further_sizes=(), rays=fine.fine_rays or 2 * samples.config.rays
    )
    closer = replace(settings, samples=fine.fine_samples or settings.samples * 3 // 2)
    return whole, Stage(fine.fine_from, ShardSamples(samples.shards, finer, samples.indices), closer)


def build_trainer(config: TrainConfig, shards: ShardSet, indices: list[int], world: World | None = None) -> Trainer:
    """Model, data and optimiser of a run, nothing trained yet."""
    device, bf16 = choose_device(config.device, config.precision)
    world = world or World(device=device)
    lrm = build_model(config).to(world.device)
    lrm.recompute(config.recompute)
    freeze(lrm, config.optimiser.freeze)
    if config.optimiser.lora:
        lora.adapt(lrm, config.optimiser.lora, config.optimiser.lora_scale, config.seed)
    for name, stored in NEEDED.items():
        if getattr(config.weights, name):
            sets.require(shards, indices, name, stored)
    samples = ShardSamples(shards, sample_config(config, lrm.config, shards, indices, world.size), indices)
    settings = RenderSettings(samples=choose(config, "samples"), bf16=bf16)
    judge = lpips.load(config.lpips_weights).to(world.device) if config.weights.lpips else None
    objective = Objective(lrm, config.weights, judge, samples.config.region_side)
    shared = share(objective, lrm, config.sharing, world)
    schedule, recipe, moved = _schedule(config), config.recipe, config.optimiser
    step = step_size(config, len(indices), world.size)
    place = sets.mixture(config.shards, config.mix)
    return Trainer(
        state=State(
            lrm,
            adamw(lrm, schedule.learning_rate, moved.weight_decay, recipe.betas, moved.layer_decay),
            Progress(),
            Average(lrm.named_parameters(), moved.average) if moved.average else None,
        ),
        objective=shared,
        stages=stages(config, samples, settings),
        order=sets.draw_order(shards, indices, place, config.uids, config.shuffle_shards, config.seed),
        out=config.out,
        schedule=schedule,
        batch=step.batch,
        micro_batch=step.micro_batch,
        workers=config.workers,
        save_minutes=config.save_minutes,
        clip=moved.clip,
        guard=GradientGuard(moved.explode),
        extra={
            "training_objects": len(indices),
            "objects": sets.fingerprint(shards, indices),
            "batch": step.batch,
            "rays": samples.config.rays,
            "licences": sets.licences(shards, indices),
            "held_out_views": samples.config.held_out_views,
            **sets.camera_defaults(shards, indices, lrm.config.fill),
        },
        world=world,
        wandb=config.wandb,
        development=_development(config, samples, settings),
    )


def _development(config: TrainConfig, samples: ShardSamples, settings: RenderSettings) -> Development | None:
    listed = config.development.dev_uids
    if listed is None:
        return None
    # The same rays every time, of pictures as they are, and from the first view: what is judged must not move.
    still = replace(
        samples.config,
        rays=512,
        input_view=0,
        augment=Augmentation(),
        with_depth=False,
        with_normals=False,
        solid_points=0,
        further_sizes=(),
        seed=0,
    )
    return Development(config.development, ShardSamples(samples.shards, still, samples.shards.listed(listed)), settings)


def _schedule(config: TrainConfig) -> Schedule:
    recipe = config.recipe
    steps, minutes = config.steps, config.minutes
    if steps is None and minutes is None:
        steps = 30_000 if config.size == "tiny" else 300_000
    return Schedule(config.optimiser.learning_rate or recipe.learning_rate, recipe.warmup_steps, steps, minutes)


def main() -> int:
    return train(command_line.parse(TrainConfig, "Train an LRM on shards."))


def train(config: TrainConfig) -> int:
    """Trains as the configuration says, draws the curves, and returns the exit code."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # densities and Adam's moments fade through denormal numbers, which CPUs crawl on
    if config.plan:
        return show_plan(config)
    with joined(choose_device(config.device, config.precision)[0]) as world:
        begun = has_begun(config.out, config.resume)
        shards = open_shards(config)
        indices = sets.chosen_objects(shards, config.uids, config.development.dev_uids, config.overfit)
        trainer = build_trainer(config, shards, indices, world)
        if begun:
            _resume(config, trainer)
        _claim(config, world)  # once everything else is known to be there: a mistake leaves no folder behind
        if world.first:
            _announce(config, trainer, len(indices))
        with disk_errors(config.out):
            trainer.run()
    if not world.first:
        return EXIT_OK
    _conclude(config, trainer)
    return report_overfit(config, shards, indices) if config.overfit else EXIT_OK


def show_plan(config: TrainConfig) -> int:
    """Measures small steps and prints what the run's will take."""
    shards = open_shards(config)
    indices = sets.chosen_objects(shards, config.uids, config.development.dev_uids, config.overfit)
    trainer = build_trainer(config, shards, indices)
    if config.preset:
        print(f"preset       {described(config.preset)}")
        _warn_of_another_model(config)
    print(plan.text(plan.measure(trainer), trainer))
    return EXIT_OK


def has_begun(out: Path, resume: bool) -> bool:
    """Whether there is a run in `out`; a UserError where there is one that is not to be continued."""
    begun = bool(checkpoints.finished(out))
    if begun and not resume:
        raise UserError(f"{out} already holds a run; continue it with --resume or choose another --out")
    return begun


def _claim(config: TrainConfig, world: World) -> None:
    """Takes the run's folder."""
    wait_for_all()
    if world.first:
        command_line.claim_folder(config.out, replace(config, model=config.size), FREE_ON_RESUME)
    wait_for_all()


def _resume(config: TrainConfig, trainer: Trainer) -> None:
    """Continues the run in --out; says so where its objects are others now, and refuses steps of another size."""
    before = checkpoints.resume(config.out, trainer.state)
    changed = [name for name in ("batch", "rays") if before.get(name, trainer.extra[name]) != trainer.extra[name]]
    if changed:
        was = ", ".join(f"{name} was {before[name]}, is {trainer.extra[name]}" for name in changed)
        raise UserError(
            f"{config.out}: its steps were of another size ({was}; {trainer.world.size} processes now); continue it with"
            f" --batch {before['batch']} --rays {before['rays']}, which mean the same by any number of processes"
        )
    if trainer.world.first and before.get("objects", trainer.extra["objects"]) != trainer.extra["objects"]:
        log.warning(
            "%s was trained on %s objects; --shards now gives %s others or in another order: it goes on with those, from where the"
            " weights are",
            config.out, before.get("training_objects"), trainer.extra["training_objects"],
        )  # fmt: skip


def _announce(config: TrainConfig, trainer: Trainer, objects: int) -> None:
    parameters = list(trainer.state.lrm.parameters())
    total, trained = (
        sum(p.numel() for p in some) / 1e6 for some in (parameters, [p for p in parameters if p.requires_grad])
    )
    place = f"{trainer.world.size} × {trainer.world.device}" if trainer.world.size > 1 else str(trainer.world.device)
    if config.preset:
        log.info("preset %s", described(config.preset))
        _warn_of_another_model(config)
    if trainer.progress.step:
        log.info("continuing %s from step %d", config.out, trainer.progress.step)
    sampled = trainer.stage.samples
    sets.warn_of_repetition(sampled.shards, sampled.indices, sampled.config.views, sampled.config.held_out_views)
    log.info("%.2f M parameters (%.2f M trained), %d objects, on %s", total, trained, objects, place)


def _warn_of_another_model(config: TrainConfig) -> None:
    """A preset was worked out for one model; --model and --init win over it."""
    assert config.preset is not None
    other = f"--model {config.model}" if config.model not in (None, PRESETS[config.preset].model) else ""
    other = f"--init {config.init}" if config.init is not None else other
    if other:
        log.warning("%s wins over the preset's model, so that its arithmetic does not hold; --plan measures", other)


def _conclude(config: TrainConfig, trainer: Trainer) -> None:
    progress = trainer.progress
    draw_curves(config.out)
    rate = progress.step / max(progress.seconds, 1e-9)
    log.info(
        "%d steps in %.1f min (%.1f a second), %d skipped", progress.step, progress.seconds / 60, rate, progress.skipped
    )
    log.info("model: %s; curves: %s", config.out / FILE_NAME, config.out / "curves.png")
    if progress.best is not None:
        log.info("best on the development objects: %.2f dB, %s", progress.best, config.out / checkpoints.BEST_NAME)


def report_overfit(config: TrainConfig, shards: ShardSet, indices: list[int]) -> int:
    """Evaluates an --overfit run on its own objects and says whether all is in order; the command's exit code."""
    uid_file = config.out / "overfit-uids.txt"
    write_text(uid_file, "\n".join(shards.uids[index] for index in indices) + "\n")
    result = evaluate(
        EvaluateConfig((config.out,), config.shards, config.out / "evaluation", uids=uid_file, baselines=False)
    )
    held_out = held_out_views(config, shards, indices)
    findings = selftest.find(shards, indices, held_out, result["summary"], config.render_size)
    verdict = selftest.judge(findings)
    write_json(config.out / "self-test.json", {**vars(findings), **vars(verdict)})
    print(f"\nself-test {'passed' if verdict.passed else 'FAILED'}: {verdict.reason}\n  {findings}")
    return EXIT_OK if verdict.passed else EXIT_ITEMS_FAILED


if __name__ == "__main__":
    command_line.run(main)
