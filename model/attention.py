"""Multi-head attention, the gated layer, and how a block is run: what encoder and decoder share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, 3.2.2); keys and values come from `context`."""

    def __init__(
        self, width: int, context_width: int, heads: int, bias: bool = False, out_bias: bool | None = None
    ) -> None:
        """`bias` is of queries, keys and values, `out_bias` of what mixes the heads; None: as `bias`."""
        super().__init__()
        self.heads = heads
        self.to_query = nn.Linear(width, width, bias=bias)
        self.to_key_value = nn.Linear(context_width, 2 * width, bias=bias)
        self.to_out = nn.Linear(width, width, bias=bias if out_bias is None else out_bias)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens (B, T, W), context (B, K, E) -> (B, T, W)."""
        query = self._split(self.to_query(tokens))
        key, value = (self._split(part) for part in self.to_key_value(context).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, T, W) -> (B, heads, T, W / heads)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class GatedLinear(nn.Module):
    """A linear layer times the GELU of another: GEGLU (Shazeer 2020, "GLU variants improve transformer")."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value_and_gate = nn.Linear(inputs, 2 * outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T, outputs)."""
        value, gate = self.value_and_gate(tokens).chunk(2, dim=-1)
        return value * F.gelu(gate)


def run_block(block: nn.Module, recompute: bool, *inputs: Any) -> Tensor:
    """`block(*inputs)`; with `recompute` and gradients, what it computes on the way is not kept but computed again when it is
    needed (Chen et al. 2016, "Training deep nets with sublinear memory cost")."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
