"""Rendering on two Ray nodes, real ones on this machine, one of which dies half-way: every asset arrives, the same as ever.

Twenty of the real models, as the project's page of results has it:
`python -m tests.render.test_cluster ../shared/objaverse 20`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from datasets.captures import capture_paths
from datasets.objaverse import Objaverse
from tests.conftest import ROOT, SMALL_NODE
from tests.render.models import bracket, write_cache

QUICK = ["--views", "2", "--resolution", "32", "--samples", "1"]


def start(cluster: Any, cache: Path, uids: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "render.objaverse", "--uids", uids, "--cache", cache, "--out", out, *QUICK]
    command += ["--ray", cluster.address, "--cpus-per-worker", "1", *options]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(captures: int, out: Path, process: subprocess.Popen[str], within_s: float = 120) -> None:
    end = time.monotonic() + within_s
    while len(capture_paths(out)) < captures:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{len(capture_paths(out))} captures after {within_s:g} s"
        time.sleep(0.05)


def render_with_dying_nodes(
    cluster: Any, cache: Path, uids: list[str], folder: Path, deaths: int = 1, births: int = 0
) -> tuple[dict[str, Any], str]:
    """Renders `uids` on two nodes; half-way kills so many and adds others -> the run's summary and what it printed."""
    nodes = [cluster.add_node(**SMALL_NODE) for _ in range(2)]
    listed = folder / "list.txt"
    listed.write_text("\n".join(uids))
    process = start(cluster, cache, listed, folder / "out")
    wait_for(len(uids) // 2, folder / "out", process)
    for node in nodes[:deaths]:
        cluster.remove_node(node, allow_graceful=False)
    for _ in range(births):
        cluster.add_node(**SMALL_NODE)
    said, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return json.loads((folder / "out" / "summary.json").read_text()), said + errors


def renderers() -> list[psutil.Process]:
    """Blender workers of this checkout."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "render.worker" in process.cmdline() and process.cwd() == str(ROOT):
                found.append(process)
    return found


@pytest.mark.slow
def test_nodes_die_another_joins_and_all_arrives(cluster: Any, tmp_path: Path) -> None:
    models = {f"{index:02x}bracket": bracket(1 + index / 10).data() for index in range(6)}
    cache = write_cache(tmp_path / "cache", models)
    # Both nodes die: what is left can only be done by the one that joins.
    summary, said = render_with_dying_nodes(cluster, cache, sorted(models), tmp_path, deaths=2, births=1)
    assert summary["done"] == 6 and not summary["failed"] and summary["left"] == 0
    assert "goes to another worker" in said
    assert not list((tmp_path / "out").rglob("*.tmp")) and not (tmp_path / "out" / "failures").exists()

    local = [sys.executable, "-m", "render.objaverse", "--uids", tmp_path / "list.txt", "--cache", cache, *QUICK]
    subprocess.run([*map(str, local), "--out", str(tmp_path / "local")], cwd=ROOT, check=True, capture_output=True)
    here, there = ({p.name: p.read_bytes() for p in capture_paths(tmp_path / name)} for name in ("local", "out"))
    assert here == there


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_renderer_behind(cluster: Any, tmp_path: Path) -> None:
    models = {f"{index:02x}bracket": bracket(1 + index / 10).data() for index in range(30)}
    cache = write_cache(tmp_path / "cache", models)
    cluster.add_node(**SMALL_NODE)
    (tmp_path / "list.txt").write_text("\n".join(models))
    process = start(cluster, cache, tmp_path / "list.txt", tmp_path / "out")
    wait_for(1, tmp_path / "out", process)
    assert renderers()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "same command continues" in errors
    psutil.wait_procs(renderers(), timeout=20)
    assert not renderers()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray", "127.0.0.1:1"], "no cluster answers"),
        (["--ray", "local", "--gpus", "1"], "--gpus-per-worker"),
        (["--cpus-per-worker", "0"], "must be positive"),
    ],
)
def test_clusters_that_cannot_be(tmp_path: Path, options: list[str], words: str) -> None:
    cache = write_cache(tmp_path / "cache", {"00bracket": bracket().data()})
    (tmp_path / "list.txt").write_text("00bracket\n")
    command = [sys.executable, "-m", "render.objaverse", "--uids", tmp_path / "list.txt", "--cache", cache]
    command += ["--out", tmp_path / "out", *QUICK, *options]
    refused = subprocess.run([str(w) for w in command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2 and words in refused.stderr and "Traceback" not in refused.stderr


if __name__ == "__main__":
    from ray.cluster_utils import Cluster

    cache, count = Path(sys.argv[1]), int(sys.argv[2])
    made = Cluster(initialize_head=True, head_node_args=SMALL_NODE | {"num_cpus": 0})
    with tempfile.TemporaryDirectory() as folder:
        chosen = Objaverse(cache).select(None)[:: 632 // count][:count]
        summary, said = render_with_dying_nodes(made, cache, chosen, Path(folder))
    made.shutdown()
    print(said, json.dumps(summary, indent=2))
