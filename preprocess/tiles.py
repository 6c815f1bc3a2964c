"""Pictures through a super-resolution network in tiles: as large as memory allows, overlapping so that no seam is seen.

An area that is too large is halved across its longer side, and its halves again, until a tile and its overlap fit. Each tile is
cut out with `overlap` pixels around it, as far as the picture goes; what the network makes of those is thrown away. A tile that
runs out of memory all the same is halved and done again.

The overlap is the network's reach (its receptive field's radius) where that is at most `LARGEST_EXACT` pixels: then a tile's result is
the whole picture's. RRDBNet with its 23 blocks reaches 351 pixels, of which only those nearby matter: there the overlap is
measured once on the very weights, as the smallest with which a tile's middle differs by at most half a step of 8 bits.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psutil

from preprocess.networks import Network
from turntable import resources
from turntable.errors import UserError

Precision = Literal["auto", "float32", "float16", "bfloat16"]
Enlarge = Callable[[np.ndarray], np.ndarray]
"""(N, h, w, 3) uint8 -> (N, k·h, k·w, 3) float32, about [0, 1]."""

LARGEST_EXACT = 64
"""Pixels: networks that reach no further get their whole reach as overlap."""
OVERLAPS = (8, 12, 16, 24, 32, 48, 64)
"""Pixels: what is tried for networks that reach further."""
TOLERANCE = 0.5 / 255
SMALLEST_TILE = 32
"""Pixels: a tile is not halved below this side."""
LIVE_COPIES = 4
"""A convolution holds its input, its output and what it needs to work, at times in another layout: a cautious guess."""
SHARE_OF_MEMORY = {"cpu": 0.5, "cuda": 0.8}
"""Of what is free, how much one tile may take."""
_NO_MEMORY = ("not enough memory", "can't allocate memory", "bad allocation", "bad_alloc", "_STATUS_ALLOC_FAILED")
"""What a RuntimeError says when memory ran out on the CPU, or in cuDNN and cuBLAS."""

logger = logging.getLogger(__name__)


class TileError(UserError):
    """A picture that the network cannot enlarge here."""


@dataclass(frozen=True)
class Area:
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def longer(self) -> int:
        """Its longer side."""
        return max(self.height, self.width)

    def cut(self, pictures: np.ndarray, scale: int = 1) -> np.ndarray:
        """This area of (N, scale·H, scale·W, C) pictures, as a view."""
        rows = slice(scale * self.top, scale * (self.top + self.height))
        return pictures[:, rows, scale * self.left : scale * (self.left + self.width)]

    def grown(self, margin: int, multiple: int, height: int, width: int) -> Area:
        """With `margin` pixels more on every side, inside a picture; top and left become multiples of `multiple`."""
        top = max(self.top - margin, 0) // multiple * multiple
        left = max(self.left - margin, 0) // multiple * multiple
        bottom, right = min(self.top + self.height + margin, height), min(self.left + self.width + margin, width)
        return Area(top, left, bottom - top, right - left)

    def within(self, outer: Area) -> Area:
        """The same area, counted from `outer`'s corner."""
        return Area(self.top - outer.top, self.left - outer.left, self.height, self.width)

    def halves(self) -> tuple[Area, Area]:
        """Its two halves, cut across the longer side."""
        if self.height >= self.width:
            half = self.height // 2
            return Area(self.top, self.left, half, self.width), Area(
                self.top + half, self.left, self.height - half, self.width
            )
        half = self.width // 2
        return Area(self.top, self.left, self.height, half), Area(
            self.top, self.left + half, self.height, self.width - half
        )


