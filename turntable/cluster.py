"""Workers on many machines: a Ray actor each, which drives the same `turntable.jobs.Worker` on its node.

To a run a `RemoteWorker` is a worker like any other. It waits for a place in the cluster, and when its node or its actor dies
it waits for another place, while its item goes to another worker. Timeouts, heartbeats, memory and recycling are the node's
`Worker`'s. What every node needs is in docs/cluster.md; what can be checked of it is checked when a worker starts.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turntable.errors import DiskFullError, UserError
from turntable.files import is_local, location, sha256
from turntable.jobs import ItemError, Limits, Worker, WorkerError, WorkerLost

PYTHON = "python"
"""As a command's first word: the Python of the node that runs it."""
ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
_CODE = ("turntable", "datasets", "render", "preprocess")
"""Rooms whose code a node must have as the driver has it."""
_MOST_FAILED_PLACES = 3
"""Actors in a row that die before they are ready; then the worker is given up."""


@dataclass(frozen=True)
class ClusterConfig:
    """Many machines, instead of this one's --gpus and --workers-per-gpu."""

    ray: str = ""
    """Ray cluster to run on: its address (host:6379), `auto` for the one that this machine belongs to, `local` to start one on
    this machine alone. Empty: no cluster."""
    cpus_per_worker: float = 4.0
    """Cores that a worker takes of its node."""
    gpus_per_worker: float = 0.0
    """GPUs that a worker takes of its node: 1, or 0.5 for two on a GPU; 0 = it runs on the CPU."""
    max_workers: int = 0
    """Workers at most; 0 = as many as the cluster has room for, also when it grows."""

    def __post_init__(self) -> None:
        if self.cpus_per_worker <= 0 or self.gpus_per_worker < 0 or self.max_workers < 0:
            raise ValueError(
                "cpus_per_worker must be positive, gpus_per_worker and max_workers 0 or more, got "
                f"{self.cpus_per_worker:g}, {self.gpus_per_worker:g}, {self.max_workers}"
            )

    def room(self, resources: dict[str, float]) -> int:
        """Workers for which a node with these resources has room."""
        by_gpu = resources.get("GPU", 0.0) / self.gpus_per_worker if self.gpus_per_worker else float("inf")
        # A millionth: three thirds of a GPU are a whole one.
        return int(min(resources.get("CPU", 0.0) / self.cpus_per_worker, by_gpu) + 1e-6)


@dataclass(frozen=True)
class Order:
    """What a node is to run, and what it must have in common with the driver."""

    command: tuple[str, ...]
    """The worker's command; its first word may be `PYTHON`."""
    limits: Limits
    config: ClusterConfig
    code: str
    """`fingerprint` of the driver's checkout."""
    out: str = ""
    """The run's folder or URL."""
    marker: str = ""
    """SHA-256 of the folder's config.json; empty for a URL, which every node reaches for itself."""
    self_contained: tuple[str, ...] = (".glb",)
    """Suffixes of assets that refer to no other file: they can be sent to a node that does not see them."""


def make_order(
    command: Sequence[str], limits: Limits, config: ClusterConfig, out: Path, suffixes: Sequence[str]
) -> Order:
    """The order for a run into `out`, whose config.json is written."""
    marker = sha256(out / "config.json") if is_local(out) else ""
    text = str(out.absolute()) if is_local(out) else str(out)
    return Order(tuple(command), limits, config, fingerprint(), text, marker, tuple(suffixes))


