"""Snapshots: what was given up comes back as it was, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.backend import InfillRequest
from backends.decoding.prefix_cache import MIN_SNAPSHOT, PrefixCache
from backends.decoding.snapshots import SnapshotStore
from backends.decoding.token_model import Feed, TokenModel
from tests.backends.decoding.harness import running
from tests.backends.decoding.hash_model import HashModel
from tests.backends.decoding.test_prefix_cache import evaluate, tokens

LONG = 3 * MIN_SNAPSHOT


def prompt(document: int, length: int = LONG) -> list[int]:
    """Return tokens that share nothing with another document's."""
    return [10 + document] * length


def save_all(cache: PrefixCache) -> int:
    """Do what the scheduler does while nothing else is to be done; return how often."""
    count = 0
    while cache.to_save() is not None:
        cache.save()
        count += 1
        assert count < 100, "an entry is saved again and again"
    return count


def test_store_forgets_the_least_recently_used_under_its_budget() -> None:
    store = SnapshotStore(30)
    for number in range(3):
        store.put(prompt(number, 5), bytes(10))
    first, shared = store.closest(prompt(0, 9))
    assert shared == 5
    assert first is not None
    store.used(first)
    store.put(prompt(3, 5), bytes(10))
    assert store.size == 30
    assert store.closest(prompt(1, 5)) == (None, 0)
    assert store.closest(prompt(0, 5))[0] is first


def test_store_keeps_nothing_that_is_over_its_budget() -> None:
    store = SnapshotStore(30)
    store.put(prompt(0), bytes(20))
    store.put(prompt(1), bytes(31))
    assert store.closest(prompt(1)) == (None, 0)
    assert store.closest(prompt(0))[1] == LONG


def test_store_replaces_beginnings_of_a_longer_one() -> None:
    store = SnapshotStore(100)
    store.put([1, 2], bytes(4))
    store.put([1, 2, 3], bytes(6))
    store.put([1, 2, 4], bytes(6))
    assert store.size == 12


def test_evicted_entry_comes_back_from_its_snapshot() -> None:
    model = HashModel(sequences=4)
    cache = PrefixCache(model, SnapshotStore(1 << 20))
    for document in range(8):
        evaluate(cache, model, document, prompt(document))
        save_all(cache)
    assert evaluate(cache, model, 0, [*prompt(0), 5]) == 1
    assert model.restored == 1
    # In the cache by now: nothing is restored twice.
    assert evaluate(cache, model, 0, [*prompt(0), 5, 6]) == 1
    assert model.restored == 1


def test_nothing_is_saved_while_there_is_room() -> None:
    model = HashModel(sequences=8)
    cache = PrefixCache(model, SnapshotStore(1 << 20))
    for document in range(6):
        evaluate(cache, model, document, prompt(document))
        assert save_all(cache) == 0


def test_what_is_being_evaluated_is_not_saved() -> None:
    model = HashModel(sequences=1)
    cache = PrefixCache(model, SnapshotStore(1 << 20))
    evaluate(cache, model, "a", prompt(0))
    entry = cache.acquire("a", prompt(0))
    assert entry is not None
    assert cache.to_save() is None
    cache.release(entry, keep=True)
    assert cache.to_save() is entry


def test_snapshot_that_mostly_differs_is_left_alone() -> None:
    model = HashModel(sequences=1)
    store = SnapshotStore(1 << 20)
    cache = PrefixCache(model, store)
    evaluate(cache, model, "a", prompt(0, 4 * LONG))
    assert save_all(cache) == 1
    evaluate(cache, model, "b", prompt(1))
    other = [*prompt(0, LONG), 7, 8]
    assert evaluate(cache, model, "a", other) == len(other)
    assert model.restored == 0


