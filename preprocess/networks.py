"""Super-resolution networks from files of weights, through spandrel: ESRGAN's RRDBNet in its layouts, and Real-ESRGAN's compact one.

The `realesrgan` and `basicsr` packages, which published these networks, no longer import: they ask for
`torchvision.transforms.functional_tensor`, which torchvision dropped in 0.17. spandrel reads their files. Files are treated as
hostile: nothing is unpickled but tensors, and names and shapes are checked before anything is built in their size.
"""

from __future__ import annotations

import contextlib
import re
import sys
import types
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turntable.errors import UserError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".pth", ".safetensors")
ARCHITECTURES = ("ESRGAN", "Compact")
"""spandrel's names for RRDBNet (ESRGAN, Real-ESRGAN, BSRGAN, with or without pixel-unshuffle) and for SRVGGNetCompact."""
MAX_FILE_BYTES = 1 << 30
MAX_LAYER = 999
"""The largest number in a tensor's name. Networks are built as deep as the names say; the deepest published one has 23 blocks."""


class NetworkError(UserError):
    """A file that holds no network that can be used here."""


@dataclass(frozen=True)
class Network:
    """A network in single precision on the CPU, in evaluation mode."""

    module: torch.nn.Module
    """(N, 3, H, W) in [0, 1], sRGB -> (N, 3, k·H, k·W), about [0, 1]."""
    scale: int
    """k: pixels of the output a pixel of the input, along each side."""
    multiple: int
    """Sides of an input must be multiples of this many pixels."""
    reach: int
    """How many pixels of the input away a pixel may be and still matter, at most: the receptive field's radius."""
    architecture: str
    """One of `ARCHITECTURES`."""


def load(path: Path) -> Network:
    """The network whose weights `path` holds (.pth or .safetensors). Raises `NetworkError`."""
    spandrel = _spandrel()
    tensors = _checked(path, spandrel.canonicalize_state_dict(_read(path)))
    import torch

    try:
        with torch.device("meta"), warnings.catch_warnings():  # Built without memory: a rehearsal for names and shapes.
            warnings.simplefilter("ignore")  # "copying to a meta parameter is a no-op": as intended.
            spandrel.MAIN_REGISTRY.load(tensors)
        found = spandrel.MAIN_REGISTRY.load(tensors)
    except Exception as error:  # spandrel guesses sizes from names and shapes; wrong ones fail in many ways
        raise NetworkError(f"{path}: not the weights of a known network ({_brief(error)})") from error
    name = str(found.architecture.id)
    if name not in ARCHITECTURES or (found.input_channels, found.output_channels) != (3, 3):
        raise NetworkError(
            f"{path}: a {name} network from {found.input_channels} to {found.output_channels} channels; "
            f"--upscale takes {' and '.join(ARCHITECTURES)} networks from colour to colour"
        )
    module = found.model.eval().float().requires_grad_(False)
    return Network(module, found.scale, found.size_requirements.multiple_of, _reach(module), name)


def _reach(module: torch.nn.Module) -> int:
    """The sum of all convolutions' radii, as if each followed the other and none worked on the enlarged picture."""
    import torch

    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    radii = sum(part.dilation[0] * (part.kernel_size[0] - 1) // 2 for part in convolutions)
    return radii * (
        getattr(module, "shuffle_factor", None) or 1
    )  # pixel-unshuffle comes first: its pixels are as much wider


def _read(path: Path) -> dict[str, Any]:
    """What a file of weights holds: tensors by name, perhaps nested in dictionaries."""
    import torch

    if path.suffix not in SUFFIXES:
        raise NetworkError(f"{path}: weights are read from {' and '.join(SUFFIXES)} files")
    if not path.is_file():
        raise NetworkError(f"{path}: no such file")
    if _unpacked_bytes(path) > MAX_FILE_BYTES:
        raise NetworkError(f"{path}: more than {MAX_FILE_BYTES} bytes; refused")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file fails in any way it likes
        raise NetworkError(f"{path}: cannot be read as weights ({_brief(error)})") from error
    if not isinstance(content, dict):
        raise NetworkError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return content


def _unpacked_bytes(path: Path) -> int:
    """Bytes of a file, or of what it unpacks to: .pth files are zip archives, whose entries may be compressed."""
    size = path.stat().st_size
    with contextlib.suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
        size = max(size, sum(entry.file_size for entry in archive.infolist()))
    return size


def _checked(path: Path, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same, once it is sure that they are finite tensors of a reasonable size under reasonable names."""
    import torch

    total = 0
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise NetworkError(f"{path}: {str(name)[:80]!r} is a {type(value).__name__}, not a tensor")
        if any(int(number) > MAX_LAYER for number in re.findall(r"\d{1,9}", name)):
            raise NetworkError(f"{path}: a tensor is called {name[:80]!r}; no network is as deep")
        total += value.numel() * value.element_size()  # what it says, not what it holds: a stride of 0 costs nothing
        if total > MAX_FILE_BYTES:
            raise NetworkError(f"{path}: its tensors say that they hold more than {MAX_FILE_BYTES} bytes; refused")
        if not torch.isfinite(value).all():
            raise NetworkError(f"{path}: {name} holds values that are not finite; the file is damaged")
    return tensors


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _spandrel() -> Any:
    """The package. Two of its forty architectures, none of ours, take a function from torchvision.

    A torchvision that does not fit torch, such as PyPI's CUDA build beside a CPU torch, cannot be imported and would take all
    of spandrel with it: in that case those two get a torchvision with nothing in it while spandrel is being imported.
    """
    if "spandrel" not in sys.modules:
        with contextlib.nullcontext() if _torchvision_works() else _empty_torchvision():
            try:
                import spandrel
            except ImportError as error:
                raise NetworkError(
                    f"--upscale needs spandrel ({error}); install it with `pip install -e '.[preprocess]'`. "
                    "The realesrgan package is of no use: it asks for a torchvision older than 0.17"
                ) from error
            return spandrel
    return sys.modules["spandrel"]


def _torchvision_works() -> bool:
    try:
        import torchvision.transforms.functional  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


@contextlib.contextmanager
def _empty_torchvision() -> Iterator[None]:
    """While it is open, `torchvision.transforms.functional` imports and holds names that are None."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    empty = {name: types.ModuleType(name) for name in names}
    for wanted in ("InterpolationMode", "rotate", "normalize"):
        setattr(empty[names[-1]], wanted, None)
    sys.modules.update(empty)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)
