"""What models are asked: those that chat get a task in words, those that complete a skeleton.

Rule: pure. The reference, its shapes and the rules of the checks go in; nothing of the user's other
files does. Must not know how a model is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lsp_server.kernels import inputs, loaders
from lsp_server.kernels.files import TITLES
from lsp_server.kernels.task import Attempt, Language, Parameter, Task

MAX_ERROR = 1500  # characters of what went wrong
MAX_TURNS = 2  # attempts that a model is shown again

Message = dict[str, str]

_SYSTEM = (
    "You write {title} kernels. Answer with one Python module in one fenced code block, and "
    "nothing else. The module defines the function {name} with the same parameters as the PyTorch "
    "function it is given, and returns a new tensor of the same shape and dtype."
)
_RULES = """\
The module is checked by a program:
- Outside the kernel it only reads shapes and dtypes, makes tensors contiguous, allocates the \
result with torch.empty, torch.empty_like or torch.zeros, and launches the kernel. No arithmetic \
on tensors, no other torch function, no try, no with, no class, no other import.
- Any size from 1 on works, also where it is no power of two and where tensors are not contiguous.
- The inputs are never changed.
- Compute in float32 and keep the dtype of the inputs: float16 and float32 both work.
"""
_SHOWN: dict[Language, str] = {
    Language.TRITON: """\
import torch
import triton
import triton.language as tl


@triton.jit
def _scale_kernel(x_ptr, out_ptr, n, factor, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offsets, x * factor, mask=mask)


def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    n = x.numel()
    _scale_kernel[(triton.cdiv(n, 1024),)](x, out, n, factor, BLOCK=1024)
    return out
""",
    Language.C: f'''\
import ctypes

import torch


{loaders.C.strip()}


SOURCE = r"""
#include <stdint.h>

void scale_kernel(const float *x, float *out, int64_t n, double factor) {{
    for (int64_t i = 0; i < n; ++i) {{
        out[i] = x[i] * (float)factor;
    }}
}}
"""

_library = _load(SOURCE)


def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    dtype = x.dtype
    x = x.to(torch.float32).contiguous()
    out = torch.empty_like(x)
    _library.scale_kernel(
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(x.numel()),
        ctypes.c_double(factor),
    )
    return out.to(dtype)
''',
    Language.NUMBA: """\
import numba
import torch


@numba.njit(error_model="numpy")
def _scale_kernel(x, out, factor):
    for i in range(x.size):
        out[i] = x[i] * factor


def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    dtype = x.dtype
    x = x.to(torch.float32).contiguous()
    out = torch.empty_like(x)
    _scale_kernel(x.reshape(-1).numpy(), out.reshape(-1).numpy(), factor)
    return out.to(dtype)
""",
    Language.CUDA: f'''\
import ctypes

import torch


{loaders.CUDA.strip()}


SOURCE = r"""
#include <stdint.h>

__global__ void scale_kernel(const float *x, float *out, int64_t n, float factor) {{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] * factor;
}}

extern "C" void scale_launch(const float *x, float *out, int64_t n, float factor) {{
    scale_kernel<<<(unsigned)((n + 255) / 256), 256>>>(x, out, n, factor);
}}
"""

_library = _load(SOURCE)


def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    dtype = x.dtype
    x = x.to(torch.float32).contiguous()
    out = torch.empty_like(x)
    _library.scale_launch(
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(x.numel()),
        ctypes.c_float(factor),
    )
    return out.to(dtype)
''',
}


def conversation(task: Task, failed: Sequence[Attempt] = ()) -> list[Message]:
    """Return what a model that chats is asked; with the last of `failed`."""
    title = TITLES[task.language]
    asked = (
        f"An example. For\n\n```python\ndef scale(x, factor):\n    return x * factor\n```\n\n"
        f"the answer is\n\n```python\n{_SHOWN[task.language]}```\n\n{_RULES}\n"
        f"Now write the {title} kernel of\n\n```python\n{task.source.strip()}\n```\n\n"
        f"It is called with {inputs.shown(task.parameters)}."
    )
    messages = [
        {"role": "system", "content": _SYSTEM.format(title=title, name=task.name)},
        {"role": "user", "content": asked},
    ]
    for attempt in failed[-MAX_TURNS:]:
        messages.append(
            {"role": "assistant", "content": f"```python\n{attempt.candidate.code.rstrip()}\n```"}
        )
        messages.append({"role": "user", "content": complaint(attempt)})
    return messages


def complaint(attempt: Attempt) -> str:
    """Say what was wrong with an attempt, for the model to mend."""
    check = attempt.evidence.failure
    if check is None:
        return "It could not be shown to be right. Write the whole module again."
    said = f"That is wrong: {check.reason[:MAX_ERROR]}"
    if check.line:
        lines = attempt.candidate.code.split("\n")
        shown = lines[check.line - 1].strip() if check.line <= len(lines) else ""
        said += f"\nIt is at line {check.line}: {shown}"
    if check.counterexample:
        said += f"\nIt fails for {check.counterexample[:MAX_ERROR]}"
    return f"{said}\nWrite the whole corrected module."


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A module with a hole: the kernel's body."""

    prefix: str
    suffix: str


def skeleton(task: Task) -> Skeleton:
    """Return what a model that completes fills in: imports, the kernel's head, and the wrapper.

    The result is taken to have the shape of the first tensor, which is so for most kernels; where
    it has not, the checks say so.
    """
    tensors = [one for one in task.parameters if one.kind == "tensor"]
    numbers = [one for one in task.parameters if one.kind != "tensor"]
    comment = "".join(f"# {line}".rstrip() + "\n" for line in task.source.strip().split("\n"))
    told = f"{comment}# Called with {inputs.shown(task.parameters)}.\n"
    if task.language is Language.TRITON:
        return _triton(task, tensors, numbers, told)
    if task.language is Language.NUMBA:
        return _numba(task, tensors, numbers, told)
    return _source(task, tensors, numbers, told)


