"""Each known way to look right without a kernel is refused, at its line; right kernels are not."""

from __future__ import annotations

import ast

import pytest

from lsp_server.kernels import allowlist
from lsp_server.kernels.task import Check, Result
from tests.lsp_server.kernels.golden import GOLDEN, Golden


def read(golden: Golden, code: str) -> Check:
    return allowlist.check(ast.parse(code), golden.task)


@pytest.mark.parametrize("name", GOLDEN)
def test_right_kernels_are_allowed(name: str) -> None:
    assert read(GOLDEN[name], GOLDEN[name].code).result is Result.PASSED


# What is put in place of which text of the golden kernel, part of the reason, text of the line.
CHEATS = {
    "operator": ("add", "return out", "return x + y", "arithmetic", "return x + y"),
    "in place": ("add", "return out", "out += y\n    return out", "arithmetic", "out += y"),
    "matrix product": ("matmul", "return out", "return a @ b", "`@`", "return a @ b"),
    "matrix product in place": ("matmul", "return out", "a @= b\n    return a", "`@`", "a @= b"),
    "comparison": ("relu", "return out", "return x > out", "arithmetic", "return x >"),
    "method": ("softmax", "return out", "return x.softmax(-1)", ".softmax", "return x.soft"),
    "method of a view": ("relu", "return out", "return x.view(-1).relu()", ".relu", "return x.v"),
    "method of an unknown": (
        "relu",
        "return out",
        "both = [x]\n    return both[0].relu()",
        ".relu",
        "return both",
    ),
    "function of torch": ("softmax", "return out", "return torch.softmax(x, -1)", "softmax", "ret"),
    "through another name": (
        "relu",
        "out = torch.empty_like(x)",
        "out = torch\n    out = out.relu(x)",
        "not allowed",
        "out = torch",
    ),
    "functional": ("relu", "import torch\n", "import torch.nn.functional as F\n", "import", "imp"),
    "from import": (
        "relu",
        "import torch\n",
        "from torch import relu as r\n",
        "torch.relu",
        "from",
    ),
    "compiled": (
        "relu",
        "import torch\n",
        "import torch\nf = torch.compile(abs)\n",
        "compile",
        "f =",
    ),
    "fallback": (
        "relu",
        "    return out",
        "    try:\n        return out\n    except Exception:\n        return x",
        "try/except",
        "try:",
    ),
    "monkey patch": (
        "relu",
        "import torch\n",
        "import torch\ntorch.relu = 1\n",
        "patched",
        "torch.r",
    ),
    "patched inside": (
        "relu",
        "return out",
        "torch.allclose = max\n    return out",
        "patched",
        "torch.a",
    ),
    "frames": ("relu", "import torch\n", "import torch\nimport inspect\n", "inspect", "import ins"),
    "system module": ("relu", "import torch\n", "import torch\nimport sys\n", "sys", "import sys"),
    "streams": (
        "relu",
        "return out",
        "s = torch.cuda.Stream()\n    return out",
        "cuda.Stream",
        "s = torch",
    ),
    "stream context": (
        "relu",
        "    return out",
        "    with torch.cuda.stream(None):\n        return out",
        "context",
        "with",
    ),
    "threads": (
        "relu",
        "import torch\n",
        "import torch\nimport threading\n",
        "threading",
        "import th",
    ),
    "eval": ("relu", "return out", "return eval('x.relu()')", "eval", "return eval"),
    "getattr": ("relu", "return out", "return getattr(x, 'relu')", "getattr", "return getattr"),
    "dunder": ("relu", "return out", "return x.__abs__()", "__abs__", "return x"),
    "globals": ("relu", "return out", "return globals()['x']", "globals", "return globals"),
    "sum of rows": ("relu", "return out", "return sum(x)", "sum of a tensor", "return sum"),
    "kept result": (
        "relu",
        "\n\ndef relu",
        "\n\nkept = torch.zeros(3)\n\n\ndef relu",
        "kept",
        "kept =",
    ),
    "written on the host": (
        "relu",
        "return out",
        "out[0] = 1\n    return out",
        "writing",
        "out[0]",
    ),
    "indexed by a tensor": ("relu", "return out", "return x[out]", "indexing", "return x[out]"),
    "no launch": (
        "relu",
        'relu_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, out, n)',
        "pass",
        "no kernel",
        "def relu(x)",
    ),
    "class": ("relu", "\n\ndef relu", "\n\nclass A:\n    pass\n\n\ndef relu", "a class", "class A"),
    "decorator": ("relu", "\n\ndef relu", "\n\n@torch.compile\ndef relu", "decorator", "@torch"),
    "hook of a configuration": (
        "relu",
        'key=["n"]',
        'key=["n"], pre_hook=1',
        "pre_hook",
        "@triton",
    ),
    "asked in a kernel": ("add", "x + y, mask", "x.handle + y, mask", ".handle", "tl.store"),
    "torch in a kernel": ("add", "x + y, mask", "torch.add(x, y), mask", "torch.add", "tl.store"),
    "assembly": (
        "add",
        "x + y, mask",
        "tl.inline_asm_elementwise('', '', [], 1, False, 1), mask",
        "inline_asm",
        "tl.store",
    ),
    "host code in a kernel": ("add", "x + y, mask", "add(x, y), mask", "add", "tl.store"),
    "call at load": (
        "relu",
        "import torch\n",
        "import torch\ntorch.zeros(3)\n",
        "loads",
        "torch.z",
    ),
    "default that runs": ("relu", "def relu(x)", "def relu(x, y=eval('1'))", "eval", "def relu"),
    "annotation that runs": (
        "relu",
        "def relu(x)",
        "def relu(x: eval('1'))",
        "annotation",
        "def relu",
    ),
    "name bound twice": ("relu", "out = torch.empty", "tl = torch.empty", "bound twice", "tl ="),
    "builtin replaced": (
        "relu",
        "\n\ndef relu",
        "\n\ndef len(x):\n    pass\n\n\ndef relu",
        "bound",
        "def len",
    ),
    "numpy computes": (
        "numba",
        "return out",
        "return torch.from_numpy(np.sum(x))",
        "numpy.sum",
        "ret",
    ),
    "object mode": ("numba", "@numba.njit", "@numba.jit(forceobj=True)", "forceobj", "@numba"),
    "product in a kernel": (
        "numba",
        "total += x[i, j]",
        "total += np.dot(x, x)",
        "numpy.dot",
        "tot",
    ),
    "another loader": ("c", 'cc", "-O3', 'sh", "-O3', "loader", "def _load"),
    "library of the system": ("c", "_library.scale(", "_library.system(", "source", "_library.s"),
    "any library": ("c", "_load(SOURCE)", "ctypes.CDLL(None)", "ctypes.CDLL", "_library ="),
    "process in C": ("c", "* by;", '* by; system("ls");', "system", "out[i] ="),
    "assembly in C": ("c", "* by;", '* by; __asm__("nop");', "__asm__", "out[i] ="),
    "header of the system": ("c", "<math.h>", "<unistd.h>", "unistd.h", "#include"),
    "macro that hides": ("c", "<math.h>", "<math.h>\n#define GO sys ## tem", "pasted", "#define"),
    "streams in CUDA": (
        "cuda",
        "add_kernel<<<",
        "cudaStream_t s; add_kernel<<<",
        "cudaStream_t",
        "add_k",
    ),
}


