"""Kernels that are right, and what is made wrong in them. Data for the verifier's tests."""

from __future__ import annotations

from dataclasses import dataclass

from lsp_server.kernels import loaders
from lsp_server.kernels.task import Candidate, Language, Level, Parameter, Task

HEAD = """\
import torch
import triton
import triton.language as tl


"""

ADD = (
    HEAD
    + """\
@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    x = tl.load(x_ptr + at, mask=mask)
    y = tl.load(y_ptr + at, mask=mask)
    tl.store(out_ptr + at, x + y, mask=mask)


def add(x, y):
    x = x.contiguous()
    y = y.contiguous()
    out = torch.empty_like(x)
    n = out.numel()
    add_kernel[(triton.cdiv(n, 256),)](x, y, out, n, BLOCK=256)
    return out
"""
)

RELU = (
    HEAD
    + """\
@triton.autotune(configs=[triton.Config({"BLOCK": 256}), triton.Config({"BLOCK": 512})], key=["n"])
@triton.jit
def relu_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr + at, tl.where(x < 0, 0.0, x), mask=at < n)


def relu(x):
    x = x.contiguous()
    out = torch.empty_like(x)
    n = x.numel()
    relu_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, out, n)
    return out
"""
)

SOFTMAX = (
    HEAD
    + """\
@triton.jit
def softmax_kernel(x_ptr, out_ptr, rows, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    x = tl.load(x_ptr + row * columns + at, mask=mask, other=-float("inf")).to(tl.float32)
    x = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + row * columns + at, x / tl.sum(x, axis=0), mask=mask)


def softmax(x):
    x = x.contiguous()
    rows, columns = x.shape
    out = torch.empty_like(x)
    softmax_kernel[(rows,)](x, out, rows, columns, BLOCK=triton.next_power_of_2(columns))
    return out
"""
)

LAYER_NORM = (
    HEAD
    + """\
@triton.jit
def norm_kernel(x_ptr, w_ptr, b_ptr, out_ptr, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    x = tl.load(x_ptr + row * columns + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / columns
    apart = tl.where(mask, x - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=0) / columns + eps)
    w = tl.load(w_ptr + at, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * columns + at, apart * scale * w + b, mask=mask)


def norm(x, w, b, eps=1e-5):
    x, w, b = x.contiguous(), w.contiguous(), b.contiguous()
    rows, columns = x.shape
    out = torch.empty_like(x)
    norm_kernel[(rows,)](x, w, b, out, columns, eps, BLOCK=triton.next_power_of_2(columns))
    return out
"""
)

MATMUL = (
    HEAD
    + """\
@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, out_ptr, M, N, K, am, ak, bk, bn,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        inner = start + tl.arange(0, BK)
        a_mask = (rows[:, None] < M) & (inner[None, :] < K)
        b_mask = (inner[:, None] < K) & (columns[None, :] < N)
        a = tl.load(a_ptr + rows[:, None] * am + inner[None, :] * ak, mask=a_mask, other=0.0)
        b = tl.load(b_ptr + inner[:, None] * bk + columns[None, :] * bn, mask=b_mask, other=0.0)
        total += tl.dot(a, b, input_precision="ieee")
    out_mask = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(out_ptr + rows[:, None] * N + columns[None, :], total, mask=out_mask)


def matmul(a, b):
    M, K = a.shape
    N = b.shape[1]
    out = torch.empty((M, N), device=a.device, dtype=a.dtype)
    grid = (triton.cdiv(M, 32), triton.cdiv(N, 32))
    matmul_kernel[grid](
        a, b, out, M, N, K, a.stride(0), a.stride(1), b.stride(0), b.stride(1),
        BM=32, BN=32, BK=32,
    )
    return out
"""
)

C_SCALE = f'''\
import ctypes

import torch


{loaders.C}

SOURCE = r"""
#include <math.h>

void scale(const float *x, float *out, long n, float by) {{
    for (long i = 0; i < n; i++) {{
        out[i] = expf(-fabsf(x[i])) * by;
    }}
}}
"""
_library = _load(SOURCE)


def scale(x, by=2.0):
    x = x.contiguous()
    out = torch.empty_like(x)
    _library.scale(
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_long(x.numel()),
        ctypes.c_float(by),
    )
    return out
'''

NUMBA_ROWS = """\
import numba
import numpy as np
import torch


@numba.njit
def rows_kernel(x, out):
    for i in range(x.shape[0]):
        total = np.float32(0.0)
        for j in range(x.shape[1]):
            total += x[i, j]
        out[i] = total


def rows(x):
    out = torch.empty(x.shape[0], dtype=x.dtype)
    rows_kernel(x.numpy(), out.numpy())
    return out
"""

CUDA_ADD = f'''\
import ctypes

import torch


{loaders.CUDA}

SOURCE = r"""
__global__ void add_kernel(const float *x, const float *y, float *out, long n) {{
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] + y[i];
}}

extern "C" void add(const float *x, const float *y, float *out, long n) {{
    add_kernel<<<(n + 255) / 256, 256>>>(x, y, out, n);
}}
"""
_library = _load(SOURCE)


def add(x, y):
    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    _library.add(
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(y.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_long(x.numel()),
    )
    return out
'''


def tensor(name: str, *shape: int | str, dtype: str = "float32") -> Parameter:
    return Parameter(name, "tensor", shape, dtype)


