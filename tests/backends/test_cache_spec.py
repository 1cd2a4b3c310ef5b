from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from backends import cache_spec, gguf_header, memory, starter
from backends.cache_spec import Blocks, CachedLayer, ModelCacheSpec
from backends.errors import BadRequest, ModelFileError, Unsupported
from tests.backends import shaped_gguf
from tests.backends.shaped_gguf import Attention

GIB = 2**30


def gguf(architecture: str, **values: Any) -> dict[str, Any]:
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in values.items()}
    return {"general.architecture": architecture, **named}


# (name, GGUF metadata, config.json, bytes of a token in f16)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "GQA: Qwen2.5-Coder 0.5B": (
        gguf(
            "qwen2",
            block_count=24,
            embedding_length=896,
            attention__head_count=14,
            attention__head_count_kv=2,
        ),
        {
            "model_type": "qwen2",
            "num_hidden_layers": 24,
            "hidden_size": 896,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "use_sliding_window": False,
            "sliding_window": 32768,
            "max_window_layers": 24,
        },
        24 * 2 * (64 + 64) * 2,
    ),
    "three KV heads: SmolLM2 135M": (
        gguf(
            "llama",
            block_count=30,
            embedding_length=576,
            attention__head_count=9,
            attention__head_count_kv=3,
        ),
        {
            "model_type": "llama",
            "num_hidden_layers": 30,
            "hidden_size": 576,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        30 * 3 * (64 + 64) * 2,
    ),
    "MQA: StarCoder": (
        gguf(
            "starcoder",
            block_count=40,
            embedding_length=6144,
            attention__head_count=48,
            attention__head_count_kv=1,
        ),
        {
            "model_type": "gpt_bigcode",
            "n_layer": 40,
            "n_embd": 6144,
            "n_head": 48,
            "multi_query": True,
        },
        40 * 1 * (128 + 128) * 2,
    ),
    "MHA, nothing said of KV heads: GPT-NeoX": (
        gguf("gptneox", block_count=6, embedding_length=512, attention__head_count=8),
        {
            "model_type": "gpt_neox",
            "num_hidden_layers": 6,
            "hidden_size": 512,
            "num_attention_heads": 8,
        },
        6 * 8 * (64 + 64) * 2,
    ),
    "head width of its own: Qwen3 0.6B": (
        gguf(
            "qwen3",
            block_count=28,
            embedding_length=1024,
            attention__head_count=16,
            attention__head_count_kv=8,
            attention__key_length=128,
            attention__value_length=128,
        ),
        {
            "model_type": "qwen3",
            "num_hidden_layers": 28,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        28 * 8 * (128 + 128) * 2,
    ),
    "MLA: DeepSeek-Coder-V2-Lite": (
        gguf(
            "deepseek2",
            block_count=27,
            embedding_length=2048,
            attention__head_count=16,
            attention__head_count_kv=1,
            attention__key_length=576,
            attention__value_length=512,
            attention__key_length_mla=192,
            attention__value_length_mla=128,
            attention__kv_lora_rank=512,
        ),
        {
            "model_type": "deepseek_v2",
            "num_hidden_layers": 27,
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
        27 * 576 * 2,
    ),
    "sliding window, five of six: Gemma 3 1B": (
        gguf(
            "gemma3",
            block_count=26,
            embedding_length=1152,
            attention__head_count=4,
            attention__head_count_kv=1,
            attention__key_length=256,
            attention__value_length=256,
            attention__sliding_window=512,
        ),
        {
            "model_type": "gemma3_text",
            "num_hidden_layers": 26,
            "hidden_size": 1152,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 512,
        },
        26 * 1 * (256 + 256) * 2,
    ),
    "window by layer, in lists": (
        gguf(
            "gpt-oss",
            block_count=4,
            embedding_length=256,
            attention__head_count=4,
            attention__head_count_kv=(2, 2, 2, 2),
            attention__sliding_window=128,
            attention__sliding_window_pattern=(True, False, True, False),
        ),
        {
            "model_type": "gpt_oss",
            "num_hidden_layers": 4,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        4 * 2 * (64 + 64) * 2,
    ),
    "recurrent layers between: Qwen3-Next": (
        gguf(
            "qwen3next",
            block_count=8,
            embedding_length=2048,
            attention__head_count=16,
            attention__head_count_kv=2,
            attention__key_length=256,
            attention__value_length=256,
            full_attention_interval=4,
        ),
        {
            "model_type": "qwen3_next",
            "num_hidden_layers": 8,
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "full_attention_interval": 4,
        },
        2 * 2 * (256 + 256) * 2,
    ),
    "KV heads by layer: OpenELM": (
        gguf(
            "openelm",
            block_count=2,
            embedding_length=1280,
            attention__head_count=(12, 16),
            attention__head_count_kv=(3, 4),
            attention__key_length=64,
            attention__value_length=64,
        ),
        {
            "model_type": "openelm",
            "num_transformer_layers": 2,
            "num_hidden_layers": 2,
            "num_attention_heads": [12, 16],
            "num_kv_heads": [3, 4],
            "head_dim": 64,
        },
        (3 + 4) * (64 + 64) * 2,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_header_and_config_give_the_same_numbers(name: str) -> None:
    metadata, config, per_token = MODELS[name]
    header, folder = cache_spec.from_metadata(metadata), cache_spec.from_config(config)
    assert header.layers == folder.layers
    assert header.token_bytes() == folder.token_bytes() == per_token


def test_mla_kept_whole_takes_keys_and_values_of_all_heads() -> None:
    spec = cache_spec.from_config(MODELS["MLA: DeepSeek-Coder-V2-Lite"][1])
    assert spec.token_bytes(latent=False) == 27 * 16 * (192 + 128) * 2


def test_mla_of_an_old_file_is_kept_whole() -> None:
    metadata = dict(MODELS["MLA: DeepSeek-Coder-V2-Lite"][0])
    for key in ("key_length_mla", "value_length_mla"):
        del metadata[f"deepseek2.attention.{key}"]
    metadata |= gguf(
        "deepseek2",
        attention__head_count_kv=16,
        attention__key_length=192,
        attention__value_length=128,
    )
    spec = cache_spec.from_metadata(metadata)
    assert spec.layers == (CachedLayer(16, 192, 128),) * 27
    assert spec.token_bytes() == 27 * 16 * (192 + 128) * 2


def test_a_window_bounds_what_its_layers_keep() -> None:
    spec = cache_spec.from_metadata(MODELS["sliding window, five of six: Gemma 3 1B"][0])
    layer = 1 * (256 + 256) * 2
    assert [layer.window for layer in spec.layers].count(512) == 22
    assert spec.cache_bytes(2048) == 26 * layer * 2048
    assert spec.cache_bytes(2048, windowed=True) == layer * (22 * 512 + 4 * 2048)
    assert spec.cache_bytes(100, windowed=True) == spec.cache_bytes(100)


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, [4096] * 4),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, [0] * 4),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 64,
                "use_sliding_window": True,
                "max_window_layers": 3,
            },
            [0, 0, 0, 64],
        ),
        ({"model_type": "x", "sliding_window": 8, "sliding_window_pattern": 2}, [8, 0, 8, 0]),
        ({"model_type": "x", "sliding_window": None}, [0] * 4),
    ],
)
def test_config_says_which_layers_have_a_window(config: dict[str, Any], kinds: list[int]) -> None:
    shape = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 64}
    assert [layer.window for layer in cache_spec.from_config(shape | config).layers] == kinds