def _signature(task: Task) -> str:
    kinds = {"tensor": "torch.Tensor"}
    parts = [f"{one.name}: {kinds.get(one.kind, one.kind)}" for one in task.parameters]
    return f"def {task.name}({', '.join(parts)}) -> torch.Tensor:"


def _triton(task: Task, tensors: list[Parameter], numbers: list[Parameter], told: str) -> Skeleton:
    pointers = [f"{one.name}_ptr" for one in tensors]
    names = [one.name for one in numbers]
    given = ", ".join([*pointers, "out_ptr", "n", "cols", *names, "BLOCK: tl.constexpr"])
    first = tensors[0].name
    passed = ", ".join([*(one.name for one in tensors), "out", "n", "cols", *names])
    by_rows = _by_rows(task)
    grid = "(n // cols,)" if by_rows else "(triton.cdiv(n, 1024),)"
    block = "triton.next_power_of_2(cols)" if by_rows else "1024"
    head = (
        "    row = tl.program_id(0)\n    offsets = tl.arange(0, BLOCK)\n    mask = offsets < cols\n"
        if by_rows
        else "    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n"
        "    mask = offsets < n\n"
    )
    prefix = (
        f"import torch\nimport triton\nimport triton.language as tl\n\n{told}\n\n@triton.jit\n"
        f"def _{task.name}_kernel({given}):\n{head}    "
    )
    lay_out = "".join(f"    {one.name} = {one.name}.contiguous()\n" for one in tensors)
    suffix = (
        f"\n\n{_signature(task)}\n{lay_out}    out = torch.empty_like({first})\n"
        f"    n = {first}.numel()\n    cols = {first}.shape[-1]\n"
        f"    _{task.name}_kernel[{grid}]({passed}, BLOCK={block})\n    return out\n"
    )
    return Skeleton(prefix, suffix)


def _numba(task: Task, tensors: list[Parameter], numbers: list[Parameter], told: str) -> Skeleton:
    names = [one.name for one in numbers]
    given = ", ".join([*(one.name for one in tensors), "out", "n", "cols", *names])
    first = tensors[0].name
    prefix = (
        f'import math\n\nimport numba\nimport torch\n\n{told}\n\n@numba.njit(error_model="numpy")\n'
        f"def _{task.name}_kernel({given}):\n    "
    )
    lay_out = "".join(
        f"    {one.name} = {one.name}.to(torch.float32).contiguous()\n" for one in tensors
    )
    passed = [f"{one.name}.reshape(-1).numpy()" for one in tensors]
    call = ", ".join([*passed, "out.reshape(-1).numpy()", "n", "cols", *names])
    suffix = (
        f"\n\n{_signature(task)}\n    dtype = {first}.dtype\n{lay_out}"
        f"    out = torch.empty_like({first})\n    n = {first}.numel()\n"
        f"    cols = {first}.shape[-1]\n    _{task.name}_kernel({call})\n    return out.to(dtype)\n"
    )
    return Skeleton(prefix, suffix)


def _source(task: Task, tensors: list[Parameter], numbers: list[Parameter], told: str) -> Skeleton:
    """C and CUDA: the hole is in the source's function."""
    cuda = task.language is Language.CUDA
    given = [
        *(f"const float *{one.name}" for one in tensors),
        "float *out",
        "int64_t n",
        "int64_t cols",
        *(f"float {one.name}" for one in numbers),
    ]
    listed = ", ".join(given)
    first = tensors[0].name
    loader = (loaders.CUDA if cuda else loaders.C).strip()
    kind = "__global__ void" if cuda else "void"
    prefix = (
        f'import ctypes\n\nimport torch\n\n\n{loader}\n\n\n{told}\nSOURCE = r"""\n'
        f"#include <math.h>\n#include <stdint.h>\n\n{kind} {task.name}_kernel({listed}) {{\n    "
    )
    names = ", ".join(
        [*(one.name for one in tensors), "out", "n", "cols"] + [o.name for o in numbers]
    )
    launcher = (
        f'\n\nextern "C" void {task.name}_launch({listed}) {{\n'
        f"    {task.name}_kernel<<<(unsigned)((n + 255) / 256), 256>>>"
        f"({names});\n}}"
        if cuda
        else ""
    )
    lay_out = "".join(
        f"    {one.name} = {one.name}.to(torch.float32).contiguous()\n" for one in tensors
    )
    passed = [
        *(f"ctypes.c_void_p({one.name}.data_ptr())" for one in tensors),
        "ctypes.c_void_p(out.data_ptr())",
        f"ctypes.c_int64({first}.numel())",
        f"ctypes.c_int64({first}.shape[-1])",
        *(f"ctypes.c_float({one.name})" for one in numbers),
    ]
    call = "".join(f"        {part},\n" for part in passed)
    called = f"{task.name}_{'launch' if cuda else 'kernel'}"
    suffix = (
        f'}}{launcher}\n"""\n\n_library = _load(SOURCE)\n\n\n{_signature(task)}\n'
        f"    dtype = {first}.dtype\n{lay_out}    out = torch.empty_like({first})\n"
        f"    _library.{called}(\n{call}    )\n    return out.to(dtype)\n"
    )
    return Skeleton(prefix, suffix)


_REDUCING = ("softmax", "norm", "sum", "mean", ".max", ".min", "amax", "var(", "std(")


def _by_rows(task: Task) -> bool:
    """A guess, for the launch: whether each program takes a row."""
    return any(word in task.source for word in _REDUCING)
