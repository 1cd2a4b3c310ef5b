"""One row of data for each engine that midspan knows how to speak to.

Rule: data only. What differs between engines stands here and nowhere else; whatever reads a row
must not ask for its name. Adding an engine is adding a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Way(StrEnum):
    """How the gap to fill goes out."""

    TOKENS = "tokens"  # the anchored prompt as token ids: no text can become a control token
    TEXT = "text"  # the anchored prompt as text, control tokens spelt out
    SUFFIX = "suffix"  # prefix and suffix; the engine has the template
    NONE = "none"  # it only chats


class Shape(StrEnum):
    """What requests and streams look like."""

    LLAMA = "llama"  # llama-server's own
    OPENAI = "openai"  # /v1/completions
    CHAT = "chat"  # asked like /v1/completions, answered like /v1/chat/completions
    OLLAMA = "ollama"  # a JSON object per line


class Healing(StrEnum):
    """What is done about a cursor inside a token."""

    GRAMMAR = "grammar"  # the engine is held to what was typed
    AGREE = "agree"  # the last word is left off; the answer must begin with it, or is asked again
    NONE = "none"  # the text goes as it stands


class Forcing(StrEnum):
    """How a call of a tool that the request demands is made sure of."""

    CHOICE = "choice"  # `tool_choice` is heeded: required, or a name
    SCHEMA = "schema"  # the answer is held to the schema of a call
    NONE = "none"  # it can't be


class Counting(StrEnum):
    """How a conversation's tokens are counted before it is evaluated."""

    TEMPLATE = "template"  # the template is applied by /apply-template, then /tokenize
    MESSAGES = "messages"  # /tokenize takes messages
    NONE = "none"  # it can't be


OPENAI_SAMPLING: Mapping[str, str] = MappingProxyType(
    {"temperature": "temperature", "top_p": "top_p", "seed": "seed"}
)
FULL_SAMPLING: Mapping[str, str] = MappingProxyType(
    {**OPENAI_SAMPLING, "top_k": "top_k", "min_p": "min_p"}
)
_USAGE: Mapping[str, Any] = MappingProxyType({"stream_options": {"include_usage": True}})


@dataclass(frozen=True, slots=True)
class Profile:
    """An engine. Paths are below the endpoint's root, which ends before any `/v1`.

    `window` is how many tokens of the document are shown while nothing has been measured.
    `sampling` maps the fields of `Sampling` to the engine's names; it has no others.
    """

    name: str
    title: str
    way: Way = Way.TEXT
    shape: Shape = Shape.OPENAI
    path: str = "/v1/completions"
    chat: str = "/v1"  # the base of /chat/completions
    models: str = "/v1/models"
    owners: tuple[str, ...] = ()  # `owned_by` of its models
    hosts: tuple[str, ...] = ()  # where it is the only one there is
    servers: tuple[str, ...] = ()  # what its `Server` header begins with
    no_fim: str = ""  # for Way.NONE: why, and what to do
    healing: Healing = Healing.NONE
    suffix_fields: tuple[str, str] = ("prompt", "suffix")
    empty_suffix: str = ""  # what goes out where nothing follows the cursor
    limit_field: str = "max_tokens"
    chat_limit_field: str = "max_tokens"
    options_field: str = ""  # sampling, limit and stops go into an object of that name
    context_field: str = ""  # takes the context's length that the user set
    sampling: Mapping[str, str] = field(default_factory=lambda: OPENAI_SAMPLING)
    fixed: Mapping[str, Any] = field(default_factory=dict)  # sent with every completion
    max_stops: int = 4  # that go out; midspan finds the others itself
    max_tokens: int = 0  # of one answer, 0: no limit of its own
    window: int = 1024
    salt_field: str = ""  # keeps one user's cached prefixes from others'
    session_field: str = ""  # says which requests share a prefix
    session_header: str = ""  # the same for a router in between
    prediction: bool = False  # takes a text that much of the answer repeats
    effort_alone: bool = False  # models that reason refuse to have their sampling set
    forcing: Forcing = Forcing.CHOICE
    counting: Counting = Counting.NONE
    schemas: bool = True  # an answer can be held to a JSON schema, else only to JSON
    hosted: bool = False  # billed by the token: nothing is evaluated in advance
    endpoint: str = ""  # where it is, if there is but one
    key_env: str = ""  # where its users keep their key; used at `endpoint` alone


