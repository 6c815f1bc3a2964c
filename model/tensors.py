"""Files of tensors, read without trusting them: safetensors, or PyTorch's own format with nothing but tensors in it.

PyTorch's format is a pickle, and a pickle can hold code. `torch.load(weights_only=True)` builds tensors and plain containers
and refuses everything else; sizes are looked at before anything is unpacked.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turntable.errors import UserError

MAX_BYTES = 16 << 30
"""A file that holds more is refused; the largest published model of this family has 2 GB."""
SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pth", ".pt")
"""Files that tensors are read from, safetensors first."""


class CheckpointError(UserError):
    """A file that is not a whole checkpoint, or one of another network."""


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in `file` by name, on the CPU, and its metadata (only safetensors has any)."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{file}: {size:,} bytes, more than {MAX_BYTES:,}; no model of this family is so large")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    return _read_pickle(file), {}


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            return {name: content.get_tensor(name) for name in content.keys()}, content.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: {_what(file)}, not a whole safetensors file ({error}); train or copy it again"
        ) from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    _check_archive(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        if "GLOBAL " in reason or "Unsupported" in reason:
            raise CheckpointError(
                f"{file}: a pickle with more in it than tensors, which could run code; refused ({_culprit(reason)}). Only"
                " plain tensors are loaded: ask its author for a .safetensors file"
            ) from error
        raise CheckpointError(f"{file}: {_what(file)}, not a whole PyTorch file ({reason[:200]})") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: {_what(file)}, not a whole PyTorch file ({reason[:200]})") from error
    return _only_tensors(file, content)


def _culprit(reason: str) -> str:
    """What torch's refusal of a pickle says was in it."""
    named = re.search(r"GLOBAL (\S+)|Unsupported .{,80}", reason)
    return (named[1] or named[0]) if named else "no name given"


def _check_archive(file: Path) -> None:
    """A zip archive must not unpack to more than is allowed."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: a damaged archive ({error}); copy it again") from error
    if unpacked > MAX_BYTES:
        raise CheckpointError(f"{file}: unpacks to {unpacked:,} bytes, more than {MAX_BYTES:,}; refused")


def _only_tensors(file: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        inside = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{file}: holds {inside}, not one tensor a name; save the model's state_dict alone")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in content.values())
    # A few numbers can pose as a tensor of any size by stepping over them with stride 0.
    if claimed > 2 * file.stat().st_size:
        raise CheckpointError(
            f"{file}: its tensors claim {claimed:,} bytes, but it holds {file.stat().st_size:,}; refused"
        )
    return dict(content)


def _what(file: Path) -> str:
    """What a file's first bytes look like."""
    with file.open("rb") as handle:
        head = handle.read(64)
    if not head:
        return "an empty file"
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return "a pickle (PyTorch's own format), which is never loaded" if file.suffix == ".safetensors" else "a pickle"
    if head.lstrip()[:1] == b"<":
        return "an HTML page"
    return f"{file.stat().st_size} bytes"
