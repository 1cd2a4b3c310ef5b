"""The MLX adapter: what is its own beside the contract."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import frames
from backends.backend import InfillRequest
from backends.config import ModelSettings
from backends.decoding.token_model import Aborted, CacheFull, Feed
from backends.engines.contract import CHECKS, SOURCE, agree, logits_of, never
from backends.errors import BackendError, LoadFailed, ModelFileError, Unsupported
from backends.frames import Load
from backends.local import WORKER_COMMAND
from benchmarks.reference import greedy
from benchmarks.same_weights import SameWeights
from tests.backends.decoding.harness import running
from tests.backends.decoding.test_scheduler import spy_prompts

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

from backends.engines import mlx  # noqa: E402 - it imports its runtime
from backends.engines.mlx import MlxModel, next_piece  # noqa: E402
from backends.engines.mlx_options import rope_settings  # noqa: E402

pytestmark = pytest.mark.engine

# Small models of other architectures: by `model_type`, what is theirs.
SHAPE = {
    "vocab_size": 6144,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "eos_token_id": 0,
}
ATTENTION: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 10000.0},
    "starcoder2": {"norm_epsilon": 1e-5, "use_bias": True, "rope_theta": 10000.0},
}
OTHER_CACHES: dict[str, dict[str, Any]] = {
    # A window of 48 tokens: it wraps in every test here.
    "gemma3_text": {
        "head_dim": 32,
        "sliding_window": 48,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 32,
    },
    "mamba": {
        "state_size": 8,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "lfm2": {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 128,
        "layer_types": ["conv", "full_attention"] * 2,
    },
}


def load(path: Path, **settings: Any) -> MlxModel:
    return mlx.load(Load("mlx", str(path), "test", ModelSettings(**settings)))


@pytest.fixture(scope="module")
def model(same_weights: SameWeights) -> Iterator[MlxModel]:
    loaded = load(same_weights.mlx)
    yield loaded
    loaded.close()


@pytest.fixture
def folder(tmp_path: Path, same_weights: SameWeights) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(same_weights.mlx, tmp_path / "midspan-starter-mlx"))


def change(folder: Path, **values: Any) -> None:
    """Set keys of config.json; None takes one out."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.fixture(scope="module")
