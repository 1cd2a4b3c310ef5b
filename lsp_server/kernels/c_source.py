"""What C and CUDA source of a kernel may contain: arithmetic on the memory it is given.

Rule: pure; read token by token, before a compiler sees it, and symbol by symbol after. What slips
through still meets the sandbox. Must not know what is computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lsp_server.kernels.task import Language

_HEADERS = {
    Language.C: frozenset(
        ("math.h", "tgmath.h", "stdint.h", "stddef.h", "stdbool.h", "float.h", "limits.h")
        + ("string.h", "stdlib.h", "complex.h", "immintrin.h", "inttypes.h")
    ),
    Language.CUDA: frozenset(
        ("math.h", "cmath", "stdint.h", "cstdint", "stddef.h", "float.h", "cfloat", "limits.h")
        + (
            "cuda.h",
            "cuda_runtime.h",
            "cuda_fp16.h",
            "cuda_bf16.h",
            "mma.h",
            "cooperative_groups.h",
        )
        + ("device_launch_parameters.h",)
    ),
}
_DIRECTIVES = frozenset(
    ("include", "define", "undef", "if", "ifdef", "ifndef", "else", "elif", "endif")
)
_PRAGMAS = re.compile(
    r"\s*(omp simd\b|GCC ivdep\b|GCC unroll\b|unroll\b|STDC FP_CONTRACT\b|once\b)"
)
_WORDS = frozenset(
    """
    asm __asm __asm__ _Pragma constructor destructor ifunc alias weakref section syscall system
    popen fork vfork execve execl execv dlopen dlsym dlclose mmap mprotect ptrace signal sigaction
    raise abort exit _exit atexit setjmp longjmp getenv setenv open close fopen fread fwrite socket
    connect pthread_create thrd_create thread printf fprintf puts environ __attribute__ goto
    cudaStreamCreate cudaStreamCreateWithFlags cudaStream_t cudaGraphLaunch cublasCreate cudnnCreate
    cudaEventCreate cudaSetDevice cudaDeviceReset cudaMemcpyAsync thrust cub cutlass
    """.split()
)
_ALLOWED_SYMBOLS = frozenset(
    """
    memcpy memset memmove malloc calloc free __stack_chk_fail _GLOBAL_OFFSET_TABLE_
    abs labs llabs sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh exp exp2 expm1
    exp10 log log2 log10 log1p pow sqrt cbrt hypot fabs fma fmax fmin fmod remainder floor ceil
    round lround llround trunc rint nearbyint lrint llrint copysign erf erfc tgamma lgamma ldexp
    frexp modf scalbn logb ilogb nextafter fdim sincos
    """.split()
)
_TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|/\*.*?\*/|\\\n)|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(?P<line>^[ \t]*\#(?:\\\n|[^\n])*)|(?P<word>[A-Za-z_]\w*)|(?P<paste>\#\#|%:%:|\?\?=)""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def problems(source: str, language: Language) -> Iterator[tuple[int, str]]:
    """What is not allowed, each with its line (1-based) in the source."""
    for match in _TOKEN.finditer(source):
        line = source.count("\n", 0, match.start()) + 1
        if match["paste"]:
            yield line, "tokens may not be pasted together"
        elif match["word"] in _WORDS:
            yield line, f"{match['word']} is not allowed in a kernel"
        elif match["line"]:
            yield from ((line, reason) for reason in _directive(match["line"], language))


def _directive(text: str, language: Language) -> Iterator[str]:
    words = text.strip().lstrip("#").strip()
    name = "".join(re.findall(r"^\w*", words))
    rest = words[len(name) :]
    if name == "pragma":
        if not _PRAGMAS.match(rest):
            yield f"#pragma{rest.rstrip()} is not allowed in a kernel"
    elif name not in _DIRECTIVES:
        yield f"#{name} is not allowed in a kernel"
    elif name == "include":
        header = re.fullmatch(r"\s*[<\"]([^>\"]+)[>\"]\s*", rest)
        if header is None or header[1] not in _HEADERS[language]:
            yield f"#include{rest.rstrip()} is not allowed in a kernel"
    elif "##" in rest:
        yield "tokens may not be pasted together"
    else:
        yield from (
            f"{word} is not allowed in a kernel"
            for word in re.findall(r"[A-Za-z_]\w*", rest)
            if word in _WORDS
        )


def foreign(undefined: Iterable[str]) -> list[str]:
    """Symbols of compiled C that are neither mathematics nor memory."""
    return sorted(
        name
        for name in {symbol.partition("@")[0] for symbol in undefined}
        if name not in _ALLOWED_SYMBOLS
        and name.rstrip("fl") not in {known.rstrip("fl") for known in _ALLOWED_SYMBOLS}
    )
