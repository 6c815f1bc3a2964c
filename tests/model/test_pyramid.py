"""The pyramid: what it hands on has the sizes it says, knows where it was read, and every weight of it learns."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from model.lrm import LRM, SIZES, PyramidConfig, config_from_json
from model.pyramid import PicturePyramid
from tests.model.test_lift import camera
from train.optimiser import freeze


def test_levels_and_features_have_the_sizes_that_are_said() -> None:
    torch.manual_seed(0)
    pyramid = PicturePyramid(PyramidConfig((8, 12)), width=20)
    levels = pyramid.down(torch.rand(2, 3, 32, 32))
    assert [tuple(level.shape) for level in levels] == [(2, 8, 16, 16), (2, 12, 8, 8), (2, 20, 4, 4)]
    assert PyramidConfig((8, 12)).patch_size == 8
    assert pyramid.up(levels, torch.rand(2, 1 + 16, 20)).shape == (2, 8, 16, 16)


def test_features_are_of_where_they_are_read_and_of_the_tokens() -> None:
    torch.manual_seed(0)
    pyramid = PicturePyramid(PyramidConfig((8, 12)), width=20)
    picture = torch.full((1, 3, 64, 64), 0.8)
    marked = picture.clone()
    marked[..., 2:4, 2:4] = 0.0
    tokens = torch.rand(1, 1 + 64, 20)
    spoken = tokens.clone()
    spoken[:, 1] += 1  # the first patch, behind the class token
    with torch.no_grad():
        before = pyramid.up(pyramid.down(picture), tokens)
        seen = (pyramid.up(pyramid.down(marked), tokens) - before).abs().sum(dim=(0, 1))
        told = (pyramid.up(pyramid.down(picture), spoken) - before).abs().sum(dim=(0, 1))
    for changed in (seen, told):
        assert changed[1, 1] > 1e-4 and not changed[24:, 24:].any()


def test_every_weight_of_the_mini_model_learns() -> None:
    torch.manual_seed(0)
    lrm = LRM(SIZES["mini"])
    planes = lrm.planes(torch.rand(2, 3, 128, 128), camera().expand(2, -1))
    density, colour = lrm.field(planes, torch.rand(2, 50, 3) - 0.5)
    (density.sum() + colour.sum()).backward()
    without = [name for name, parameter in lrm.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # Attention's keys begin alike for all, so that their gradient may vanish; nothing of the pyramid's may.
    assert not [name for name in without if name.startswith(("pyramid.", "detail.", "encoder.positions"))]
    assert not [name for name, parameter in lrm.named_parameters() if parameter.grad is None]


def test_a_pyramid_that_does_not_fit_its_neighbours_is_refused() -> None:
    mini = SIZES["mini"]
    with pytest.raises(ValueError, match="ends in patches of 8 and gives 16 features, got patch_size 16 and detail 16"):
        dataclasses.replace(mini, pyramid=PyramidConfig((16, 32)))
    with pytest.raises(ValueError, match="gives 24 features, got patch_size 16 and detail 16"):
        dataclasses.replace(mini, pyramid=PyramidConfig((24, 32, 64)))
    with pytest.raises(ValueError, match="channels"):
        PyramidConfig(())
    lrm = LRM(mini)
    with pytest.raises(ValueError, match=r"the encoder takes \(B, 128, 8, 8\), got \(1, 3, 128, 128\)"):
        lrm.encoder(torch.rand(1, 3, 128, 128))


def test_configurations_are_read_again_with_and_without_one() -> None:
    mini = SIZES["mini"]
    written = json.loads(json.dumps(dataclasses.asdict(mini)))
    assert config_from_json(written) == mini
    del written["pyramid"]  # as versions before it wrote them
    assert config_from_json(written).pyramid is None


def test_freezing_the_encoder_freezes_what_makes_its_patches() -> None:
    lrm = LRM(SIZES["mini"])
    freeze(lrm, "encoder")
    trained = {name.split(".")[0] for name, parameter in lrm.named_parameters() if parameter.requires_grad}
    assert trained == {"decoder", "upsampler", "detail", "field"}
