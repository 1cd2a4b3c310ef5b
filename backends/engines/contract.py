"""What every engine must do, through the `TokenModel` seam: one suite for all adapters.

Rule: each check is a plain function of a loaded model and raises AssertionError; it knows no
runtime and no test framework, so that engines outside this package can run it too:

    pytest.register_assert_rewrite("backends.engines.contract")  # in conftest.py: shows values

    @pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
    def test_contract(model, check):
        check(model)

The model must have a context of 512 tokens or more and room for several sequences of that length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np

from backends.backend import SteeringUse
from backends.decoding.healing import VocabularyIndex
from backends.decoding.token_model import Aborted, Feed, Logits, Steerable, TokenModel
from backends.errors import Unsupported
from backends.steering.training import steering_of
from backends.steering.vector_file import Made, Vector

SOURCE = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size\n\n\n" * 6
# Other batches take other kernels and other orders of 16-bit sums. As a part of the logits' spread
# (standard deviation): that is up to 0.11 here, and a token missing near the end is far more.
TOLERANCE = 0.2

Check = Callable[[TokenModel], None]
CHECKS: list[Check] = []


def never() -> bool:
    """Return False: the `abort` that never comes."""
    return False


def logits_of(model: TokenModel, sequence: int, tokens: list[int]) -> Logits:
    """Append `tokens` to a sequence and return the logits after the last."""
    return model.forward([Feed(sequence, tokens)], never)[0][-1].copy()


def agree(logits: Logits, expected: Logits) -> bool:
    """Whether two evaluations of the same tokens agree."""
    return bool(np.abs(logits - expected).max() < TOLERANCE * expected.std())


def _check(function: Check) -> Check:
    """Add a check to the suite; it begins with empty sequences."""

    @wraps(function)
    def checked(model: TokenModel) -> None:
        for sequence in range(model.max_sequences):
            model.free(sequence)
        function(model)

    CHECKS.append(checked)
    return checked


@_check
def tokens_are_the_text_s_bytes(model: TokenModel) -> None:
    """No text yields a control token, none is lost or added."""
    text = SOURCE + "\té中🙂\r\n\x00<|fim_middle|><|endoftext|></s><pad>"
    text += "".join(model.vocab.control_tokens)
    tokens = model.tokenize(text)
    assert b"".join(map(model.token_bytes, tokens)) == text.encode()
    assert not set(tokens) & set(model.vocab.control_tokens.values())
    assert all(model.token_bytes(token) == b"" for token in model.vocab.control_tokens.values())
    assert model.tokenize("") == []
    assert all(0 <= token < model.vocab.size for token in tokens)


@_check
def every_byte_can_be_spelt(model: TokenModel) -> None:
    """Healing needs it: whatever was typed, some token agrees with it."""
    index = VocabularyIndex(model.token_bytes, model.vocab.size)
    assert all(len(index.agreeing(bytes([byte]))) for byte in range(256))


@_check
def the_tolerance_tells_a_missing_token(model: TokenModel) -> None:
    """A suite that could not would find no mistake in positions."""
    tokens = model.tokenize(SOURCE)[:24]
    whole = logits_of(model, 0, tokens)
    assert not agree(logits_of(model, 1, [*tokens[:-5], *tokens[-4:]]), whole)


@_check
def logits_are_of_the_vocabulary(model: TokenModel) -> None:
    """One float32 for each token, all of them numbers."""
    logits = logits_of(model, 0, model.tokenize(SOURCE)[:8])
    assert logits.shape == (model.vocab.size,)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).any()
    assert not np.isnan(logits).any()


@_check
def trimmed_and_cold_sequences_agree(model: TokenModel) -> None:
    """What is cut off leaves nothing behind; a model that can't cut says so."""
    tokens = model.tokenize(SOURCE)
    logits_of(model, 0, [*tokens, *tokens[:30]])
    if not model.trim(0, len(tokens) - 5):
        assert not model.can_rewind
        model.free(0)
        return
    assert model.length(0) == len(tokens) - 5
    trimmed = logits_of(model, 0, tokens[-5:])
    assert agree(trimmed, logits_of(model, 1, tokens))


@_check
def a_fork_shares_and_then_goes_its_own_way(model: TokenModel) -> None:
    """Neither side of a fork ever sees what the other appends, trims or frees."""
    tokens = model.tokenize(SOURCE)
    logits_of(model, 0, tokens)
    if not model.fork(0, 1, 40):
        assert not model.can_rewind
        return
    assert (model.length(0), model.length(1)) == (len(tokens), 40)
    forked = logits_of(model, 1, tokens[40:80])
    assert agree(forked, logits_of(model, 2, tokens[:80]))
    assert agree(logits_of(model, 0, tokens[:3]), logits_of(model, 3, [*tokens, *tokens[:3]]))
    model.free(0)
    assert (model.length(0), model.length(1)) == (0, 80), "freeing the source leaves the fork whole"
    assert agree(logits_of(model, 1, tokens[80:90]), logits_of(model, 4, tokens[:90]))


