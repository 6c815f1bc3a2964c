"""The network as a whole: sizes, what the camera does, and that it learns something from both of its inputs."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from model.decoder import ModulatedNorm
from model.lrm import (
    LRM,
    SIZES,
    DecoderConfig,
    EncoderConfig,
    FieldConfig,
    LRMConfig,
    TriplaneConfig,
    camera_numbers,
    config_from_json,
)
from tests.model import foreign


def parameters(lrm: LRM) -> float:
    """Millions."""
    return sum(p.numel() for p in lrm.parameters()) / 1e6


def test_the_sizes_have_the_published_dimensions():
    # facts/models.md: LRM has about 500 M parameters; tiny is for CPUs.
    with torch.device("meta"):
        built = {name: LRM(config) for name, config in SIZES.items()}
    assert 1 < parameters(built["tiny"]) < 2
    assert parameters(built["small"]) < parameters(built["base"]) < parameters(built["large"])
    assert 400 < parameters(built["paper"]) < 550
    table = {
        "small": (12, 512, 8, 32, 224, 384),
        "base": (12, 768, 12, 48, 336, 768),
        "large": (16, 1024, 16, 80, 448, 768),
    }
    for name, dimensions in table.items():
        config = SIZES[name]
        decoder = config.decoder
        found = (decoder.layers, decoder.width, decoder.heads, config.triplane.channels, config.encoder.image_size)
        assert (*found, config.encoder.hidden) == dimensions
        assert decoder.tokens == 32 and config.resolution == 64


def test_tiny_makes_planes_of_the_right_shape_that_depend_on_picture_and_camera():
    torch.manual_seed(0)
    lrm = LRM(SIZES["tiny"])
    # The modulation starts at nothing; give the camera a say, as training does.
    for module in lrm.modules():
        if isinstance(module, ModulatedNorm):
            torch.nn.init.normal_(module.modulation.weight, std=0.1)
    image, camera = torch.rand(2, 3, 128, 128), torch.randn(2, 16)
    planes = lrm.planes(image, camera)
    assert planes.shape == (2, 3, 24, 48, 48)
    assert (planes - lrm.planes(image, camera.flip(0))).abs().max() > 1e-3
    assert (planes - lrm.planes(image.flip(0), camera)).abs().max() > 1e-3
    torch.testing.assert_close(lrm.planes(image[:1], camera[:1]), planes[:1], rtol=1e-4, atol=1e-5)


def test_at_first_the_camera_changes_nothing_unless_it_is_to():
    image = torch.rand(1, 3, 128, 128)
    plain = dataclasses.replace(SIZES["tiny"].decoder, camera_start=0.0)
    for decoder, equal in ((plain, True), (SIZES["tiny"].decoder, False)):
        lrm = LRM(dataclasses.replace(SIZES["tiny"], decoder=decoder))
        assert torch.equal(lrm.planes(image, torch.zeros(1, 16)), lrm.planes(image, torch.ones(1, 16))) == equal


def test_the_tiny_model_hears_the_image_from_the_start():
    """Planes of eight noise pictures differ by a good share of what they vary over their texels."""
    torch.manual_seed(0)
    lrm = LRM(SIZES["tiny"])
    with torch.no_grad():
        planes = lrm.planes(torch.rand(8, 3, 1, 1).expand(8, 3, 128, 128), torch.zeros(8, 16))
    assert planes.std(dim=0).mean() > 0.03 * planes.std()


def test_every_parameter_receives_a_gradient():
    """DDP needs it, and a part without gradient would be a part forgotten."""
    torch.manual_seed(0)
    lrm = LRM(SIZES["tiny"])
    optimiser = torch.optim.SGD(lrm.parameters(), 0.1)
    for _ in range(2):  # What feeds the zero-initialised modulation has a gradient from the second step on.
        optimiser.zero_grad()
        planes = lrm.planes(torch.rand(1, 3, 128, 128), torch.randn(1, 16))
        density, colour = lrm.field(planes, torch.rand(1, 500, 3) - 0.5)
        (density.square().mean() + colour.square().mean()).backward()
        optimiser.step()
    trained = {name for name, p in lrm.named_parameters() if p.requires_grad}
    assert {name for name in trained if lrm.get_parameter(name).grad is None} == set()
    assert {name for name in trained if not lrm.get_parameter(name).grad.any()} == set()


@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov2_with_registers"])
def test_every_kind_of_encoder_gives_the_class_token_and_the_patches(kind):
    encoder = EncoderConfig(kind, image_size=56, patch_size=14, hidden=32, layers=1, heads=2, position_size=70)
    decoder = DecoderConfig(1, 32, 2, tokens=4, camera_width=16)
    lrm = LRM(LRMConfig(encoder, decoder, TriplaneConfig(2, 6), FieldConfig("joint", 8)))
    assert lrm.encoder(torch.rand(2, 3, 56, 56)).shape == (2, 1 + 16, 32)
    assert lrm.planes(torch.rand(2, 3, 56, 56), torch.rand(2, 16)).shape == (2, 3, 6, 8, 8)
    with pytest.raises(ValueError, match=r"takes \(B, 3, 56, 56\), got \(1, 3, 70, 70\)"):
        lrm.encoder(torch.rand(1, 3, 70, 70))


def test_the_camera_is_the_pose_row_by_row_and_the_lens():
    pose, lens = torch.arange(12.0).view(1, 3, 4), torch.tensor([[20.0, 21, 22, 23]])
    assert camera_numbers(pose, lens).tolist() == [[*map(float, range(12)), 20, 21, 22, 23]]


@pytest.mark.parametrize("config", [*SIZES.values(), foreign.triposr_config(), foreign.openlrm_config()])
def test_configuration_survives_json(config):
    assert config_from_json(json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize("config", [foreign.triposr_config(), foreign.openlrm_config(64)])
def test_published_architectures_can_be_trained(config):
    """Every parameter that a published network has takes part in its planes and field."""
    torch.manual_seed(0)
    lrm, size = LRM(config), config.encoder.image_size
    for module in lrm.modules():
        if isinstance(module, ModulatedNorm) and module.modulation is not None:
            torch.nn.init.normal_(module.modulation.weight, std=0.1)
    planes = lrm.planes(torch.rand(1, 3, size, size), torch.randn(1, 16))
    density, colour = lrm.field(planes, torch.rand(1, 500, 3) - 0.5)
    (density.square().mean() + colour.square().mean()).backward()
    assert [name for name, p in lrm.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: EncoderConfig(image_size=100),
        lambda: EncoderConfig(hidden=130),
        lambda: DecoderConfig(width=130, heads=4),
        lambda: DecoderConfig(width=6, heads=2, positions="sincos"),
        lambda: FieldConfig(colour_layers=0),
        lambda: LRMConfig(fill=1.2),
        lambda: LRMConfig(background=1.2),
        lambda: DecoderConfig(width=48, ends="residual"),
    ],
)
def test_impossible_dimensions_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()