def test_config_of_a_model_with_eyes_is_that_of_its_text() -> None:
    text = MODELS["GQA: Qwen2.5-Coder 0.5B"][1]
    spec = cache_spec.from_config({"model_type": "qwen2_vl", "text_config": text})
    assert spec.token_bytes() == 12_288


@pytest.mark.parametrize(
    ("metadata", "missing"),
    [
        ({}, ".block_count, .attention.head_count"),
        (gguf("qwen2", block_count=2), "qwen2.attention.head_count"),
        (gguf("qwen2", block_count=2, attention__head_count=4), "qwen2.embedding_length"),
    ],
)
def test_header_names_what_it_lacks(metadata: dict[str, Any], missing: str) -> None:
    with pytest.raises(ModelFileError, match=re.escape(f"lacks {missing}:")):
        cache_spec.from_metadata(metadata)


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({}, "num_hidden_layers, num_attention_heads"),
        ({"num_hidden_layers": 2, "num_attention_heads": 4}, "hidden_size"),
        (
            {"n_layer": 2, "n_head": 4, "kv_lora_rank": 8, "v_head_dim": 4},
            "qk_rope_head_dim, qk_nope_head_dim",
        ),
    ],
)
def test_config_names_what_it_lacks(config: dict[str, Any], missing: str) -> None:
    with pytest.raises(ModelFileError, match=f"config.json lacks {missing}:"):
        cache_spec.from_config(config)


