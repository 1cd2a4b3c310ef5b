"""PyTorch functions as people write them, and what the templates are expected to make of each.

`ROWS`: name → (source, shapes, languages that a template carries). No language: it is refused, and
`why` is a part of the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = """\
import math
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

"""

ALL = "triton c numba cuda"
LOOPS = "c numba cuda"
PRODUCTS = "triton c numba"


@dataclass(frozen=True)
class Row:
    source: str
    shapes: str = ""
    languages: str = ALL
    why: str = ""  # of the refusal, where there is one
    name: str = ""

    @property
    def text(self) -> str:
        return HEAD + self.source


ROWS: dict[str, Row] = {
    # elementwise
    "add": Row("def add(x: Tensor, y: Tensor) -> Tensor:\n    return x + y\n"),
    "axpy": Row(
        "def axpy(alpha: float, x: torch.Tensor, y: torch.Tensor):\n    return alpha * x + y\n",
        "x: (N,), y: (N,), alpha: 0.75",
    ),
    "gelu": Row("def gelu(x: Tensor):\n    # x: (N, 4, D)\n    return F.gelu(x)\n"),
    "gelu_tanh": Row(
        """
def gelu_tanh(x):
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))
"""
    ),
    "silu": Row("def silu(x: Tensor) -> Tensor:\n    return x * torch.sigmoid(x)\n"),
    "swiglu": Row(
        "def swiglu(gate: Tensor, up: Tensor) -> Tensor:\n    return F.silu(gate) * up\n",
        "gate: (B, D) float16, up: (B, D) float16",
    ),
    "geglu": Row("def geglu(a: Tensor, b: Tensor):\n    return nn.functional.gelu(a) * b\n"),
    "clamp": Row(
        "def clamp(x: Tensor, lo: float, hi: float):\n    return x.clamp(min=lo, max=hi)\n"
    ),
    "relu_squared": Row("def relu_squared(x: Tensor):\n    return F.relu(x) ** 2\n"),
    "leaky": Row(
        "def leaky(x: Tensor, slope: float = 0.01):\n    return torch.where(x > 0, x, slope * x)\n"
    ),
    "mish": Row("def mish(x: Tensor):\n    return x * torch.tanh(F.softplus(x))\n"),
    "hardswish": Row("def hardswish(x: Tensor):\n    return x * F.relu6(x + 3) / 6\n"),
    "elu": Row("def elu(x: Tensor, alpha: float = 1.0):\n    return F.elu(x, alpha=alpha)\n"),
    "masked": Row(
        "def masked(x: Tensor, mask: Tensor, value: float = -1e4):\n"
        "    return x.masked_fill(mask, value)\n",
        "x: (N, D), mask: (N, D) bool",
    ),
    "bias_gelu": Row(
        "def bias_gelu(x: Tensor, bias: Tensor):\n"
        "    return F.gelu(x + bias, approximate='tanh')\n",
        "x: (N, D), bias: (D,)",
    ),
    "scale_shift": Row(
        """
def scale_shift(x: Tensor, scale: Tensor, shift: Tensor):
    # x: (B, T, D)
    # scale: (B, D)
    # shift: (B, D)
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
""",
        languages="",
        why="in its middle",
    ),
    "modulate": Row(
        """
def modulate(x: Tensor, scale: Tensor, shift: Tensor):
    # x: (B, D)
    # scale: (B, 1)
    # shift: (B,)
    return x * (1 + scale) + shift[:, None]
"""
    ),
    "channel_bias": Row(
        "def channel_bias(x: Tensor, bias: Tensor):\n"
        "    return torch.relu(x + bias[:, None, None])\n",
        "x: (B, C, H, W), bias: (C,)",
    ),
    "branching": Row(
        """
ACTIVATION = "silu"

def _activate(x):
    if ACTIVATION == "silu":
        return F.silu(x)
    return F.relu(x)

def branching(x: Tensor, bias: Optional[Tensor] = None):
    if bias is not None:
        x = x + bias
    return _activate(x)
""",
        "x: (N, D), bias: (D,)",
    ),
    "is_small": Row("def is_small(x: Tensor, eps: float = 0.5):\n    return x.abs() < eps\n"),
    "power": Row(
        "def power(x: Tensor, p: float = 1.7):\n    return x.abs() ** p\n",
        languages=LOOPS,
        why="pow",
    ),
    # rows
    "row_sum": Row("def row_sum(x: Tensor):\n    return x.sum(dim=-1)\n"),
    "row_mean": Row("def row_mean(x: Tensor):\n    return x.mean(1, keepdim=True)\n"),
    "row_max": Row("def row_max(x: Tensor):\n    return x.max(dim=-1).values\n"),
    "column_sum": Row("def column_sum(x: Tensor):\n    return x.sum(0)\n"),
    "row_prod": Row(
        "def row_prod(x: Tensor):\n    return x.prod(-1)\n", languages=LOOPS, why="prod"
    ),
    "softmax": Row(
        """
def softmax(x: Tensor, dim: int = -1) -> Tensor:
    x_max = x.max(dim=dim, keepdim=True)[0]
    e = torch.exp(x - x_max)
    return e / e.sum(dim=dim, keepdim=True)
