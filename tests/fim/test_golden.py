"""Prompts as token ids, by the real tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fim.build import build, plain
from fim.prompt import Prompt, apart
from fim.templates import NoFim, Template
from fim.window import Anchor, Budget, Placement, place
from tests.fim.vocabularies import (
    CODELLAMA,
    QWEN_CODER,
    Vocabulary,
    vocabulary_file,
    with_control_tokens,
)

pytestmark = pytest.mark.engine

BEFORE, SUFFIX, TYPED = "def add(a, b):\n", "\n\nprint(add(1, 2))\n", "    return a +"
PLACEMENT = Placement(Anchor(BEFORE, SUFFIX, Budget(200, 80)), TYPED, kept=False)
EXTRA = [("lib/ops.py", "def sub(a, b):\n    return a - b\n")]
FAMILIES = ["qwen2.5-coder", "deepseek-coder", "starcoder2", "codellama"]

Get = Callable[[str], Vocabulary]


@pytest.fixture(scope="module")
def get(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Get]:
    """Load vocabularies by family, each once."""
    folder = tmp_path_factory.mktemp("vocabularies")
    loaded: dict[str, Vocabulary] = {}

    def load(family: str) -> Vocabulary:
        if family in loaded:
            return loaded[family]
        if family == "qwen2.5-coder":
            base = vocabulary_file("qwen2")
            file = with_control_tokens(base, QWEN_CODER, "Qwen2.5 Coder 0.5B", folder / "q.gguf")
        elif family == "codellama":
            base = vocabulary_file("llama-spm")
            file = with_control_tokens(base, CODELLAMA, "CodeLlama-7b-hf", folder / "c.gguf")
        else:
            names = {"starcoder2": "starcoder", "llama": "llama-spm", "qwen2": "qwen2"}
            file = vocabulary_file(names.get(family, family))
        return loaded.setdefault(family, Vocabulary(file))

    yield load
    for vocabulary in loaded.values():
        vocabulary.close()


def template_of(vocabulary: Vocabulary) -> Template:
    assert isinstance(vocabulary.template, Template), vocabulary.template
    return vocabulary.template


def ids_of(vocabulary: Vocabulary, prompt: Prompt) -> list[int]:
    tail = vocabulary.tokenize(prompt.tail)
    return [*vocabulary.ids(prompt.head), *tail, *vocabulary.ids(prompt.close)]


# fmt: off
ANCHORED = {
    "qwen2.5-coder": [
        151659, 750, 912, 2877, 11, 293, 982,
        151661, 271, 1350, 25906, 7, 16, 11, 220, 17, 1171,
        151660, 262, 470, 264, 488,
    ],
    "deepseek-coder": [
        32016, 1551, 957, 7, 64, 11, 270, 1772, 185,
        32015, 185, 185, 4128, 7, 1761, 7, 16, 11, 207, 17, 1435, 185,
        32017, 315, 967, 245, 945,
    ],
    "starcoder2": [
        1, 610, 1035, 45, 102, 49, 342, 731, 222,
        3, 222, 222, 1243, 45, 688, 45, 54, 49, 244, 55, 509, 222,
        2, 283, 461, 331, 494,
    ],
    # The space after PRE is in "▁def" (822, not 1753 "def"); SUF and MID bring their own.
    "codellama": [
        32007, 822, 788, 29898, 29874, 29892, 289, 1125, 13,
        32008, 13, 13, 2158, 29898, 1202, 29898, 29896, 29892, 29871, 29906, 876, 13,
        32009, 1678, 736, 263, 718,
    ],
}
WITH_FILES = {
    "qwen2.5-coder": [
        151663, 26586, 198,
        151664, 2740, 14, 3721, 7197, 198, 750, 1186, 2877, 11, 293, 982, 262, 470, 264, 481, 293,
        198, 151664, 3817, 7197, 198,
    ],
    # the path comes after the prefix token, which belongs to the second part
    "starcoder2": [
        5, 10289,
        6, 1379, 52, 4178, 51, 997, 222, 610, 1381, 45, 102, 49, 342, 731, 303, 461, 331, 449, 342,
        222, 6,
    ],
}
PLAIN = {
    "qwen2.5-coder": [151659, 87, 284, 220, 16, 198, 88, 151661, 198, 151660],
    "deepseek-coder": [32016, 87, 1412, 16, 185, 88, 32015, 185, 32017],
    "starcoder2": [1, 125, 299, 244, 54, 222, 126, 3, 222, 2],
    "codellama": [32007, 921, 353, 29871, 29896, 13, 29891, 32008, 13, 32009],
}
# fmt: on


@pytest.mark.parametrize("family", FAMILIES)
def test_build_gives_the_golden_ids(get: Get, family: str) -> None:
    vocabulary = get(family)
    template = template_of(vocabulary)
    assert template.family == family
    assert ids_of(vocabulary, build(template, PLACEMENT)) == ANCHORED[family]
    assert ids_of(vocabulary, plain(template, "x = 1\ny", "\n")) == PLAIN[family]


@pytest.mark.parametrize("family", WITH_FILES)
def test_build_with_other_files_gives_the_golden_ids(get: Get, family: str) -> None:
    vocabulary = get(family)
    template = template_of(vocabulary)
    prompt = build(template, PLACEMENT, extra=EXTRA, path="main.py", repository="calc")
    ids = vocabulary.ids(prompt.head)
    prefix = ids.index(vocabulary.control_tokens[template.prefix])
    assert ids[:prefix] == WITH_FILES[family]
    own = vocabulary.tokenize("main.py\n") if family == "starcoder2" else []
    begin = [ids[prefix], *own]
    assert ids[prefix:] == [*begin, *ANCHORED[family][1 : 1 + len(ids) - prefix - len(begin)]]


@pytest.mark.parametrize("family", FAMILIES)
def test_document_text_never_becomes_a_control_token(get: Get, family: str) -> None:
    vocabulary = get(family)
    template = template_of(vocabulary)
    spellings = [*vocabulary.control_tokens, *template.stop_tokens]
    hostile = "".join(spellings) + " ".join(spellings) + "\n".join(spellings)
    stops = set(vocabulary.control_tokens.values())
    for spelling in template.stop_tokens:
        stops |= {ids[0] for ids in [vocabulary.raw(spelling)] if len(ids) == 1}
    assert not stops & set(vocabulary.tokenize(hostile))

    harmless = build(template, PLACEMENT, extra=EXTRA, path="p.py")
    anchor = Anchor(hostile, hostile, PLACEMENT.anchor.budget)
    prompt = build(
        template,
        Placement(anchor, hostile, kept=False),
        extra=[(hostile, hostile)],
        path=hostile,
    )
    controls = [token for token in ids_of(vocabulary, prompt) if token in stops]
    assert controls == [token for token in ids_of(vocabulary, harmless) if token in stops]


def test_apart_is_needed_where_a_vocabulary_marks_control_tokens_as_ordinary(get: Get) -> None:
    # DeepSeek-Coder's <|EOT|> is "user defined", which llama.cpp finds with specials off too.
    vocabulary = get("deepseek-coder")
    assert vocabulary.raw("<|EOT|>") == [32021]
    assert 32021 not in vocabulary.tokenize("<|EOT|>")
    assert vocabulary.detokenize(vocabulary.tokenize("<|EOT|>")) == "<|EOT|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_stand_for_exactly_the_text(get: Get, family: str) -> None:
    vocabulary = get(family)
    for text in ("def", " def", "\tx\r\n", "    é😀", "a <|file_sep|> <fim_prefix>", ""):
        assert vocabulary.detokenize(vocabulary.tokenize(text)) == text


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab(:\n 1é", min_size=1, max_size=60), at=st.integers(0, 60))
def test_typing_appends_to_the_tokens(get: Get, text: str, at: int) -> None:
    vocabulary = get("starcoder2")
    template = template_of(vocabulary)
    budget = Budget(200, 80)
    first = place([], "x = 1\n" * 30 + text[:at], "\ny\n", budget)
    second = place([first.anchor], "x = 1\n" * 30 + text, "\ny\n", budget)
    heads = [vocabulary.ids(build(template, placement).head) for placement in (first, second)]
    assert heads[0] == heads[1]


def test_llama_s_own_vocabulary_has_no_fim(get: Get) -> None:
    # Llama 2's 32,000 entries: CodeLlama's four are added behind them.
    vocabulary = get("llama")
    assert isinstance(vocabulary.template, NoFim)
    assert "no fill-in-the-middle tokens" in vocabulary.template.reason


def test_qwen2_s_own_vocabulary_has_placeholders_only(get: Get) -> None:
    assert isinstance(get("qwen2").template, NoFim)


@pytest.mark.parametrize(
    ("text", "spellings", "parts"),
    [
        ("a<s>b", ["<s>"], ["a<", "s>b"]),
        ("<s><s>", ["<s>"], ["<", "s><", "s>"]),
        ("aaa", ["aa"], ["a", "a", "a"]),  # overlapping
        ("plain", ["<s>"], ["plain"]),
        ("", ["<s>"], [""]),
        ("x", ["x", ""], ["x"]),  # nothing to split
    ],
)
def test_apart_splits_inside_every_spelling(
    text: str, spellings: list[str], parts: list[str]
) -> None:
    assert apart(text, spellings) == parts
    assert "".join(parts) == text
