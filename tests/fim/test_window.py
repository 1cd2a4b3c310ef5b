from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fim.window import LINE_END, Anchor, Budget, place, suffix_window

BUDGET = Budget(before_chars=200, suffix_chars=80, typed_chars=60, block_lines=4)

# Small alphabets make repetition, and so chance matches, likely.
texts = st.text(alphabet="ab (\n\r\t", max_size=600) | st.lists(
    st.sampled_from(
        ["x = 1\n", "def f():\r\n", "    return\r", "y" * 150, "\ud83d", "\ude00", "é😀"]
    ),
    max_size=60,
).map("".join)
budgets = st.builds(
    Budget,
    before_chars=st.integers(1, 300),
    suffix_chars=st.integers(1, 100),
    typed_chars=st.integers(1, 80),
    block_lines=st.integers(1, 8),
)


def parts_a_pair(text: str, at: int) -> bool:
    left, right = text[at - 1 : at], text[at : at + 1]
    return (left, right) == ("\r", "\n") or (
        "\ud800" <= left <= "\udbff" and "\udc00" <= right <= "\udfff"
    )


@given(texts, texts, budgets)
def test_place_shows_the_text_around_the_cursor(prefix: str, suffix: str, budget: Budget) -> None:
    placement = place([], prefix, suffix, budget)
    anchor = placement.anchor
    assert not placement.kept
    assert prefix.endswith(anchor.before + placement.typed)
    assert suffix.startswith(anchor.suffix)
    assert len(anchor.before) <= budget.before_chars
    assert len(anchor.suffix) <= budget.suffix_chars
    assert len(placement.typed) <= budget.typed_chars
    assert place([], prefix, suffix, budget) == placement


@given(texts, texts, budgets)
def test_place_never_cuts_inside_a_line_end_or_surrogate_pair(
    prefix: str, suffix: str, budget: Budget
) -> None:
    placement = place([], prefix, suffix, budget)
    at = len(prefix) - len(placement.typed)
    start = at - len(placement.anchor.before)
    if 0 < at < len(prefix):
        assert not parts_a_pair(prefix, at)
    if start < at and budget.before_chars > 1:
        assert not (start and parts_a_pair(prefix, start))
    cut = len(placement.anchor.suffix)
    if 0 < cut < len(suffix) and budget.suffix_chars > 1:
        assert not parts_a_pair(suffix, cut)


@given(texts, texts, st.text(alphabet="ab(\n 😀", max_size=40))
def test_place_keeps_the_anchor_while_typing_and_deleting_back(
    prefix: str, suffix: str, typed: str
) -> None:
    first = place([], prefix, suffix, BUDGET)
    room = BUDGET.typed_chars - len(first.typed)
    typed = typed[:room]
    steps = [*range(len(typed) + 1), *range(len(typed), -1, -1)]
    for n in steps:
        placement = place([first.anchor], prefix + typed[:n], suffix, BUDGET)
        assert placement.kept
        assert placement.anchor is first.anchor
        assert (prefix + typed[:n]).endswith(first.anchor.before + placement.typed)
    # Further back, to the anchor itself.
    back = place([first.anchor], prefix[: len(prefix) - len(first.typed)], suffix, BUDGET)
    assert back.kept
    assert back.typed == ""


@given(texts, texts, budgets, st.text(alphabet="ab\n", max_size=200))
def test_place_sets_a_new_anchor_past_the_limit(
    prefix: str, suffix: str, budget: Budget, typed: str
) -> None:
    first = place([], prefix, suffix, budget)
    after = place([first.anchor], prefix + typed, suffix, budget)
    assert len(after.typed) <= budget.typed_chars
    assert (prefix + typed).endswith(after.anchor.before + after.typed)


@given(st.integers(0, 30), st.integers(0, 8))
@example(0, 0)
def test_place_keeps_the_anchor_when_the_client_s_window_slides(lines: int, typed: int) -> None:
    document = "".join(f"value_{i} = compute({i})\n" for i in range(300))
    slid = document[len("".join(f"value_{i} = compute({i})\n" for i in range(lines))) :]
    first = place([], document, "tail\n", BUDGET)
    after = place([first.anchor], slid + "x" * typed, "tail\n", BUDGET)
    assert after.kept
    assert after.typed == "x" * typed


@pytest.mark.parametrize("changed", [")tail\n", '")tail\n', " tail\n", ""])
def test_place_sets_a_new_anchor_when_the_suffix_s_start_changes(changed: str) -> None:
    # Editors insert the closing bracket after the cursor as one types the opening one.
    first = place([], "a = 1\nfoo", "tail\n", BUDGET)
    after = place([first.anchor], "a = 1\nfoo(", changed, BUDGET)
    assert not after.kept
    assert after.anchor.suffix == changed