class Tiled:
    """A network on a device. One caller at a time."""

    def __init__(self, network: Network, device: str = "auto", precision: Precision = "auto", tile: int = 0) -> None:
        import torch

        self.network = network
        self.device = torch.device(_chosen_device(device))
        cuda = self.device.type == "cuda"
        self.precision = ("float16" if cuda else "float32") if precision == "auto" else precision
        self._module = network.module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._overlap: int | None = None
        self._most = tile * tile if tile else self._affordable()
        self._warned = False

    @property
    def overlap(self) -> int:
        """Pixels around a tile that the network sees and whose result is thrown away; see above."""
        if self._overlap is None:
            reach, multiple = self.network.reach, self.network.multiple
            self._overlap = reach if reach <= LARGEST_EXACT else measured_overlap(self._forward, multiple)
        return self._overlap

    def __call__(self, rgb: np.ndarray, area: Area | None = None) -> np.ndarray:
        """(N, H, W, 3) uint8, sRGB -> (N, k·H, k·W, 3) uint8. What lies outside `area` (pixels of the input) is left black."""
        count, height, width, _ = rgb.shape
        scale = self.network.scale
        result = np.zeros((count, scale * height, scale * width, 3), np.uint8)
        self._fill(result, rgb, area or Area(0, 0, height, width))
        return result

    def _fill(self, result: np.ndarray, rgb: np.ndarray, area: Area) -> None:
        """Enlarges `area` of all pictures into `result`, in as many parts as memory asks for."""
        count, height, width, _ = rgb.shape
        whole = area == Area(0, 0, height, width)
        seen = area if whole else area.grown(self.overlap, self.network.multiple, height, width)
        pixels = count * seen.height * seen.width
        divisible = count > 1 or area.longer >= 2 * SMALLEST_TILE
        enlarged = None
        if pixels <= self._most or not divisible:
            enlarged = self._tried(seen.cut(rgb))
            if enlarged is None:
                self._most = max(pixels // 2, 1)
        if enlarged is not None:
            scale = self.network.scale
            inner = area.within(seen).cut(enlarged, scale)
            area.cut(result, scale)[:] = np.round(inner.clip(0, 1) * 255)
        elif divisible:
            for pictures, part in self._parts(count, area):
                self._fill(result[pictures], rgb[pictures], part)
        else:
            raise TileError(
                f"not even a tile of {area.width}×{area.height} pixels and {self.overlap} around it fits into the memory of "
                f"{self.device}; free some, or choose a smaller network or another --upscale-device"
            )

    @staticmethod
    def _parts(count: int, area: Area) -> Iterator[tuple[slice, Area]]:
        """Half of the pictures each, while there are several; then half of the area each."""
        if count > 1:
            yield from ((part, area) for part in (slice(0, count // 2), slice(count // 2, count)))
        else:
            yield from ((slice(0, 1), half) for half in area.halves())

    def _tried(self, rgb: np.ndarray) -> np.ndarray | None:
        """`_forward`, or None where memory ran out."""
        import torch

        try:
            return self._forward(rgb)
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            text = str(error)
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(t in text for t in _NO_MEMORY):
                raise
        # Outside the handler: while the exception lives, so do the tensors of every frame it came through.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _forward(self, rgb: np.ndarray) -> np.ndarray:
        """See `Enlarge`. What is not finite in half precision is done again in single precision."""
        result = self._computed(rgb, self.precision)
        if not np.isfinite(result).all() and self.precision != "float32":
            if not self._warned:
                logger.warning("the network overflows %s on some tiles; those are done in float32", self.precision)
                self._warned = True
            result = self._computed(rgb, "float32")
        if not np.isfinite(result).all():
            raise TileError(
                "the network gives values that are not finite; its weights are damaged, or not meant for pictures"
            )
        return result

    def _computed(self, rgb: np.ndarray, precision: str) -> np.ndarray:
        import torch

        _, height, width, _ = rgb.shape
        half = contextlib.nullcontext()
        if precision != "float32":
            half = torch.autocast(self.device.type, getattr(torch, precision))  # type: ignore[assignment]
        with torch.inference_mode(), half:
            pictures = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device).permute(0, 3, 1, 2) / 255
            enlarged = self._module(_padded(pictures, self.network.multiple))
            enlarged = enlarged[..., : height * self.network.scale, : width * self.network.scale]
            return enlarged.permute(0, 2, 3, 1).float().cpu().numpy()

    def _affordable(self) -> int:
        """Pixels of the input that may go through the network at once, by the memory that is free now."""
        import torch

        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            free = min(psutil.virtual_memory().available, resources.memory_gb() * 2**30)
        widest = _values_a_pixel(self._module, self.device)
        size = 4 if self.precision == "float32" else 2
        fitting = SHARE_OF_MEMORY.get(self.device.type, 0.5) * free / (LIVE_COPIES * widest * size)
        # Kernels that enlarge count a tensor's values in 32 bits.
        return int(min(fitting, (2**31 - 1) / widest))


def measured_overlap(enlarge: Enlarge, multiple: int, overlaps: tuple[int, ...] = OVERLAPS) -> int:
    """The smallest of `overlaps` with which a tile's middle agrees with that of the largest within `TOLERANCE`, on noise."""
    middle = -(-16 // multiple) * multiple
    largest = -(-overlaps[-1] // multiple) * multiple
    probe = _noise(middle + 2 * largest)
    core = Area(largest, largest, middle, middle)
    whole = enlarge(probe)
    scale = whole.shape[1] // probe.shape[1]
    for overlap in overlaps[:-1]:
        seen = core.grown(overlap, multiple, *probe.shape[1:3])
        tile = core.within(seen).cut(enlarge(np.ascontiguousarray(seen.cut(probe))), scale)
        error = np.abs(tile - core.cut(whole, scale)).max()
        if error <= TOLERANCE:
            return overlap
    logger.warning(
        "tiles overlap by %d pixels; at %d a tile still differs by %.2f steps of 8 bits from a larger one, so seams may be "
        "seen in pictures that do not fit into memory whole",
        *(overlaps[-1], overlaps[-2], error * 255),
    )
    return overlaps[-1]


def _noise(side: int) -> np.ndarray:
    """(1, side, side, 3) uint8 noise with details of 1, 4 and 16 pixels, as pictures have."""
    generator = np.random.default_rng(0)
    total = np.zeros((1, side, side, 3))
    for size in (1, 4, 16):
        coarse = generator.uniform(size=(1, -(-side // size), -(-side // size), 3))
        total += coarse.repeat(size, axis=1).repeat(size, axis=2)[:, :side, :side] / 3
    return (total * 255).astype(np.uint8)


def _padded(pictures: Any, multiple: int) -> Any:
    """(N, 3, h, w) -> the same, mirrored at the right and bottom until both sides are multiples."""
    import torch

    height, width = pictures.shape[2:]
    missing = -width % multiple, -height % multiple
    mode = "reflect" if missing[0] < width and missing[1] < height else "replicate"
    return torch.nn.functional.pad(pictures, (0, missing[0], 0, missing[1]), mode) if any(missing) else pictures


def _values_a_pixel(module: Any, device: Any) -> int:
    """The most values that any layer gives for a pixel of the input."""
    import torch

    side, sizes = 16, [3]
    hooks = [
        part.register_forward_hook(lambda _module, _inputs, output: sizes.append(math.ceil(output.numel() / side**2)))
        for part in module.modules()
    ]
    with torch.inference_mode():
        module(torch.zeros(1, 3, side, side, device=device))
    for hook in hooks:
        hook.remove()
    return max(sizes)


def _chosen_device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise TileError(f"--upscale-device {device}: no such device; say auto, cpu, cuda or cuda:1") from error
    count = torch.cuda.device_count()
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and (found.index or 0) >= count):
        raise TileError(
            f"--upscale-device {device}: torch sees {count} CUDA devices here; say auto, cpu, cuda or cuda:1"
        )
    return device
