"""Tiles: no seam, no gap, halved when memory runs out, single precision where half overflows."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from preprocess import networks, tiles
from preprocess.tiles import Area, Tiled, TileError
from tests.conftest import ROOT
from tests.preprocess import esrgan


def network_of(folder: Path, tensors: esrgan.Tensors) -> networks.Network:
    torch.save(tensors, folder / "weights.pth")
    return networks.load(folder / "weights.pth")


def grey(tensors: esrgan.Tensors) -> esrgan.Tensors:
    """The same with results around 0.5, so that clipping to [0, 1] hides nothing."""
    return {**tensors, "conv_last.weight": tensors["conv_last.weight"] / 20, "conv_last.bias": torch.full((3,), 0.5)}


def picture(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [4, 2])
def test_tiles_give_what_the_whole_picture_gives(tmp_path: Path, scale: int) -> None:
    """Also where sides are odd and pixel-unshuffle asks for multiples of 4."""
    network = network_of(tmp_path, grey(esrgan.random_rrdbnet(4, 1, scale)))
    rgb = picture(1, 59, 154)
    whole = Tiled(network, "cpu")(rgb)
    tiled = Tiled(network, "cpu", tile=64)
    assert whole.shape == (1, scale * 59, scale * 154, 3)
    assert whole.std() > 8  # there is something to differ
    # Nothing differs but the order in which libraries add: a value may fall to the other side of a half step.
    assert np.abs(tiled(rgb).astype(int) - whole).max() <= 1
    tiled._overlap = 0
    assert np.abs(tiled(rgb).astype(int) - whole).max() > 20, "without overlap seams would be seen by this test"


def test_only_the_area_asked_for_is_enlarged(tmp_path: Path) -> None:
    network = network_of(tmp_path, grey(esrgan.random_rrdbnet(4, 1, 4)))
    rgb, area = picture(2, 60, 90), Area(13, 37, 21, 30)
    whole, part = Tiled(network, "cpu")(rgb), Tiled(network, "cpu")(rgb, area)
    assert np.abs(area.cut(part, 4).astype(int) - area.cut(whole, 4)).max() <= 1
    area.cut(part, 4)[:] = 0
    assert not part.any()


class Poor(torch.nn.Module):
    """A network on a machine on which only so many pixels fit into memory at once."""

    def __init__(self, inner: torch.nn.Module, pixels: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.pixels, self.error = inner, pixels, error
        self.refused, self.done = 0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] * x.shape[2] * x.shape[3] > self.pixels:
            self.refused += 1
            raise self.error
        self.done += 1
        return self.inner(x)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
    ),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu", "linux", "python"])
def test_what_does_not_fit_is_halved_and_done_again(tmp_path: Path, error: Exception) -> None:
    network = network_of(tmp_path, esrgan.random_compact(4, 2, 2))
    rgb = picture(3, 90, 110)
    whole = Tiled(network, "cpu")(rgb)
    poor = Poor(network.module, 5000, error)
    tiled = Tiled(replace(network, module=poor), "cpu")
    assert np.abs(tiled(rgb).astype(int) - whole).max() <= 1  # every pixel is there, none was skipped
    assert poor.done >= 6 and 2 <= poor.refused <= 6
    refused = poor.refused
    tiled(rgb)
    assert poor.refused == refused, "what did not fit once is not tried again"


def test_no_memory_at_all_is_an_error(tmp_path: Path) -> None:
    network = network_of(tmp_path, esrgan.random_compact(4, 2, 2))
    tiled = Tiled(replace(network, module=Poor(network.module, 300, OUT_OF_MEMORY[0])), "cpu")
    with pytest.raises(TileError, match=r"not even a tile of .* fits into the memory of cpu"):
        tiled(picture(1, 80, 80))


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    network = network_of(tmp_path, esrgan.random_compact(4, 2, 2))
    tiled = Tiled(replace(network, module=Poor(network.module, 300, RuntimeError("a defect"))), "cpu")
    with pytest.raises(RuntimeError, match="a defect"):
        tiled(picture(1, 80, 80))


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from preprocess import networks, tiles
network = networks.load(Path(sys.argv[1]))
rgb = np.random.default_rng(3).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
tiled = tiles.Tiled(network, "cpu", tile=1000)
tiled(rgb[:, :64, :64])
held = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + (64 << 20), -1))
np.save(sys.argv[2], tiled(rgb))
print(tiled._most)
"""


