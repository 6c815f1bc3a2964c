"""What a run logs: a line of JSON a logged step."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class History:
    """A file of logged steps, `log.jsonl`. Continuing from step n drops what a killed run logged after n."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_history(path) if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def append(self, step: int, values: dict[str, Any]) -> None:
        """Adds one line, flushed."""
        with self.path.open("a") as handle:
            handle.write(json.dumps({"step": step, **values}) + "\n")


def read_history(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a run, oldest first; a line that a kill cut short is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:
            log.warning("%s: a cut line was left out", path)
    return parsed