def small(
    request: pytest.FixtureRequest,
    same_weights: SameWeights,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MlxModel]:
    """A model of random weights of the architecture that the test names."""
    kind: str = request.param
    from mlx.utils import tree_flatten

    config = SHAPE | (ATTENTION | OTHER_CACHES)[kind] | {"model_type": kind}
    architecture = importlib.import_module(f"mlx_lm.models.{kind}")
    empty = architecture.Model(architecture.ModelArgs.from_dict(config))
    mx.random.seed(0)
    weights = {
        name: mx.random.normal(array.shape) * 0.1 if array.ndim > 1 else array
        for name, array in tree_flatten(empty.parameters())
    }
    path = tmp_path_factory.mktemp(kind)
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    (path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(same_weights.mlx / name, path / name)
    loaded = load(path)
    # The template catalogue would not believe these tokens of such an architecture.
    loaded.vocab = replace(loaded.vocab, architecture="qwen2", name="coder")
    yield loaded
    loaded.close()


# -- caches of other kinds ----------------------------------------------------------------------


@pytest.mark.parametrize("small", [*ATTENTION, *OTHER_CACHES], indirect=True)
def test_other_architectures_keep_the_contract(small: MlxModel) -> None:
    for check in CHECKS:
        check(small)


@pytest.mark.parametrize("small", [*OTHER_CACHES], indirect=True)
def test_caches_that_cannot_be_cut_say_so(small: MlxModel) -> None:
    small.free(0)
    logits_of(small, 0, small.tokenize(SOURCE))
    assert not small.can_rewind
    assert not small.trim(0, 20)
    assert not small.fork(0, 1, 20)


@pytest.mark.parametrize("small", [*ATTENTION, *OTHER_CACHES], indirect=True)
def test_typing_gives_the_cold_text_in_every_architecture(small: MlxModel) -> None:
    """What is gone back from must not be seen: windows that wrapped, states of other tokens."""
    typed = "\n\ndef remove(path)"
    for sequence in range(small.max_sequences):
        small.free(sequence)
    with running(small) as engine:
        prompts = spy_prompts(engine.scheduler)
        texts = [
            engine.infill(
                InfillRequest(
                    SOURCE + typed[:n],
                    "\n\npass\n",
                    "file:///a.py",
                    max_tokens=6,
                    prompt_ms=60_000,
                )
            ).text
            for n in (0, 3, 7, 8, 9, 6, 17)
        ]
    assert texts == [greedy(small, prompt, 6) for prompt in prompts]


# -- positions ----------------------------------------------------------------------------------


def test_a_base_that_only_transformers_reads_is_passed_on(folder: Path, model: MlxModel) -> None:
    """Without it mlx-lm computes with its own base, and other text, without a word."""
    change(folder, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    tokens = model.tokenize(SOURCE)
    model.free(0)
    expected = logits_of(model, 0, tokens)
    converted = load(folder)
    assert np.array_equal(logits_of(converted, 0, tokens), expected)
    converted.close()
    change(folder, rope_parameters=None)
    forgotten = load(folder)
    assert not agree(logits_of(forgotten, 0, tokens), expected), "the trap is still there"
    forgotten.close()


def test_what_transformers_writes_of_positions_is_put_where_mlx_lm_reads() -> None:
    read = {"rope_theta", "rope_scaling", "partial_rotary_factor"}
    yarn = {"rope_type": "yarn", "factor": 4.0}
    table = {**yarn, "rope_theta": 5e5, "partial_rotary_factor": 0.5}
    assert rope_settings({"rope_parameters": table}, read) == {
        "rope_theta": 5e5,
        "partial_rotary_factor": 0.5,
        "rope_scaling": yarn,
    }
    assert rope_settings({"rope_parameters": table}, {"rope_parameters"}) == {}
    assert rope_settings({"rope_theta": 1e4}, read) == {}
    text = {"hidden_size": 8, "rope_parameters": {"rope_theta": 7.0}}
    assert rope_settings({"text_config": text}, read) == {"text_config": text | {"rope_theta": 7.0}}


@pytest.mark.parametrize(
    "table",
    [
        {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
        {"rope_type": "yarn", "rope_theta": 1e4},
    ],
)
def test_positions_that_mlx_lm_cannot_read_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(LoadFailed, match="rope_parameters"):
        rope_settings({"rope_parameters": table}, {"rope_theta"})


# -- loading ------------------------------------------------------------------------------------


def test_a_model_that_brings_code_is_refused_and_none_of_it_runs(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    change(folder, model_file="own.py")
    with pytest.raises(LoadFailed, match="own code"):
        load(folder)
    change(folder, model_file=None, model_type="own", auto_map={"AutoModel": "own.Model"})
    with pytest.raises(LoadFailed, match="own"):
        load(folder)
    assert not (folder / "ran").exists()


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="safetensors"):
        load(folder)


def test_a_tensor_too_few_is_a_load_failure(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.3.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(LoadFailed, match="mlx-lm can't load it"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"gpu_layers": 4}, "gpu_layers"),
        ({"threads": 2}, "threads"),
        ({"compile": True}, "compile"),
        ({"quantize": "3bit"}, "quantize"),
        ({"dtype": "float8"}, "dtype"),
        ({"device": "mps"}, "device"),
        ({"kv_type": "f16"}, "kv_type"),
    ],
)
def test_settings_that_mlx_lacks_are_refused_by_name(
    settings: dict[str, Any], name: str, same_weights: SameWeights
) -> None:
    if name == "device" and mx.is_available(mx.gpu):
        pytest.skip("there is such a device here")
    with pytest.raises(Unsupported, match=name):
        load(same_weights.mlx, **settings)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"kv_type": "q8_0"}, 0.1),
        ({"kv_type": "q4_0"}, 1.5),
        ({"dtype": "bfloat16"}, 0.2),
        ({"quantize": "8bit"}, 0.2),
        ({"quantize": "4bit"}, 3.0),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_smaller_types_take_less_and_say_about_the_same(
    settings: dict[str, str], tolerance: float, same_weights: SameWeights, model: MlxModel
) -> None:
    tokens = model.tokenize(SOURCE)
    model.free(0)
    expected = logits_of(model, 0, tokens)
    other = load(same_weights.mlx, **settings)
    try:
        taken = (other.cache_bytes, other.model_bytes)
        index = 0 if "kv_type" in settings else 1
        assert taken[index] < 0.6 * (model.cache_bytes, model.model_bytes)[index]
        got = logits_of(other, 0, tokens)
        assert 0 < np.abs(got - expected).max() < tolerance * expected.std()
    finally:
        other.close()


def test_quantised_cells_keep_the_contract(same_weights: SameWeights) -> None:
    """They are cut, shared and copied in their own layout."""
    other = load(same_weights.mlx, kv_type="q8_0")
    for check in CHECKS:
        check(other)
    other.close()


def test_a_quantised_model_is_not_quantised_again(tmp_path: Path, folder: Path) -> None:
    change(folder, quantization={"group_size": 64, "bits": 4})
    with pytest.raises(Unsupported, match="quantised as it is"):
        load(folder, quantize="8bit")


# -- sequences ----------------------------------------------------------------------------------