@pytest.mark.parametrize("count", [-1, 1 << 40])
def test_a_senseless_number_of_layers_is_refused(count: int) -> None:
    with pytest.raises(ModelFileError, match="layers"):
        cache_spec.from_metadata(gguf("qwen2", block_count=count, attention__head_count=1))


def test_quantised_cells_count_their_scales() -> None:
    spec = ModelCacheSpec("x", (CachedLayer(2, 64, 64),) * 3)
    elements = 3 * 2 * (64 + 64)
    assert spec.token_bytes("f32") == 4 * elements
    assert spec.token_bytes("q8_0") == elements + elements // 32 * 2
    assert spec.token_bytes("q4_0") == elements // 2 + elements // 32 * 2


def test_quantised_cells_that_do_not_fit_the_heads_are_refused() -> None:
    spec = ModelCacheSpec("x", (CachedLayer(2, 48, 48),))
    with pytest.raises(Unsupported, match="blocks of 32"):
        spec.token_bytes("q8_0")
    with pytest.raises(BadRequest, match="q5_9"):
        spec.token_bytes("q5_9")


def test_blocks_multiply_by_the_layers() -> None:
    # A block of one layer takes 4 MiB, which is not what a block takes.
    spec = ModelCacheSpec("x", (CachedLayer(16, 256, 256),) * 42)
    assert cache_spec.blocks(4 * GIB, spec) == Blocks(256, 42 * 4 * 2**20, 24, 6144)
    assert cache_spec.blocks(0, spec).tokens == 0
    assert cache_spec.blocks(-5, spec).blocks == 0
    assert cache_spec.blocks(4 * GIB, spec, "q8_0").tokens == 45 * 256


def test_blocks_of_a_model_that_keeps_no_tokens_are_none() -> None:
    with pytest.raises(Unsupported, match="keeps no tokens"):
        cache_spec.blocks(GIB, ModelCacheSpec("mamba", (CachedLayer(0, 0, 0),)))


SHAPES = {
    "GQA": Attention("qwen3", 3, 4, 2, 32, 32),
    "MQA": Attention("qwen3", 2, 4, 1, 64, 64),
    "odd": Attention("qwen3", 5, 6, 3, 96, 96),
    "window": Attention("gemma3", 7, 4, 1, 32, 32, window=256),
    "MLA": Attention("deepseek2", 27, 2, 1, 64, 32, rank=32, rope=32, split=True),
    "MLA kept whole": Attention("deepseek2", 27, 2, 2, 64, 32, rank=32, rope=32),
}


@pytest.mark.engine
@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8_0", "q4_0"])
@pytest.mark.parametrize("name", [*SHAPES, "starter"])
def test_spec_is_what_llama_cpp_allocates(
    name: str,
    kv_type: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from backends import engines
    from backends.config import ModelSettings
    from backends.decoding.token_model import Feed
    from backends.frames import Load

    if name == "starter":
        path = starter.path()
    else:
        path = shaped_gguf.write(tmp_path / "m.gguf", SHAPES[name])
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(memory, "MAX_CELLS", 2048)  # quick to clear
    settings = ModelSettings(kv_type=kv_type, verbose=True)
    spec = cache_spec.from_gguf(gguf_header.read(path))
    model = engines.load(Load("llama-cpp", str(path), name, settings))
    try:
        assert cache_spec.from_live(model) == spec
        assert model.cache_bytes == model.cache_cells * spec.token_bytes(kv_type)
        buffers = re.findall(r"KV buffer size =\s+([\d.]+) MiB", caplog.text)
        allocated = sum(map(float, buffers))
        assert allocated == pytest.approx(model.cache_bytes / 2**20, abs=0.006 * len(buffers))
        model.forward([Feed(0, list(range(10)))], lambda: False)
        few = len(model.snapshot(0))
        model.forward([Feed(0, list(range(100)))], lambda: False)
        grown = len(model.snapshot(0)) - few
        caches = 2 if name == "window" else 1  # each notes a cell's position and sequence
        assert grown == 100 * (spec.token_bytes(kv_type) + 12 * caches)
    finally:
        model.close()


def test_a_model_that_does_not_say_what_it_caches_is_an_error() -> None:
    with pytest.raises(Unsupported, match="object"):
        cache_spec.from_live(object())
