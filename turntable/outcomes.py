"""What has become of a run's items: the files that tell it, what is left to do, and the summary.

An item ends as done, when the file that it stands for exists, or failed with a reason.

    <out>/items.txt             the file that each item leaves, a line an item
    <out>/failures/<item>.json  uid, reason, message, and the end of the worker's log where there is one
    <out>/doubts/<item>.json    uid, doubts: of a done item that its worker has doubts about
    <out>/logs/                 what workers print
    <out>/summary.json          the last run's counts
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turntable.errors import UserError
from turntable.files import listing, read_all, read_json

RETRYABLE = frozenset({"download", "upload", "killed", "worker-lost"})
"""Reasons that the next run tries again unasked; others would most likely end the same way, and are named by `--retry`."""


@dataclass
class Summary:
    """How a run ended."""

    total: int = 0
    """Items asked for."""
    skipped: int = 0
    """Done before this run."""
    done: int = 0
    """Done by this run."""
    failed: Counter[str] = field(default_factory=Counter)
    """Reason -> items that failed in this run."""
    failed_before: Counter[str] = field(default_factory=Counter)
    """Reason -> items that failed before and were not tried again."""
    doubtful: int = 0
    """Of those done by this run, the ones that their workers have doubts about (`{"doubts": […]}` in what a job returns)."""
    counts: Counter[str] = field(default_factory=Counter)
    """What the items done by this run hold, where workers tell (`{"counts": {"views": 12}}` in what a job returns)."""
    workers_given_up: int = 0
    """Workers that could not be started again."""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds that workers spent in it, where they tell (`{"seconds": {stage: …}}` in what a job returns)."""

    @property
    def all_done(self) -> bool:
        """Whether every item asked for is done."""
        return self.done + self.skipped == self.total

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        rate = 3600 * self.done / self.seconds if self.done else 0.0
        counts = {"total": self.total, "done": self.done, "doubtful": self.doubtful, "skipped": self.skipped}
        failures = {"failed": dict(self.failed), "failed_before": dict(self.failed_before)}
        left = self.total - self.done - self.skipped - self.failed.total() - self.failed_before.total()
        times = {"seconds": round(self.seconds, 1), "items_per_hour": round(rate, 1)}
        rates = {"per_second": {name: round(n / self.seconds, 3) for name, n in self.counts.items() if self.seconds}}
        stages = {"worker_seconds": {stage: round(seconds, 1) for stage, seconds in self.stages.items()}}
        workers = {"workers_given_up": self.workers_given_up}
        return {**counts, **failures, "left": left, **workers, **times, **rates, **stages}

    def text(self, out: Path) -> str:
        """One paragraph for a person."""
        r = self.record()
        doubtful = f" ({self.doubtful} of them doubtful)" if self.doubtful else ""
        parts = [f"{self.done} done{doubtful}", f"{self.skipped} done before"]
        if self.failed:
            parts.append(f"{self.failed.total()} failed ({_counted(self.failed)})")
        if self.failed_before:
            again = " ".join(sorted(self.failed_before))
            parts.append(
                f"{self.failed_before.total()} failed before and not tried again ({_counted(self.failed_before)}; "
                f"--retry {again})"
            )
        if r["left"]:
            parts.append(f"{r['left']} not reached")
        if self.workers_given_up:
            parts.append(f"{self.workers_given_up} workers given up")
        rates = [f"{r['items_per_hour']:g} items an hour"] if self.done else []
        rates += [f"{rate:.2f} {name} a second" for name, rate in r["per_second"].items()]
        total = sum(self.stages.values())
        shares = [f"{name} {100 * seconds / total:.0f} %" for name, seconds in self.stages.items()] if total else []
        where = f"\nfailures are in {out / 'failures'}" if self.failed or self.failed_before else ""
        ended = f"{self.total} items: {', '.join(parts)} in {self.seconds:.0f} s"
        return "; ".join([ended, *rates]) + (f"\nworkers' time: {', '.join(shares)}" if shares else "") + where


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def failure_path(out: Path, item: str) -> Path:
    """Where the reason of an item's failure is written."""
    return out / "failures" / f"{item}.json"


def doubts_path(out: Path, item: str) -> Path:
    """Where what is doubtful about a done item is written."""
    return out / "doubts" / f"{item}.json"


def read_failures(out: Path, present: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Item -> its failure's record, of those whose file is in `present`, a listing of `out`."""
    names = [name for name in present if name.startswith("failures/") and name.endswith(".json")]
    try:
        records = [json.loads(content) for content in read_all(out, names).values()]
        return {str(record["uid"]): {**record, "reason": str(record["reason"])} for record in records}
    except (ValueError, KeyError, TypeError):
        # Only now, to say which: one by one.
        for name in names:
            if not {"uid", "reason"} <= set(read_json(out / name)):
                raise UserError(
                    f"{out / name}: not a failure's record; delete it to have the item tried again"
                ) from None
        raise


def remaining(
    out: Path, items: Iterable[str], output: Callable[[str], str], retry: Sequence[str] = ()
) -> tuple[list[str], Summary]:
    """What a run has to do: items that are neither done nor failed for a reason that stays, and the summary it begins with.

    `output(item)` names the file below `out` that the item leaves. `retry` names reasons to try again beside the retryable
    ones; `all` names all.
    """
    present = listing(out)
    failures = read_failures(out, present)
    summary, todo = Summary(), []
    for item in dict.fromkeys(items):
        summary.total += 1
        if output(item) in present:
            summary.skipped += 1
            continue
        reason = failures[item]["reason"] if item in failures else None
        if reason is None or reason in RETRYABLE or reason in retry or "all" in retry:
            todo.append(item)
        else:
            summary.failed_before[reason] += 1
    return todo, summary
