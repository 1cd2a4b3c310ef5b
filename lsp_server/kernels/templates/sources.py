"""Modules of C, Numba and CUDA kernels: source, loader and wrapper around the loops.

Rule: a plan in, a module's text out; the loader is the one that the checks know.
"""

from __future__ import annotations

from collections.abc import Sequence

from lsp_server.kernels import loaders
from lsp_server.kernels.templates.host import Host
from lsp_server.kernels.templates.ir import NoTemplateError
from lsp_server.kernels.templates.loops import NUMBA_GRAMMAR, Loops, grammar_c, grammar_cuda
from lsp_server.kernels.templates.plan import Way
from lsp_server.kernels.templates.spelling import NUMBA, c_spelling

THREADS = 256  # of a CUDA block


def _wrapper(host: Host, language: str, lines: Sequence[str]) -> str:
    told = f'    """`{host.task.name}`, computed by a {language} kernel."""'
    body = [*host.guards(), *lines]
    return "\n".join([host.signature(), told, *(f"    {line}" for line in body)])


def _imports(wrapper: str, *others: str) -> str:
    math = "import math\n" * ("math." in wrapper)
    return math + "\n".join(others)


def _parameters(host: Host, loops: Loops, real: str, flag: str) -> list[str]:
    """What a C or CUDA kernel is given, its numbers aside; `real` and `flag` are its types."""
    kinds = {one.name: flag if one.dtype == "bool" else real for one in host.tensors}
    return [
        *(f"const {kind} *{name}_ptr" for name, kind in kinds.items()),
        f"{flag if host.is_flag else real} *out",
        *(f"int64_t {name}" for name in loops.counts()),
    ]


def _call(host: Host, loops: Loops, function: str, number: str) -> list[str]:
    """Write the call through ctypes; `number` is its type for numbers."""
    passed = [
        *(f"ctypes.c_void_p({one.name}.data_ptr())" for one in host.tensors),
        "ctypes.c_void_p(out.data_ptr())",
        *(f"ctypes.c_int64({size})" for size in loops.counts()),
        *(f"{number}({name})" for name in host.numbers.values()),
    ]
    return [f"_library.{function}(", *(f"    {part}," for part in passed), ")"]


def _module(loader: str, source: str, wrapper: str) -> str:
    """Put a module together whose source is compiled when it is loaded."""
    head = "#include <math.h>\n#include <stdint.h>"
    return "\n\n\n".join(
        [
            _imports(wrapper, "import ctypes\n", "import torch"),
            loader.strip(),
            f'SOURCE = r"""\n{head}\n\n{source}\n"""\n\n_library = _load(SOURCE)',
            wrapper + "\n",
        ]
    )


def write_c(host: Host) -> str:
    """Return a module with C in it. Raises NoTemplateError."""
    kind = "float64" if host.double else "float32"
    real = "double" if host.double else "float"
    spelling = c_spelling(double=host.double)
    loops = Loops(host, spelling, grammar_c(real), threads=False)
    body = loops.lines()
    parameters = [
        *_parameters(host, loops, real, "uint8_t"),
        *(f"double {name}_given" for name in host.numbers.values()),
    ]
    numbers = [f"const {real} {name} = {name}_given;" for name in host.numbers.values()]
    name = host.task.name
    source = _source(f"void {name}_kernel(", parameters, [*numbers, *body])
    lines = [
        *loops.launch(kind, flat=False),
        *_call(host, loops, f"{name}_kernel", "ctypes.c_double"),
        loops.finish(),
    ]
    return _module(loaders.C, source, _wrapper(host, "C", lines))


def _source(opening: str, parameters: Sequence[str], body: Sequence[str]) -> str:
    listed = ",\n".join(f"    {part}" for part in parameters)
    return f"{opening}\n{listed}\n) {{\n" + "\n".join(f"    {line}" for line in body) + "\n}"


