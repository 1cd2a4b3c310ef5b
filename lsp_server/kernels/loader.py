"""The part of a C or CUDA kernel's module that compiles its source: the same text in each of them.

Rule: only data. The text stands alone in the user's file and needs nothing but Python and a
compiler; what is compiled goes to a private folder that is gone once it is loaded. The verifier
knows the text and may put a build of its own in its place.
"""

from __future__ import annotations

LOADER = '''
def _load(source: str, compiler: str, suffix: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Compile `source` and load it; the folder it is compiled in is private and short-lived."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / f"kernel{suffix}"
        file.write_text(source, encoding="utf-8")
        library = file.with_suffix(".so")
        subprocess.run([compiler, *options, "-o", str(library), str(file)], check=True)
        return ctypes.CDLL(str(library))
'''.strip()

# What it needs; the wrapper needs torch, and ctypes too.
IMPORTS = "import ctypes\nimport pathlib\nimport subprocess\nimport tempfile\n\nimport torch\n"

C_OPTIONS = ("-O3", "-std=c11", "-shared", "-fPIC")
C_LOAD = f'_library = _load(SOURCE, "cc", ".c", {C_OPTIONS!r})'.replace("'", '"')

CUDA_OPTIONS = ("-O3", "-shared", "-Xcompiler", "-fPIC")
CUDA_LOAD = f'_library = _load(SOURCE, "nvcc", ".cu", {CUDA_OPTIONS!r})'.replace("'", '"')
