"""Rendering on two Ray nodes, real ones on this machine, one of which dies half-way: every asset arrives, the same as ever.

Twenty of the real models, as the project's page of results has it:
`python -m tests.render.test_cluster ../shared/objaverse 20`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datasets.captures import capture_paths
from datasets.objaverse import Objaverse
from tests.conftest import ROOT
from tests.render.models import bracket, write_cache

QUICK = ["--views", "2", "--resolution", "32", "--samples", "1"]
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head on which nothing runs; the tests add nodes."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    utils = pytest.importorskip("ray.cluster_utils", reason="needs ray")
    made = utils.Cluster(initialize_head=True, head_node_args=SMALL | {"num_cpus": 0})
    yield made
    made.shutdown()


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


def render_with_a_dying_node(cluster: Any, cache: Path, uids: list[str], folder: Path) -> tuple[dict[str, Any], str]:
    """Renders `uids` on two nodes and kills one when half are there -> the run's summary and what it printed."""
    _, dying = (cluster.add_node(**SMALL) for _ in range(2))
    listed = folder / "list.txt"
    listed.write_text("\n".join(uids))
    process = start(cluster, cache, listed, folder / "out")
    wait_for(len(uids) // 2, folder / "out", process)
    cluster.remove_node(dying, allow_graceful=False)
    said, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return json.loads((folder / "out" / "summary.json").read_text()), said + errors


@pytest.mark.slow
def test_a_node_dies_another_joins_and_all_arrives(cluster: Any, tmp_path: Path) -> None:
    models = {f"{index:02x}bracket": bracket(1 + index / 10).data() for index in range(8)}
    cache = write_cache(tmp_path / "cache", models)
    summary, said = render_with_a_dying_node(cluster, cache, sorted(models), tmp_path)
    assert summary["done"] == 8 and not summary["failed"] and summary["left"] == 0
    assert "goes to another worker" in said
    assert not list((tmp_path / "out").rglob("*.tmp")) and not (tmp_path / "out" / "failures").exists()

    local = [sys.executable, "-m", "render.objaverse", "--uids", tmp_path / "list.txt", "--cache", cache, *QUICK]
    subprocess.run([*map(str, local), "--out", str(tmp_path / "local")], cwd=ROOT, check=True, capture_output=True)
    here, there = ({p.name: p.read_bytes() for p in capture_paths(tmp_path / name)} for name in ("local", "out"))
    assert here == there


if __name__ == "__main__":
    from ray.cluster_utils import Cluster

    cache, count = Path(sys.argv[1]), int(sys.argv[2])
    made = Cluster(initialize_head=True, head_node_args=SMALL | {"num_cpus": 0})
    with tempfile.TemporaryDirectory() as folder:
        chosen = Objaverse(cache).select(None)[:: 632 // count][:count]
        summary, said = render_with_a_dying_node(made, cache, chosen, Path(folder))
    made.shutdown()
    print(said, json.dumps(summary, indent=2))
