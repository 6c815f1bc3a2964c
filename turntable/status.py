"""`python -m turntable.status DIR`: what of a run is done, failed and missing, at any time, without touching it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from turntable import config
from turntable.errors import EXIT_OK, UserError
from turntable.files import read_json


@dataclass(frozen=True)
class StatusConfig:
    """What to look at."""

    folder: tyro.conf.Positional[Path]
    """A folder that a run writes or has written (captures)."""


@dataclass(frozen=True)
class Status:
    """The state of a run's folder."""

    done: int
    """Items whose file is there."""
    failed: Counter[str]
    """Reason -> items."""
    missing: int
    """Items that a run was asked for and that are neither done nor failed."""

    def text(self) -> str:
        """One line for a person."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
        failed = f"{self.failed.total()} failed" + (f" ({reasons})" if reasons else "")
        return f"{self.done} done, {failed}, {self.missing} missing"


def read_status(folder: Path) -> Status:
    """The state of `folder`, which a `turntable.runs.Run` fills."""
    listed = folder / "items.txt"
    if not listed.exists():
        raise UserError(f"{folder}: no items.txt, so no run has written here; give the --out of a run")
    files = {Path(line).stem: folder / line for line in listed.read_text().splitlines()}
    done = {item for item, path in files.items() if path.exists()}
    failures = {path.stem: path for path in sorted((folder / "failures").glob("*.json"))}
    failed = Counter(str(read_json(path)["reason"]) for item, path in failures.items() if item not in done)
    missing = len(files.keys() - done - failures.keys())
    return Status(len(done), failed, missing)


def main() -> int:
    """The command."""
    options = config.parse(StatusConfig, "Tell what of a run is done, failed and missing.")
    print(read_status(options.folder).text())
    return EXIT_OK


if __name__ == "__main__":
    config.run(main)