def test_place_keeps_the_anchor_when_only_text_beyond_the_suffix_window_changes() -> None:
    suffix = "tail\n" * 100
    first = place([], "a = 1\nfoo", suffix, BUDGET)
    assert place([first.anchor], "a = 1\nfoo(", suffix + "more", BUDGET).kept


@pytest.mark.parametrize(
    ("before", "prefix", "kept"),
    [
        ("", "abc", True),  # all that was sent has been typed
        ("", "x" * 61, False),  # more than that
        ("", "one\ntwo\n" + "x" * 70, False),
        ("a\n", "a\nb", True),
        ("a\n", "zz\na\nb", False),  # ends like it, but is no start: it would match anywhere
        ("q = 1\n" * 17, "first\n" + "q = 1\n" * 17 + "b", True),  # half of the window or more
        ("q = 1\n" * 16, "first\n" + "q = 1\n" * 16 + "b", False),
    ],
)
def test_place_keeps_a_small_anchor_only_at_the_very_start(
    before: str, prefix: str, kept: bool
) -> None:
    assert place([Anchor(before, "", BUDGET)], prefix, "", BUDGET).kept is kept


def test_place_takes_the_most_recent_anchor_that_holds() -> None:
    prefix = "line\n" * 300
    newer = Anchor(prefix[-150:], "s", BUDGET)
    older = Anchor(prefix[-155:-5], "s", BUDGET)
    other = Anchor(prefix[-150:], "t", BUDGET)
    placement = place([other, newer, older], prefix + "x", "s", BUDGET)
    assert placement.anchor is newer
    assert placement.typed == "x"


def test_place_anchors_at_the_start_of_the_cursor_s_line() -> None:
    for end in ("\n", "\r\n", "\r"):
        placement = place([], f"one{end}two{end}  thr", "ee", BUDGET)
        assert placement.anchor == Anchor(f"one{end}two{end}", "ee", BUDGET)
        assert placement.typed == "  thr"


def test_place_moves_the_window_by_blocks_of_lines() -> None:
    # Over 100 lines typed one by one, each a new anchor, the window begins at few places.
    document = [f"v{i:03} = {i:03}\n" for i in range(200)]
    starts = set()
    for n in range(100, 200):
        before = place([], "".join(document[:n]), "", BUDGET).anchor.before
        first = int(before[1:4])
        assert first % BUDGET.block_lines == 0
        assert len(before) >= BUDGET.before_chars // 2
        starts.add(first)
    assert len(starts) <= 100 // BUDGET.block_lines + 1


def test_place_on_one_long_line_keeps_its_anchors_and_its_window_s_start() -> None:
    words = "lorem, ipsum(dolor) " * 400
    anchors: list[Anchor] = []
    new = 0
    starts = set()
    for n in range(4000, 5000):
        placement = place(anchors[:1], words[:n], "", BUDGET)
        if not placement.kept:
            new += 1
            anchors.insert(0, placement.anchor)
            starts.add(n - len(placement.typed) - len(placement.anchor.before))
        assert len(placement.anchor.before) >= BUDGET.before_chars // 2
    assert new <= 1000 // (BUDGET.typed_chars // 2) + 1
    assert len(starts) <= 1000 // (BUDGET.before_chars // 4) + 1


@pytest.mark.parametrize(
    ("suffix", "chars", "expected"),
    [
        ("one\ntwo\n", 100, "one\ntwo\n"),
        ("one\ntwo\nthree\n", 9, "one\ntwo\n"),
        ("one\r\ntwo\r\n", 9, "one\r\n"),  # not between \r and \n
        ("x\n" + "y" * 100, 50, "x\n" + "y" * 48),  # a whole line would be too little
        ("\ud83d\ude00", 1, ""),
        ("", 5, ""),
    ],
)
def test_suffix_window_ends_at_a_line_end(suffix: str, chars: int, expected: str) -> None:
    assert suffix_window(suffix, chars) == expected


@pytest.mark.parametrize(
    "document", ["x = 1\n" * 1_700_000, "y" * 10_000_000], ids=["lines", "one"]
)
def test_place_in_ten_megabytes_does_not_hang(document: str) -> None:
    began = time.monotonic()
    placement = place([], document, document, Budget(8000, 3000))
    for n in range(20):
        place([placement.anchor], document + "x" * n, document, Budget(8000, 3000))
    assert time.monotonic() - began < 5  # catches a hang, measures nothing


def test_line_end_splits_as_lsp_does() -> None:
    assert LINE_END.split("a\r\nb\rc\nd\x0ce\u2028f") == ["a", "b", "c", "d\x0ce\u2028f"]


def test_budget_refuses_sizes_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Budget(0, 10)
