"""One run, disturbed in every way: a worker killed, the disk filled, Ctrl-C, a worker stopped; then compared with an undisturbed one.

    python -m tests.render.faults --cache ../shared/objaverse --assets 60

`test_faults.py` does the same with a few small models. Needs a mounted file system that can be filled (`--disk`), which is
mounted here where the user may.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from datasets.captures import capture_paths
from datasets.objaverse import Objaverse
from tests.conftest import ROOT, hear_interrupts
from turntable import config
from turntable.errors import EXIT_DISK_FULL, EXIT_INTERRUPTED, EXIT_ITEMS_FAILED, EXIT_OK


@dataclass(frozen=True)
class FaultsConfig:
    """Which assets, rendered how."""

    cache: Path
    """Objaverse cache."""
    assets: int = 60
    """Evenly spread over the catalogue's uids in order."""
    views: int = 4
    """Pictures an asset."""
    resolution: int = 64
    """Pixels a side."""


class Disturbed:
    """The render command over one list into one folder, started, watched and disturbed."""

    def __init__(self, words: Sequence[str], out: Path) -> None:
        self.words, self.out = words, out
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """The command, again."""
        self.process = subprocess.Popen([*self.words, "--out", str(self.out)], cwd=ROOT)

    def wait_for(self, captures: int) -> None:
        """Until so many captures are there."""
        assert self.process
        while len(capture_paths(self.out)) < captures:
            assert self.process.poll() is None, f"it ended with {self.process.returncode} before {captures} captures"
            time.sleep(0.02)

    def worker(self) -> psutil.Process:
        """One of its workers, at work."""
        assert self.process
        while True:
            for child in psutil.Process(self.process.pid).children():
                if "render.worker" in child.cmdline():
                    return child
            time.sleep(0.02)

    def kill(self) -> None:
        """Whatever still runs of it."""
        if self.process and self.process.poll() is None:
            self.process.kill()

    def end(self) -> int:
        """Its exit code."""
        assert self.process
        return self.process.wait()


def disturb(run: Disturbed, total: int, say: Callable[[str], None]) -> None:
    """Every fault in turn, one after each sixth of the list; the same command is given again where it ended."""
    run.start()
    run.wait_for(total // 6)
    say(f"kill -9 of worker {run.worker().pid}")
    run.worker().send_signal(signal.SIGKILL)
    run.wait_for(2 * total // 6)
    ballast = run.out.parent / "ballast"
    fill(ballast)
    code = run.end()
    say(f"disk filled: exit code {code}")
    assert code == EXIT_DISK_FULL
    ballast.unlink()
    run.start()
    run.wait_for(3 * total // 6)
    run.process.send_signal(signal.SIGINT)  # type: ignore[union-attr]
    code = run.end()
    say(f"Ctrl-C: exit code {code}")
    assert code == EXIT_INTERRUPTED
    run.start()
    run.wait_for(4 * total // 6)
    stopped = run.worker()
    say(f"SIGSTOP of worker {stopped.pid}")
    stopped.send_signal(signal.SIGSTOP)
    assert run.end() in (EXIT_OK, EXIT_ITEMS_FAILED)


def fill(ballast: Path) -> None:
    """Takes all the room that there is, while others write too."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as handle:
        while True:
            handle.write(bytes(1 << 16))


def state(out: Path) -> dict[str, bytes]:
    """What a run leaves that counts: every capture's bytes and every failure's."""
    return {path.name: path.read_bytes() for path in [*capture_paths(out), *sorted((out / "failures").glob("*.json"))]}


def differences(quiet: Path, disturbed: Path) -> list[str]:
    """Names of what the two runs' end states do not share; empty when they are the same, byte for byte, and no scrap is left."""
    one, two = state(quiet), state(disturbed)
    scraps = [str(path) for path in disturbed.rglob("*.tmp")]
    return [name for name in sorted({*one, *two}) if one.get(name) != two.get(name)] + scraps


def command(cache: Path, listed: Path, *options: str) -> list[str]:
    """The render command, two workers, quick to notice a worker that says nothing."""
    words = [sys.executable, "-m", "render.objaverse", "--cache", cache, "--uids", listed, "--workers-per-gpu", "2"]
    return [*map(str, words), "--silence-s", "20", *options]


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of that size. Raises `PermissionError` where mounting is not allowed."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            raise PermissionError(f"cannot mount a file system to fill: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            # Lazily: after a failed assertion the run may still be writing.
            subprocess.run(["umount", "--lazy", folder], check=True)


def compare(
    words: Sequence[str], uids: Sequence[str], folder: Path, disk: Path, say: Callable[[str], None]
) -> list[str]:
    """The undisturbed run into `folder`, the disturbed one onto `disk` -> their differences."""
    say("undisturbed run")
    subprocess.run([*words, "--out", str(folder / "quiet")], cwd=ROOT, check=False)
    run = Disturbed(words, disk / "out")
    try:
        disturb(run, len(uids), say)
    finally:
        run.kill()
    return differences(folder / "quiet", disk / "out")


def main() -> int:
    """The command."""
    hear_interrupts()
    options = config.parse(FaultsConfig, "Disturb a run in every way and compare it with an undisturbed one.")
    catalogue = Objaverse(options.cache)
    known = catalogue.select(None)
    uids = [known[index * len(known) // options.assets] for index in range(options.assets)]
    with tempfile.TemporaryDirectory() as name, small_disk(100 + 4 * options.assets) as disk:
        listed = Path(name) / "list.txt"
        listed.write_text("".join(f"{uid}\n" for uid in uids))
        quality = ["--views", str(options.views), "--resolution", str(options.resolution), "--samples", "4"]
        found = compare(command(options.cache, listed, *quality), uids, Path(name), disk, print)
        captures = len(capture_paths(disk / "out"))
    print(f"{captures} captures; end state {'differs in ' + ', '.join(found) if found else 'identical, byte for byte'}")
    return EXIT_ITEMS_FAILED if found else EXIT_OK


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config.run(main)