def test_a_process_that_may_not_have_the_memory_gets_by_with_less(tmp_path: Path) -> None:
    """The real thing: the kernel refuses what the whole picture would take (512 values a pixel, 128 MiB a layer)."""
    network = network_of(tmp_path, esrgan.random_compact(512, 0, 1))
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "weights.pth"), str(tmp_path / "result.npy")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 256 * 256
    whole = Tiled(network, "cpu")(np.random.default_rng(3).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8))
    assert np.abs(np.load(tmp_path / "result.npy").astype(int) - whole).max() <= 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close(tmp_path: Path, precision: tiles.Precision) -> None:
    network = network_of(tmp_path, grey(esrgan.random_rrdbnet(4, 1, 4)))
    rgb = picture(1, 24, 24)
    half = Tiled(network, "cpu", precision)(rgb)
    # bfloat16 has 8 significant bits, float16 11; the error of a chain of layers is a few of its last steps.
    assert np.abs(half.astype(int) - Tiled(network, "cpu")(rgb)).max() <= (24 if precision == "bfloat16" else 3)


def overflowing() -> esrgan.Tensors:
    """A network that passes through 10⁶, which float16 cannot hold, and comes back."""
    tensors = esrgan.random_compact(4, 1, 2)
    return {**tensors, "body.2.weight": tensors["body.2.weight"] * 1e6, "body.4.weight": tensors["body.4.weight"] / 1e7}


def test_what_overflows_in_half_precision_is_done_in_single(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network, rgb = network_of(tmp_path, overflowing()), picture(1, 20, 20)
    with caplog.at_level(logging.WARNING):
        half = Tiled(network, "cpu", "float16")(rgb)
    np.testing.assert_array_equal(half, Tiled(network, "cpu")(rgb))
    assert "overflows float16" in caplog.text


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    tensors = esrgan.random_compact(4, 1, 2)
    network = network_of(tmp_path, {**tensors, "body.2.weight": torch.full_like(tensors["body.2.weight"], 3e38)})
    with pytest.raises(TileError, match="not finite"):
        Tiled(network, "cpu")(picture(1, 20, 20))


@pytest.mark.parametrize("device", ["cuda:99", "meta", "fast"])
def test_a_device_that_is_not_there_is_named(tmp_path: Path, device: str) -> None:
    network = network_of(tmp_path, esrgan.random_compact(4, 1, 2))
    with pytest.raises(TileError, match=f"--upscale-device {device}: .*say auto, cpu, cuda"):
        Tiled(network, device)


def blurred(radius: int, spread: float) -> tiles.Enlarge:
    """A filter of a known reach whose far weights fall off exponentially."""
    distance = np.abs(np.arange(-radius, radius + 1))
    weights = np.exp(-distance / spread)
    weights /= weights.sum()

    def enlarge(rgb: np.ndarray) -> np.ndarray:
        planes = np.pad(rgb[0] / 255.0, ((radius, radius), (0, 0), (0, 0)))
        rows = sum(w * planes[i : i + rgb.shape[1]] for i, w in enumerate(weights))
        planes = np.pad(rows, ((0, 0), (radius, radius), (0, 0)))
        return sum(w * planes[:, i : i + rgb.shape[2]] for i, w in enumerate(weights))[None].astype(np.float32)

    return enlarge


def test_the_overlap_of_a_far_reaching_network_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    assert tiles.measured_overlap(blurred(8, 100.0), 1) == 8  # its whole reach, all of which matters
    # exp(-d/3): what lies beyond d has a share of exp(-d/3) or so, which is 0.5/255 at 19 pixels; half that on either side.
    assert tiles.measured_overlap(blurred(60, 3.0), 1) in (16, 24)
    assert not caplog.messages
    assert tiles.measured_overlap(blurred(64, 100.0), 4) == 64
    assert "seams may be" in caplog.text
