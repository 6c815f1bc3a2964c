"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
"""A node of a Ray cluster, on this machine beside others."""


def hear_interrupts() -> None:
    """A shell has its background jobs ignore Ctrl-C, and they hand that down: what tests start must hear it again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


hear_interrupts()
_EXIT_STATUS: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    """Kept for the end."""
    _EXIT_STATUS.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Once EEVEE has drawn in this process, Blender's own exit handler waits for its threads for ever: leave without it."""
    if "bpy" in sys.modules and _EXIT_STATUS:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_EXIT_STATUS[-1])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models beside the project; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "objaverse" / "object-paths.json.gz").exists():
        pytest.skip("needs ../shared with its real models, which is not here")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB that can really be filled; skips where mounting one is not allowed."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"needs a mounted tmpfs to fill ({mount.stderr.strip() or 'mount failed'})")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A head on which nothing runs."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs ray")
    # Ray takes most of a minute to be sure that a machine is gone, which here is the test's time.
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
    made = utils.Cluster(initialize_head=True, head_node_args=SMALL_NODE | {"num_cpus": 0, "_system_config": quick})
    yield made
    made.shutdown()


@pytest.fixture
def cluster(head: Any) -> Iterator[Any]:
    """A cluster to which the test adds nodes."""
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node, allow_graceful=False)
