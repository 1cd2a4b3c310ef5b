"""The model, its decoder, its optimizer and its export."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from training.infer import Decoder
from training.model import BLOCK, SIZES, Config, Qwen2, blocked_attention
from training.optimizer import Optimizer
from training.train import factor_at

CONFIG = Config(vocabulary=400, hidden=64, layers=2, heads=2, kv_heads=1, feed_forward=96)


@pytest.fixture
def model() -> Qwen2:
    torch.manual_seed(0)
    made = Qwen2(CONFIG)
    for parameter in made.parameters():  # zeros would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


LLAMA_SAYS = """
import json, sys
from llama_cpp import Llama

asked = json.load(sys.stdin)
llama = Llama(asked["path"], n_ctx=128, verbose=False, logits_all=True)
ids = llama.tokenize(asked["source"].encode(), add_bos=False, special=False)[:60]
llama.eval(asked["ids"])
print(json.dumps({"ids": ids, "next": int(llama.scores[59].argmax())}))
"""


def test_blocked_attention_equals_torchs_own() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 2 * BLOCK, 16) for heads in (4, 2, 2))
    k4, v4 = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k4, v4, is_causal=True)
    torch.testing.assert_close(blocked_attention(q, k, v), wanted)


def test_decoder_gives_the_models_logits(model: Qwen2) -> None:
    ids = torch.randint(7, 400, (1, 12), generator=torch.Generator().manual_seed(1))
    wanted = model.logits(model(ids))[0]
    decoder = Decoder(model)
    torch.testing.assert_close(decoder.start(ids[0, :8].tolist()), wanted[7])
    for position in range(8, 12):
        torch.testing.assert_close(decoder.step(int(ids[0, position])), wanted[position])


def test_optimizer_lowers_the_loss_and_resumes_exactly() -> None:
    ids = torch.randint(7, 400, (2, 17), generator=torch.Generator().manual_seed(2))
    weights = torch.ones(ids.shape)

    def steps(model: Qwen2, optimizer: Optimizer, count: int) -> float:
        loss = torch.zeros(())
        for _ in range(count):
            loss, _ = model.loss(ids, weights)
            torch.autograd.backward(loss)
            optimizer.step(1.0)
        return float(loss.detach())

    torch.manual_seed(0)
    one = Qwen2(CONFIG)
    optimizer = Optimizer(one, 5e-3, 3e-3, compiled=False)
    before = steps(one, optimizer, 1)
    middle = steps(one, optimizer, 10)
    assert middle < before - 1
    other = Qwen2(CONFIG)
    resumed = Optimizer(other, 5e-3, 3e-3, compiled=False)
    resumed.load_state_dict(optimizer.state_dict())
    assert steps(one, optimizer, 3) == pytest.approx(steps(other, resumed, 3), rel=1e-4)


def test_factor_at_warms_up_holds_and_cools_down() -> None:
    assert factor_at("stable", 0, 0, 10) < 0.01
    assert factor_at("stable", 10_000, 5, 10) == 1
    assert factor_at("cooldown", 10_000, 0, 10) == 1
    assert factor_at("cooldown", 10_000, 5, 10) == pytest.approx(0.5)
    assert factor_at("cooldown", 10_000, 10, 10) == 0


def test_base_preset_fits_the_package() -> None:
    from training.card import parameters

    for name, config in SIZES.items():
        count = sum(p.numel() for p in Qwen2(config).parameters())
        assert parameters(config) == count, name
        assert count * 34 / 32 < 32e6, name  # Q8_0: 34 bytes for 32 weights


def test_export_round_trips_and_loads(
    model: Qwen2, tokenizer: Tokenizer, tmp_path: Path, source: str
) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    from training.export import read_config, read_tokenizer, read_weights, write_gguf

    config = Config(**{**CONFIG.__dict__, "vocabulary": tokenizer.get_vocab_size()})
    torch.manual_seed(0)
    small = Qwen2(config).eval()
    path = tmp_path / "small.gguf"
    write_gguf(path, dict(small.state_dict()), config, tokenizer, 128)
    assert replace(read_config(path), epsilon=1e-6) == config  # kept in float32
    again = read_tokenizer(path)
    assert again.encode(source).ids == tokenizer.encode(source).ids
    assert again.get_vocab() == tokenizer.get_vocab()
    back = read_weights(path)
    assert back.keys() == small.state_dict().keys()
    for name, weight in small.state_dict().items():
        torch.testing.assert_close(back[name], weight, atol=0.02, rtol=0.02)
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    ids = tokenizer.encode(source, add_special_tokens=False).ids[:60]
    # In a process of its own, as in the product: it shares none with torch.
    asked = json.dumps({"path": str(path), "source": source, "ids": ids})
    done = subprocess.run(
        [sys.executable, "-c", LLAMA_SAYS], input=asked, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["ids"] == ids
    small.load_state_dict(back)
    wanted = small.logits(small(torch.tensor([ids])))[0]
    assert said["next"] == int(wanted[59].argmax())


def test_model_card_states_what_was_measured() -> None:
    from training.card import model_card

    share = {"exact": 3, "of": 40, "percent": 7.5}
    evaluation = {
        "model": "m",
        "seed": 0,
        "held_out_files": 9,
        "held_out_loss": {
            "nats_per_token": 2.25,
            "bits_per_byte": 0.9,
            "tokens": 1000,
            "window": 512,
        },
        "exact_match": [
            {
                "layout": "anchored",
                "healing": True,
                "context": 512,
                "all": share,
                "inside_words": share,
                "elsewhere": share,
            }
        ],
    }
    manifest = {
        "files": 5,
        "bytes": 100,
        "python": "3.11",
        "stdlib_bytes": 50,
        "licences": {"stdlib": "PSF-2.0", "p": "MIT"},
        "held_out_modules": ["csv"],
    }
    state = {"config": CONFIG.__dict__, "tokens": 12345, "longest": 512, "seconds": 60.0}
    card = model_card(state, json.loads(json.dumps(manifest)), evaluation, 999)
    for text in ("12,345", "2.25 nats", "7.5 % (3 of 40)", "1 packages", "csv"):
        assert text in card
