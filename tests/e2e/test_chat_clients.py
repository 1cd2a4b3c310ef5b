"""The official `openai` and `anthropic` clients, and `midspan chat`, against a real manager.

The starter model is no chat model: with a template it goes on with code. What it says is not looked
at, but where it must fit a schema; everything around it is.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anthropic
import openai
import pytest

from backends import starter, state
from tests.conftest import Env, private_env, stop_manager

pytestmark = pytest.mark.engine

TEMPLATE = """\
{%- for message in messages %}# {{ message.role }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}# assistant:{% endif %}"""
ASK: Any = [{"role": "user", "content": "def area(self):"}]
# Newer clients of Anthropic's API have no such argument; the API here has the field.
GREEDY: Any = {"extra_body": {"temperature": 0}}
PARAMETERS = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["circle", "square"]}},
    "required": ["kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def env(
    tmp_path_factory: pytest.TempPathFactory, run_midspan: Callable[..., CompletedProcess[str]]
) -> Iterator[Env]:
    """A manager with a model that chats, one that doesn't, and one that completes."""
    folder = tmp_path_factory.mktemp("chat")
    env = private_env(folder)
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    path = json.dumps(str(starter.path()))
    Path(env["MIDSPAN_CONFIG"]).write_text(
        f'[chat]\nmodel = "chatty"\n\n[models.chatty]\npath = {path}\n'
        f"chat_template = {json.dumps(str(template))}\n\n[models.silent]\npath = {path}\n"
    )
    done = run_midspan(["models", "use", "starter"], env)
    assert done.returncode == 0, done.stderr
    yield env
    stop_manager(env)


@pytest.fixture(scope="module")
def address(env: Env) -> tuple[str, str]:
    """The base URL and the token."""
    endpoint = state.read(Path(env["MIDSPAN_RUNTIME_DIR"]))
    assert endpoint is not None
    return f"http://{endpoint.host}:{endpoint.port}", endpoint.token


@pytest.fixture
def of_openai(address: tuple[str, str]) -> Iterator[openai.OpenAI]:
    url, token = address
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token, timeout=120) as client:
        yield client


@pytest.fixture
def of_anthropic(address: tuple[str, str]) -> Iterator[anthropic.Anthropic]:
    url, token = address
    with anthropic.Anthropic(base_url=url, api_key=token, timeout=120) as client:
        yield client


def tool(name: str = "draw") -> Any:
    function = {"name": name, "description": "Draws.", "parameters": PARAMETERS}
    return {"type": "function", "function": function}


# OpenAI


def test_openai_chat(of_openai: openai.OpenAI) -> None:
    answer = of_openai.chat.completions.create(
        model="chatty", messages=ASK, max_tokens=16, temperature=0
    )
    [choice] = answer.choices
    assert answer.model == "chatty"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openai_chat_streams_the_same_text(of_openai: openai.OpenAI) -> None:
    options: Any = {"model": "chatty", "messages": ASK, "max_tokens": 24, "temperature": 0}
    whole = of_openai.chat.completions.create(**options)
    text, reasons, usages = "", [], []
    stream = of_openai.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons.append(choice.finish_reason)
        usages.append(chunk.usage)
    assert text == whole.choices[0].message.content
    assert reasons[-1] == whole.choices[0].finish_reason
    assert set(reasons[:-1]) == {None}
    assert whole.usage is not None
    assert usages[-1].completion_tokens == whole.usage.completion_tokens
    assert set(usages[:-1]) == {None}


