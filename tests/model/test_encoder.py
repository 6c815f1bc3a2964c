"""Weights given to the encoder are used or refused by name; transformers imports beside our `datasets`."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.encoder import EncoderConfig, ImageEncoder
from turntable.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = EncoderConfig("dinov2", image_size=28, patch_size=14, hidden=32, layers=2, heads=2, position_size=42)


@pytest.fixture
def weights(tmp_path) -> Path:
    """A folder as transformers writes it."""
    torch.manual_seed(1)
    ImageEncoder(CONFIG).network.save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def test_weights_from_a_folder_are_the_ones_used(weights):
    torch.manual_seed(2)
    first, second = (ImageEncoder(replace(CONFIG, weights=str(weights))) for _ in range(2))
    image = torch.rand(1, 3, 28, 28)
    assert torch.equal(first(image), second(image))
    torch.manual_seed(2)
    assert not torch.equal(first(image), ImageEncoder(CONFIG)(image))


def test_a_vit_pretrained_at_another_size_interpolates_its_positions(tmp_path):
    config = EncoderConfig("vit", image_size=32, patch_size=16, hidden=32, layers=1, heads=2)
    ImageEncoder(config).network.save_pretrained(tmp_path)
    larger = replace(config, image_size=64, position_size=32, weights=str(tmp_path))
    assert ImageEncoder(larger)(torch.rand(1, 3, 64, 64)).shape == (1, 17, 32)


def test_weights_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    missing = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nowhere.*give a local folder"):
        ImageEncoder(replace(CONFIG, weights=missing))


@pytest.mark.parametrize("change", [{"layers": 3}, {"hidden": 64}])
def test_weights_of_another_size_are_never_filled_up_at_random(weights, change):
    with pytest.raises(UserError, match=r"do not fit.*tensors missing"):
        ImageEncoder(replace(CONFIG, weights=str(weights), **change))


def test_a_picture_is_normalised_as_configured():
    torch.manual_seed(0)
    plain = ImageEncoder(CONFIG)
    shifted = ImageEncoder(replace(CONFIG, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4)))
    shifted.network.load_state_dict(plain.network.state_dict())
    image = torch.rand(1, 3, 28, 28)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    torch.testing.assert_close(shifted(image), plain((image - mean) / deviation))


@pytest.mark.parametrize("package", ["transformers", "accelerate", "peft"])
def test_hugging_face_packages_import_beside_our_datasets(package):
    """They probe for a package called `datasets`; in our checkout that is ours."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    uses = {
        "transformers": "import transformers; transformers.ViTModel; transformers.Dinov2WithRegistersModel",
        "accelerate": "import accelerate; accelerate.Accelerator",
        "peft": "import peft; peft.LoraConfig",
    }[package]
    code = f"import datasets, pathlib; assert pathlib.Path(datasets.__file__).parent.parent.samefile('.'); {uses}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