@pytest.mark.parametrize("damage", [lambda data: data[:-2], lambda data: data[:-4], bytes.upper])
def test_damaged_or_foreign_snapshot_is_evaluated_instead(damage: Any) -> None:
    model = HashModel(sequences=2)
    store = SnapshotStore(1 << 20)
    cache = PrefixCache(model, store)
    evaluate(cache, model, "a", prompt(0))
    data = model.snapshot(0)
    evaluate(cache, model, "b", prompt(1))
    evaluate(cache, model, "c", prompt(2))
    if damage is bytes.upper:  # a model that refuses it
        model.restore = lambda sequence, data: False  # type: ignore[method-assign]
    else:
        data = damage(data)
    store.put(prompt(0), data)
    assert evaluate(cache, model, "a", [*prompt(0), 5]) == LONG + 1
    assert store.closest(prompt(0)) == (None, 0)


def test_snapshot_too_large_for_the_cells_left_is_evaluated_instead() -> None:
    model = HashModel(sequences=3, cells=2 * LONG)
    store = SnapshotStore(1 << 20)
    cache = PrefixCache(model, store)
    store.put(prompt(0), bytes(4 * LONG))
    busy = cache.acquire("busy", prompt(1, LONG + 9))
    assert busy is not None
    model.forward([Feed(busy.sequence, prompt(1, LONG + 9))], lambda: False)
    cache.appended(busy, prompt(1, LONG + 9))
    entry = cache.acquire("a", prompt(0))
    assert entry is not None
    assert entry.tokens == []
    assert model.length(entry.sequence) == 0


def test_model_that_cannot_go_back_goes_on_from_the_end_of_a_snapshot() -> None:
    model = HashModel(sequences=1)
    model.can_rewind = False
    cache = PrefixCache(model, SnapshotStore(1 << 20))
    for document in range(2):
        evaluate(cache, model, document, prompt(document))
        save_all(cache)
    assert evaluate(cache, model, 0, [*prompt(0), 5]) == 1
    assert evaluate(cache, model, 1, prompt(1, LONG - 10)) == LONG - 10


@given(st.lists(st.tuples(st.integers(0, 5), tokens, st.booleans()), max_size=30))
@settings(deadline=None)
def test_restored_or_not_an_entry_holds_a_true_prefix(
    steps: list[tuple[int, list[int], bool]],
) -> None:
    model = HashModel(sequences=3, cells=400)
    cache = PrefixCache(model, SnapshotStore(2000))
    for key, prompt, idle in steps:
        evaluate(cache, model, key, prompt * 4)
        assert cache.cells() <= model.cache_cells
        if idle:
            save_all(cache)


def test_scheduler_returns_to_many_documents_without_evaluating_them_again() -> None:
    texts = {
        f"file:///{n}.py": "".join(f"value_{n} = {n * i}\n" for i in range(20)) for n in range(8)
    }
    with running(HashModel(sequences=4, context_length=2048)) as engine:
        for _ in range(2):
            for uri, text in texts.items():
                last = engine.infill(InfillRequest(text, "\n", uri, max_tokens=2))
                while engine.scheduler._cache.to_save() is not None:
                    pass  # on the scheduler's thread, while nothing else is asked
        assert last.usage.cached_tokens > last.usage.prompt_tokens - 8


@pytest.fixture
def llama(tiny_model: Path) -> Iterator[TokenModel]:
    from backends import engines
    from backends.frames import Load

    model = engines.load(Load("llama-cpp", str(tiny_model), "tiny"))
    yield model
    model.close()


@pytest.mark.engine
def test_llama_cpp_refuses_damaged_snapshots(llama: TokenModel) -> None:
    tokens = llama.tokenize("def f(x):\n    return x\n" * 20)
    llama.forward([Feed(0, tokens)], lambda: False)
    data = llama.snapshot(0)
    for torn in (b"", data[:100], data[:-1000]):
        assert not llama.restore(1, torn) or llama.length(1) != len(tokens)
    assert llama.restore(1, data)
    assert llama.length(1) == len(tokens)
