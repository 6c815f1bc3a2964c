"""`python -m train.lrm --shards shards/ --model tiny --out runs/x`: trains an LRM on shards.

Several processes: `torchrun --nproc-per-node 8 -m train.lrm …`; see `train.distributed`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from datasets.shards import ShardSet
from model.checkpoints import FILE_NAME
from train import checkpoints, plan, selftest, sets
from train.assembly import build_trainer, choose_device, held_out_views, open_shards
from train.curves import draw_curves
from train.distributed import World, first_process, joined, wait_for_all
from train.evaluate import EvaluateConfig, evaluate
from train.loop import Trainer
from train.presets import PRESETS, described
from train.settings import FREE_ON_RESUME, TrainConfig
from turntable import config as command_line
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import disk_errors, only_run, write_json, write_text

log = logging.getLogger(__name__)


def main() -> int:
    return train(command_line.parse(TrainConfig, "Train an LRM on shards."))


def train(config: TrainConfig) -> int:
    """Trains as the configuration says, draws the curves, and returns the exit code."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # densities and Adam's moments fade through denormal numbers, which CPUs crawl on
    if config.plan:
        return show_plan(config)
    seen = looked_at(config) if config.overfit else None
    if seen is not None and seen.contradictory:
        return refuse_contradiction(config, seen)
    with joined(choose_device(config.device, config.precision)[0]) as world:
        begun = has_begun(config.out, config.resume)
        shards = open_shards(config)
        indices = sets.chosen_objects(shards, config.uids, config.development.dev_uids, config.overfit)
        trainer = build_trainer(config, shards, indices, world)
        if begun:
            _resume(config, trainer)
        with _claimed(config, world):  # once everything else is known to be there: a mistake leaves no folder behind
            if world.first:
                _announce(config, trainer, len(indices))
            with disk_errors(config.out):
                trainer.run()
    if not world.first:
        return EXIT_OK
    _conclude(config, trainer)
    return EXIT_OK if seen is None else report_overfit(config, shards, indices, seen)


def looked_at(config: TrainConfig) -> selftest.Findings:
    """What is seen of the objects of an --overfit run before anything is trained."""
    has_begun(config.out, config.resume)
    shards = open_shards(config)
    indices = sets.chosen_objects(shards, config.uids, config.development.dev_uids, config.overfit)
    return selftest.look(shards, indices, config.render_size)


def refuse_contradiction(config: TrainConfig, seen: selftest.Findings) -> int:
    """The verdict on views that contradict one another, which nothing is trained on; the command's exit code."""
    if first_process():
        command_line.claim_folder(config.out, replace(config, model=config.size), FREE_ON_RESUME)
    return _say_verdict(config, seen)


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


@contextmanager
def _claimed(config: TrainConfig, world: World) -> Iterator[None]:
    """The run's folder is this run's: of these settings, and no other run writes to it meanwhile."""
    wait_for_all()
    with ExitStack() as held:
        with checkpoints.together(config.out):
            if world.first:
                command_line.claim_folder(config.out, replace(config, model=config.size), FREE_ON_RESUME)
                held.enter_context(only_run(config.out))
        yield


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
    if trainer.development is not None and progress.best is not None:
        best = trainer.development.best(progress)
        log.info("best on the development objects: %s, %s", best, config.out / checkpoints.BEST_NAME)


def report_overfit(config: TrainConfig, shards: ShardSet, indices: list[int], seen: selftest.Findings) -> int:
    """Evaluates an --overfit run on its own objects and says whether all is in order; the command's exit code."""
    uid_file = config.out / "overfit-uids.txt"
    write_text(uid_file, "\n".join(shards.uids[index] for index in indices) + "\n")
    result = evaluate(
        EvaluateConfig((config.out,), config.shards, config.out / "evaluation", uids=uid_file, baselines=False)
    )
    held_out = held_out_views(config, shards, indices)
    return _say_verdict(config, selftest.completed(seen, held_out, result["summary"]))


def _say_verdict(config: TrainConfig, findings: selftest.Findings) -> int:
    """Prints the self-test's verdict and writes it down; the command's exit code."""
    verdict = selftest.judge(findings)
    if first_process():
        write_json(config.out / "self-test.json", {**vars(findings), **vars(verdict)})
        print(f"\nself-test {'passed' if verdict.passed else 'FAILED'}: {verdict.reason}\n  {findings}")
    return EXIT_OK if verdict.passed else EXIT_ITEMS_FAILED


if __name__ == "__main__":
    command_line.run(main)