# The rows are searched in this order; the last one fits everything.
_ROWS = (
    Profile(
        "llama-server",
        "llama-server",
        Way.TOKENS,
        Shape.LLAMA,
        "/completion",
        servers=("llama.cpp",),
        owners=("llamacpp",),
        healing=Healing.GRAMMAR,
        limit_field="n_predict",
        sampling=FULL_SAMPLING,
        fixed={
            "cache_prompt": True,
            "return_tokens": True,
            "return_progress": True,  # tells what was cached before the end
            "response_fields": [
                "content",
                "tokens",
                "stop",
                "stop_type",
                "stopping_word",
                "tokens_evaluated",
                "tokens_predicted",
                "truncated",
                "timings",
            ],
        },
        max_stops=64,
        window=512,
        forcing=Forcing.SCHEMA,
        counting=Counting.TEMPLATE,
    ),
    Profile(
        # For models whose family midspan does not know: the server has the template.
        "llama-server-infill",
        "llama-server (/infill)",
        Way.SUFFIX,
        Shape.LLAMA,
        "/infill",
        suffix_fields=("input_prefix", "input_suffix"),
        limit_field="n_predict",
        sampling=FULL_SAMPLING,
        fixed={"cache_prompt": True, "return_tokens": True, "return_progress": True},
        max_stops=64,
        window=512,
        forcing=Forcing.SCHEMA,
        counting=Counting.TEMPLATE,
    ),
    Profile(
        "vllm",
        "vLLM",
        owners=("vllm",),
        healing=Healing.AGREE,
        sampling=FULL_SAMPLING,
        # Control tokens must be seen, to end at those that the engine doesn't end at.
        fixed={
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        },
        window=2048,
        salt_field="cache_salt",
        session_header="X-Session-ID",
        counting=Counting.MESSAGES,
    ),
    Profile(
        "sglang",
        "SGLang",
        owners=("sglang",),
        healing=Healing.AGREE,
        sampling=FULL_SAMPLING,
        fixed={
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "skip_special_tokens": False,
        },
        window=2048,
        session_header="X-Session-ID",
    ),
    Profile(
        "ollama",
        "Ollama",
        Way.SUFFIX,
        Shape.OLLAMA,
        "/api/generate",
        owners=("library",),
        empty_suffix="\n",  # without one it would chat
        limit_field="num_predict",
        options_field="options",
        context_field="num_ctx",
        sampling=FULL_SAMPLING,
        forcing=Forcing.SCHEMA,
        max_stops=16,
        window=512,
    ),
    Profile(
        "lm-studio",
        "LM Studio",
        owners=("organization_owner",),
        healing=Healing.AGREE,
        fixed=_USAGE,
        window=512,
        forcing=Forcing.SCHEMA,
    ),
    Profile(
        "mlx-lm",
        "mlx_lm.server",
        Way.NONE,
        servers=("BaseHTTP/",),
        max_stops=0,  # it takes off the whole token that a stop begins in
        forcing=Forcing.NONE,
        schemas=False,
        no_fim="mlx_lm.server takes the first space off every answer, which breaks code. Use it "
        "for chat, and midspan's own mlx engine to complete.",
    ),
    Profile(
        "openai",
        "OpenAI",
        Way.NONE,
        no_fim="OpenAI's chat models do not fill in the middle. Use them for chat.",
        hosts=("api.openai.com",),
        chat_limit_field="max_completion_tokens",
        session_field="prompt_cache_key",
        prediction=True,
        effort_alone=True,
        hosted=True,
        endpoint="https://api.openai.com",
        key_env="OPENAI_API_KEY",
    ),
    Profile(
        # The one model of OpenAI's with a suffix: gpt-3.5-turbo-instruct.
        "openai-suffix",
        "OpenAI (suffix)",
        Way.SUFFIX,
        chat_limit_field="max_completion_tokens",
        fixed=_USAGE,
        hosted=True,
        endpoint="https://api.openai.com",
        key_env="OPENAI_API_KEY",
    ),
    Profile(
        "deepseek",
        "DeepSeek",
        Way.SUFFIX,
        path="/beta/completions",
        chat="",
        models="/models",
        hosts=("api.deepseek.com",),
        sampling={"temperature": "temperature", "top_p": "top_p"},
        fixed=_USAGE,
        max_stops=16,
        max_tokens=4096,
        schemas=False,
        window=2048,
        hosted=True,
        endpoint="https://api.deepseek.com",
        key_env="DEEPSEEK_API_KEY",
    ),
    Profile(
        "mistral",
        "Mistral",
        Way.SUFFIX,
        Shape.CHAT,
        "/v1/fim/completions",
        hosts=("api.mistral.ai", "codestral.mistral.ai"),
        sampling={"temperature": "temperature", "top_p": "top_p", "seed": "random_seed"},
        window=2048,
        hosted=True,
        endpoint="https://api.mistral.ai",
        key_env="MISTRAL_API_KEY",
    ),
    Profile(
        "openai-compatible",
        "OpenAI-compatible server",
        healing=Healing.AGREE,
        fixed=_USAGE,
        forcing=Forcing.SCHEMA,
    ),
)

PROFILES: Mapping[str, Profile] = MappingProxyType({row.name: row for row in _ROWS})
GENERIC = PROFILES["openai-compatible"]


def recognise(host: str, server: str, owners: frozenset[str]) -> Profile:
    """Return the row for an endpoint's host, `Server` header and its models' owners."""
    for row in _ROWS:
        if host in row.hosts or server.startswith(row.servers) or owners & set(row.owners):
            return row
    return GENERIC
