from __future__ import annotations

import pytest

from fim.build import build, plain
from fim.prompt import Control, Piece, Prompt
from fim.window import Anchor, Budget, Placement, place
from tests.fim.families import MODELS, Model, template

BUDGET = Budget(before_chars=200, suffix_chars=80)
PLACEMENT = Placement(Anchor("before\n", "suffix\n", BUDGET), "typed", kept=False)
EXTRA = [("lib/a.py", "aaa\n"), ("b.py", "bbb")]


def shown(pieces: tuple[Piece, ...]) -> str:
    return "".join(p.token if isinstance(p, Control) else p.text for p in pieces)


def text_of(prompt: Prompt) -> str:
    """The prompt as a reader sees it, with | where the cursor is."""
    return f"{shown(prompt.head)}{prompt.tail}|{shown(prompt.close)}"


FILE_LEVEL = {
    "qwen2.5-coder": "<|fim_prefix|>before\n<|fim_suffix|>suffix\n<|fim_middle|>typed|",
    "codeqwen1.5": "<fim_prefix>before\n<fim_suffix>suffix\n<fim_middle>typed|",
    "deepseek-coder": "<｜fim▁begin｜>before\n<｜fim▁hole｜>suffix\n<｜fim▁end｜>typed|",
    "starcoder2": "<fim_prefix>before\n<fim_suffix>suffix\n<fim_middle>typed|",
    "mellum": "<filename>me.py\n<fim_suffix>suffix\n<fim_prefix>before\ntyped|<fim_middle>",
    "granite-code": "<fim_prefix>before\n<fim_suffix>suffix\n<fim_middle>typed|",
    "granite-4": "<|fim_prefix|>before\n<|fim_suffix|>suffix\n<|fim_middle|>typed|",
    "starcoder": "<fim_prefix>before\n<fim_suffix>suffix\n<fim_middle>typed|",
    "santacoder": "<fim-prefix>before\n<fim-suffix>suffix\n<fim-middle>typed|",
    "stable-code": "<fim_prefix>before\n<fim_suffix>suffix\n<fim_middle>typed|",
    "codellama": "▁<PRE> before\n▁<SUF>suffix\n▁<MID>typed|",
    "codegemma": "<|fim_prefix|>before\n<|fim_suffix|>suffix\n<|fim_middle|>typed|",
    "codestral": "[SUFFIX]suffix\n[PREFIX]before\ntyped|",
    "seed-coder": "<[fim-suffix]>suffix\n<[fim-prefix]>before\ntyped|<[fim-middle]>",
    "aixcoder": "▁<AIX-SPAN-PRE>▁<AIX-SPAN-POST>suffix\n▁<AIX-SPAN-MIDDLE>"
    "# the file path is: me.py\nbefore\ntyped|",
    "glm-4.5": "<|code_prefix|>before\n<|code_suffix|>suffix\n<|code_middle|>typed|",
    "falcon-h1-tiny-coder": "<|prefix|>before\n<|suffix|>suffix\n<|middle|>typed|",
}
WITH_FILES = {
    "qwen2.5-coder": "<|repo_name|>r\n<|file_sep|>lib/a.py\naaa\n<|file_sep|>b.py\nbbb\n"
    "<|file_sep|>me.py\n<|fim_prefix|>before\n<|fim_suffix|>suffix\n<|fim_middle|>typed|",
    "deepseek-coder": "<｜fim▁begin｜>#lib/a.py\naaa\n#b.py\nbbb\n#me.py\nbefore\n"
    "<｜fim▁hole｜>suffix\n<｜fim▁end｜>typed|",
    "starcoder2": "<repo_name>r<file_sep>lib/a.py\naaa\n<file_sep>b.py\nbbb<file_sep>"
    "<fim_prefix>me.py\nbefore\n<fim_suffix>suffix\n<fim_middle>typed|",
    "mellum": "<filename>lib/a.py\naaa\n<filename>b.py\nbbb\n<filename>me.py\n"
    "<fim_suffix>suffix\n<fim_prefix>before\ntyped|<fim_middle>",
    "codestral": "[SUFFIX]suffix\n[PREFIX]+++++ lib/a.py\naaa\n\n+++++ b.py\nbbb\n\n"
    "+++++ me.py\nbefore\ntyped|",
    "codellama": FILE_LEVEL["codellama"],  # not trained on other files
    "aixcoder": FILE_LEVEL["aixcoder"],
}


@pytest.mark.parametrize("family", FILE_LEVEL)
def test_build_writes_the_family_s_layout(family: str) -> None:
    assert text_of(build(template(family), PLACEMENT, path="me.py")) == FILE_LEVEL[family]


