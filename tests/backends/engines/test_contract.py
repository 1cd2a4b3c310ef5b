"""What every engine must do, through the `TokenModel` seam: one suite for all adapters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from backends import engines, starter
from backends.backend import InfillRequest
from backends.decoding.healing import VocabularyIndex
from backends.decoding.token_model import Aborted, Feed, TokenModel
from backends.errors import LoadFailed
from backends.frames import Load
from benchmarks.reference import greedy
from tests.backends.decoding.harness import running
from tests.backends.decoding.test_scheduler import spy_prompts

pytestmark = pytest.mark.engine

SOURCE = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size\n\n\n" * 6
# Other batches take other kernels and other orders of 16-bit sums. As a part of the logits' spread
# (standard deviation): that is up to 0.11 here, and a token missing near the end is far more.
TOLERANCE = 0.2


def never() -> bool:
    return False


@pytest.fixture(scope="module", params=sorted(engines.ENGINES))
def model(request: pytest.FixtureRequest) -> Iterator[TokenModel]:
    loaded = engines.load(Load(engine=request.param, path=str(starter.path()), name="starter"))
    yield loaded
    loaded.close()


@pytest.fixture(autouse=True)
def empty(model: TokenModel) -> None:
    for sequence in range(model.max_sequences):
        model.free(sequence)


def logits_of(model: TokenModel, sequence: int, tokens: list[int]) -> np.ndarray:
    return model.forward([Feed(sequence, tokens)], never)[0][-1].copy()


def agree(logits: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(logits - expected).max() < TOLERANCE * expected.std())


def test_tokens_are_the_text_s_bytes(model: TokenModel) -> None:
    text = SOURCE + "\té中🙂\r\n\x00<|fim_middle|><|endoftext|>"
    tokens = model.tokenize(text)
    assert b"".join(map(model.token_bytes, tokens)) == text.encode()
    assert not set(tokens) & set(model.vocab.control_tokens.values())
    assert all(model.token_bytes(token) == b"" for token in model.vocab.control_tokens.values())


def test_the_tolerance_tells_a_missing_token(model: TokenModel) -> None:
    tokens = model.tokenize(SOURCE)[:24]
    whole = logits_of(model, 0, tokens)
    assert not agree(logits_of(model, 1, [*tokens[:-5], *tokens[-4:]]), whole)


def test_trimmed_and_cold_sequences_agree(model: TokenModel) -> None:
    tokens = model.tokenize(SOURCE)
    logits_of(model, 0, [*tokens, *tokens[:30]])
    assert model.trim(0, len(tokens) - 5)
    assert model.length(0) == len(tokens) - 5
    trimmed = logits_of(model, 0, tokens[-5:])
    assert agree(trimmed, logits_of(model, 1, tokens))


def test_a_fork_shares_and_then_goes_its_own_way(model: TokenModel) -> None:
    tokens = model.tokenize(SOURCE)
    logits_of(model, 0, tokens)
    assert model.fork(0, 1, 40)
    assert (model.length(0), model.length(1)) == (len(tokens), 40)
    forked = logits_of(model, 1, tokens[40:80])
    assert agree(forked, logits_of(model, 2, tokens[:80]))
    model.free(0)
    assert model.length(1) == 80, "freeing the source leaves the fork whole"


def test_a_snapshot_restores_the_same_logits(model: TokenModel) -> None:
    tokens = model.tokenize(SOURCE)
    logits_of(model, 0, tokens)
    data = model.snapshot(0)
    expected = logits_of(model, 0, tokens[:1])
    assert model.restore(3, data)
    assert model.length(3) == len(tokens)
    assert agree(logits_of(model, 3, tokens[:1]), expected)


def test_a_batch_of_sequences_is_each_by_itself(model: TokenModel) -> None:
    parts = [model.tokenize(SOURCE)[i : i + 20 + i] for i in range(4)]
    together = model.forward([Feed(i, part) for i, part in enumerate(parts)], never)
    together = [rows[-1].copy() for rows in together]
    for i, part in enumerate(parts):
        assert agree(together[i], logits_of(model, 8 + i, part))


def test_outputs_are_the_logits_after_the_last_tokens(model: TokenModel) -> None:
    tokens = model.tokenize(SOURCE)[:20]
    rows = [row.copy() for row in model.forward([Feed(0, tokens, outputs=3)], never)[0]]
    assert len(rows) == 3
    for back, row in zip((2, 1, 0), rows, strict=True):
        alone = logits_of(model, 1 + back, tokens[: len(tokens) - back])
        assert agree(alone, row)


def test_an_abort_keeps_a_true_prefix(model: TokenModel) -> None:
    tokens = (model.tokenize(SOURCE) * 4)[: model.max_batch]
    polls = 0

    def abort() -> bool:
        nonlocal polls
        polls += 1
        return polls > 300

    with pytest.raises(Aborted):
        model.forward([Feed(0, tokens)], abort)
    kept = model.length(0)
    assert kept < len(tokens)
    resumed = logits_of(model, 0, tokens[kept:])
    assert agree(resumed, logits_of(model, 1, tokens))


def test_every_byte_can_be_spelt(model: TokenModel) -> None:
    """Healing needs it: whatever was typed, some token agrees with it."""
    index = VocabularyIndex(model.token_bytes, model.vocab.size)
    assert all(len(index.agreeing(bytes([byte]))) for byte in range(256))


def test_typing_gives_the_cold_text(model: TokenModel) -> None:
    """Invariant 1 on real weights: near ties may fall either way, as the tolerance says."""
    after = "\n\n\ndef other():\n    pass\n"
    typed = "\n\ndef remove(path):\n    return os.remove(path)"
    same = 0
    with running(model) as engine:
        prompts = spy_prompts(engine.scheduler)
        texts = [
            engine.infill(
                InfillRequest(SOURCE + typed[:n], after, "file:///a.py", max_tokens=8)
            ).text
            for n in range(len(typed))
        ]
    for text, prompt in zip(texts, prompts, strict=True):
        same += text == greedy(model, prompt, 8)
    assert same >= 0.9 * len(texts)


def test_a_missing_or_wrong_file_is_a_load_failure(tmp_path: object) -> None:
    with pytest.raises(LoadFailed):
        engines.load(Load(engine="llama-cpp", path=f"{tmp_path}/none.gguf", name="none"))
