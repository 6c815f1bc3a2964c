"""The fused kernels: in Triton's interpreter against a plain twin, compiled for a GPU that need not be here, and on one that is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model import fused
from model.triplane import FieldConfig, TriplaneConfig, TriplaneField
from tests.conftest import ROOT
from tests.model.fused_agreement import CASES, errors, renderer_difference
from turntable.errors import UserError

# float32 sums of at most six samples, each at most a few units large: some ulps of 1.
SUMS = 2e-6
# Gradients, relative to their norm, are sums over hundreds of samples through up to four layers; a wrong term is a per cent.
GRADIENTS = 5e-5


# The kernels end a ray where a 1e-4 of its light is left; the plain path moreover drops samples of little weight.
RENDERER = 3e-4


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    pytest.importorskip("triton", reason="needs triton, whose builds are for Linux")
    command = [sys.executable, "-W", "ignore", "-m", "tests.model.fused_agreement"]
    found = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_plain_twin_in_values_and_gradients(
    interpreted: dict[str, dict[str, float]], name: str
) -> None:
    found = interpreted[name]
    assert found["mean opacity"] > 0.2  # rays that see nothing would agree
    assert found["sums"] < SUMS and found["gradients"] < GRADIENTS


def test_the_renderer_gives_the_same_by_either_path(interpreted: dict[str, Any]) -> None:
    assert interpreted["renderer"] < RENDERER


def test_the_trial_before_the_first_use_finds_nothing_wrong(interpreted: dict[str, Any]) -> None:
    assert interpreted["fault"] is None


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_agrees_on_a_gpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = errors(CASES[name], "cuda")
    assert found["sums"] < SUMS and found["gradients"] < GRADIENTS
    assert renderer_difference("cuda") < RENDERER


@pytest.mark.parametrize("kernel", ["march", "march_backward"])
def test_compiles_for_a_gpu(kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes much that the compiler does not: other types a turn of a loop, blocks that are no powers of two."""
    pytest.importorskip("triton", reason="needs triton, whose builds are for Linux")
    from benchmarks.kernel_speed import compiled

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    field = TriplaneField(FieldConfig("split", 16, 1, 2), TriplaneConfig(channels=4))
    assert compiled(field, kernel, architecture=80, grid=True).registers > 0


def refusal(width: int = 32, **changes: Any) -> str | None:
    field = TriplaneField(FieldConfig(width=width), TriplaneConfig(channels=4))
    rays = torch.zeros(1, 2, 3, requires_grad=changes.pop("rays_need_gradients", False))
    planes = torch.zeros(1, 3, 4, 4, 4, **changes)
    return fused.why_not(field, planes, rays, rays)


def test_says_what_it_cannot_render() -> None:
    pytest.importorskip("triton", reason="needs triton, whose builds are for Linux")
    assert "48" in (refusal(width=48) or "")
    assert "float64" in (refusal(dtype=torch.float64) or "")
    assert "gradients of rays" in (refusal(rays_need_gradients=True) or "")
    assert "on cpu" in (refusal() or "")
    assert refusal(device="meta") == "the kernels run on CUDA devices, and the planes are on meta"
    torch.use_deterministic_algorithms(True)
    try:
        assert "any order" in (refusal(requires_grad=True) or "")
    finally:
        torch.use_deterministic_algorithms(False)
    rays = torch.zeros(1, 2, 3)
    assert "Tensor" in (fused.why_not(rays, rays, rays, rays) or "")


def test_refuses_rather_than_render_otherwise() -> None:
    field = TriplaneField(FieldConfig(), TriplaneConfig(channels=4))
    table, rays = field.project(torch.zeros(1, 3, 4, 4, 4)), torch.zeros(1, 2, 3)
    with pytest.raises(UserError, match="plain path"):
        fused.march(field, table, rays, rays, torch.zeros(1, 2, 4), torch.zeros(1, 2, 1))