def test_build_layouts_cover_every_family() -> None:
    assert set(FILE_LEVEL) == {model.family for model in MODELS}


@pytest.mark.parametrize("family", WITH_FILES)
def test_build_shows_other_files_as_the_family_was_trained(family: str) -> None:
    prompt = build(template(family), PLACEMENT, extra=EXTRA, path="me.py", repository="r")
    assert text_of(prompt) == WITH_FILES[family]


def test_build_without_a_path_shows_none() -> None:
    prompt = build(template("mellum"), PLACEMENT)
    assert text_of(prompt) == "<fim_suffix>suffix\n<fim_prefix>before\ntyped|<fim_middle>"
    prompt = build(template("qwen2.5-coder"), PLACEMENT, extra=EXTRA, repository="r")
    assert "<|file_sep|><|fim_prefix|>" not in text_of(prompt)
    assert "bbb\n<|fim_prefix|>before" in text_of(prompt)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_build_never_drops_the_suffix(model: Model) -> None:
    # In the wild a repository-level prompt did.
    found = model.template()
    prompt = build(found, PLACEMENT, extra=EXTRA, path="me.py")
    assert f"{found.suffix}suffix\n" in text_of(prompt)
    assert f"{found.suffix}suffix\n" in text_of(plain(found, "prefix", "suffix\n"))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_build_uses_only_control_tokens_of_the_vocabulary(model: Model) -> None:
    # FIM ids hard-coded to 0 are one of the mistakes in the wild: here each is looked up.
    prompts = [
        build(model.template(), PLACEMENT, extra=EXTRA, path="me.py"),
        plain(model.template(), "prefix", "suffix"),
    ]
    for prompt in prompts:
        tokens = [p.token for p in (*prompt.head, *prompt.close) if isinstance(p, Control)]
        assert set(model.template().fim_tokens) <= set(tokens)
        assert set(tokens) <= set(model.control_tokens)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_build_keeps_control_texts_of_a_document_as_text(model: Model) -> None:
    found = model.template()
    hostile = "".join(model.tokens)
    placement = Placement(Anchor(hostile, hostile, BUDGET), hostile, kept=False)
    harmless = build(found, PLACEMENT, extra=[("f", "t")], path="p")
    prompt = build(found, placement, extra=[(hostile, hostile)], path=hostile)

    def controls(of: Prompt) -> list[Piece]:
        return [piece for piece in (*of.head, *of.close) if isinstance(piece, Control)]

    assert controls(prompt) == controls(harmless)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_build_of_a_long_document_keeps_every_control_token(model: Model) -> None:
    # In the wild the finished prompt was cut from the front, which lost the prefix token.
    lines = "".join(f"line {i}\n" for i in range(5000))
    found = model.template()
    prompt = build(found, place([], lines, lines, Budget(400, 100)))
    text = text_of(prompt)
    assert all(text.count(token) == 1 for token in found.fim_tokens)
    assert len(text) < 700


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_build_while_typing_changes_the_tail_only(model: Model) -> None:
    budget = Budget(400, 100)
    prefix, suffix = "x = 1\n" * 200, "\ny = 2\n" * 50
    placement = place([], prefix, suffix, budget)
    first = build(model.template(), placement, path="p")
    for typed in ("f", "fo", "foo(", "foo(\n    b"):
        placement = place([placement.anchor], prefix + typed, suffix, budget)
        prompt = build(model.template(), placement, path="p")
        assert (prompt.head, prompt.close) == (first.head, first.close)
        assert prompt.tail == typed


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen2.5-coder", "<|fim_prefix|>pre|<|fim_suffix|>suf<|fim_middle|>"),
        ("codellama", "▁<PRE> pre|▁<SUF>suf▁<MID>"),
        ("codestral", "[SUFFIX]suf[PREFIX]pre|"),
        ("seed-coder", "<[fim-suffix]>suf<[fim-prefix]>pre|<[fim-middle]>"),
        ("aixcoder", "▁<AIX-SPAN-PRE>▁<AIX-SPAN-POST>suf▁<AIX-SPAN-MIDDLE>pre|"),
    ],
)
def test_plain_puts_the_whole_prefix_in_the_tail(family: str, expected: str) -> None:
    assert text_of(plain(template(family), "pre", "suf")) == expected


def test_build_of_an_empty_document_has_no_empty_text() -> None:
    empty = Placement(Anchor("", "", BUDGET), "", kept=False)
    for model in MODELS:
        prompt = build(model.template(), empty)
        assert all(isinstance(piece, Control) for piece in prompt.head)
        assert prompt.tail == ""
    assert text_of(plain(template("codellama"), "", "")) == "▁<PRE>|▁<SUF>▁<MID>"
