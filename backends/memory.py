"""How much memory there is for models, and how much a model will take.

Rule: the numbers only; what is loaded and what goes is decided in `lifecycle`. Must not know
workers, nor import a runtime.
"""

from __future__ import annotations

from pathlib import Path

from backends import cache_spec, hardware
from backends.cache_spec import ModelCacheSpec
from backends.config import ModelSettings
from backends.errors import MidspanError
from backends.gguf_header import GGUFHeader
from backends.lifecycle import Room
from backends.model_folder import FolderHeader

Header = GGUFHeader | FolderHeader

MIB = 1024 * 1024
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
QUANTIZED_BITS = {"8bit": 8, "4bit": 4}
MLX_GROUP = 64  # weights that share a scale and a bias
KEPT_SHARE = 0.6  # of what is available at the start, for all models that stay loaded
MOST_SHARE = 0.9  # of it, for as long as a swap takes

KNOWN_BYTES = 32 * MIB  # of what a model said last, for typing along: see decoding/known.py

# What a worker takes before it has a model, and beside weights and cells while it computes: the
# interpreter, the runtime's libraries, the buffers that it keeps. Measured as resident memory on
# x86-64 Linux with the starter model, see docs/architecture.md. Workers of the same engine share
# libraries, and each counts them; a llama-server keeps nothing that was said.
RUNTIME_BYTES = {
    "llama-cpp": 60 * MIB + KNOWN_BYTES,
    "llama-server": 60 * MIB,
    "transformers": 410 * MIB + KNOWN_BYTES,
    "mlx": 340 * MIB + KNOWN_BYTES,
}

CACHE_BYTES = 512 * MIB  # KV cells of all sequences of a model together
MAX_CELLS = 32768
MAX_CONTEXT = 8192  # completion needs no more, and cells cost memory

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# By the hierarchy's folder: the limit, what is used, and the row of memory.stat that the kernel
# would give back.
_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def room(memory_mb: int, available_bytes: int) -> Room:
    """Return the room for models: what the user set, never to be exceeded, or a share of all."""
    if memory_mb > 0:
        return Room(memory_mb * MIB, memory_mb * MIB)
    return Room(int(available_bytes * KEPT_SHARE), int(available_bytes * MOST_SHARE))


def available() -> int:
    """Return the bytes that this process and its children can still take."""
    import psutil  # here: a worker that only counts cells does without it

    machine = int(psutil.virtual_memory().available)
    group = cgroup_available()
    return machine if group is None else min(machine, group)


