"""The pure parts: addresses, retries, streams, answers, families."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.backend import Chunk, ContextChunk, FinishReason, InfillRequest, Usage
from backends.decoding.text import Emitted
from backends.errors import (
    BadRequest,
    RemoteError,
    RemoteFailed,
    RemoteProtocolError,
    RemoteRateLimited,
    RemoteRefused,
    RemoteUnauthorized,
    RemoteUnreachable,
    from_wire,
)
from backends.remote import family, wire
from backends.remote.answer import AnswerText, Disagreement
from backends.remote.endpoint import parse
from backends.remote.flights import Flight, Flights
from backends.remote.lines import Events
from backends.remote.profiles import Healing, Shape, recognise
from backends.remote.prompting import Prompter
from backends.remote.retries import Policy, pause, repeated
from backends.remote.retry_after import seconds
from fim.catalogue import FAMILIES
from fim.templates import NoFim


@pytest.mark.parametrize(
    ("address", "root"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://host:8000/v1", "http://host:8000"),
        ("http://host:8000/v1/", "http://host:8000"),
        ("https://api.deepseek.com/beta", "https://api.deepseek.com"),
        ("https://host/openai/v1/chat/completions", "https://host/openai"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_endpoint_ends_before_its_api(address: str, root: str) -> None:
    assert parse(address).root == root


@pytest.mark.parametrize(
    "address",
    ["", "host:8000", "ftp://host", "http://", "http://u:secret@host", "http://host/?k=secret",
     "http://host:99999", "file:///etc/passwd", "http://[::1", "http://host/#secret"],
)  # fmt: skip
def test_endpoint_that_is_none_is_refused_without_its_secrets(address: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(address)
    assert "secret" not in str(caught.value)


def test_loopback_is_told() -> None:
    assert parse("http://127.0.0.2:1").loopback
    assert parse("http://localhost:1").loopback
    assert not parse("http://localhost.example:1").loopback


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("2.5", 2.5),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("99999999999", 24 * 3600.0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("nan", None),
    ],
)
def test_retry_after(value: str, expected: float | None) -> None:
    assert seconds(value, now=10.0) == expected


@pytest.mark.parametrize(
    ("error", "policy", "waits"),
    [
        (RemoteFailed("x"), Policy(), [0.25, 0.5, None]),
        (RemoteUnreachable("x"), Policy(retries=1), [0.25, None]),
        (RemoteRateLimited("x", 3.0), Policy(), [3.0, 3.0, None]),
        (RemoteRateLimited("x", 3.0), Policy(waits=False), [None]),
        (RemoteRateLimited("x", 30.0), Policy(), [None]),
        (RemoteRateLimited("x"), Policy(), [None]),
        (RemoteUnauthorized("x"), Policy(), [None]),
        (RemoteRefused("x"), Policy(), [None]),
        (RemoteProtocolError("x"), Policy(), [None]),
    ],
)
def test_pauses(error: RemoteError, policy: Policy, waits: list[float | None]) -> None:
    assert [pause(error, n, policy, 0.5) for n in range(1, len(waits) + 1)] == waits


def test_pauses_are_jittered() -> None:
    values = [pause(RemoteFailed("x"), 1, Policy(), jitter) for jitter in (0.0, 1.0)]
    assert values == [0.125, 0.375]


async def test_repeated_ends_with_the_last_error() -> None:
    tries: list[int] = []

    async def attempt() -> None:
        tries.append(1)
        raise RemoteFailed(f"number {len(tries)}")

    with pytest.raises(RemoteFailed, match="number 3"):
        await repeated(attempt, Policy(pause=0.001))


@given(
    st.lists(st.dictionaries(st.text(), st.text()), max_size=5), st.integers(1, 7), st.booleans()
)
def test_events_are_the_same_however_they_are_cut(
    events: list[dict[str, str]], size: int, plain: bool
) -> None:
    end = "\n" if plain else "\r\n\r\n"
    begin = "" if plain else ": comment\r\ndata: "
    whole = "".join(f"{begin}{json.dumps(event)}{end}" for event in events).encode()
    decoder = Events(plain=plain)
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    assert [event for piece in pieces for event in decoder.push(piece)] == events


def test_events_end_with_done() -> None:
    decoder = Events()
    assert decoder.push(b"data: [DONE]\n\n") == []
    assert decoder.done


@pytest.mark.parametrize("bad", [b"data: \xff\n\n", b"data: [1]\n\n", b"data: {\n\n"])
def test_events_that_are_none_are_refused(bad: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Events().push(bad)


@given(st.text(), st.lists(st.integers(1, 4), max_size=30))
def test_answer_without_what_was_typed(text: str, cuts: list[int]) -> None:
    text = text.encode(errors="replace").decode()
    pending, shown, at = text[:3], "", 0
    answer = AnswerText(pending, ())
    for cut in [*cuts, len(text)]:
        shown += answer.push(text[at : at + cut]).text
        at += cut
    assert shown + answer.flush() == text[3:]


def test_answer_that_is_another_word_disagrees() -> None:
    answer = AnswerText("ret", ())
    answer.push("re")
    with pytest.raises(Disagreement):
        answer.push("ad")
    with pytest.raises(Disagreement):
        AnswerText("ret", ()).flush()


def test_answer_ends_with_the_cursors_block() -> None:
    answer = AnswerText("ret", (), "    ret")
    assert answer.push("return 1\n\n\nde") == Emitted("urn 1")
    assert answer.push("f next(") == Emitted("", "\n")
    assert answer.flush() == ""


NAMES = st.sampled_from(
    [
        "choices",
        "delta",
        "text",
        "content",
        "finish_reason",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "tokens",
        "stop",
        "prompt_tokens_details",
        "cached_tokens",
        "timings",
        "cache_n",
        "tokens_evaluated",
        "prompt_progress",
        "cache",
        "done",
        "response",
        "prompt_eval_count",
        "stop_type",
        "truncated",
        "prompt_ms",
    ]
)
LIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=12,
)


@given(st.sampled_from(list(Shape)), st.dictionaries(NAMES, LIES, max_size=6))
def test_lying_engines_are_read_without_harm(shape: Shape, event: dict[str, object]) -> None:
    read = wire.read(shape, event)
    usage = read.usage or Usage()
    assert 0 <= usage.cached_tokens <= usage.prompt_tokens
    assert usage.completion_tokens >= 0
    assert isinstance(read.text, str)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2.5-coder"),
        ("qwen2.5-coder:1.5b-base", "qwen2.5-coder"),
        ("Qwen3-Coder-30B-A3B", "qwen2.5-coder"),
        ("deepseek-ai/deepseek-coder-6.7b-base", "deepseek-coder"),
        ("DeepSeek-Coder-V2-Lite-Base", "deepseek-coder"),
        ("bigcode/starcoder2-3b", "starcoder2"),
        ("codellama/CodeLlama-7b-hf", "codellama"),
        ("mistralai/Codestral-22B-v0.1", "codestral"),
        ("JetBrains/Mellum-4b-base", "mellum"),
        ("ibm-granite/granite-8b-code-base", "granite-code"),
        ("google/codegemma-2b", "codegemma"),
        ("Seed-Coder-8B-Base", "seed-coder"),
        ("zai-org/GLM-4.5-Air", "glm-4.5"),
        ("meta-llama/Llama-3.1-8B", None),
        ("Qwen/Qwen2.5-7B-Instruct", None),
        ("Devstral-Small", None),
        ("CodeLlama-7b-Python", None),
        ("gpt-4o", None),
    ],
)
def test_family_by_name(name: str, expected: str | None) -> None:
    found = family.by_name(name)
    assert (None if isinstance(found, NoFim) else found.family) == expected


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.family)
def test_every_control_token_of_a_family_is_kept_out_of_text(row: family.Template) -> None:
    for token in (*row.fim_tokens, *row.stop_tokens):
        assert family.CONTROL.fullmatch(token), token
        assert family.without_control(f"a{token}b", f"c{token}d", 100) == ("b", "c")


def test_ordinary_code_is_kept() -> None:
    code = "a < b | c > d\nx = <T>(y[0]);\n<div class='s'></div>\nif a <|> b: [INSTALL]\n"
    assert family.without_control(code, code, 1000) == (code, code)


def test_codellamas_tokens_are_spaced_as_text() -> None:
    spaced = family.as_text(family.chosen("codellama"))
    assert (spaced.prefix, spaced.suffix, spaced.middle) == ("<PRE>", " <SUF>", " <MID>")


def test_profiles_are_recognised_by_what_servers_say() -> None:
    nobody: frozenset[str] = frozenset()
    assert recognise("10.0.0.1", "llama.cpp", nobody).name == "llama-server"
    assert recognise("10.0.0.1", "uvicorn", frozenset({"vllm"})).name == "vllm"
    assert recognise("api.mistral.ai", "cloudflare", nobody).name == "mistral"
    assert recognise("10.0.0.1", "", frozenset({"someone"})).name == "openai-compatible"


def test_errors_survive_the_way_over_http() -> None:
    for error in (RemoteRateLimited("x", 3.0), RemoteUnauthorized("x"), RemoteProtocolError("x")):
        assert type(from_wire(error.kind, str(error))) is type(error)


async def test_defect_of_ours_ends_the_request(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(flight: Flight) -> AsyncIterator[Chunk]:
        yield Chunk("one")
        raise ZeroDivisionError

    flights = Flights()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        async for _ in flights.run("d", None, broken):
            pass
    assert len(flights) == 0
    assert "by a defect" in caplog.text


async def test_deadline_ends_a_request_that_says_nothing() -> None:
    async def silent(flight: Flight) -> AsyncIterator[Chunk]:
        await asyncio.sleep(30)
        yield Chunk("never")

    flights = Flights()
    chunks = [chunk async for chunk in flights.run("d", 50.0, silent)]
    assert [chunk.finish_reason for chunk in chunks] == [FinishReason.DEADLINE]


def test_only_what_can_be_shown_is_searched() -> None:
    token = "<|fim_middle|>"
    far = token + "x" * 50
    assert family.without_control(far, "x" * 50 + token, 40) == (far, "x" * 50 + token)
    assert family.without_control(far, "", 64) == ("x" * 50, "")


BITS = st.sampled_from(
    ["<|", "|>", "<|fim_", "fim_middle", "<|fim_middle|>", "<|im_start|>", "<", "｜", "<｜end｜>",
     "[INST]", "</s>", " ", "\n", "x = 1\n", "def f():\n", "<fim_prefix>", "<PRE>", " <SUF>"]
)  # fmt: skip
TEXTS = st.lists(BITS, max_size=12).map("".join)


@given(st.sampled_from([row.family for row in FAMILIES]), TEXTS, TEXTS, TEXTS, TEXTS)
def test_no_text_becomes_a_control_token_in_a_prompt_that_is_text(
    name: str, prefix: str, suffix: str, other: str, path: str
) -> None:
    template = family.chosen(name)
    prompter = Prompter(template, 0, Healing.AGREE, None)
    extra = (ContextChunk(path or "other.py", other),)
    request = InfillRequest(prefix, suffix, path=path or None, extra=extra)
    outgoing = asyncio.run(prompter.prompt(request, 512))
    own = {*template.fim_tokens}
    if template.context:
        own |= {template.context.file, template.context.repository}
    found = family.CONTROL.findall(outgoing.whole)
    # Each of the template's own is there as often as it put it there itself.
    clean = asyncio.run(
        prompter.prompt(InfillRequest("a", "b", path="c.py", extra=(ContextChunk("d", "e"),)), 512)
    )
    assert set(found) <= own
    assert len(found) <= len(family.CONTROL.findall(clean.whole))
    assert outgoing.whole.count(template.suffix) == 1


def test_presented_text_is_what_stands_around_the_cursor() -> None:
    prompter = Prompter(family.chosen("qwen2.5-coder"), 0, Healing.AGREE, None)
    request = InfillRequest("a = 1\nreturn fo", "\nb\n", document="d")
    outgoing = asyncio.run(prompter.prompt(request, 512))
    assert outgoing.prompt == "<|fim_prefix|>a = 1\n<|fim_suffix|>\nb\n<|fim_middle|>return"
    assert outgoing.pending == " fo"
    assert outgoing.whole == f"{outgoing.prompt} fo"


class Letters:
    """A tokenizer of letters that takes a spelling for the token, as llama.cpp does with some."""

    def __init__(self) -> None:
        self.bos = [1]
        self.control = {token: 1000 + n for n, token in enumerate(FAMILIES[0].stop_tokens)}

    async def pieces(self, text: str) -> list[tuple[int, bytes]]:
        if text in self.control:
            return [(self.control[text], b"")]
        return [(ord(letter), letter.encode()) for letter in text]


async def test_spellings_reach_a_tokenizer_in_parts() -> None:
    tokenizer = Letters()
    prompter = Prompter(FAMILIES[0], 4096, Healing.GRAMMAR, tokenizer)
    (prefix, suffix, middle) = FAMILIES[0].fim_tokens
    outgoing = await prompter.prompt(InfillRequest(middle, prefix, document="d"), 512)
    assert [token for token in outgoing.prompt if token >= 1000] == [
        tokenizer.control[token] for token in (prefix, suffix, middle)
    ]
    assert outgoing.prompt[0] == 1


async def test_character_that_no_grammar_spells_is_left_whole() -> None:
    """llama-server fails where it is held to a NUL."""
    prompter = Prompter(FAMILIES[0], 4096, Healing.GRAMMAR, Letters())
    plain = await prompter.prompt(InfillRequest("x = a", ""), 512)
    assert plain.pending
    nul = await prompter.prompt(InfillRequest("x = a\0", ""), 512)
    assert (nul.pending, nul.dropped) == ("", 0)
    assert 0 in nul.prompt
