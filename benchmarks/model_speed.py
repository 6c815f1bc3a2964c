"""Rendering and training beside a plain dense renderer: `python -m benchmarks.model_speed FIELD…`.

The fields are fitted to real models by `benchmarks.fit_field --model small`: planes and network of OpenLRM-small's sizes. The
twin is `benchmarks.dense_twin`; what is measured, and how, is said in the parts' own modules. Every trial runs in a process of its
own, whose peak memory counts whole: Python's, torch's, the field's. Prints a table and writes `benchmarks/results/model_speed.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import record, rendering
from turntable import config

PARTS: dict[str, Callable[[Path, int, int], list[dict[str, Any]]]] = {"rendering": rendering.rows}
"""Part -> (field, repeats, threads) -> rows: task, renderer, seconds, peak_mb, …"""
COLUMNS = (
    "seconds",
    "times_faster",
    "times_less_processor",
    "peak_mb",
    "share_of_memory",
    "twin_db",
    "truth_db",
)


@dataclass(frozen=True)
class ModelBenchmark:
    """What to measure."""

    fields: tyro.conf.Positional[tuple[Path, ...]]
    """Fields of `benchmarks.fit_field`."""
    parts: tuple[str, ...] = tuple(PARTS)
    """Keys of `PARTS`."""
    repeats: int = 5
    """The best of so many counts, after one more that does not."""
    threads: int = 2
    out: Path = Path("benchmarks/results/model_speed.json")

    def __post_init__(self) -> None:
        unknown = set(self.parts) - set(PARTS)
        if unknown or self.repeats < 1 or not self.fields:
            raise ValueError(
                f"parts must be of {', '.join(PARTS)}, repeats at least 1, fields at least one; got {self}"
            )


def print_rows(rows: list[dict[str, Any]]) -> None:
    """One line a row, then the gradients' largest error."""
    print(f"{'field':<16}{'task':<10}{'renderer':<10}" + "".join(f"{name:>21}" for name in COLUMNS))
    for row in rows:
        cells = "".join(f"{row.get(name, ''):>21}" for name in COLUMNS)
        print(f"{row['field']:<16}{row['task']:<10}{row['renderer']:<10}{cells}")
        if "gradient_error" in row:
            name, error = max(row["gradient_error"].items(), key=lambda item: item[1])
            print(f"{'':<16}gradients of the same samples: planes {row['gradient_error']['planes']:.1e},", end=" ")
            print(f"the most {error:.1e} ({name})")


def main() -> int:
    options = config.parse(ModelBenchmark, __doc__ or "")
    rows = [
        {"field": field.stem, "part": part, **row}
        for field in options.fields
        for part in options.parts
        for row in PARTS[part](field, options.repeats, options.threads)
    ]
    print_rows(rows)
    record.write(options.out, options, rows)
    return 0


if __name__ == "__main__":
    config.run(main)