def test_openai_chat_that_goes_on_evaluates_only_what_is_new(of_openai: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "class Circle:\n    radius = 1\n" * 8}]
    cached, prompts = [], []
    for _ in range(3):
        answer = of_openai.chat.completions.create(
            model="chatty",
            messages=messages,
            max_tokens=8,
            temperature=0,  # type: ignore[arg-type]
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
        prompts.append(answer.usage.prompt_tokens)
        messages += [
            {"role": "assistant", "content": answer.choices[0].message.content or ""},
            {"role": "user", "content": "More."},
        ]
    assert cached[1] >= prompts[0] - 2
    assert cached[2] >= prompts[1] - 2
    assert all(hit <= prompt for hit, prompt in zip(cached, prompts, strict=True))


def test_openai_chat_calls_a_tool_that_fits_its_schema(of_openai: openai.OpenAI) -> None:
    options: Any = {"model": "chatty", "messages": ASK, "tools": [tool()], "seed": 1}
    answer = of_openai.chat.completions.create(**options, tool_choice="required")
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    call: Any = choice.message.tool_calls[0]
    assert call.function.name == "draw"
    assert json.loads(call.function.arguments)["kind"] in ("circle", "square")

    named = {"type": "function", "function": {"name": "draw"}}
    with of_openai.chat.completions.stream(**options, tool_choice=named) as stream:
        final: Any = stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls[0]
    assert json.loads(streamed.function.arguments)["kind"] in ("circle", "square")
    assert final.choices[0].finish_reason == "tool_calls"

    done = of_openai.chat.completions.create(
        model="chatty",
        messages=[
            *ASK,
            choice.message.model_dump(exclude_none=True),  # as clients send it back
            {"role": "tool", "tool_call_id": call.id, "content": "drawn"},
        ],
        tools=[tool()],
        tool_choice="none",
        max_tokens=4,
    )
    assert done.choices[0].finish_reason in ("stop", "length")


def test_openai_chat_answers_in_json(of_openai: openai.OpenAI) -> None:
    answer = of_openai.chat.completions.create(
        model="chatty",
        messages=ASK,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "shape", "schema": PARAMETERS, "strict": True},
        },
    )
    content = answer.choices[0].message.content
    assert content is not None
    assert set(json.loads(content)) == {"kind"}


def test_openai_chat_seeds_and_choices(of_openai: openai.OpenAI) -> None:
    options: Any = {"model": "chatty", "messages": ASK, "max_tokens": 24, "temperature": 1.2}
    answers = [of_openai.chat.completions.create(**options, n=3, seed=0) for _ in range(2)]
    first, second = ([choice.message.content for choice in a.choices] for a in answers)
    assert first == second
    assert len(set(first)) == 3
    assert [choice.index for choice in answers[0].choices] == [0, 1, 2]


