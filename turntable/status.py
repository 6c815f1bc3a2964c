"""`python -m turntable.status DIR`: what of a run is done, failed and missing, at any time; `--retry` has failures tried again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from turntable import config
from turntable.errors import EXIT_OK, UserError
from turntable.files import listing, read_json
from turntable.outcomes import failure_path, read_failures

EXAMPLE_LENGTH = 300
"""Characters shown of a failure's message."""


@dataclass(frozen=True)
class StatusConfig:
    """What to look at."""

    folder: tyro.conf.Positional[config.Location]
    """A folder, or its URL, that a run writes or has written (captures)."""
    json: bool = False
    """Print one JSON object instead of text: counts, and the missing and failed items by name."""
    retry: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Take the failures for this reason out, so that the next run tries them again; may be repeated, `all` takes all."""


@dataclass(frozen=True)
class Status:
    """The state of a run's folder."""

    done: int
    """Items whose file is there."""
    failures: dict[str, dict[str, Any]]
    """Item -> its failure's record (reason, message, …), of those that are not done."""
    unreached: tuple[str, ...]
    """Items that a run was asked for and that are neither done nor failed."""

    @property
    def failed(self) -> Counter[str]:
        """Reason -> items."""
        return Counter(record["reason"] for record in self.failures.values())

    @property
    def missing(self) -> int:
        """How many items are neither done nor failed."""
        return len(self.unreached)

    def text(self) -> str:
        """A line for a person, and one with an example for each reason of failure."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
        failed = f"{self.failed.total()} failed" + (f" ({reasons})" if reasons else "")
        lines = [f"{self.done} done, {failed}, {self.missing} missing"]
        for reason, count in self.failed.most_common():
            item, record = next((i, r) for i, r in sorted(self.failures.items()) if r["reason"] == reason)
            lines.append(f"  {reason}: {count}, such as {item}: {str(record.get('message', ''))[:EXAMPLE_LENGTH]}")
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        by_reason = {
            reason: sorted(item for item, record in self.failures.items() if record["reason"] == reason)
            for reason in sorted(self.failed)
        }
        return {"done": self.done, "failed": by_reason, "missing": list(self.unreached)}


def read_status(folder: Path) -> Status:
    """The state of `folder`, which a `turntable.runs.Run` fills."""
    present = listing(folder)
    if "items.txt" not in present:
        raise UserError(f"{folder}: no items.txt, so no run has written here; give the --out of a run")
    names = (folder / "items.txt").read_text(encoding="utf-8").splitlines()
    files = {name.rpartition("/")[2].rpartition(".")[0]: name for name in names}
    done = {item for item, name in files.items() if name in present}
    failures = {item: record for item, record in read_failures(folder, present).items() if item not in done}
    unreached = tuple(item for item in files if item not in done and item not in failures)
    return Status(len(done), failures, unreached)


def take_out(folder: Path, status: Status, reasons: tuple[str, ...]) -> int:
    """Deletes the failures for `reasons` (`all`: every one) -> how many. Reasons that no failure has are a `UserError`."""
    unknown = set(reasons) - set(status.failed) - {"all"}
    if unknown:
        found = ", ".join(sorted(status.failed)) or "none"
        raise UserError(
            f"--retry {' '.join(sorted(unknown))}: no item of {folder} failed for that; the reasons are: {found}"
        )
    chosen = [item for item, r in status.failures.items() if "all" in reasons or r["reason"] in reasons]
    for item in chosen:
        failure_path(folder, item).unlink(missing_ok=True)
    return len(chosen)


def main() -> int:
    """The command."""
    options = config.parse(StatusConfig, "Tell what of a run is done, failed and missing.")
    status = read_status(options.folder)
    if options.retry:
        count = take_out(options.folder, status, options.retry)
        command = read_json(options.folder / "config.json")["command"]
        print(f"{count} failures taken out; try those items again: python {command}")
    elif options.json:
        print(json.dumps(status.record(), indent=2))
    else:
        print(status.text())
    return EXIT_OK


if __name__ == "__main__":
    config.run(main)
