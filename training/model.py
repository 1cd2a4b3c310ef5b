"""Qwen2 in plain torch: a decoder with rotary positions, grouped queries, QKV biases, SwiGLU and
tied embeddings.

Rule of this module: exactly the architecture that llama.cpp, transformers and MLX call Qwen2;
nothing that an export could not carry. It knows nothing of data or optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Config:
    """Shape of a model; sizes in units of features, heads, layers and tokens."""

    vocabulary: int = 6144
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 704
    context: int = 2048
    rope_theta: float = 10_000.0
    epsilon: float = 1e-6

    @property
    def head_size(self) -> int:
        """Features per attention head."""
        return self.hidden // self.heads


SIZES = {
    "small": Config(),
    "base": Config(
        vocabulary=6144, hidden=512, layers=9, heads=8, kv_heads=2, feed_forward=1408, context=4096
    ),
}
"""Presets: `small` for a CPU, `base` (about 29M parameters, still under 32 MB in Q8_0) for an
accelerator."""


def rotary(config: Config, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions 0 to `length` - 1, each of shape (length, head_size), in
    float32."""
    half = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
    angles = torch.outer(torch.arange(length, dtype=torch.float32), config.rope_theta**-half)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary positions to x of shape (batch, heads, length, head_size), halves rotated
    against each other."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


BLOCK = 128
"""Queries per block of `blocked_attention`."""


def blocked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention in blocks of queries, each against the keys up to its end.

    q is (batch, heads, length, head_size), k and v have fewer heads; the result has q's shape.
    Compiled for a CPU in bfloat16 it takes half the time of torch's own kernel at these sizes
    (measured on Zen 4).
    """
    batch, heads, length, size = q.shape
    groups, per_group = batch * k.shape[1], heads // k.shape[1]
    k, v, q = (
        k.reshape(groups, length, size),
        v.reshape(groups, length, size),
        q.reshape(groups, per_group, length, size),
    )
    positions = torch.arange(length, device=q.device)
    out = []
    for start in range(0, length, BLOCK):
        end = start + BLOCK
        rows = q[:, :, start:end].reshape(groups, per_group * BLOCK, size)
        scores = torch.bmm(rows, k[:, :end].transpose(1, 2)).view(groups, per_group, BLOCK, end)
        seen = positions[start:end, None] >= positions[None, :end]
        shares = torch.where(seen, scores.float() * size**-0.5, -1e9).softmax(-1).to(q.dtype)
        out.append(
            torch.bmm(shares.view(groups, per_group * BLOCK, end), v[:, :end]).view(
                groups, per_group, BLOCK, size
            )
        )
    return torch.cat(out, dim=2).view(batch, heads, length, size)


class Attention(nn.Module):
    """Causal grouped-query attention, biases on Q, K and V only."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        kv = config.kv_heads * config.head_size
        self.q = nn.Linear(config.hidden, config.hidden)
        self.k = nn.Linear(config.hidden, kv)
        self.v = nn.Linear(config.hidden, kv)
        self.o = nn.Linear(config.hidden, config.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, length, hidden) to the same shape."""
        c = self.config
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, c.heads, c.head_size).transpose(1, 2)
        k = self.k(x).view(batch, length, c.kv_heads, c.head_size).transpose(1, 2)
        v = self.v(x).view(batch, length, c.kv_heads, c.head_size).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if x.device.type == "cpu" and length % BLOCK == 0:
            y = blocked_attention(q, k, v)
        else:
            k, v = (t.repeat_interleave(c.heads // c.kv_heads, dim=1) for t in (k, v))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o(y.transpose(1, 2).reshape(batch, length, c.hidden))
        return out


class Layer(nn.Module):
    """One pre-normalised block: attention, then SwiGLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden, eps=config.epsilon)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.hidden, eps=config.epsilon)
        self.gate = nn.Linear(config.hidden, config.feed_forward, bias=False)
        self.up = nn.Linear(config.hidden, config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, length, hidden) to the same shape."""
        x = x + self.attention(self.attention_norm(x), cos, sin)
        y = self.mlp_norm(x)
        out: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return out


class Qwen2(nn.Module):
    """The whole model; logits share the embedding's matrix."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden, eps=config.epsilon)
        cos, sin = rotary(config, config.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Small normal weights; what writes to the residual stream starts at zero, so each block
        starts as identity."""
        for name, parameter in self.named_parameters():
            if name.endswith(("o.weight", "down.weight", "bias")):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(
                    parameter, std=0.02 if "embedding" in name else self.config.hidden**-0.5
                )

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (batch, length) to hidden states (batch, length, hidden) after the last norm."""
        x: Tensor = self.embedding(ids)
        length = ids.shape[1]
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states to logits over the vocabulary."""
        return functional.linear(hidden, self.embedding.weight)

    def loss(self, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted and plain mean cross entropy (nats per token) of ids (batch, length + 1), each
        given those before."""
        logits = self.logits(self(ids[:, :-1])).flatten(0, 1).float()
        each = functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        shares = weights[:, 1:].flatten()
        return (each * shares).sum() / shares.sum(), each.mean()