def test_openai_chat_stops_before_the_stop(of_openai: openai.OpenAI) -> None:
    options: Any = {"model": "chatty", "messages": ASK, "max_tokens": 24, "temperature": 0}
    text = of_openai.chat.completions.create(**options).choices[0].message.content
    assert text is not None
    stop = text[len(text) // 2 :][:3]
    choice = of_openai.chat.completions.create(**options, stop=[stop]).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == text.partition(stop)[0]


def test_openai_client_that_closes_its_stream_ends_the_generation(
    of_openai: openai.OpenAI, address: tuple[str, str]
) -> None:
    def evaluated() -> tuple[int, int]:
        url = f"{address[0]}/api/models/status"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {address[1]}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            rows = {row["name"]: row for row in json.load(answer)["models"]}
        return rows["chatty"]["in_flight"], rows["chatty"].get("evaluated_tokens", 0)

    long = {"type": "object", "properties": {"x": {"type": "string", "minLength": 6000}}}
    schema: Any = {"name": "long", "schema": long | {"required": ["x"]}}
    before = evaluated()[1]
    stream = of_openai.chat.completions.create(
        model="chatty",
        messages=ASK,
        response_format={"type": "json_schema", "json_schema": schema},
        n=16,
        stream=True,
    )
    for _, _ in zip(range(10), stream, strict=False):
        pass
    stream.close()
    deadline = time.monotonic() + 60
    while evaluated()[0]:
        assert time.monotonic() < deadline
    total = evaluated()[1]
    assert total - before < 2000  # of about 8000 for all that was asked for
    time.sleep(0.3)
    assert evaluated()[1] == total


@pytest.mark.parametrize(
    ("changes", "error", "kind"),
    [
        ({"model": "none"}, openai.NotFoundError, "unknown_model"),
        ({"model": "silent"}, openai.ConflictError, "unsupported"),
        ({"messages": []}, openai.UnprocessableEntityError, "bad_request"),
        ({"logprobs": True}, openai.UnprocessableEntityError, "bad_request"),
        (
            {"extra_body": {"steering": [{"name": "x", "coefficient": 1}]}},
            openai.ConflictError,
            "unsupported",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_openai_errors(
    of_openai: openai.OpenAI,
    changes: Any,
    error: type[openai.APIStatusError],
    kind: str,
    stream: bool,
) -> None:
    options: Any = {"model": "chatty", "messages": ASK, "max_tokens": 2, "stream": stream} | changes
    with pytest.raises(error) as caught:
        of_openai.chat.completions.create(**options)
    assert caught.value.code == kind
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_openai_without_the_token(of_openai: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        of_openai.with_options(api_key="wrong").models.list()


def test_openai_models(of_openai: openai.OpenAI) -> None:
    assert {"chatty", "silent", "starter"} <= {model.id for model in of_openai.models.list()}
    assert of_openai.models.retrieve("chatty").id == "chatty"


def test_openai_completions_fill_in_the_middle(of_openai: openai.OpenAI) -> None:
    options: Any = {
        "model": "starter",
        "prompt": "class Square:\n    def __init__(self, side):\n        self.side = ",
        "suffix": "\n\n    def area(self):\n        return self.side ** 2\n",
        "max_tokens": 16,
    }
    whole = of_openai.completions.create(**options)
    assert whole.choices[0].text
    assert whole.usage is not None
    text = ""
    for chunk in of_openai.completions.create(**options, stream=True):
        text += "".join(choice.text for choice in chunk.choices)
    assert text == whole.choices[0].text
    again = of_openai.completions.create(**options)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    cached = again.usage.prompt_tokens_details.cached_tokens or 0
    assert again.usage.prompt_tokens - 2 <= cached <= again.usage.prompt_tokens


# Anthropic


def test_anthropic_messages(of_anthropic: anthropic.Anthropic) -> None:
    answer = of_anthropic.messages.create(
        model="chatty", system="Code.", messages=ASK, max_tokens=16, **GREEDY
    )
    [block] = answer.content
    assert block.type == "text"
    assert block.text
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.output_tokens > 0
    again = of_anthropic.messages.create(
        model="chatty", system="Code.", messages=ASK, max_tokens=16, **GREEDY
    )
    counts = [
        (a.usage.input_tokens, a.usage.cache_creation_input_tokens, a.usage.cache_read_input_tokens)
        for a in (answer, again)
    ]
    assert sum(c or 0 for c in counts[0]) == sum(c or 0 for c in counts[1])  # the same prompt
    assert (counts[1][2] or 0) >= sum(c or 0 for c in counts[0]) - 2
    assert again.content == answer.content


def test_anthropic_messages_stream_the_same_text(of_anthropic: anthropic.Anthropic) -> None:
    options: Any = {"model": "chatty", "messages": ASK, "max_tokens": 24, **GREEDY}
    whole = of_anthropic.messages.create(**options)
    names = []
    with of_anthropic.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    for event in of_anthropic.messages.create(**options, stream=True):
        if not names or names[-1] != event.type:
            names.append(event.type)
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [text] == [block.text for block in whole.content if block.type == "text"]
    assert final.content[0].model_dump(include={"text"}) == {"text": text}
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    parts = (final.usage.input_tokens, final.usage.cache_read_input_tokens or 0)
    assert sum(parts) == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)


def test_anthropic_messages_call_a_tool(of_anthropic: anthropic.Anthropic) -> None:
    options: Any = {
        "model": "chatty",
        "messages": ASK,
        "max_tokens": 200,
        "tools": [{"name": "draw", "description": "Draws.", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "tool", "name": "draw"},
    }
    answer = of_anthropic.messages.create(**options)
    assert answer.stop_reason == "tool_use"
    call: Any = answer.content[-1]
    assert (call.type, call.name) == ("tool_use", "draw")
    assert call.input["kind"] in ("circle", "square")

    with of_anthropic.messages.stream(**options) as stream:
        streamed: Any = stream.get_final_message().content[-1]
    assert streamed.input["kind"] in ("circle", "square")

    result = {"type": "tool_result", "tool_use_id": call.id, "content": "drawn"}
    done = of_anthropic.messages.create(
        **options
        | {
            "messages": [
                *ASK,
                {"role": "assistant", "content": [b.model_dump() for b in answer.content]},
                {"role": "user", "content": [result]},
            ],
            "max_tokens": 4,
            "tool_choice": {"type": "none"},
        }
    )
    assert done.stop_reason in ("end_turn", "max_tokens")


def test_anthropic_counts_tokens_as_they_are_evaluated(of_anthropic: anthropic.Anthropic) -> None:
    shown: Any = {"model": "chatty", "system": "Code.", "messages": ASK}
    tool: Any = {"name": "area", "description": "Of a shape.", "input_schema": PARAMETERS}
    for fields in (shown, {**shown, "tools": [tool]}):
        counted = of_anthropic.messages.count_tokens(**fields)
        usage = of_anthropic.messages.create(**fields, max_tokens=1, **GREEDY).usage
        assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    long: Any = {**shown, "messages": [{"role": "user", "content": "again " * 3000}]}
    assert of_anthropic.messages.count_tokens(**long).input_tokens > 3000
    with pytest.raises(anthropic.ConflictError, match="no chat template"):
        of_anthropic.messages.count_tokens(**{**shown, "model": "silent"})


def test_anthropic_stop_sequence_is_named(of_anthropic: anthropic.Anthropic) -> None:
    options: Any = {"model": "chatty", "messages": ASK, "max_tokens": 24, **GREEDY}
    block: Any = of_anthropic.messages.create(**options).content[0]
    stop = block.text[len(block.text) // 2 :][:3]
    answer = of_anthropic.messages.create(**options, stop_sequences=[stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)


@pytest.mark.parametrize(
    ("changes", "error", "kind"),
    [
        ({"model": "none"}, anthropic.NotFoundError, "not_found_error"),
        ({"model": "silent"}, anthropic.ConflictError, "invalid_request_error"),
        ({"messages": []}, anthropic.UnprocessableEntityError, "invalid_request_error"),
        ({"container": "c"}, anthropic.UnprocessableEntityError, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_errors(
    of_anthropic: anthropic.Anthropic,
    changes: Any,
    error: type[anthropic.APIStatusError],
    kind: str,
    stream: bool,
) -> None:
    options: Any = {"model": "chatty", "messages": ASK, "max_tokens": 2, "stream": stream} | changes
    with pytest.raises(error) as caught:
        of_anthropic.messages.create(**options)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_anthropic_without_the_token(address: tuple[str, str]) -> None:
    client = anthropic.Anthropic(base_url=address[0], api_key="wrong")
    with pytest.raises(anthropic.AuthenticationError):
        client.messages.create(model="chatty", messages=ASK, max_tokens=2)


def test_anthropic_models(of_anthropic: anthropic.Anthropic) -> None:
    assert "chatty" in {model.id for model in of_anthropic.models.list()}
    assert of_anthropic.models.retrieve("chatty").display_name == "chatty"


# midspan chat


def test_midspan_chat_answers_from_the_model_set_for_chat(
    env: Env,
    run_midspan: Callable[..., CompletedProcess[str]],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    asked = ["chat", "def area(self):", "--max-tokens", "16", "--temperature", "0"]
    done = run_midspan([*asked, "--json"], env)
    assert done.returncode == 0, done.stderr
    answer = one_object(done.stdout)
    assert answer["model"] == "chatty"
    assert answer["text"]
    for extra in ([], ["--no-stream"]):
        shown = run_midspan([*asked, *extra], env)
        assert shown.stdout.rstrip("\n") == answer["text"].rstrip("\n")


def test_midspan_chat_says_why_a_model_cannot(
    env: Env,
    run_midspan: Callable[..., CompletedProcess[str]],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    done = run_midspan(["chat", "Hi", "--model", "silent", "--json"], env)
    assert done.returncode == 4
    assert one_object(done.stdout)["error"]["kind"] == "unsupported"
    assert "template" in done.stderr