def cgroup_available(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int | None:
    """Return the bytes left below the limits of this process's cgroups; None without a limit."""
    left = []
    for hierarchy, path in _memberships(membership):
        limit, usage, reclaimable = _FILES[hierarchy]
        group = root / hierarchy / path
        # Every group above limits too. In a container the path may be the host's: then the root.
        for folder in (group, *group.parents):
            room_here = _left(folder, limit, usage, reclaimable)
            if room_here is not None:
                left.append(room_here)
            if folder == root / hierarchy:
                break
    return min(left, default=None)


def _memberships(file: Path) -> list[tuple[str, str]]:
    """Return (hierarchy, path) of the cgroups that account for memory: v2's and v1's."""
    try:
        rows = [line.split(":", 2) for line in file.read_text().splitlines()]
    except OSError:
        return []  # no Linux
    return [
        (controllers, path.lstrip("/"))
        for _, controllers, path in (row for row in rows if len(row) == 3)
        if controllers in _FILES
    ]


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        inactive = int(rows.get(reclaimable, 0))
    except (OSError, ValueError):
        return None
    if not most.isdigit():
        return None  # "max"
    return max(0, int(most) - max(0, used - inactive))


def expected(header: Header, settings: ModelSettings, engine: str) -> int:
    """Return the bytes that a model will take: runtime, weights, KV cells and their snapshots."""
    weights = weight_bytes(header, settings, engine)
    _, size = cache(header, settings.context_length, kept_type(header, settings, engine))
    return runtime_bytes(engine) + weights + size + snapshot_bytes(size)


def runtime_bytes(engine: str) -> int:
    """Return what a worker of this engine takes beside its model; 0 where nobody measured it."""
    return RUNTIME_BYTES.get(engine, 0)


def kept_type(header: Header, settings: ModelSettings, engine: str) -> str:
    """Return the type of KV cells: the user's, or that which the engine takes by itself.

    llama.cpp has 16 bits; transformers and MLX keep what they compute in.
    """
    if settings.kv_type or isinstance(header, GGUFHeader) or header.quantization:
        return settings.kv_type
    return "f32" if _computed_bytes(header, settings, engine) == 4 else "f16"


def weight_bytes(
    header: Header, settings: ModelSettings, engine: str, *, bfloat16: bool | None = None
) -> int:
    """Return the bytes that the weights will take in memory.

    A GGUF's are used as they are. A folder's are taken into the type that the engine computes in:
    MLX's is the stored one, and that of transformers on a CPU without `bfloat16` (None: this one)
    twice as large. Both may quantise them: transformers all but the embeddings, MLX all, each
    group with a scale and a bias.
    """
    stored = ELEMENT_BYTES.get(header.dtype, 0) if isinstance(header, FolderHeader) else 0
    if isinstance(header, GGUFHeader) or not stored or header.quantization:
        return header.file_bytes
    elements = header.file_bytes // stored
    computed = _computed_bytes(header, settings, engine, bfloat16)
    bits = QUANTIZED_BITS.get(settings.quantize)
    if bits is None:
        return elements * computed
    if engine == "mlx":
        return elements * bits // 8 + elements // MLX_GROUP * 2 * computed
    plain = min(header.vocabulary_size * header.embedding_length, elements)
    return plain * computed + (elements - plain) * bits // 8


def _computed_bytes(
    header: FolderHeader, settings: ModelSettings, engine: str, bfloat16: bool | None = None
) -> int:
    """Return the bytes of an element in the type that is set, or that the engine chooses."""
    if settings.dtype in ELEMENT_BYTES:
        return ELEMENT_BYTES[settings.dtype]
    if engine == "mlx":
        return ELEMENT_BYTES.get(header.dtype, 2)
    if bfloat16 is None:
        bfloat16 = hardware.has_bfloat16()
    on_cpu = settings.device in ("", "cpu")
    wide = header.dtype == "float32" or (on_cpu and (header.dtype == "float16" or not bfloat16))
    return 4 if wide else 2


def cache(header: Header, context_length: int, kv_type: str = "") -> tuple[int, int]:
    """Return the KV cells that a model will have, and the bytes of them all.

    `context_length` and `kv_type` are the user's wishes, 0 and "" for none. A file that does not
    say what it caches, or a type that it cannot have, is the load's to refuse: its cells take
    nothing.
    """
    try:
        per_cell = cell_bytes(cache_spec.from_header(header), kv_type)
    except MidspanError:
        per_cell = 0
    count = cells(max(per_cell, 1), context(context_length, header.context_length))
    return count, count * per_cell


def snapshot_bytes(cache_bytes: int) -> int:
    """Return the bytes for copies of KV cells that had to make room for others."""
    return cache_bytes // 2


def context(wish: int, trained: int) -> int:
    """Return the tokens of one sequence: the user's wish, as far as trained and sensible."""
    return min(wish or trained, trained, MAX_CONTEXT)


def cell_bytes(spec: ModelCacheSpec, kv_type: str = "", *, latent: bool = True) -> int:
    """Return the bytes of one KV cell: K and V of every layer, at least 1.

    Raises BadRequest for a type of cells there is not, Unsupported where the model's don't fit it.
    """
    return max(spec.token_bytes(kv_type, latent=latent), 1)


def cells(per_cell: int, per_sequence: int) -> int:
    """Return the number of KV cells: as many as CACHE_BYTES hold, one full context at least."""
    wanted = max(min(CACHE_BYTES // per_cell, MAX_CELLS), per_sequence)
    return wanted // 256 * 256 or 256


def fewer_cells(count: int) -> int:
    """Return the number of KV cells to try where there is no memory for `count`."""
    return max(count // 4 // 256 * 256, 256)
