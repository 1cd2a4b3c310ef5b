from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_server.suggestion_cache import Hit, Source, State, SuggestionCache

BASE = State("a.py", "def f(a):\n    ", "\n\nx = 1\n", single_line=False, max_tokens=96)
TEXT = "return a + 1\n    # done"


def typed(text: str, state: State = BASE) -> State:
    return replace(state, before=state.before + text)


def keep(
    cache: SuggestionCache, state: State, text: str, model: str = "m", ahead: bool = False
) -> None:
    cache.keep(state, text, model=model, epoch=cache.epoch, ahead=ahead)


def rest(cache: SuggestionCache, state: State) -> str | None:
    hit = cache.find(state)
    return None if hit is None else hit.text


@pytest.fixture
def cache() -> SuggestionCache:
    """With TEXT shown at BASE."""
    cache = SuggestionCache()
    keep(cache, BASE, TEXT)
    return cache


def test_find_answers_inside_the_text(cache: SuggestionCache):
    steps = [
        ("r", Source.TYPED, "a letter"),
        ("return ", Source.TYPED, "a word accepted"),
        ("return a + 1\n", Source.TYPED, "a line accepted"),
        ("return a", Source.DELETED, "deleted back"),
        ("return a", Source.REPEATED, "asked again"),
        ("", Source.DELETED, "all deleted"),
    ]
    for text, source, why in steps:
        assert cache.find(typed(text)) == Hit(TEXT[len(text) :], source), why


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (typed("x"), "other text was typed"),
        (typed("return b"), "it differs further on"),
        (typed(TEXT), "all of it was accepted"),
        (typed(TEXT + "\n"), "and more was typed"),
        (typed("", replace(BASE, before=BASE.before[:-1])), "deleted to before its place"),
        (replace(BASE, before="def g(a):\n    "), "the text before differs"),
        (replace(BASE, after="\n\nx = 2\n"), "the text after differs"),
        (replace(BASE, after=")" + BASE.after), "something stands behind the cursor"),
        (replace(BASE, document="b.py"), "another document"),
        (replace(BASE, single_line=True), "it must stay on its line now"),
        (replace(BASE, max_tokens=48), "another length is wanted"),
    ],
)
def test_find_answers_nothing_elsewhere(cache: SuggestionCache, state: State, why: str):
    assert cache.find(state) is None, why
    assert not cache.knows(state), why


def test_find_has_no_answer_of_blanks_only():
    cache = SuggestionCache()
    keep(cache, BASE, "x\n  ")
    assert rest(cache, typed("x")) is None
    keep(cache, typed("("), "  ")
    assert len(cache) == 1


def test_find_prefers_what_was_used_last():
    cache = SuggestionCache()
    keep(cache, BASE, "return 1")
    keep(cache, typed("re"), "duce(a)")
    assert rest(cache, typed("re")) == "duce(a)"
    assert rest(cache, typed("r")) == "eturn 1"
    assert rest(cache, typed("re")) == "turn 1"


def test_prefetched_counts_as_such_once(cache: SuggestionCache):
    state = typed("accepted")
    keep(cache, state, "next", ahead=True)
    assert cache.knows(state)
    sources = [hit.source for _ in range(2) if (hit := cache.find(state))]
    assert sources == [Source.PREFETCHED, Source.REPEATED]


def test_another_model_empties_the_cache(cache: SuggestionCache):
    keep(cache, typed("?"), "answer", model="other")
    assert cache.find(BASE) is None
    assert rest(cache, typed("?")) == "answer"


def test_answer_asked_for_before_clear_is_not_kept(cache: SuggestionCache):
    before = cache.epoch
    cache.clear()
    cache.keep(BASE, TEXT, model="m", epoch=before)
    assert len(cache) == 0
    keep(cache, BASE, TEXT)
    assert rest(cache, BASE) == TEXT