def test_what_is_appended_to_one_side_of_a_fork_is_not_seen_on_the_other(model: MlxModel) -> None:
    """The caches write in place: an array that is shared, and not only its memory, would show."""
    tokens = model.tokenize(SOURCE)[:60]
    for sequence in range(4):
        model.free(sequence)
    logits_of(model, 0, tokens)
    expected = logits_of(model, 3, [*tokens[:50], *tokens[:9]])
    assert model.fork(0, 1, 50)
    assert model.fork(1, 2, 50)
    for target in (0, 1):
        model.trim(target, 50)
        logits_of(model, target, tokens[20:45])
    assert agree(logits_of(model, 2, tokens[:9]), expected)
    assert np.abs(model_row(model, 2, tokens) - model_row(model, 3, tokens)).max() < 1e-3


def model_row(model: MlxModel, sequence: int, tokens: list[int]) -> np.ndarray[Any, Any]:
    model.trim(sequence, 59)
    return logits_of(model, sequence, tokens[:1])


def test_no_room_is_said_before_anything_is_evaluated(same_weights: SameWeights) -> None:
    small = load(same_weights.mlx, context_length=256)
    small.cache_cells = 100
    tokens = small.tokenize(SOURCE)
    logits_of(small, 0, tokens[:60])
    with pytest.raises(CacheFull):
        small.forward([Feed(0, tokens[:3]), Feed(1, tokens[:50])], never)
    assert (small.length(0), small.length(1)) == (60, 0)
    data = small.snapshot(0)
    assert not small.restore(1, data), "a snapshot needs room too"
    small.free(0)
    assert small.restore(1, data)
    small.close()


def test_an_abort_between_layers_leaves_the_sequence_as_it_was(model: MlxModel) -> None:
    tokens = model.tokenize(SOURCE)[:100]
    model.free(0)
    logits_of(model, 0, tokens[:40])
    polls = 0

    def third_layer() -> bool:
        nonlocal polls
        polls += 1
        return polls == 4  # one before the first piece, then one before each group of layers

    with pytest.raises(Aborted):
        model.forward([Feed(0, tokens[40:])], third_layer)
    assert model.length(0) == 40
    resumed = logits_of(model, 0, tokens[40:])
    model.free(1)
    assert np.abs(resumed - logits_of(model, 1, tokens)).max() < 1e-3


def test_a_failure_inside_mlx_is_an_error_and_the_next_pass_works(model: MlxModel) -> None:
    tokens = model.tokenize(SOURCE)[:20]
    model.free(0)
    expected = logits_of(model, 0, tokens)
    inner = model._model
    model._model = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("[malloc] no memory"))
    with pytest.raises(BackendError, match="no memory"):
        logits_of(model, 0, tokens)
    model._model = inner
    assert model.length(0) == 0
    assert agree(logits_of(model, 0, tokens), expected)


@pytest.mark.parametrize("change_it", ["cut", "flip", "empty", "other model"])
def test_snapshots_that_do_not_fit_are_refused(
    change_it: str, model: MlxModel, same_weights: SameWeights
) -> None:
    model.free(0)
    logits_of(model, 0, model.tokenize(SOURCE)[:30])
    data = model.snapshot(0)
    if change_it == "other model":
        other = load(same_weights.mlx, kv_type="q8_0")
        logits_of(other, 0, other.tokenize(SOURCE)[:30])
        data = other.snapshot(0)
        other.close()
    broken = {"cut": data[:-20], "flip": b"\xff" + data[1:], "empty": b""}.get(change_it, data)
    assert not model.restore(1, broken)
    assert model.length(1) == 0


def test_pieces_follow_the_machine_s_speed() -> None:
    assert next_piece(64, mlx.POLL_SECONDS * 2) == 32
    assert next_piece(64, mlx.POLL_SECONDS * 0.9) == 64
    assert next_piece(64, mlx.POLL_SECONDS / 10) == 128
    assert next_piece(mlx.PIECES[0], 1.0) == mlx.PIECES[0]
    assert next_piece(mlx.PIECES[1], 0.0) == mlx.PIECES[1]


def test_workers_complete_and_end_by_themselves(same_weights: SameWeights) -> None:
    """MLX's native threads can abort a process that ends while they do, one time in five."""
    load = Load("mlx", str(same_weights.mlx), "midspan-starter")
    request = InfillRequest("import os\n\n\ndef size(path):\n    return os.", "\n", max_tokens=4)
    workers = [
        subprocess.Popen(WORKER_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdin
        worker.stdin.write(frames.encode(load) + frames.encode(frames.Infill(1, request)))
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdin
        assert worker.stdout
        text = ""
        while body := frames.read_frame(worker.stdout):
            message = frames.decode_from_worker(body)
            if isinstance(message, frames.Piece):
                text += message.chunk.text
                if message.chunk.finish_reason is not None:
                    break
        worker.stdin.close()
        assert text
        worker.stdout.read()
        assert worker.wait(60) == 0