"""
    ),
    "f_softmax": Row(
        "def f_softmax(x: Tensor):\n    return F.softmax(x / math.sqrt(x.shape[-1]), dim=-1)\n"
    ),
    "softmax_channels": Row(
        "def softmax_channels(x: Tensor):\n    return x.softmax(dim=1)\n", "x: (B, C, H)"
    ),
    "log_softmax": Row("def log_softmax(x: Tensor):\n    return F.log_softmax(x, dim=-1)\n"),
    "logsumexp": Row("def logsumexp(x: Tensor):\n    return torch.logsumexp(x, dim=-1)\n"),
    "layer_norm": Row(
        """
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5):
    mean = x.mean(-1, keepdim=True)
    var = x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias
""",
        "x: (N, D), weight: (D,), bias: (D,)",
    ),
    "f_layer_norm": Row(
        "def f_layer_norm(x: Tensor, w: Tensor, b: Tensor):\n"
        "    return F.layer_norm(x, (x.shape[-1],), w, b)\n",
        "x: (B, T, D), w: (D,), b: (D,)",
    ),
    "rms_norm": Row(
        """
class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        # x: (N, dim) float16
        variance = x.float().pow(2).mean(-1, keepdim=True)
        return (x.float() * torch.rsqrt(variance + self.eps)).to(x.dtype) * self.weight
""",
        name="RMSNorm",
        languages="triton",
        why="half precision on the way",
    ),
    "add_rms_norm": Row(
        """
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6):
    h = x + residual
    return h * torch.rsqrt((h * h).mean(dim=-1, keepdim=True) + eps) * weight
""",
        "x: (N, D), residual: (N, D), weight: (D,)",
    ),
    "l2_normalize": Row("def l2_normalize(x: Tensor):\n    return F.normalize(x, dim=-1)\n"),
    "cosine": Row(
        "def cosine(a: Tensor, b: Tensor):\n    return F.cosine_similarity(a, b, dim=-1)\n"
    ),
    "standardize": Row(
        "def standardize(x: Tensor):\n"
        "    return (x - x.mean(dim=-1, keepdim=True)) / (x.std(dim=-1, keepdim=True) + 1e-6)\n",
        "x: (N, 33)",
    ),
    # everything to one number
    "total": Row("def total(x: Tensor):\n    return x.sum()\n"),
    "mse": Row("def mse(x: Tensor, y: Tensor):\n    return ((x - y) ** 2).mean()\n"),
    "huber": Row("def huber(x: Tensor, y: Tensor):\n    return F.smooth_l1_loss(x, y)\n"),
    "frobenius": Row("def frobenius(x: Tensor):\n    return torch.sqrt((x * x).sum())\n"),
    "largest": Row("def largest(x: Tensor):\n    return x.abs().max()\n"),
    # products
    "matmul": Row("def matmul(a: Tensor, b: Tensor):\n    return a @ b\n", languages=PRODUCTS),
    "linear_relu": Row(
        "def linear_relu(x: Tensor, w: Tensor, b: Tensor):\n    return F.relu(F.linear(x, w, b))\n",
        languages=PRODUCTS,
    ),
    "addmm_gelu": Row(
        "def addmm_gelu(bias: Tensor, x: Tensor, w: Tensor):\n"
        "    return F.gelu(torch.addmm(bias, x, w))\n",
        "bias: (N,), x: (M, K), w: (K, N)",
        languages=PRODUCTS,
    ),
    "mlp_residual": Row(
        "def mlp_residual(x: Tensor, w: Tensor, skip: Tensor):\n    return x @ w.T + skip\n",
        "x: (B, T, K), w: (N, K), skip: (B, T, N)",
        languages=PRODUCTS,
    ),
    # refused
    "attention": Row(
        """
def attention(q: Tensor, k: Tensor, v: Tensor):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v
""",
        "q: (T, D), k: (S, D), v: (S, D)",
        languages="",
        why="product",
    ),
    "cumulative": Row(
        "def cumulative(x: Tensor):\n    return x.cumsum(-1)\n", languages="", why="cumsum"
    ),
    "gather": Row(
        "def gather(x: Tensor, index: Tensor):\n    return x.gather(1, index)\n",
        "x: (N, D), index: (N, D) int64",
        languages="",
        why="int64",
    ),
    "data_dependent": Row(
        "def data_dependent(x: Tensor):\n    if x.sum() > 0:\n        return x * 2\n    return x\n",
        languages="",
        why="branches",
    ),
    "loop": Row(
        """
def loop(x: Tensor):
    for _ in range(3):
        x = torch.tanh(x)
    return x
""",
        languages="",
        why="'for'",
    ),
    "conv": Row(
        "def conv(x: Tensor, w: Tensor):\n    return F.conv2d(x, w)\n",
        "x: (1, 3, 8, 8), w: (4, 3, 3, 3)",
        languages="",
        why="conv2d",
    ),
    "two_results": Row(
        "def two_results(x: Tensor):\n    return x.sin(), x.cos()\n", languages="", why="one tensor"
    ),
    "copy_only": Row(
        "def copy_only(x: Tensor):\n    return x.t()\n", languages="", why="moves data"
    ),
}
