"""Mattes from rembg's networks (`--matte rembg:NAME`), through rembg's own code.

One session of a network a process, made when it is first needed; threads share it and take turns in the network, which uses
all cores by itself. Where it runs is asserted, not hoped for: onnxruntime falls back to the CPU with no more than a warning.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from preprocess import model_files, subjects
from preprocess.cutout import MatteError, check_picture, cut_out
from turntable import files, framing

Device = Literal["cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUSTOM = ("u2net_custom", "dis_custom", "ben_custom")
"""Sessions for a network of one's own; each is named after the network whose input and output it has."""
NOT_FOR_OBJECTS = ("u2net_cloth_seg",)
_opening = threading.RLock()


def names() -> list[str]:
    """The networks that the installed rembg knows and that give one matte of one object."""
    return sorted(name for name in _rembg().sessions.sessions if name not in NOT_FOR_OBJECTS)


def _rembg() -> Any:
    try:
        import rembg.sessions
    except ImportError as error:
        raise MatteError(
            "no-model", f"--matte rembg:…: {error.name} is not installed; `pip install turntable[preprocess]`"
        ) from error
    return rembg


@dataclass(frozen=True)
class Rembg:
    """A network of rembg as a way of making mattes. `argument` is a custom network's file, or the box for `sam`."""

    name: str
    argument: str = ""
    device: Device = "cpu"

    def __post_init__(self) -> None:
        if self.name not in names():
            raise MatteError("unknown", f"--matte {self.how}: rembg has no such network; there is {', '.join(names())}")
        if self.name in CUSTOM and not self.argument:
            raise MatteError("unknown", f"--matte {self.how}: say which file, as in rembg:{self.name}=FILE.onnx")
        if self.name in CUSTOM and not Path(self.argument).expanduser().is_file():
            raise MatteError("no-model", f"--matte {self.how}: no such file")
        if self.name == "sam" and self.argument:
            self._box()
        if self.argument and self.name not in (*CUSTOM, "sam"):
            raise MatteError(
                "unknown", f"--matte {self.how}: {self.name} takes no argument; {', '.join(CUSTOM)} take a file"
            )

    @property
    def how(self) -> str:
        """As it is written on a command line."""
        return f"rembg:{self.name}" + (f"={self.argument}" if self.argument else "")

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the mattes, for the record of a run. Fetches the network's files, loads it, asserts where it runs."""
        _session(self.name, self._file(), self.device)
        hashes = {path.name: _sha256(path, _stamp(path)) for path in _files(self.name, self._file())}
        box = {"box": list(self._box())} if self.name == "sam" and self.argument else {}
        version = importlib.metadata.version("rembg")
        return {"matte": "rembg", "network": self.name, "rembg": version, "sha256": hashes, **box}

    def __call__(self, picture: np.ndarray, name: str | None = None) -> np.ndarray:
        """(H, W, 3 or 4) uint8 -> (H, W, 4) uint8 straight alpha. A true matte that the picture has is kept as it is."""
        check_picture(picture)
        if framing.has_matte(picture):
            return picture
        rgb = np.ascontiguousarray(picture[..., :3])
        alpha, probability = self.predict(rgb)
        if wrong := subjects.what_is_wrong(probability):
            raise MatteError("no-subject", f"{name or 'the picture'}: no object found by {self.name}: {wrong}")
        return cut_out(rgb, alpha)

    def predict(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 -> rembg's matte (H, W) uint8, and the network's own probabilities (h, w) at its own size."""
        session = _session(self.name, self._file(), self.device)
        options: dict[str, Any] = {}
        if self.name == "sam" and self.argument:
            corners = np.array(self._box()) * [rgb.shape[1], rgb.shape[0], rgb.shape[1], rgb.shape[0]]
            options["sam_prompt"] = [{"type": "rectangle", "data": corners.tolist()}]
        with _named_errors("network-failed", f"{self.how} failed on a picture of {rgb.shape[1]}×{rgb.shape[0]} pixels"):
            alpha, raw = _predict(session, rgb, options)
        if self.name == "sam":
            # Its masks are hard; a pixel's width of softness is what any camera gives to an edge.
            alpha = cv2.GaussianBlur(alpha, (3, 3), 0)
        return alpha, raw

    def _file(self) -> Path | None:
        return Path(self.argument).expanduser() if self.name in CUSTOM else None

    def _box(self) -> tuple[float, ...]:
        with contextlib.suppress(ValueError):
            x0, y0, x1, y1 = (float(word) for word in self.argument.split(","))
            if 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1:
                return x0, y0, x1, y1
        raise MatteError(
            "unknown", f"--matte {self.how}: a box is X0,Y0,X1,Y1 in shares of width and height, as in 0.2,0.1,0.8,0.95"
        )


class Watched:
    """An onnxruntime session for rembg's code, which hands out one run at a time and remembers what came of it."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self._turn = threading.Lock()
        self._last = threading.local()

    def get_inputs(self) -> Any:
        return self.session.get_inputs()

    def run(self, *arguments: Any) -> Any:
        with self._turn:
            outputs = self.session.run(*arguments)
        self._last.output = outputs[0]
        return outputs

    @property
    def raw(self) -> np.ndarray:
        """(h, w): the first channel of this thread's last run's first output."""
        output: np.ndarray = self._last.output
        return output[0, 0].astype(np.float32)


def _predict(session: Any, rgb: np.ndarray, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    with np.errstate(all="ignore"):  # rembg divides by the prediction's range, which may be 0
        mask = session.predict(Image.fromarray(rgb), **options)[0]
    raw = (session.decoder if hasattr(session, "decoder") else session.inner_session).raw
    if not np.isfinite(raw).all():
        raise MatteError("no-model", f"{session.model_name}: the network's output is not finite; is its file damaged?")
    return np.array(mask), session.sigmoid(raw) if hasattr(session, "sigmoid") else subjects.probabilities(raw)


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when the file does."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@functools.cache
def _sha256(path: Path, stamp: tuple[int, int]) -> str:
    return files.sha256(path)


def _files(name: str, file: Path | None) -> list[Path]:
    if file:
        return [file]
    return [part.path for part in model_files.files_of(_rembg().sessions.sessions[name])]


_sessions: dict[tuple[Any, ...], Any] = {}


def _session(name: str, file: Path | None, device: Device) -> Any:
    """rembg's session of a network, one a process. Raises MatteError where it cannot be had as asked."""
    with _opening:
        key = _key(name, file, device)
        if key not in _sessions:
            opened = _opened(name, file, device)
            _sessions[_key(name, file, device)] = opened  # its files are there now
            return opened
        return _sessions[key]


def _key(name: str, file: Path | None, device: Device) -> tuple[Any, ...]:
    return name, device, *((path, path.exists() and _stamp(path)) for path in _files(name, file))


def _opened(name: str, file: Path | None, device: Device) -> Any:
    rembg = _rembg()
    _check_device(device)
    how = f"rembg:{name}" + (f"={file}" if file else "")
    if file is None:
        for part in model_files.files_of(rembg.sessions.sessions[name]):
            model_files.bring(part, how)
    with _named_errors("no-model", f"--matte {how}: not a network that rembg can use"):
        options = {"model_path": str(file)} if file else {}
        session = rembg.new_session(name, providers=[PROVIDERS[device]], **options)
    for part_name in ("inner_session", "encoder", "decoder"):
        if inner := getattr(session, part_name, None):
            _assert_provider(inner, device, how)
            setattr(session, part_name, Watched(inner))
    if file:  # whether it has the form of the network that it stands for
        with _named_errors("no-model", f"--matte {how}: not a network that rembg can use"):
            grey = _predict(session, np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 96, 3)), {})
        if grey[0].shape != (64, 96):
            raise MatteError("no-model", f"--matte {how}: gives a matte of {grey[0].shape} for a picture of (64, 96)")
    return session