def test_drop_forgets_one_document(cache: SuggestionCache):
    other = replace(BASE, document="b.py")
    keep(cache, other, TEXT)
    cache.drop("a.py")
    assert cache.find(BASE) is None
    assert rest(cache, other) == TEXT


def test_least_recently_used_goes_first():
    cache = SuggestionCache(max_entries=2)
    one, two, three = (replace(BASE, document=name) for name in "123")
    keep(cache, one, "1")
    keep(cache, two, "2")
    cache.find(one)
    keep(cache, three, "3")
    assert [rest(cache, state) for state in (one, two, three)] == ["1", None, "3"]


def test_characters_are_bounded():
    cache = SuggestionCache(max_chars=100)
    for number in range(50):
        keep(cache, State("d", "b" * number, "", False, 1), "x" * 20)
        assert cache._chars == sum(entry.chars for entry in cache._entries.values()) <= 100
    keep(cache, State("d", "b" * 200, "", False, 1), "never fits")
    assert 1 <= len(cache) <= 4
    cache.drop("d")
    assert (len(cache), cache._chars) == (0, 0)


class Naive:
    """The definition, word for word: entries in the order of their use."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.entries: list[tuple[State, str]] = []

    def find(self, now: State) -> str | None:
        for number, (was, text) in reversed(list(enumerate(self.entries))):
            for k in range(len(text)):
                same = replace(was, before=was.before + text[:k]) == now
                if same and text[k:].strip():
                    self.entries.append(self.entries.pop(number))
                    return text[k:]
        return None

    def keep(self, state: State, text: str) -> None:
        self.entries = [entry for entry in self.entries if entry[0] != state]
        if text.strip():
            self.entries = [*self.entries, (state, text)][-self.max_entries :]


# Few characters, so that scripts meet their own suggestions again; wide ones and blanks among them.
texts = st.text(st.sampled_from("aab\n😀"), max_size=2)
answers = st.text(st.sampled_from("aaab \n😀"), max_size=5)
numbers = st.integers(0, 1000)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), answers),
        st.tuples(st.just("type"), texts),
        st.tuples(st.just("follow"), numbers),  # type on as a suggestion goes
        st.tuples(st.just("backspace"), st.integers(1, 3)),
        st.tuples(st.just("backspace"), st.just(100)),
        st.tuples(st.just("move"), numbers),
        st.tuples(st.just("before"), texts),  # the text above changes
        st.tuples(st.just("after"), texts),
        st.tuples(st.sampled_from(["switch", "policy", "close", "model"]), numbers),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(edits)
def test_random_edits_get_what_the_definition_says(script: list[tuple[str, str | int]]):
    cache, naive = SuggestionCache(max_entries=4), Naive(max_entries=4)
    documents = {"1": ("", ""), "2": ("a", "b")}
    name, single_line, model = "1", False, 0
    for what, value in script:
        before, after = documents[name]
        now = State(name, before, after, single_line, 9)
        match what, value:
            case "answer", str():
                cache.keep(now, value, model=str(model), epoch=cache.epoch)
                naive.keep(now, value)
            case "type", str():
                before += value
            case "before", str():
                before = value + before[len(value) :]
            case "after", str():
                after = value
            case "follow", int():
                known = naive.find(now) or ""
                assert (rest(cache, now) or "") == known
                before += known[: value % (len(known) + 1)]
            case "backspace", int():
                before = before[:-value]
            case "move", int():
                at = value % (len(before + after) + 1)
                before, after = (before + after)[:at], (before + after)[at:]
            case "close", _:
                cache.drop(name)
                naive.entries = [entry for entry in naive.entries if entry[0].document != name]
            case "model", _:
                model += 1
                cache.clear()
                naive.entries.clear()
            case "policy", _:
                single_line = not single_line
        documents[name] = before, after
        if what == "switch":
            name = "2" if name == "1" else "1"
        now = State(name, *documents[name], single_line, 9)
        assert cache.knows(now) == (naive.find(now) is not None)
        assert rest(cache, now) == naive.find(now)
