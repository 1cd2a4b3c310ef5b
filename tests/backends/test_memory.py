from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from backends import engines, gguf_header, hardware, memory, model_folder
from backends.cache_spec import CachedLayer, ModelCacheSpec
from backends.config import ModelSettings
from backends.lifecycle import Room
from backends.model_folder import FolderHeader
from benchmarks import same_weights
from tests.backends import gguf_files

MIB = memory.MIB


def write_group(folder: Path, limit: str, used: int, inactive: int, *, v1: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit_name, used_name, row = names if v1 else ("memory.max", "memory.current", "inactive_file")
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / used_name).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{row} {inactive}\n")


def left(tmp_path: Path, membership: str) -> int | None:
    file = tmp_path / "membership"
    file.write_text(membership)
    return memory.cgroup_available(tmp_path / "cgroup", file)


def test_room_is_what_the_user_set_or_a_share() -> None:
    assert memory.room(100, 5) == Room(100 * MIB, 100 * MIB)
    assert memory.room(0, 1000) == Room(600, 900)


def test_cgroup_without_a_limit_gives_none(tmp_path: Path) -> None:
    write_group(tmp_path / "cgroup" / "user", "max", 5, 0)
    assert left(tmp_path, "0::/user\n") is None
    assert left(tmp_path, "") is None
    assert memory.cgroup_available(tmp_path, tmp_path / "none") is None


def test_cgroup_counts_files_that_can_be_dropped_as_free(tmp_path: Path) -> None:
    write_group(tmp_path / "cgroup" / "user" / "shell", "1000", 700, 200)
    assert left(tmp_path, "0::/user/shell\n") == 500


def test_cgroup_above_may_be_the_tighter_one(tmp_path: Path) -> None:
    write_group(tmp_path / "cgroup" / "user" / "shell", "1000", 100, 0)
    write_group(tmp_path / "cgroup" / "user", "1000", 900, 0)
    assert left(tmp_path, "0::/user/shell\n") == 100


def test_cgroup_of_a_container_is_at_the_root(tmp_path: Path) -> None:
    write_group(tmp_path / "cgroup", "1000", 1500, 0)
    assert left(tmp_path, "0::/docker/0123\n") == 0


def test_cgroup_v1_has_its_own_files(tmp_path: Path) -> None:
    write_group(tmp_path / "cgroup" / "memory" / "box", "1000", 300, 100, v1=True)
    assert left(tmp_path, "4:memory:/box\n3:cpuset:/box\n0::/\nbroken\n") == 800


@pytest.mark.parametrize("content", ["", "x y z\n", "inactive_file many\n"])
def test_cgroup_with_torn_files_gives_none(tmp_path: Path, content: str) -> None:
    write_group(tmp_path / "cgroup", "1000", 300, 100)
    (tmp_path / "cgroup" / "memory.stat").write_text(content)
    found = left(tmp_path, "0::/\n")
    assert found in ((700,) if not content else (None,))


def test_available_is_something() -> None:
    assert memory.available() > 0


def test_cells_fill_the_cache_but_hold_one_context_at_least() -> None:
    # Qwen2.5-Coder 0.5B: 24 layers, 2 KV heads of 64: 12,288 bytes a cell.
    qwen = ModelCacheSpec("qwen2", (CachedLayer(2, 64, 64),) * 24)
    assert memory.cell_bytes(qwen) == 12_288
    assert memory.cell_bytes(qwen, "q8_0") == 12_288 * 34 // 64
    assert memory.cells(12_288, 8192) == 32_768
    # Of 32 layers with 32 heads of 128: 512 KiB a cell.
    large = ModelCacheSpec("llama", (CachedLayer(32, 128, 128),) * 32)
    assert memory.cells(memory.cell_bytes(large), 8192) == 8192
    assert memory.cells(1 << 40, 100) == 256


