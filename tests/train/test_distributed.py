"""Two processes train what one does, whichever way they share the model, and continue what was begun by another number."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import write_captures
from train import checkpoints
from train.distributed import write_once
from train.history import read_history
from turntable.errors import UserError
from turntable.files import write_text

COMMON = "--rays 32 --samples 12 --render-size 64 --threads 1 --batch 4 --device cpu --average 0.9"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_captures(folder / "captures", 6, views=6, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    return folder / "shards"


def command(shards: Path, out: Path, processes: int, *words: str) -> list[str]:
    """`python -m train.lrm`, or the same through torchrun."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return [
        sys.executable, *start, "-m", "train.lrm", "--shards", str(shards), "--out", str(out), *COMMON.split(), *words
    ]  # fmt: skip


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def killed_on_the_way(words: list[str], out: Path) -> None:
    """Begins a run that saves after every step, and kills all of it, unasked, once some steps are behind."""
    with subprocess.Popen(
        [*words, "--save-minutes", "1e-9"], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as begun:
        end = time.monotonic() + 240
        while len(checkpoints.finished(out)) < 2 and time.monotonic() < end and begun.poll() is None:
            time.sleep(0.05)
        # torchrun's processes have sessions of their own: without them named, they would train on.
        started = psutil.Process(begun.pid)
        for process in [*started.children(recursive=True), started]:
            process.kill()
        _, said = begun.communicate()
    assert checkpoints.finished(out), said[-3000:]


def furthest(a: Path, b: Path) -> float:
    """Largest difference of two models' weights, over the deviation of the tensor."""
    first, second = (load_file(run / "model.safetensors") for run in (a, b))
    return max(float((first[n] - second[n]).abs().max() / first[n].std(correction=0).clamp(min=1e-3)) for n in first)


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run(command(shards, out, 1, "--steps", "20"))
    return out


@pytest.mark.parametrize(("sharing", "afterwards"), [("ddp", 1), ("fsdp", 2)])
def test_two_processes_train_what_one_does(
    shards: Path, alone: Path, tmp_path: Path, sharing: str, afterwards: int
) -> None:
    """Killed on the way, too, and continued by one process where each had the whole model, by two where each had a part."""
    out, words = tmp_path / "run", ["--steps", "20", "--sharing", sharing]
    killed_on_the_way(command(shards, out, 2, *words), out)
    if sharing == "fsdp":
        parts = sorted(file.name for file in checkpoints.finished(out)[-1].glob("optimiser*"))
        assert parts == ["optimiser-000-of-002.safetensors", "optimiser-001-of-002.safetensors"]
    run(command(shards, out, afterwards, *words, "--resume"))
    print(f"{sharing}: {furthest(alone, out):.2e}")
    # Sums in another order differ in the last bit; Adam divides by the gradient's size, so that where a gradient is nearly 0 the
    # last bit decides about a whole step: TOLERANCE of a weight's spread after twenty of them.
    assert furthest(alone, out) < TOLERANCE
    first, second = (read_history(folder / "log.jsonl")[-1] for folder in (alone, out))
    assert second["step"] == first["step"] == 20
    assert second["colour"] == pytest.approx(first["colour"], rel=1e-3)


TOLERANCE = 5e-3


def test_the_others_wait_for_what_the_first_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="a folder that all processes see"):
        write_once(tmp_path / "list.txt", "a\n", patience_s=0.0)
    late = threading.Timer(0.3, write_text, (tmp_path / "list.txt", "a\n"))
    late.start()
    write_once(tmp_path / "list.txt", "a\n")
    assert (tmp_path / "list.txt").read_text() == "a\n"
    monkeypatch.setenv("RANK", "0")
    write_once(tmp_path / "list.txt", "b\n")
    assert (tmp_path / "list.txt").read_text() == "b\n"
