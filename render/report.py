"""`python -m render.report DIR`: report.html of a captures folder, written at the end of every run: what to look at first.

The run's counts and times, failures by reason, contact sheets of doubtful assets, then of a sample of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from datasets.captures import CaptureReader, capture_path, capture_paths
from turntable import config, report
from turntable.errors import EXIT_OK, UserError
from turntable.files import read_json, write_text


@dataclass(frozen=True)
class ReportConfig:
    """What to report on."""

    folder: tyro.conf.Positional[Path]
    """A captures folder that a run fills or has filled."""
    doubtful: int = 100
    """Contact sheets of doubtful assets, at most; the others are listed by name."""
    others: int = 40
    """Contact sheets of other assets, evenly spaced over them."""
    failures: int = 500
    """Failures listed with their messages, at most; all are counted."""


def write_report(options: ReportConfig) -> Path:
    """Writes `report.html` into the folder -> its path."""
    folder = options.folder
    if not (folder / "items.txt").exists():
        raise UserError(f"{folder}: no items.txt, so no run has written here; give the --out of a run")
    doubts = {path.stem: read_json(path)["doubts"] for path in sorted((folder / "doubts").glob("*.json"))}
    doubts = {uid: sentences for uid, sentences in doubts.items() if capture_path(folder, uid).exists()}
    uids = [path.stem for path in capture_paths(folder)]
    others = [uid for uid in uids if uid not in doubts]
    chosen = (
        [others[i] for i in sorted({i * len(others) // options.others for i in range(options.others)})]
        if others
        else []
    )
    parts = [
        *_counts(folder, len(uids), len(doubts)),
        *_failures(folder, options.failures),
        f"<h2>Doubtful: {len(doubts)}</h2>",
        *(_sheet(folder, uid, "; ".join(doubts[uid])) for uid in list(doubts)[: options.doubtful]),
        _list_rest(doubts, options.doubtful),
        f"<h2>Not doubtful: {len(others)}</h2>",
        *(_sheet(folder, uid, "") for uid in chosen),
    ]
    path = folder / "report.html"
    write_text(path, report.page(f"Captures in {folder.name}", *parts))
    return path


def _counts(folder: Path, captured: int, doubtful: int) -> Iterable[str]:
    """The state of the folder, and where the last run spent its time."""
    failed = sum(1 for _ in (folder / "failures").glob("*.json"))
    rows = [["captured", str(captured)], ["of them doubtful", str(doubtful)], ["failed", str(failed)]]
    summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else {}
    if summary.get("done"):
        rows += [["the last run captured", str(summary["done"])], ["in", f"{summary['seconds']:.0f} s"]]
        rows += [["assets an hour", f"{summary['items_per_hour']:g}"]]
        rows += [[f"{unit} a second", f"{rate:g}"] for unit, rate in summary["per_second"].items()]
    yield report.table(["assets", ""], rows)
    stages: dict[str, float] = summary.get("worker_seconds", {})
    if stages:
        total = sum(stages.values())
        yield "<h2>Where the workers' time went</h2>"
        yield report.table(
            ["stage", "seconds an asset", "share"],
            [[name, f"{s / summary['done']:.2f}", f"{100 * s / total:.0f} %"] for name, s in stages.items()],
        )


def _failures(folder: Path, limit: int) -> Iterable[str]:
    paths = sorted((folder / "failures").glob("*.json"))
    if not paths:
        return
    records = [read_json(path) for path in paths]
    counts = Counter(str(record["reason"]) for record in records)
    yield f"<h2>Failed: {len(records)}</h2>"
    yield report.table(["reason", "assets"], [[reason, str(count)] for reason, count in counts.most_common()])
    rows = [[str(r["uid"]), str(r["reason"]), str(r["message"])] for r in records]
    rows.sort(key=lambda row: (-counts[row[1]], row[1], row[0]))
    yield report.table(["asset", "reason", "what was found"], rows[:limit])
    if len(rows) > limit:
        yield f"<p>… and {len(rows) - limit} more in failures/.</p>"


def _list_rest(doubts: dict[str, Sequence[str]], shown: int) -> str:
    rest = [[uid, "; ".join(sentences)] for uid, sentences in list(doubts.items())[shown:]]
    return report.table(["asset", "doubts"], rest) if rest else ""


def _sheet(folder: Path, uid: str, doubts: str) -> str:
    """One asset's contact sheet, as its capture holds it."""
    with CaptureReader(capture_path(folder, uid)) as capture:
        record: dict[str, Any] = capture.record
        name = " · ".join(str(record[key]) for key in ("lvis_class", "name", "licence") if record.get(key))
        preview = capture.preview()
    caption = " — ".join(part for part in (f"{uid} {name}", doubts) if part)
    return report.encoded_figure(preview, "webp", caption)


def main() -> int:
    """The command."""
    options = config.parse(ReportConfig, "Write report.html: what a captures folder holds, doubtful assets first.")
    print(write_report(options))
    return EXIT_OK


if __name__ == "__main__":
    config.run(main)