def fingerprint(root: Path = ROOT) -> str:
    """SHA-256 of the code that workers run."""
    digest = hashlib.sha256()
    for path in sorted(path for room in _CODE for path in (root / room).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Place:
    """The actor: one worker on one node. What it returns is plain, so that no error has to travel as an object."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.worker: Worker | None = None

    def start(self) -> dict[str, Any]:
        """{"ready": what the worker said} or {"error": why this node is of no use}."""
        problem = node_problem(self.order)
        if problem:
            return {"error": f"node {socket.gethostname()}: {problem}"}
        self.worker = Worker(self._command(), self._log_path(), self._limits(), ROOT)
        try:
            self.worker.start()
        except WorkerError as error:
            return {"error": f"node {socket.gethostname()}: {error}"}
        return {"ready": self.worker.ready}

    def do(self, job: dict[str, Any], content: bytes | None) -> dict[str, Any]:
        """{"done": …}, {"failed": …}, {"error": …}, or {"unseen": True} where the node does not see the job's asset.

        `content` is the asset's file, for a node that does not see it.
        """
        assert self.worker
        with tempfile.TemporaryDirectory(prefix="turntable-") as scratch:
            if content is not None:
                asset = Path(scratch) / Path(job["asset"]).name
                asset.write_bytes(content)
                job = {**job, "asset": str(asset)}
            elif "asset" in job and not Path(job["asset"]).exists():
                return {"unseen": True}
            try:
                return {"done": self.worker.do(job)}
            except ItemError as error:
                return {"failed": {"reason": error.reason, "message": str(error), "log_tail": error.log_tail}}
            except DiskFullError as error:
                return {"failed": {"reason": "disk-full", "message": f"node {socket.gethostname()}: {error}"}}
            except WorkerError as error:
                return {"error": f"node {socket.gethostname()}: {error}"}

    def close(self) -> None:
        """Lets the worker end."""
        if self.worker:
            self.worker.close()

    def _command(self) -> list[str]:
        first, *rest = self.order.command
        return [sys.executable if first == PYTHON else first, *rest]

    def _log_path(self) -> Path:
        return Path(tempfile.gettempdir()) / "turntable-logs" / f"{socket.gethostname()}-{os.getpid()}.log"

    def _limits(self) -> Limits:
        import ray

        here = ray.get_runtime_context().get_node_id()
        resources: dict[str, float] = next((node["Resources"] for node in ray.nodes() if node["NodeID"] == here), {})
        return self.order.limits.shared_by(self.order.config.room(resources))


def node_problem(order: Order) -> str:
    """What this node lacks to carry out `order`; empty where nothing."""
    if fingerprint() != order.code:
        return f"the code in {ROOT} is not the driver's; have the same commit on every node, at the same path"
    if not order.marker:
        try:
            location(order.out)
        except UserError as error:
            return str(error)
        return ""
    config = Path(order.out) / "config.json"
    if not config.exists() or sha256(config) != order.marker:
        return f"it does not see {order.out} as the driver does; name a --out on a disk that all nodes share, or a URL"
    return ""


class RemoteWorker:
    """A worker somewhere in the cluster. `start` and `do` are for one thread at a time; `kill` may come from any."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self._cluster = cluster
        self._actor: Any = None
        self._starting: Any = None
        self._ready = False
        self._failed_places = 0
        self._sends = False
        """Whether the node has been found not to see the assets."""
        self._killed = threading.Event()

    def start(self) -> bool:
        """Whether it has a place and its worker is ready; waits a second for that."""
        if self._ready or self._killed.is_set():
            return self._ready
        if self._actor is None:
            self._actor = self._cluster.place()
            self._starting = self._actor.start.remote()
        if not self._arrived(self._starting):
            return False
        try:
            answer = self._answer(self._starting)
        except WorkerLost as error:
            self._failed_places += 1
            if self._failed_places >= _MOST_FAILED_PLACES:
                raise WorkerError(
                    f"{self._failed_places} actors in a row died before they were ready: {error}"
                ) from error
            return False
        if "error" in answer:
            raise WorkerError(answer["error"])
        self._cluster.check_alike(answer["ready"])
        self._failed_places, self._sends, self._ready = 0, False, True
        return True

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """As `turntable.jobs.Worker.do`; raises `WorkerLost` when the actor or its node goes."""
        answer = self._call(job)
        if "unseen" in answer:
            self._sends = True
            answer = self._call(job)
        if "failed" in answer:
            raise ItemError(**answer["failed"])
        if "error" in answer:
            self._forget()
            raise WorkerError(answer["error"])
        return answer["done"]

    def _call(self, job: dict[str, Any]) -> dict[str, Any]:
        reference = self._actor.do.remote(job, self._content(job) if self._sends else None)
        while not self._arrived(reference):
            if self._killed.is_set():
                raise ItemError("interrupted", "interrupted")
        return self._answer(reference)

    def _content(self, job: dict[str, Any]) -> bytes:
        asset = Path(job["asset"])
        allowed = self._cluster.order.self_contained
        if asset.suffix.lower() not in allowed:
            raise ItemError(
                "not-found",
                f"{asset}: not seen by the worker's node, and only {', '.join(allowed)} can be sent there, since others may "
                "refer to more files; put the assets on a disk that all nodes share",
            )
        return asset.read_bytes()

    def _arrived(self, reference: Any) -> bool:
        import ray

        return bool(ray.wait([reference], timeout=1.0)[0])

    def _answer(self, reference: Any) -> dict[str, Any]:
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise  # a fault of ours, not of the node
        except ray.exceptions.RayError as error:
            # It may live on behind a broken line; nobody would ask it any more.
            ray.kill(self._actor)
            self._forget()
            if self._killed.is_set():
                raise ItemError("interrupted", "interrupted") from error
            raise WorkerLost((str(error).strip().splitlines() or [type(error).__name__])[0]) from error

    def _forget(self) -> None:
        self._actor, self._ready = None, False

    def close(self) -> None:
        """Frees the place."""
        import ray

        if self._ready:
            ray.wait([self._actor.close.remote()], timeout=10)
        self.kill()

    def kill(self) -> None:
        """Kills the actor and with it, on its node, the worker."""
        import ray

        self._killed.set()
        actor = self._actor
        if actor is not None and ray.is_initialized():
            ray.kill(actor)


class Cluster:
    """A connection to a Ray cluster and the workers made for it. Use it as a context manager."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._made = 0
        self._first_ready: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Cluster:
        connect(self.order.config.ray)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def workers(self) -> list[RemoteWorker]:
        """Workers for the room that there is and that was not used before."""
        import ray

        config = self.order.config
        room = sum(config.room(node["Resources"]) for node in ray.nodes() if node["Alive"])
        if config.max_workers:
            room = min(room, config.max_workers)
        added = [RemoteWorker(self, f"cluster-{number}") for number in range(self._made, room)]
        self._made += len(added)
        return added

    def first_workers(self) -> list[RemoteWorker]:
        """The workers to begin with; a cluster without room for one is a `UserError`."""
        import ray

        workers = self.workers()
        if not workers:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            largest = ", ".join(f"{n.get('CPU', 0):g} cores and {n.get('GPU', 0):g} GPUs" for n in nodes) or "no nodes"
            config = self.order.config
            raise UserError(
                f"--ray {config.ray}: no node has room for a worker of {config.cpus_per_worker:g} cores and "
                f"{config.gpus_per_worker:g} GPUs (the nodes have {largest}); lower --cpus-per-worker or --gpus-per-worker"
            )
        return workers

    def place(self) -> Any:
        """A new actor, which comes to life once a node has room for it."""
        import ray

        config = self.order.config
        actor = ray.remote(Place).options(
            num_cpus=config.cpus_per_worker,
            num_gpus=config.gpus_per_worker,
            scheduling_strategy="SPREAD",
            max_restarts=0,
        )
        return actor.remote(self.order)

    def check_alike(self, ready: dict[str, Any]) -> None:
        """Raises `WorkerError` when a worker says something else of itself than the first did: another Blender, say."""
        with self._lock:
            if self._first_ready is None:
                self._first_ready = ready
        if ready != self._first_ready:
            raise WorkerError(
                f"a node's worker is {ready}, the first one was {self._first_ready}; have the same on all nodes"
            )


def connect(address: str) -> None:
    """Joins the cluster at `address`, see `ClusterConfig.ray`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--ray needs the package ray ({error}): pip install 'turntable[cluster]'") from error
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": 256 << 20}
    else:
        options |= {"address": address}
    try:
        _knock(address)
        ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--ray {address}: no cluster answers there ({(str(error).splitlines() or [''])[0]}); start one with "
            "`ray start --head` and give its address, or say --ray local"
        ) from error


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would wait for minutes, then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