def test_expected_of_a_header_that_says_nothing_is_its_file(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf")
    header = gguf_header.read(path)
    assert memory.expected(header, ModelSettings(), "llama-cpp") >= path.stat().st_size


@pytest.mark.engine
@pytest.mark.parametrize("kv_type", ["", "q8_0", "q4_0"])
def test_expected_is_what_the_engine_takes(tiny_model: Path, kv_type: str) -> None:
    from backends.frames import Load

    settings = ModelSettings(kv_type=kv_type)
    model = engines.load(Load("llama-cpp", str(tiny_model), "tiny", settings))
    try:
        header = gguf_header.read(tiny_model)
        cells = memory.expected(header, settings, "llama-cpp") - header.file_bytes
        assert cells - memory.runtime_bytes(
            "llama-cpp"
        ) == model.cache_bytes + memory.snapshot_bytes(model.cache_bytes)
        assert 0.5 * header.file_bytes < model.model_bytes <= header.file_bytes
    finally:
        model.close()


def folder(dtype: str, **changes: Any) -> FolderHeader:
    """A folder of 1,000 elements, 200 of them embeddings."""
    facts: dict[str, Any] = {field.name: None for field in fields(FolderHeader)}
    size = {"float32": 4000, "bfloat16": 2000, "float16": 2000}.get(dtype, 600)
    facts |= {"dtype": dtype, "file_bytes": size, "vocabulary_size": 20, "embedding_length": 10}
    return FolderHeader(**facts | {"quantization": {}} | changes)


@pytest.mark.parametrize(
    ("dtype", "settings", "engine", "bfloat16", "taken"),
    [
        ("float32", {}, "transformers", True, 4000),
        ("bfloat16", {}, "transformers", True, 2000),
        ("bfloat16", {}, "transformers", False, 4000),  # taken into float32
        ("float16", {}, "transformers", True, 4000),
        ("float16", {"device": "cuda"}, "transformers", False, 2000),
        ("float32", {"dtype": "bfloat16"}, "transformers", False, 2000),
        ("float32", {"quantize": "8bit"}, "transformers", True, 200 * 4 + 800),
        ("bfloat16", {"quantize": "4bit"}, "transformers", True, 200 * 2 + 400),
        ("bfloat16", {}, "mlx", False, 2000),
        ("bfloat16", {"dtype": "float32"}, "mlx", False, 4000),
        ("float32", {"quantize": "8bit"}, "mlx", False, 1000 + 15 * 2 * 4),
        ("U32", {}, "transformers", True, 600),
    ],
)
def test_weights_take_what_their_type_in_memory_does(
    dtype: str, settings: dict[str, Any], engine: str, bfloat16: bool, taken: int
) -> None:
    wishes = ModelSettings(**settings)
    assert memory.weight_bytes(folder(dtype), wishes, engine, bfloat16=bfloat16) == taken


@pytest.mark.parametrize(
    ("dtype", "settings", "engine", "kept"),
    [
        ("float32", {}, "transformers", "f32"),
        ("float32", {"dtype": "bfloat16"}, "transformers", "f16"),
        ("float32", {"kv_type": "q8_0"}, "transformers", "q8_0"),
        ("bfloat16", {"device": "cuda"}, "transformers", "f16"),
        ("float32", {}, "mlx", "f32"),
        ("bfloat16", {}, "mlx", "f16"),
    ],
)
def test_cells_are_kept_in_what_is_computed_in(
    dtype: str, settings: dict[str, Any], engine: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: True)
    assert memory.kept_type(folder(dtype), ModelSettings(**settings), engine) == kept


# What a worker does: it loads, and evaluates text until half of its cells are in use.
TAKES = """
import sys
import psutil
from backends import engines, worker
from backends.config import ModelSettings
from backends.decoding.token_model import Feed
from backends.frames import Load
model = engines.load(Load(sys.argv[1], sys.argv[2], "m", ModelSettings(context_length=2048)))
for sequence in range(2):
    for _ in range(4):
        model.forward([Feed(sequence, [7] * 512)], lambda: False)
cells = model.cache_bytes // model.cache_cells
print(psutil.Process().memory_info().rss, model.cache_bytes - 4096 * cells)
"""


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["transformers", "mlx"])
def test_expected_is_what_a_worker_of_a_folder_takes(engine: str, tmp_path: Path) -> None:
    """Its resident memory, and the cells it did not use yet: within a third of what is expected."""
    pytest.importorskip("safetensors")
    if importlib.util.find_spec(engines.ENGINES[engine].runtime) is None:
        pytest.skip(f"{engine} is not installed")
    path = same_weights.write(tmp_path).by_engine()[engine]
    command = [sys.executable, "-c", TAKES, engine, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    resident, unused = map(int, done.stdout.split()[-2:])
    settings = ModelSettings(context_length=2048)
    expected = memory.expected(model_folder.read(path), settings, engine)
    _, cells = memory.cache(
        model_folder.read(path), 2048, memory.kept_type(model_folder.read(path), settings, engine)
    )
    taken = resident + unused + memory.snapshot_bytes(cells)
    assert 2 / 3 * expected < taken < 4 / 3 * expected, (expected, taken)


def test_quantised_folders_are_taken_as_they_are() -> None:
    header = folder("bfloat16", quantization={"bits": 4})
    settings = ModelSettings(quantize="8bit")
    assert memory.weight_bytes(header, settings, "transformers", bfloat16=False) == 2000