@contextlib.contextmanager
def _named_errors(reason: str, message: str) -> Iterator[None]:
    """Whatever rembg and onnxruntime raise as a MatteError."""
    try:
        yield
    except MatteError:
        raise
    except Exception as error:  # onnxruntime's errors have no common class, and rembg's code raises what it happens to
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MatteError(reason, f"{message} ({first})") from error


def _check_device(device: Device) -> None:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if PROVIDERS[device] not in there:
        raise MatteError(
            "no-device",
            f"--matte-device {device}: this onnxruntime has no {PROVIDERS[device]}, only {', '.join(there)}; install "
            "onnxruntime-gpu in place of onnxruntime, or use --matte-device cpu",
        )


def _assert_provider(inner: Any, device: Device, how: str) -> None:
    """Raises MatteError unless `inner`, an onnxruntime session, really runs on `device`."""
    if PROVIDERS[device] not in inner.get_providers():
        inner.set_providers([PROVIDERS[device]])  # rembg does not hand the choice on to sam's networks
    inner.disable_fallback()  # which onnxruntime would also do in the middle of a run, with a line of print
    if inner.get_providers()[0] != PROVIDERS[device]:
        raise MatteError(
            "no-device",
            f"--matte {how}: runs by {', '.join(inner.get_providers())}, {PROVIDERS[device]} was asked for "
            f"(--matte-device {device}); do the GPU's driver, CUDA and cuDNN fit this onnxruntime?",
        )
