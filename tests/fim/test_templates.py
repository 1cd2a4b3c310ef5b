from __future__ import annotations

import pytest

from fim.templates import FAMILIES, NoFim, api_stops, detect, normalise
from tests.fim.families import (
    DEEPSEEK,
    MISTRAL,
    MODELS,
    QWEN,
    SEED,
    STARCODER,
    Model,
    template,
)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_detect_finds_the_family_and_only_tokens_that_exist(model: Model) -> None:
    found = model.template()
    assert found.family == model.family
    assert set(found.fim_tokens) <= set(model.tokens)
    if found.context:
        used = {found.context.file, found.context.repository} - {""}
        assert used <= set(model.tokens)


def test_every_family_of_the_catalogue_is_tested() -> None:
    assert {row.family for row in FAMILIES} == {model.family for model in MODELS}


REFUSED = [
    # tokens present and untrained
    ("llama", "OpenCoder-1.5B-Base", QWEN, "OpenCoder"),
    ("llama", "Devstral-Small-2505", MISTRAL, "Devstral"),
    ("llama", "Devstral Small 2 24B", MISTRAL, "Devstral"),
    ("llama", "Mistral-Nemo-Instruct-2407", MISTRAL, "codestral"),
    ("qwen2", "Qwen2.5 7B Instruct", QWEN, "qwen2.5-coder"),
    ("qwen3", "Qwen3-8B", QWEN, "qwen2.5-coder"),
    ("qwen2", "", QWEN, "this model"),
    ("qwen2", "DeepSeek-R1-Distill-Qwen-7B", DEEPSEEK, "deepseek-coder"),
    ("deepseek2", "DeepSeek-R1", DEEPSEEK, "deepseek-coder"),
    ("mamba2", "Mamba-Codestral-7B-v0.1", MISTRAL, "Mamba-Codestral"),
    ("gemma", "codegemma-7b-it", ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "2B"),
    # variants without FIM, whether or not their conversion kept the tokens
    ("llama", "CodeLlama-34b-hf", ("▁<PRE>", "▁<SUF>", "▁<MID>"), "7B and 13B"),
    ("llama", "CodeLlama-70b-Instruct-hf", ("▁<PRE>", "▁<SUF>", "▁<MID>"), "7B and 13B"),
    ("llama", "Code Llama 7B Python", ("▁<PRE>", "▁<SUF>", "▁<MID>"), "Python"),
    # a next-edit model is no FIM model, though it was made from one
    ("qwen2", "zeta", QWEN, "next edit"),
    ("llama", "zeta-2.1-seed-coder", SEED, "next edit"),
    ("qwen2", "sweep-next-edit-1.5B", QWEN, "next edit"),
    # no tokens at all
    ("llama", "Llama 3.1 8B Instruct", ("<|begin_of_text|>", "<|eot_id|>"), "no fill-in"),
    ("llama", "SmolLM2 135M", ("<|endoftext|>", "<repo_name>", "<file_sep>"), "no fill-in"),
    ("llama", "Yi-Coder-9B", QWEN, "Yi-Coder"),
    ("llama", "nothing", (), "no fill-in"),
    # two of three tokens are not enough
    ("qwen2", "Qwen2.5-Coder-7B", ("<|fim_prefix|>", "<|fim_suffix|>"), "no fill-in"),
    # the tokens of one family in another's architecture
    ("phi3", "some-coder", QWEN, "phi3"),
    # "coder" only as a whole word
    ("qwen2", "qwen2-decoder-test", QWEN, "not one of those"),
]


@pytest.mark.parametrize(("architecture", "name", "tokens", "why"), REFUSED)
def test_detect_refuses_with_a_reason_to_act_on(
    architecture: str, name: str, tokens: tuple[str, ...], why: str
) -> None:
    found = detect({t: i for i, t in enumerate(tokens)}, architecture=architecture, name=name)
    assert isinstance(found, NoFim)
    assert why in found.reason
    assert "Qwen2.5-Coder" in found.reason  # what to do instead
    assert found.reason.endswith(".")


@pytest.mark.parametrize(
    "name", ["qwen2.5-coder-llama-merge", "llama-qwen2.5-coder-7b", "codellama-to-qwen-coder"]
)
def test_detect_is_not_misled_by_another_family_in_the_name(name: str) -> None:
    # In the wild "qwen2.5-coder" got Llama's tokens through a loose substring match.
    found = detect({t: i for i, t in enumerate(QWEN)}, architecture="qwen2", name=name)
    assert not isinstance(found, NoFim)
    assert found.fim_tokens == ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def test_detect_tells_families_with_the_same_tokens_apart() -> None:
    tokens = {token: index for index, token in enumerate(STARCODER)}
    found = {
        (architecture, name): detect(tokens, architecture=architecture, name=name)
        for architecture, name in [
            ("llama", "Mellum-4b-sft-python"),
            ("llama", "granite-3b-code-base"),
            ("starcoder", "starcoder"),
            ("starcoder", "granite-20b-code-base"),
        ]
    }
    assert [getattr(t, "family", t) for t in found.values()] == [
        "mellum",
        "granite-code",
        "starcoder",
        "granite-code",
    ]


def test_detect_leaves_out_context_tokens_the_vocabulary_lacks() -> None:
    found = detect({t: i for i, t in enumerate(QWEN[:7])}, architecture="qwen2", name="coder")
    assert not isinstance(found, NoFim)
    assert found.context is None


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        # llama-server's own detection misses these
        ("starcoder2", "<file_sep>"),
        ("seed-coder", "<[fim-prefix]>"),
        ("seed-coder", "<[end▁of▁sentence]>"),
        ("codestral", "[SUFFIX]"),
        ("codestral", "[PREFIX]"),
        ("codegemma", "<|file_separator|>"),
        ("codellama", "▁<EOT>"),
        ("deepseek-coder", "<|EOT|>"),
    ],
)
def test_stop_tokens_hold_what_others_miss(family: str, expected: str) -> None:
    assert expected in template(family).stop_tokens


@pytest.mark.parametrize(
    "token",
    [
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
        "<|endoftext|>",
        "<|im_end|>",
    ],
)
def test_stop_tokens_of_qwen_are_all_there(token: str) -> None:
    assert token in template("qwen2.5-coder").stop_tokens


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_stop_tokens_are_control_tokens_only(model: Model) -> None:
    # A "//" stop, as one peer has for DeepSeek, cuts comments of C-like languages.
    for token in model.template().stop_tokens:
        assert token.lstrip("▁")[0] in "<["
        assert token[-1] in ">]"
        assert len(token) > 3


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_api_stops_keep_to_the_limit_and_begin_with_the_end_of_text(model: Model) -> None:
    found = model.template()
    stops = api_stops(found)
    assert len(stops) <= 4
    assert stops == found.stop_tokens[:4]
    assert stops[0] == found.end_tokens[0]
    assert api_stops(found, 0) == ()


def test_normalise_gives_words() -> None:
    assert normalise("models/Qwen2.5_Coder 7B (Q4)") == "models-qwen2.5-coder-7b-q4"