def write_numba(host: Host) -> str:
    """Return a module with a Numba kernel. Raises NoTemplateError."""
    kind = "float64" if host.double else "float32"
    loops = Loops(host, NUMBA, NUMBA_GRAMMAR, threads=False)
    body = loops.lines()
    name = host.task.name
    numbers = list(host.numbers.values())
    parameters = [
        *(f"{one.name}_ptr" for one in host.tensors),
        "out",
        *loops.counts(),
        *numbers,
    ]
    kernel = "\n".join(
        [
            '@numba.njit(error_model="numpy")',
            f"def _{name}_kernel({', '.join(parameters)}):",
            *(f"    {line}" for line in body),
        ]
    )
    call = [
        *(f"{one.name}.numpy()" for one in host.tensors),
        "out.reshape(-1).numpy()",
        *loops.counts(),
        *numbers,
    ]
    lines = [
        *loops.launch(kind, flat=True),
        f"_{name}_kernel({', '.join(call)})",
        loops.finish(),
    ]
    wrapper = _wrapper(host, "Numba", lines)
    numpy = ["import numpy as np"] if "np." in kernel else []
    head = _imports(
        kernel + wrapper,
        *([""] if "math." in kernel + wrapper else []),
        "import numba",
        *numpy,
        "import torch",
    )
    return "\n\n\n".join([head, kernel, wrapper + "\n"])


_BLOCK_REDUCE = """\
static __device__ {real} block_{op}({real} value) {{
    __shared__ {real} parts[{threads}];
    parts[threadIdx.x] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {{
        if (threadIdx.x < half) {{
            const {real} other = parts[threadIdx.x + half];
            {step}
        }}
        __syncthreads();
    }}
    const {real} whole = parts[0];
    __syncthreads();
    return whole;
}}
"""
_CUDA_STEPS = {
    "sum": "parts[threadIdx.x] += other;",
    "prod": "parts[threadIdx.x] *= other;",
    "max": "if (other > parts[threadIdx.x] || other != other) parts[threadIdx.x] = other;",
    "min": "if (other < parts[threadIdx.x] || other != other) parts[threadIdx.x] = other;",
}


def write_cuda(host: Host) -> str:
    """Return a module with CUDA in it. Raises NoTemplateError."""
    if host.plan.way is Way.MATMUL:
        raise NoTemplateError("a matrix product in plain CUDA would be far slower than torch's")
    kind = "float64" if host.double else "float32"
    real = "double" if host.double else "float"
    spelling = c_spelling(double=host.double)
    loops = Loops(host, spelling, grammar_cuda(real), threads=True)
    body = loops.lines()
    name = host.task.name
    parameters = [
        *_parameters(host, loops, real, "unsigned char"),
        *(f"{real} {number}" for number in host.numbers.values()),
    ]
    helpers = [
        _BLOCK_REDUCE.format(real=real, op=op, step=step, threads=THREADS)
        for op, step in _CUDA_STEPS.items()
        if any(node.op == op for node in loops.nodes)
    ]
    kernel = _source(f"__global__ void {name}_kernel(", parameters, body)
    given = [part.rpartition(" ")[2].lstrip("*") for part in parameters]
    count = "rows" if "rows" in loops.counts() else "1"
    blocks = f"({count} + {THREADS - 1}) / {THREADS}" if loops.per_element else count
    launcher = _source(
        f'extern "C" void {name}_launch(',
        parameters,
        [
            f"int64_t blocks = {blocks};",
            "if (blocks > 65535) blocks = 65535;  // each takes several turns",
            "if (blocks == 0) return;",
            f"{name}_kernel<<<(unsigned)blocks, {THREADS}>>>({', '.join(given)});",
        ],
    )
    pass_number = "ctypes.c_double" if host.double else "ctypes.c_float"
    lines = [
        *loops.launch(kind, flat=False),
        *_call(host, loops, f"{name}_launch", pass_number),
        loops.finish(),
    ]
    source = "\n\n".join([*(helper.strip() for helper in helpers), kernel, launcher])
    return _module(loaders.CUDA, source, _wrapper(host, "CUDA", lines))