def task(
    name: str, body: str, *parameters: Parameter, language: Language = Language.TRITON
) -> Task:
    names = ", ".join(parameter.name for parameter in parameters)
    source = "import torch\nimport torch.nn.functional as F\n\n\n"
    return Task(name, source + f"def {name}({names}):\n    return {body}\n", parameters, language)


@dataclass(frozen=True)
class Golden:
    task: Task
    code: str

    def candidate(self, *changes: tuple[str, str]) -> Candidate:
        code = self.code
        for old, new in changes:
            assert old in code, old
            code = code.replace(old, new)
        return Candidate(code, "template:golden")


GOLDEN = {
    "add": Golden(task("add", "x + y", tensor("x", "N"), tensor("y", "N")), ADD),
    "relu": Golden(task("relu", "torch.relu(x)", tensor("x", "M", "N")), RELU),
    "softmax": Golden(task("softmax", "torch.softmax(x, -1)", tensor("x", "M", "N")), SOFTMAX),
    "norm": Golden(
        task(
            "norm",
            "F.layer_norm(x, x.shape[-1:], w, b, eps)",
            tensor("x", "M", "N"),
            tensor("w", "N"),
            tensor("b", "N"),
            Parameter("eps", "float", value=1e-5),
        ),
        LAYER_NORM,
    ),
    "matmul": Golden(task("matmul", "a @ b", tensor("a", "M", "K"), tensor("b", "K", "N")), MATMUL),
    "c": Golden(
        task(
            "scale",
            "torch.exp(-x.abs()) * by",
            tensor("x", "M", "N"),
            Parameter("by", "float", value=2.0),
            language=Language.C,
        ),
        C_SCALE,
    ),
    "numba": Golden(
        task("rows", "x.sum(1)", tensor("x", "M", "N"), language=Language.NUMBA), NUMBA_ROWS
    ),
    "cuda": Golden(
        task("add", "x + y", tensor("x", "N"), tensor("y", "N"), language=Language.CUDA), CUDA_ADD
    ),
}


@dataclass(frozen=True)
class Mutant:
    of: str
    what: str
    changes: tuple[tuple[str, str], ...]
    level: Level
    reason: str  # part of it
    line: str = ""  # text of the line that is to blame


MUTANTS = (
    Mutant(
        "add",
        "a mask one too wide",
        (("at < n", "at <= n"),),
        Level.CORRECT,
        "past the end of",
        "x = tl.load",
    ),
    Mutant(
        "add",
        "strides not looked at",
        (("x = x.contiguous()\n    ", ""),),
        Level.CORRECT,
        "values are wrong",
    ),
    Mutant(
        "relu",
        "returns its input",
        (("return out", "return x"),),
        Level.CORRECT,
        "it returns x itself",
    ),
    Mutant("relu", "writes to its input", (("(x, out, n)", "(x, x, n)"),), Level.CORRECT, ""),
    Mutant(
        "softmax",
        "the wrong axis",
        (("row * columns + at", "row + at * rows"),),
        Level.CORRECT,
        "values are wrong",
    ),
    Mutant(
        "softmax", "lanes beyond the row", ((', other=-float("inf")', ""),), Level.CORRECT, "nan"
    ),
    Mutant(
        "softmax",
        "rows longer than the block",
        (("BLOCK=triton.next_power_of_2(columns)", "BLOCK=1024"),),
        Level.CORRECT,
        "N = 1025",
    ),
    Mutant(
        "norm",
        "a number that is ignored",
        (("/ columns + eps", "/ columns + 1e-5"),),
        Level.ROBUST,
        "",
    ),
    Mutant(
        "norm",
        "no word that Triton knows",
        (("tl.sqrt(", "tl.root("),),
        Level.ALLOWED,
        "language.root",
    ),
    Mutant(
        "matmul",
        "no boundary within",
        ((" & (inner[None, :] < K)", ""), ("(inner[:, None] < K) & ", "")),
        Level.CORRECT,
        "past the end of",
        "a = tl.load",
    ),
    Mutant(
        "matmul",
        "a size that is no constant",
        (("tl.zeros((BM, BN)", "tl.zeros((BM, N)"),),
        Level.COMPILES,
        "Shape element 1 must have type",
        "total = tl.zeros",
    ),
    Mutant(
        "matmul",
        "calls torch",
        (("return out", "return torch.matmul(a, b)"),),
        Level.ALLOWED,
        "torch.matmul",
        "return torch.matmul",
    ),
    Mutant(
        "c",
        "one element too many",
        (("i < n", "i <= n"),),
        Level.CORRECT,
        "heap-buffer-overflow",
        "out[i] =",
    ),
    Mutant(
        "c",
        "a warning",
        (("for (long i = 0", "int k; for (long i = 0"),),
        Level.COMPILES,
        "unused variable",
        "int k",
    ),
    Mutant(
        "c",
        "calls the system",
        (
            ("#include <math.h>", "#include <math.h>\nint getpid(void);"),
            ("* by;", "* by + getpid();"),
        ),
        Level.COMPILES,
        "getpid",
    ),
    Mutant("numba", "the wrong index", (("x[i, j]", "x[i, j + 1]"),), Level.CORRECT, "IndexError"),
    Mutant(
        "numba",
        "a type that cannot be",
        (("out[i] = total", 'out[i] = "total"'),),
        Level.COMPILES,
        "",
    ),
    Mutant(
        "cuda",
        "no semicolon",
        (("out[i] = x[i] + y[i];", "out[i] = x[i] + y[i]"),),
        Level.COMPILES,
        "expected",
        "}",
    ),
)
