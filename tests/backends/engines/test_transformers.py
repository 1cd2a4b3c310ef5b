"""The transformers adapter: what the contract suite can't see of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from backends import engines
from backends.backend import InfillRequest
from backends.config import ModelSettings
from backends.decoding.token_model import CacheFull, Feed, TokenModel
from backends.engines import contract
from backends.engines.contract import CHECKS, Check
from backends.engines.hf_attention import Attention
from backends.engines.hf_cells import Storage
from backends.engines.transformers import passes
from backends.errors import LoadFailed, ModelFileError, Unsupported
from backends.frames import Load
from benchmarks import same_weights
from benchmarks.reference import greedy
from tests.backends.decoding.harness import running
from tests.backends.decoding.test_scheduler import spy_prompts

IDS = [(i * 7919 + 5) % 6000 for i in range(100)]
SMALL = {
    "vocab_size": 6144,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
WINDOW = 16
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
# What each is here for: a window in every layer, in some, with capped scores and eager attention,
# with sinks and experts; keys and values of different lengths; learned positions.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "gemma2": {"sliding_window": WINDOW, "head_dim": 16},
    "gpt_oss": {"sliding_window": WINDOW, "num_local_experts": 4, "head_dim": 16},
    "deepseek_v3": LATENT,
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 1024},
}
# With recurrent states in some layers, in all beside attention, and with attention of its own.
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
STATES: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {
        **MAMBA,
        "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 0,
        "shared_intermediate_size": 64,
    },
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 128},
    "codegen": {"n_embd": 64, "n_layer": 3, "n_head": 4, "rotary_dim": 8, "n_positions": 1024},
}


@pytest.fixture(scope="module")
def starter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return same_weights.write(tmp_path_factory.mktemp("same")).transformers


def load(folder: Path, **settings: Any) -> TokenModel:
    chosen = ModelSettings(**{"dtype": "float32", **settings})
    return engines.load(
        Load(engine="transformers", path=str(folder), name=folder.name, settings=chosen)
    )


@pytest.fixture(scope="module")
def model(starter_folder: Path) -> Iterator[TokenModel]:
    loaded = load(starter_folder)
    yield loaded
    loaded.close()


@pytest.fixture
def empty(model: TokenModel) -> TokenModel:
    for sequence in range(model.max_sequences):
        model.free(sequence)
    return model


def random_model(folder: Path, tokenizer: Path, kind: str, options: dict[str, Any]) -> Any:
    """Write a small model with random weights; return transformers' own instance of it."""
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**SMALL, **options}))
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
    made.save_pretrained(folder)
    shutil.copy(tokenizer / "tokenizer.json", folder)
    return made.eval()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_parts_of_texts_give_the_logits_of_whole_ones(
    tmp_path: Path, starter_folder: Path, kind: str
) -> None:
    reference = random_model(tmp_path / kind, starter_folder, kind, ARCHITECTURES[kind])
    with torch.inference_mode():
        whole = reference(input_ids=torch.tensor([IDS])).logits[0].numpy()
    model = load(tmp_path / kind)
    try:
        model.forward([Feed(0, IDS[:50]), Feed(1, IDS[::-1])], contract.never)
        assert model.trim(0, 37)
        assert model.fork(0, 2, 30)
        feeds = [Feed(1, IDS[:2]), Feed(2, IDS[30:60], 3), Feed(0, IDS[37:], 40)]
        _, forked, trimmed = model.forward(feeds, contract.never)
        np.testing.assert_allclose(forked, whole[57:60], atol=1e-4)
        np.testing.assert_allclose(trimmed, whole[60:], atol=1e-4)
    finally:
        model.close()