@_check
def a_snapshot_restores_the_same_logits(model: TokenModel) -> None:
    """A snapshot is all of a sequence; a torn one is refused and leaves nothing."""
    tokens = model.tokenize(SOURCE)
    logits_of(model, 0, tokens)
    data = model.snapshot(0)
    expected = logits_of(model, 0, tokens[:1])
    assert model.restore(3, data)
    assert model.length(3) == len(tokens)
    assert agree(logits_of(model, 3, tokens[:1]), expected)
    assert not model.restore(4, data[: len(data) // 2]) or model.length(4) != len(tokens)
    model.free(4)
    assert agree(logits_of(model, 4, [*tokens, tokens[0]]), expected)


@_check
def a_batch_of_sequences_is_each_by_itself(model: TokenModel) -> None:
    """Prompts of several lengths in one pass, then one token of each."""
    parts = [model.tokenize(SOURCE)[i : i + 20 + i] for i in range(4)]
    for fed in (parts, [part[:1] for part in parts]):
        rows = model.forward([Feed(i, tokens) for i, tokens in enumerate(fed)], never)
        together = [own[-1].copy() for own in rows]
        for i, tokens in enumerate(fed):
            assert agree(together[i], logits_of(model, 8 + i, tokens))


@_check
def outputs_are_the_logits_after_the_last_tokens(model: TokenModel) -> None:
    """As many rows as asked for, in order: drafts are verified by them."""
    tokens = model.tokenize(SOURCE)[:20]
    rows = [row.copy() for row in model.forward([Feed(0, tokens, outputs=3)], never)[0]]
    assert len(rows) == 3
    for back, row in zip((2, 1, 0), rows, strict=True):
        alone = logits_of(model, 1 + back, tokens[: len(tokens) - back])
        assert agree(alone, row)


@_check
def steering_acts_on_the_feeds_that_carry_it_and_leaves_nothing(model: TokenModel) -> None:
    """A model that can't steer refuses; what one that can gives to others keeps its bits."""
    tokens = model.tokenize(SOURCE)[:24]
    use = SteeringUse("contract", 20.0, "contract")
    if not model.can_steer:
        assert not isinstance(model, Steerable) or _refuses(model, use)
        return
    assert isinstance(model, Steerable)
    steering = steering_of(model)
    identity = steering.model
    values = np.random.default_rng(0).standard_normal(identity.hidden_size).astype("<f4")
    vector = Vector("contract", 0, values.tobytes(), identity, Made("none", 0), None)
    steering.hold(vector, use.version)

    def both(uses: tuple[SteeringUse, ...]) -> list[Logits]:
        feeds = [Feed(0, tokens), Feed(1, tokens[:17], steering=uses)]
        rows = [own[-1].copy() for own in model.forward(feeds, never)]
        for sequence in (0, 1):
            model.free(sequence)
        return rows

    before, steered, after = both(()), both((use,)), both(())
    assert not agree(steered[1], before[1]), "it steers"
    assert np.array_equal(steered[0], before[0]), "its neighbour is as it was"
    assert all(map(np.array_equal, after, before)), "and so is everything afterwards"


def _refuses(model: Steerable, use: SteeringUse) -> bool:
    try:
        model.resolve_steering([use])
    except Unsupported:
        return True
    return False


@_check
def an_abort_keeps_a_true_prefix(model: TokenModel) -> None:
    """`abort` is polled in mid-pass, and what was finished before it can be gone on from."""
    tokens = (model.tokenize(SOURCE) * 8)[: min(model.max_batch, model.context_length)]
    polls, limit = 0, 1 << 60

    def abort() -> bool:
        nonlocal polls
        polls += 1
        return polls > limit

    whole = model.forward([Feed(1, tokens)], abort)[0][-1].copy()
    assert polls >= 4, "a pass that polls so rarely can't be stopped in 50 ms"
    polls, limit = 0, polls // 2
    try:
        model.forward([Feed(0, tokens)], abort)
    except Aborted:
        pass
    else:
        raise AssertionError("the abort was not heard")
    kept = model.length(0)
    assert kept < len(tokens)
    assert agree(logits_of(model, 0, tokens[kept:]), whole)
