"""Greedy decoding of our torch model with a cache of keys and values, one sequence at a time.

Rule of this module: same numbers as `Qwen2.forward`, one token at a time; for evaluation only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.model import Layer, Qwen2, rotate


class Decoder:
    """Feeds tokens to a model and gives the logits after the last one, of shape (vocabulary,)."""

    def __init__(self, model: Qwen2) -> None:
        self._model = model
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def start(self, ids: list[int]) -> Tensor:
        """Forgets everything and reads a prompt."""
        self._keys, self._values = [], []
        return self._feed(ids)

    def step(self, token: int) -> Tensor:
        """Reads one more token."""
        return self._feed([token])

    @torch.inference_mode()
    def _feed(self, ids: list[int]) -> Tensor:
        model = self._model
        x = model.embedding(torch.tensor([ids]))
        done = self._keys[0].shape[2] if self._keys else 0
        cos, sin = model.cos[done : done + len(ids)], model.sin[done : done + len(ids)]
        for index, layer in enumerate(model.layers):
            assert isinstance(layer, Layer)
            x = x + self._attend(index, layer, layer.attention_norm(x), cos, sin)
            y = layer.mlp_norm(x)
            x = x + layer.down(functional.silu(layer.gate(y)) * layer.up(y))
        return model.logits(model.norm(x[0, -1]))

    def _attend(self, index: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attention, c = layer.attention, self._model.config
        length = x.shape[1]
        q = rotate(attention.q(x).view(1, length, c.heads, c.head_size).transpose(1, 2), cos, sin)
        k = rotate(
            attention.k(x).view(1, length, c.kv_heads, c.head_size).transpose(1, 2), cos, sin
        )
        v = attention.v(x).view(1, length, c.kv_heads, c.head_size).transpose(1, 2)
        if index < len(self._keys):
            k, v = torch.cat((self._keys[index], k), 2), torch.cat((self._values[index], v), 2)
            self._keys[index], self._values[index] = k, v
        else:
            self._keys.append(k)
            self._values.append(v)
        group = c.heads // c.kv_heads
        y = functional.scaled_dot_product_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=length > 1
        )
        out: Tensor = attention.o(y.transpose(1, 2).reshape(1, length, c.hidden))
        return out
