"""Published layouts with random weights: what comes out is what the reference implementations say."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoints import load_checkpoint
from tests.model import parity


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "parity"


def test_every_tensor_agrees_with_the_reference(folder, capsys):
    rows = parity.rows(folder)
    print("\n".join(map(str, rows)))
    assert len(rows) == 18
    assert [str(row) for row in rows if not row.agrees] == []


def test_sizes_come_from_the_tensors(folder):
    config = load_checkpoint(folder / "openlrm-split-qkv")[0].config
    decoder = config.decoder
    assert (decoder.layers, decoder.width, decoder.heads, decoder.tokens, decoder.camera_width) == (3, 192, 3, 8, 64)
    assert (config.encoder.hidden, config.encoder.layers, config.encoder.position_size) == (128, 2, 518)
    assert (config.triplane.channels, config.resolution, config.field.density_layers) == (8, 16, 3)
    config, extra = (lambda loaded: (loaded[0].config, loaded[1]))(load_checkpoint(folder / "triposr"))
    decoder = config.decoder
    assert (decoder.layers, decoder.width, decoder.heads, decoder.tokens, decoder.camera_width) == (2, 128, 4, 8, 0)
    assert (config.encoder.image_size, config.encoder.position_size, config.encoder.heads) == (64, 224, 3)
    assert (config.triplane.channels, config.field.density_layers, config.level) == (8, 4, 25.0)
    assert extra["camera_distance"] == pytest.approx(1.9 / 0.87)


def test_the_supposed_input_camera_is_on_our_minus_y(folder):
    """The first camera of TripoSR's turntable, from which it shows the input view, has azimuth 0: it sits on its +x."""
    rays = load_file(folder / "triposr" / "io.safetensors")
    position = parity.OURS_FROM_TRIPOSR @ rays["rays_o"][0, 0, 0]
    # 10 degrees above, 1.9 away.
    assert position.tolist() == pytest.approx(
        [0, -1.9 * math.cos(math.pi / 18), 1.9 * math.sin(math.pi / 18)], abs=1e-6
    )
    # Up stays up, and nothing is mirrored.
    assert parity.OURS_FROM_TRIPOSR[2].tolist() == [0, 0, 1]
    assert torch.linalg.det(parity.OURS_FROM_TRIPOSR) == 1
    source = load_file(folder / "openlrm-fused-qkv" / "io.safetensors")["source_camera"][0, :12].view(3, 4)
    assert source[:, 3].tolist() == [0.0, -2.0, 0.0] and source[:, 2].tolist() == [0.0, -1.0, 0.0]
