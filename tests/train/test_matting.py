"""The small matting network: its training pictures, that it learns, continues and is what rembg loads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from model.matting import ForRembg, MattingConfig, MattingNet, export, normalised
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import uid_of, write_captures
from train import composites
from train.matting import Batches, MattingTraining, _resume, _save, _steps, boxes_of, matting_loss, train
from turntable.errors import UserError


def render() -> np.ndarray:
    """A box with a hole and a half-transparent pane, (60, 40, 4) uint8."""
    rgba = np.zeros((60, 40, 4), np.uint8)
    rgba[..., 3] = 255
    rgba[..., :3] = np.random.default_rng(0).integers(0, 256, 3, dtype=np.uint8)
    rgba[20:40, 10:30, 3] = 0
    rgba[45:55, 5:35, 3] = 128
    return rgba


def textures(count: int = 12) -> list[np.ndarray]:
    return composites.texture_bank(np.random.default_rng(0), count, [render()])


@pytest.mark.parametrize("make", composites.TEXTURES)
def test_textures_have_a_picture_s_form(make) -> None:
    for seed in range(4):
        texture = make(np.random.default_rng(seed), 64)
        assert texture.shape == (64, 64, 3) and np.isfinite(texture).all()
        assert np.ptp(texture) > 0


def test_composites_are_drawn_from_their_argument_alone() -> None:
    bank = textures()
    first, again, other = (composites.composite(np.random.default_rng(seed), render(), bank, 64) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    for picture, matte in (first, other):
        assert picture.shape == (64, 64, 3) and picture.dtype == np.float32 and matte.shape == (64, 64)
        assert picture.min() >= 0 and picture.max() <= 1 and matte.min() >= 0 and matte.max() <= 1


def test_the_matte_is_of_the_object_that_is_seen() -> None:
    """Two composites that differ in the object's colour alone differ where the matte is, and hardly elsewhere."""
    bank, red, blue = textures(), render(), render()
    red[..., :3], blue[..., :3] = (220, 20, 20), (20, 20, 220)
    found = 0
    for seed in range(20):
        (a, matte), (b, same) = (
            composites.composite(np.random.default_rng(seed), each, bank, 96) for each in (red, blue)
        )
        np.testing.assert_array_equal(matte, same)
        changed = np.abs(a - b).max(axis=-1)
        # The picture may be blurred by a pixel, so its edges are left out.
        sure, off = cv2.erode(matte, np.ones((7, 7))) > 0.9, cv2.dilate(matte, np.ones((9, 9))) < 0.01
        if sure.sum() > 50:
            found += 1
            assert np.median(changed[sure]) > 0.02 and changed[off].max() < 1e-5
    assert found > 10


def test_empty_pictures_have_empty_mattes() -> None:
    picture, matte = composites.composite(np.random.default_rng(0), None, textures(), 64)
    assert not matte.any() and picture.std() > 0


def test_the_loss_is_least_for_the_truth() -> None:
    matte = torch.zeros(2, 1, 16, 16)
    matte[:, :, 4:9, 3:10] = 1
    right = (matte * 2 - 1) * 12
    moved = torch.roll(right, 2, dims=-1)
    assert matting_loss(right, matte) < 0.01 < matting_loss(moved, matte) < matting_loss(-right, matte)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matting")
    write_captures(folder / "captures", 3, views=2, resolution=64)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    return folder / "shards"


def quick(shards: Path, out: Path, **changes: object) -> MattingTraining:
    settings = {"widths": (4, 4, 6), "batch": 2, "textures": 6, "views": 2, "save_every": 2, "steps": 2} | changes
    return MattingTraining((shards,), out, **settings)  # type: ignore[arg-type]


def interrupted(config: MattingTraining, after: int) -> None:
    """The run of `config`, killed after so many steps, the last of which was saved."""
    torch.manual_seed(config.seed)
    net = MattingNet(MattingConfig(config.widths)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    progress = _resume(config.out / "state.pt", net, optimiser)
    for _ in _steps(config, net, optimiser, progress, Batches(config)):
        if progress.step == after:
            break
    _save(config.out, net, optimiser, progress)


def test_a_run_that_is_continued_is_the_run_that_was_not_interrupted(shards: Path, tmp_path: Path) -> None:
    whole, parts = (quick(shards, tmp_path / name, steps=3) for name in ("whole", "parts"))
    whole.out.mkdir()
    parts.out.mkdir()
    interrupted(whole, 3)
    interrupted(parts, 2)
    train(parts)
    nets = [torch.load(run.out / "state.pt", weights_only=True)["net"] for run in (whole, parts)]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert (parts.out / "sheet.png").exists() and (parts.out / "matte.onnx").exists()
    (parts.out / "state.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"state\.pt: damaged.*delete it"):
        train(dataclasses.replace(parts, steps=4))


def test_objects_that_are_left_out_are_not_learnt_from(shards: Path, tmp_path: Path) -> None:
    assert len(boxes_of(shards, (uid_of(1),), 2)) == 4 and len(boxes_of(shards, (), 2)) == 6
    with pytest.raises(UserError, match="no picture with a matte"):
        Batches(quick(shards, tmp_path, leave_out=tuple(uid_of(k) for k in range(3))))


def test_the_exported_network_is_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = MattingNet(MattingConfig((4, 6, 8))).eval()
    export(net, tmp_path / "matte.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "matte.onnx"), providers=["CPUExecutionProvider"])
    image = normalised(torch.rand(1, 3, 320, 320))
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = ForRembg(net)(image).numpy()
    assert found.shape == (1, 1, 320, 320)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 sums in another order


def test_normalisation_is_rembgs() -> None:
    from PIL import Image
    from rembg.sessions.base import BaseSession

    class Form:
        def get_inputs(self):
            return [type("Input", (), {"name": "image"})()]

    picture = np.random.default_rng(0).integers(0, 200, (320, 320, 3), dtype=np.uint8)
    session = BaseSession.__new__(BaseSession)
    session.inner_session = Form()
    theirs = session.normalize(Image.fromarray(picture), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (320, 320))
    ours = normalised(torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(255)))
    np.testing.assert_allclose(ours.numpy(), theirs["image"], atol=1e-5)