@pytest.mark.parametrize(
    ("settings", "cell_bytes"),
    [
        ({"dtype": "bfloat16"}, 3072),
        ({"attention": "eager"}, 6144),
        ({"kv_type": "f16"}, 3072),
        ({"kv_type": "q8_0"}, 6144 // 4 * 34 // 32),
        ({"kv_type": "q4_0"}, 6144 // 4 * 18 // 32),
    ],
    ids=str,
)
def test_the_contract_holds_with_other_settings(
    starter_folder: Path, settings: dict[str, Any], cell_bytes: int
) -> None:
    model = load(starter_folder, **settings)
    try:
        assert model.cache_bytes == cell_bytes * model.cache_cells
        for check in CHECKS:
            check(model)
    finally:
        model.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(model: TokenModel, check: Check) -> None:
    check(model)


def test_eight_bit_weights_take_less_and_say_much_the_same(
    empty: TokenModel, starter_folder: Path
) -> None:
    pytest.importorskip("torchao")
    tokens = empty.tokenize(contract.SOURCE)
    expected = contract.logits_of(empty, 0, tokens)
    packed = load(starter_folder, quantize="8bit")
    try:
        assert packed.model_bytes < 0.6 * empty.model_bytes
        assert contract.agree(contract.logits_of(packed, 0, tokens), expected)
        assert "8bit" in packed.description
    finally:
        packed.close()


def test_cells_are_counted_and_a_full_cache_changes_nothing(
    empty: TokenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = empty.tokenize(contract.SOURCE)[:40]
    monkeypatch.setattr(empty, "cache_cells", 100)
    contract.logits_of(empty, 0, tokens)
    assert empty.fork(0, 1, 40)  # a shared cell counts for each sharer, as the cache counts it
    with pytest.raises(CacheFull):
        empty.forward([Feed(2, tokens[:10]), Feed(3, tokens[:11])], contract.never)
    assert [empty.length(sequence) for sequence in range(4)] == [40, 40, 0, 0]
    snapshot = empty.snapshot(0)
    assert not empty.restore(2, snapshot), "there is no room for it"
    empty.free(1)
    assert empty.restore(2, snapshot)


def test_a_fork_copies_only_when_the_two_part(empty: Any) -> None:
    tokens = empty.tokenize(contract.SOURCE)[:60]
    contract.logits_of(empty, 0, tokens[:40])

    def storage(sequence: int) -> Any:
        return empty._texts._held[sequence].storage

    assert empty.fork(0, 1, 40)
    assert storage(0) is storage(1)
    contract.logits_of(empty, 1, tokens[40:50])
    assert storage(0) is storage(1), "the source's end is free to be written on"
    contract.logits_of(empty, 0, tokens[50:])
    assert storage(0) is not storage(1)
    assert storage(0).users == storage(1).users == 1
    expected = contract.logits_of(empty, 2, [*tokens[:50], tokens[0]])
    assert contract.agree(contract.logits_of(empty, 1, tokens[:1]), expected)


def test_snapshots_of_other_models_are_refused(
    empty: TokenModel, tmp_path: Path, starter_folder: Path
) -> None:
    random_model(tmp_path / "llama", starter_folder, "llama", {})
    other = load(tmp_path / "llama")
    contract.logits_of(other, 0, IDS[:20])
    assert not empty.restore(0, other.snapshot(0))
    other.close()
    for torn in (b"", b"\0" * 100, b"no snapshot at all"):
        assert not empty.restore(0, torn)
    assert empty.length(0) == 0


@pytest.mark.parametrize("kind", STATES)
def test_models_with_states_go_forward_and_never_back(
    tmp_path: Path, starter_folder: Path, kind: str
) -> None:
    reference = random_model(tmp_path / kind, starter_folder, kind, STATES[kind])
    with torch.inference_mode():
        whole = reference(input_ids=torch.tensor([IDS])).logits[0].numpy()
    model = load(tmp_path / kind)
    try:
        assert not model.can_rewind
        model.forward([Feed(0, IDS[:50]), Feed(1, IDS[::-1])], contract.never)
        assert not model.trim(0, 37)
        assert not model.fork(0, 2, 30)
        assert model.restore(2, model.snapshot(0))
        model.forward([Feed(0, IDS[:9])], contract.never)  # no concern of the restored one
        _, rows = model.forward([Feed(1, IDS[:2]), Feed(2, IDS[50:], 20)], contract.never)
        np.testing.assert_allclose(rows, whole[80:], atol=2e-4)
        for check in CHECKS:
            check(model)
    finally:
        model.close()
    with pytest.raises(Unsupported, match="leave kv_type empty"):
        load(tmp_path / kind, kv_type="q8_0")


def test_an_attention_that_forgets_is_found_out_at_load(
    starter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the proof at load is for: an architecture that does not do as it says."""
    read = Storage.read

    def forgetful(self: Storage, layer: int, begin: int, end: int) -> Any:
        return read(self, layer, max(begin, end - 5), end)

    monkeypatch.setattr(Storage, "read", forgetful)
    monkeypatch.setattr(Attention, "_mask", lambda *_: None)
    with pytest.raises(Unsupported, match="other text in parts"):
        load(starter_folder)


def test_positions_that_depend_on_the_length_stay_below_it(
    tmp_path: Path, starter_folder: Path
) -> None:
    options = {"rope_parameters": LONG, "original_max_position_embeddings": 512}
    random_model(tmp_path / "phi3", starter_folder, "phi3", options)
    model = load(tmp_path / "phi3")
    assert model.context_length == 512
    model.close()


@pytest.mark.parametrize(
    "setting", [{"gpu_layers": 3}, {"low_vram": True}, {"mlock": True}, {"mmap": False}], ids=str
)
def test_settings_of_other_engines_are_refused_by_name(
    starter_folder: Path, setting: dict[str, Any]
) -> None:
    with pytest.raises(Unsupported, match=next(iter(setting))):
        load(starter_folder, **setting)


def copied(folder: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path, starter_folder: Path) -> None:
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    for kind in ("qwen2", "unheard_of"):
        folder = copied(starter_folder, tmp_path / kind, auto_map=code, model_type=kind)
        for name in ("evil.py", "modeling_evil.py"):
            (folder / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load(tmp_path / "qwen2").close()
    with pytest.raises(LoadFailed, match=r"unheard_of.*never run"):
        load(tmp_path / "unheard_of")
    assert not (tmp_path / "ran").exists()


def test_missing_tensors_are_not_made_up(tmp_path: Path, starter_folder: Path) -> None:
    """transformers would fill them with random numbers and a warning."""
    folder = copied(starter_folder, tmp_path / "m", num_hidden_layers=7)
    with pytest.raises(LoadFailed, match=r"lack .* tensors"):
        load(folder)


def test_a_file_is_refused_before_the_runtime_sees_it(tmp_path: Path, starter_folder: Path) -> None:
    folder = copied(starter_folder, tmp_path / "m")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(ModelFileError, match="truncated"):
        load(folder)
    with pytest.raises(ModelFileError, match="not a folder"):
        load(tmp_path / "none")


@pytest.mark.parametrize("lengths", [[1], [5, 1, 300], [128, 128], [0, 3], [1] * 200, []])
def test_passes_hold_every_token_once_in_order(lengths: list[int]) -> None:
    cut = list(passes(lengths, 128))
    assert all(sum(end - begin for _, begin, end in parts) <= 128 for parts in cut)
    fed = [0] * len(lengths)
    for parts in cut:
        assert len({feed for feed, _, _ in parts}) == len(parts)
        for feed, begin, end in parts:
            assert begin == fed[feed] < end
            fed[feed] = end
    assert fed == lengths


def test_typing_on_a_hybrid_model_gives_the_cold_text(tmp_path: Path, starter_folder: Path) -> None:
    """Its states can't be cut back, so what is reused must be a mark's, and exact."""
    linear = {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads"), 2),
        **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "head_dim"), 16),
        **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    random_model(tmp_path / "hybrid-coder", starter_folder, "qwen3_next", linear)
    model = load(tmp_path / "hybrid-coder")
    typed = "\n\ndef remove(path):\n    return"
    try:
        with running(model) as engine:
            prompts = spy_prompts(engine.scheduler)
            ends = [
                engine.infill(InfillRequest(contract.SOURCE + typed[:n], "\n", "d", max_tokens=4))
                for n in range(0, len(typed), 3)
            ]
        assert not model.can_rewind
        assert sum(end.usage.cached_tokens for end in ends) > 0
        assert [end.text for end in ends] == [greedy(model, prompt, 4) for prompt in prompts]
    finally:
        model.close()
