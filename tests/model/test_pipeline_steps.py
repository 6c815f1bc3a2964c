"""Steps of the pipeline where memory runs out, planes break, or a stage is to be shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model import mesh, pipeline
from model.lrm import LRM
from model.pipeline import Failure, Model, Reconstruction, Source, Stages, SurfaceSettings
from model.triplane import TriplaneField
from tests.model.test_reconstruct import SMALL, TYPICAL

SETTINGS = SurfaceSettings(20, 0.2, texture=0)


@pytest.fixture(scope="module")
def model() -> Model:
    """An untrained network, whose density is near exp(-1) throughout the ball."""
    torch.manual_seed(0)
    return Model(LRM(SMALL).eval(), TYPICAL, "x")


def discs(count: int) -> list[Source]:
    y, x = np.mgrid[:40, :40]
    pictures = []
    for index in range(count):
        rgba = np.zeros((40, 40, 4), np.uint8)
        rgba[np.hypot(x - 20, y - 20) < 8 + index] = (50 * index, 30, 200, 255)
        pictures.append(Source(f"disc{index}", rgba))
    return pictures


class SmallDevice:
    """Hooks that let modules take so many rows at most, as a GPU's memory would."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, []

    def __call__(self, module, arguments) -> None:
        self.sizes.append(len(arguments[0]))
        if len(arguments[0]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")


def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same(model):
    whole = list(pipeline.reconstruct(model, discs(5), settings=SETTINGS, batch=5))
    device = SmallDevice(2)
    handle = model.lrm.encoder.register_forward_pre_hook(device)
    halved = list(pipeline.reconstruct(model, discs(5), settings=SETTINGS, batch=5))
    handle.remove()
    assert device.sizes[0] == 5 and max(device.sizes[2:]) <= 2
    for one, other in zip(whole, halved, strict=True):
        assert isinstance(one, Reconstruction) and isinstance(other, Reconstruction)
        # Matrix products of another shape may add up in another order.
        torch.testing.assert_close(one.planes, other.planes, rtol=1e-4, atol=1e-5)


def test_pictures_that_fit_in_no_way_fail_as_such(model):
    handle = model.lrm.encoder.register_forward_pre_hook(SmallDevice(0))
    found = list(pipeline.reconstruct(model, discs(3), settings=SETTINGS, batch=2))
    handle.remove()
    assert all(isinstance(result, Failure) and result.reason == "out-of-memory" for result in found)
    assert [result.source.name for result in found] == ["disc0", "disc1", "disc2"]
    assert "--device cpu" in found[0].message


def test_meshes_and_colours_are_the_same_in_chunks_that_are_halved(model):
    planes = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    field = model.lrm.field
    assert isinstance(field, TriplaneField)
    whole = mesh.extract(field, planes, 24, 0.3)
    device = SmallDevice(1000)
    # The first layer works on the planes' texels; what is behind it sees points.
    handles = [head[2].register_forward_pre_hook(device) for head in (field.density_head, field.colour_head)]
    halved = mesh.extract(field, planes, 24, 0.3)
    for handle in handles:
        handle.remove()
    assert max(device.sizes) > 1000
    np.testing.assert_array_equal(whole.faces, halved.faces)
    # Products over another number of rows may round otherwise; a surface moves with the density's last bits.
    np.testing.assert_allclose(whole.vertices, halved.vertices, atol=1e-4)
    np.testing.assert_allclose(whole.colours, halved.colours, atol=1e-4)


def test_stages_are_told_in_order_and_timed(model):
    told: list[tuple[str, str]] = []
    (result,) = pipeline.reconstruct(
        model, discs(1), settings=SETTINGS, progress=lambda source, stage: told.append((source.name, stage))
    )
    assert isinstance(result, Reconstruction)
    assert told == [("disc0", stage) for stage in ("read", "matte", "frame", "planes", "mesh", "texture")]
    assert list(result.seconds) == [stage for _, stage in told] and min(result.seconds.values()) >= 0


def test_a_stage_entered_twice_adds_up():
    stages = Stages()
    for _ in range(2):
        with stages("mesh"):
            pass
    first = stages.seconds["mesh"]
    with stages("mesh"):
        pass
    assert stages.seconds["mesh"] > first > 0
