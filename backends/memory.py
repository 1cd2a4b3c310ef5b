"""How much memory there is for models, and how much a model will take.

Rule: the numbers only; what is loaded and what goes is decided in `lifecycle`. Must not know
workers, nor import a runtime.
"""

from __future__ import annotations

from pathlib import Path

from backends import cache_spec
from backends.cache_spec import ModelCacheSpec
from backends.errors import MidspanError
from backends.gguf_header import GGUFHeader
from backends.lifecycle import Room
from backends.model_folder import FolderHeader

MIB = 1024 * 1024
KEPT_SHARE = 0.6  # of what is available at the start, for all models that stay loaded
MOST_SHARE = 0.9  # of it, for as long as a swap takes

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


def expected(header: GGUFHeader | FolderHeader, context_length: int, kv_type: str = "") -> int:
    """Return the bytes that a model will take: weights, KV cells and their snapshots.

    `context_length` and `kv_type` are the user's wishes, 0 and "" for none.
    """
    _, size = cache(header, context_length, kv_type)
    return header.file_bytes + size + snapshot_bytes(size)


def cache(
    header: GGUFHeader | FolderHeader, context_length: int, kv_type: str = ""
) -> tuple[int, int]:
    """Return the KV cells that a model will have, and the bytes of them all.

    A file that does not say what it caches, or a type that it cannot have, is the load's to
    refuse: its cells take nothing.
    """
    try:
        if isinstance(header, FolderHeader):
            spec = cache_spec.from_config(header.config)
        else:
            spec = cache_spec.from_gguf(header)
        per_cell = cell_bytes(spec, kv_type)
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
