"""The prefix cache against no cache: what an entry claims to hold is what the model holds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.decoding.prefix_cache import MIN_FORK, PrefixCache
from backends.decoding.snapshots import common_prefix
from backends.decoding.token_model import Feed
from tests.backends.decoding.hash_model import HashModel

tokens = st.lists(st.integers(4, 6), min_size=1, max_size=60)


def evaluate(cache: PrefixCache, model: HashModel, key: object, prompt: list[int]) -> int:
    """Evaluate `prompt` through the cache; return how many tokens were evaluated."""
    entry = cache.acquire(key, prompt)
    assert entry is not None
    rest = prompt[len(entry.tokens) :]
    assert rest, "the last token is always evaluated: its logits are needed"
    for start in range(0, len(rest), model.max_batch):
        part = rest[start : start + model.max_batch]
        model.forward([Feed(entry.sequence, part)], lambda: False)
        cache.appended(entry, part)
    assert model.cached[entry.sequence] == prompt == entry.tokens
    cache.release(entry, keep=True)
    return len(rest)


@given(st.lists(st.tuples(st.integers(0, 5), tokens), max_size=30))
@settings(deadline=None)
def test_prefix_cache_always_holds_a_true_prefix(steps: list[tuple[int, list[int]]]) -> None:
    model = HashModel(sequences=3, cells=150)
    cache = PrefixCache(model)
    for key, prompt in steps:
        evaluate(cache, model, key, prompt)
        assert cache.cells() <= model.cache_cells


def test_prefix_cache_evaluates_only_what_is_new() -> None:
    model = HashModel()
    cache = PrefixCache(model)
    prompt = [4] * 100
    assert evaluate(cache, model, "a", prompt) == 100
    assert evaluate(cache, model, "a", prompt) == 1
    assert evaluate(cache, model, "a", [*prompt, 5, 6]) == 2
    assert evaluate(cache, model, "a", prompt[:50]) == 1


def test_prefix_cache_forks_a_new_entry_from_the_closest() -> None:
    model = HashModel()
    cache = PrefixCache(model)
    shared = [4, 5, 6] * MIN_FORK
    evaluate(cache, model, "a", shared)
    assert evaluate(cache, model, "b", [*shared, 7]) == 1
    assert evaluate(cache, model, "a", [*shared, 8]) == 1, "the fork took nothing from its source"


def test_prefix_cache_starts_over_where_the_model_cannot_trim() -> None:
    model = HashModel()
    model.can_rewind = False
    cache = PrefixCache(model)
    evaluate(cache, model, "a", [4] * 30)
    assert evaluate(cache, model, "a", [4] * 20) == 20


def test_prefix_cache_refuses_when_every_sequence_is_busy() -> None:
    model = HashModel(sequences=1)
    cache = PrefixCache(model)
    entry = cache.acquire("a", [4, 5])
    assert entry is not None
    assert cache.acquire("a", [4, 5]) is None
    assert cache.acquire("b", [4, 5]) is None
    cache.release(entry, keep=True)
    assert cache.acquire("b", [4, 5]) is not None


@given(tokens, tokens)
def test_common_prefix_is_the_longest(left: list[int], right: list[int]) -> None:
    n = common_prefix(left, right)
    assert left[:n] == right[:n]
    assert n == min(len(left), len(right)) or left[n] != right[n]
    assert common_prefix(left * 20, left * 20 + right) == len(left) * 20