@pytest.mark.parametrize("what", CHEATS)
def test_cheat_is_refused_at_its_line(what: str) -> None:
    name, old, new, reason, line = CHEATS[what]
    golden = GOLDEN[name]
    assert old in golden.code
    code = golden.code.replace(old, new)
    found = read(golden, code)
    assert found.result is Result.FAILED
    assert reason in found.reason
    text = code.splitlines()[found.line - 1].strip()
    assert text.startswith(line) or line in text


@pytest.mark.parametrize(
    "body",
    [
        "rows, columns = x.shape[0], x.shape[-1]\n    assert rows > 0, f'{rows} rows'",
        "if x.dtype not in (torch.float32, torch.float16):\n        raise TypeError(str(x.dtype))",
        "n = math.prod(x.shape[:-1])\n    blocks = max(1, min(1024, triton.next_power_of_2(n)))",
        "x = x.reshape(-1, x.shape[-1]).transpose(0, 1).contiguous()",
        "flat = x.view(-1) if x.is_contiguous() else x.contiguous().view(-1)",
        "def grid(meta):\n        return (triton.cdiv(x.numel(), meta['BLOCK']),)",
        "with torch.cuda.device(x.device):\n        y = torch.zeros(3, device=x.device)",
        "sizes = [s * 2 for s in x.shape]\n    sizes[0] = 1",
        "warps = 4 if x.shape[-1] < 2048 else 8\n    warps *= 2",
        "if x is None or x.device.type == 'meta':\n        pass",
    ],
)
def test_ordinary_host_code_is_allowed(body: str) -> None:
    golden = GOLDEN["relu"]
    code = "import math\n" + golden.code.replace("x = x.contiguous()\n    out", f"{body}\n    out")
    found = read(golden, code)
    assert found.reason == ""


def test_names_may_come_from_modules() -> None:
    golden = GOLDEN["relu"]
    code = golden.code.replace("import triton.language as tl", "from triton import language as tl")
    code = code.replace(
        "import torch\n", "from math import ceil\nfrom torch import Tensor, empty_like\n"
    )
    code = code.replace("torch.empty_like(x)", "empty_like(x)").replace(
        "def relu(x)", "def relu(x: Tensor)"
    )
    assert read(golden, code).reason == ""


def test_deep_nesting_is_refused_not_crashed_on() -> None:
    golden = GOLDEN["relu"]
    deep = "(" * 90 + "1" + ",)" * 90
    assert read(golden, golden.code.replace("return out", f"return {deep}")).result is Result.PASSED
    tree = ast.parse(golden.code)
    node: ast.expr = ast.Constant(1)
    for _ in range(100_000):
        node = ast.UnaryOp(ast.USub(), node)
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef)
    function.body.insert(0, ast.Expr(ast.UnaryOp(ast.USub(), node)))
    assert allowlist.check(tree, golden.task).reason == "it is nested too deeply"
