"""Low-rank adapters (LoRA, Hu et al. 2022) by the library peft: fine-tuning that leaves encoder and decoder as they are.

Each linear layer of the attentions and MLPs keeps its weight W and learns two narrow matrices beside it: what it computes with is
W + scale · B A. Nothing else of encoder and decoder moves. Upsampler and field are trained as they are: every plane and
every point goes through them, and they are too small (at most a few hundred thousand weights) for a low rank to spare anything.

The files that a run writes for use hold W + scale · B A as one matrix, an ordinary model that opens without peft. That sum cannot be
taken apart exactly, so a checkpoint also holds W, A and B by themselves, in `adapters.safetensors`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoints import write_tensors
from model.conversion import misfits
from model.lrm import LRM
from model.tensors import CheckpointError, read_tensors
from turntable.errors import UserError

FILE_NAME = "adapters.safetensors"
_ADAPTER = "default"
"""What peft calls an adapter that was given no name."""
_AVERAGE = "average/"
"""Before the names of the moving average's tensors in the file."""


def adapt(lrm: LRM, rank: int, scale: float, seed: int) -> None:
    """Gives encoder and decoder adapters of that rank, and fixes all else of them. A part that is frozen stays as it is.

    The model computes what it did: B begins at 0.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(f"--lora needs the package peft: pip install -e .[train] ({error})") from error
    with torch.random.fork_rng():  # peft draws A from the global generator
        torch.manual_seed(seed)
        for part in (lrm.encoder, lrm.decoder):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                continue
            part.requires_grad_(False)
            targets = "|".join(re.escape(name) for name in linear_layers(part.blocks))
            config = LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=targets)  # type: ignore[arg-type]
            inject_adapter_in_model(config, part.blocks)


def linear_layers(blocks: nn.Module) -> list[str]:
    """Names of the linear layers of attentions and MLPs. Those by which the camera shifts and scales norms are not among them."""
    return [
        name
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(".modulation")
    ]


def adapted_layers(lrm: LRM) -> dict[str, float]:
    """Name of each layer that has an adapter -> its scale; none where `adapt` was not called."""
    return {name: module.scaling[_ADAPTER] for name, module in lrm.named_modules() if hasattr(module, "lora_A")}


def merged(lrm: LRM, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of `lrm`'s state -> by those of a model without adapters, which computes the same."""
    found = dict(tensors)
    for layer, scale in adapted_layers(lrm).items():
        down, up = (found.pop(f"{layer}.lora_{matrix}.{_ADAPTER}.weight") for matrix in "AB")
        found[f"{layer}.weight"] = found.pop(f"{layer}.base_layer.weight") + scale * (up @ down)
        if f"{layer}.base_layer.bias" in found:
            found[f"{layer}.bias"] = found.pop(f"{layer}.base_layer.bias")
    return found


def write(folder: Path, lrm: LRM, weights: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> None:
    """Keeps what `merged` adds up, of the weights and of their moving average (empty: none is kept), in a checkpoint's folder."""
    apart = _apart(lrm, weights) | {_AVERAGE + name: tensor for name, tensor in _apart(lrm, average).items()}
    write_tensors(folder / FILE_NAME, apart)


def read(folder: Path, lrm: LRM, average: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `write` kept: of the weights, and of their average. Anything else in the file is a CheckpointError."""
    if not adapted_layers(lrm):
        return {}, {}
    file = folder / FILE_NAME
    if not file.is_file():
        raise CheckpointError(f"{folder}: holds no {FILE_NAME}; the run was begun without --lora, continue it without")
    tensors, _ = read_tensors(file)
    expected = _apart(lrm, lrm.state_dict())
    averaged = {_AVERAGE + name: tensor for name, tensor in _apart(lrm, average).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in (expected | averaged).items()}
    wrong = misfits({name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes, set())
    wrong += [f"{name} is not finite" for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise CheckpointError(
            f"{file}: does not fit the run's adapters: {'; '.join(wrong[:5])}; give the run's own --lora and --average, or begin"
            " again from the checkpoint's model with --init"
        )
    return (
        {name: tensors[name] for name in expected},
        {name.removeprefix(_AVERAGE): tensors[name] for name in averaged},
    )


def _apart(lrm: LRM, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the adapted layers."""
    layers = adapted_layers(lrm)
    inside = re.compile(r"\.(base_layer|lora_[AB])\.")
    return {name: tensor for name, tensor in tensors.items() if inside.split(name)[0] in layers}
