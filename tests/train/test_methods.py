"""A network that supposes one camera, judged with the true one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets.samples import InputView, TargetView
from model.lrm import LRM
from model.placement import SupposedCamera
from tests.model import foreign
from train.methods import ModelMethod
from turntable import cameras

SUPPOSED = SupposedCamera(2.2, 1.4)
WORLD = cameras.look_at(np.array([1.0, -1.0, 0.4]))


def view(distance: float) -> tuple[InputView, TargetView]:
    """A picture of a ball and its camera, as input and as what is judged."""
    pose = SupposedCamera(distance, 1.4).pose
    numbers = np.concatenate([pose.reshape(12), SUPPOSED.intrinsics])
    canonical = cameras.canonical_from_world(WORLD)
    given = InputView(torch.full((3, 32, 32), 0.3), torch.from_numpy(numbers).float(), canonical)
    return given, TargetView(np.zeros((24, 24, 3)), np.zeros((24, 24)), pose, SUPPOSED.intrinsics)


@pytest.fixture(scope="module")
def method() -> ModelMethod:
    torch.manual_seed(0)
    lrm = LRM(foreign.triposr_config()).eval()
    lrm.field.joint[-1].bias.data[0] = 2.0
    return ModelMethod(lrm, 32, 24, 2.0, torch.device("cpu"), SUPPOSED)


@pytest.mark.parametrize("distance", [2.2, 4.4])
def test_the_input_camera_sees_the_picture_whatever_its_distance(method, distance):
    """Twice as far with the same lens, the same picture is of an object twice as large, and everything else is equal."""
    given, judged = view(distance)
    near_given, near = view(2.2)
    answer, near_answer = method.answer(given), method.answer(near_given)
    assert torch.equal(answer.planes, near_answer.planes)
    (seen,), (near_seen,) = method.pictures(answer, [judged]), method.pictures(near_answer, [near])
    np.testing.assert_allclose(seen, near_seen, atol=1e-4)  # float32
    assert near_seen.min() < 0.9
    sizes = [np.ptp(method.surface(a, np.eye(3, 4)).vertices, axis=0) for a in (answer, near_answer)]
    np.testing.assert_allclose(sizes[0], sizes[1] * distance / 2.2, rtol=1e-4)


def test_the_surface_is_in_the_world(method):
    answer = method.answer(view(2.2)[0])
    canonical = cameras.canonical_from_world(WORLD)
    found = method.surface(answer, canonical).vertices
    expected = cameras.transform(cameras.invert(canonical), method.surface(answer, np.eye(3, 4)).vertices)
    np.testing.assert_allclose(found, expected, atol=1e-5)
