"""What moves the weights: AdamW's groups, which gradients are trusted, and the average of the weights over the last steps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.lrm import LRM
from train.schedule import Progress
from turntable.errors import UserError

Frozen = Literal["none", "encoder", "encoder-decoder"]


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights are moved."""

    learning_rate: float | None = None
    """Peak learning rate; left out: the model size's recipe."""
    weight_decay: float = 0.05
    """AdamW's, on weight matrices only."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    explode: float = 20.0
    """A step whose gradient's norm is so many times what is typical of late is skipped, as one that is not finite is; 0: none is."""
    average: float = 0.0
    """Decay a step of the exponential moving average of the weights, which is then what the run's model is; 0: none is kept.
    0.999 looks back over about a thousand steps."""
    freeze: Frozen = "none"
    """Parts that stay as they are: the image encoder; or all but the triplane's own parts (upsampler and field)."""
    layer_decay: float = 1.0
    """The learning rate of each layer, from the field back to the encoder's first, is so many times the next one's; 1: all alike."""
    lora: int = 0
    """Rank of low-rank adapters of encoder and decoder, which are trained in place of their weights, see `train.lora`; 0: none.
    4 to 32 are usual, which leaves a few per cent of the weights to be trained."""
    lora_scale: float = 1.0
    """How much the adapters' product counts beside a layer's own weight (alpha over rank)."""

    def __post_init__(self) -> None:
        if (
            not self.clip > 0
            or not self.weight_decay >= 0
            or (self.learning_rate is not None and self.learning_rate <= 0)
        ):
            raise ValueError(
                f"clip and learning_rate must be positive, weight_decay at least 0, got {self.clip}, {self.learning_rate},"
                f" {self.weight_decay}"
            )
        if self.explode and not self.explode > 1:
            raise ValueError(f"explode must be above 1, or 0 for never, got {self.explode}")
        if not 0 <= self.average < 1 or not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"average must lie in [0, 1), layer_decay in (0, 1], got {self.average} and {self.layer_decay}"
            )
        if self.lora < 0 or not self.lora_scale > 0:
            raise ValueError(f"lora ≥ 0 and lora_scale > 0, got {self.lora} and {self.lora_scale}")
        if self.lora and self.freeze == "encoder-decoder":
            raise ValueError(
                "--lora adapts the encoder and decoder that --freeze encoder-decoder leaves as they are; choose one"
            )


def freeze(lrm: LRM, frozen: Frozen) -> None:
    """Takes the gradient from the named parts."""
    parts: list[nn.Module] = [] if frozen == "none" else [lrm.encoder]
    if parts and lrm.pyramid is not None:
        parts.append(lrm.pyramid)
    if frozen == "encoder-decoder":
        parts.append(lrm.decoder)
    for part in parts:
        part.requires_grad_(False)


def adamw(
    lrm: LRM,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    layer_decay: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with decay on weight matrices only: not on biases, norms and position tokens.

    A group's `share` is what its learning rate is of the schedule's, see `OptimiserConfig.layer_decay`.
    """
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in lrm.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim >= 2 and not _is_position(name)
            # Without layer decay there are two groups, not two a layer.
            above = layers_above(name, lrm) if layer_decay < 1 else 0
            groups.setdefault((above, decayed), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0, "share": layer_decay**above}
        for (above, decayed), parameters in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]
    if not settings:
        raise UserError(
            "every part of the model is frozen; there is nothing to train: --freeze encoder leaves the decoder"
        )
    return torch.optim.AdamW(settings, lr=learning_rate, betas=betas, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """The schedule's learning rate, each group its share."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["share"]


def _is_position(name: str) -> bool:
    return any(word in name for word in ("position", "pos_embed", "cls_token", "register_tokens", ".tokens"))


def layers_above(name: str, lrm: LRM) -> int:
    """How many layers lie between a parameter and the field: 0 for field and upsampler, then the decoder's blocks, the encoder's."""
    decoder, encoder = len(lrm.decoder.blocks), len(lrm.encoder.blocks)
    block = re.match(r"(encoder|decoder)\.blocks\.(\d+)\.", name)
    if block is None:
        if name.startswith(("decoder.norm", "field.", "upsampler.", "detail.")):
            return 0
        if name.startswith(("decoder.", "encoder.norm")):
            return decoder + 1
        return decoder + encoder + 2
    number = int(block[2])
    return decoder - number if block[1] == "decoder" else decoder + 1 + encoder - number


class GradientGuard:
    """Whether a gradient is to be believed: it is finite, and not far larger than those before it (as LVSM's training does).

    What is typical is a moving average of the norm's logarithm, kept in `Progress`, so that a resumed run judges alike.
    """

    SETTLING = 100
    """Steps before anything counts as an explosion; the norm's first moves are large."""
    MEMORY = 0.98
    """Decay a step of the moving average."""

    def __init__(self, explode: float) -> None:
        self.explode = explode

    def trusts(self, norm: float, progress: Progress) -> bool:
        """Judges a gradient's norm, and learns from it when it is finite."""
        if not math.isfinite(norm):
            return False
        logarithm = math.log(max(norm, 1e-12))
        exploded = bool(
            self.explode
            and progress.step >= self.SETTLING
            and logarithm > progress.typical_log_norm + math.log(self.explode)
        )
        # An explosion moves what is typical too, but by no more than one that is barely borne: if norms stay up, they become typical.
        seen = min(logarithm, progress.typical_log_norm + math.log(self.explode)) if exploded else logarithm
        memory = min(self.MEMORY, progress.step / (progress.step + 1))
        progress.typical_log_norm = memory * progress.typical_log_norm + (1 - memory) * seen
        return not exploded


class Average:
    """Exponential moving average of a model's trained parameters (Polyak & Juditsky 1992), in float32.

    It follows fast at first: after n steps the decay is at most (1 + n) / (10 + n).
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone().float() for name, value in parameters if value.requires_grad}

    @torch.no_grad()
    def follow(self, parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
        """Takes the parameters after optimiser step `step` in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in parameters:
            if name in self.values:
                self.values[name].lerp_(value.detach().float(), 1 - decay)
