"""Finding out what an endpoint is, which model it has, and how the gap to fill goes out to it.

Rule: asks at most a handful of small questions, once. What an engine does not say stays unknown
(0, ""), but that a model is there at all is made sure of. Raises errors of `backends.errors`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.backend import Capabilities
from backends.config import ModelSettings
from backends.errors import RemoteFailed, RemoteProtocolError, RemoteRefused, UnknownModel
from backends.remote import family
from backends.remote.llama_tokenizer import LlamaTokenizer
from backends.remote.profiles import PROFILES, Counting, Profile, Shape, Way, recognise
from backends.remote.prompting import Tokenizer
from backends.remote.retries import Policy, repeated
from backends.remote.transport import Connection
from fim.catalogue import Template
from fim.templates import NoFim

SHOWN_NAMES = 8
OLLAMA_CONTEXT = 4096  # what it serves a model with where nobody says, on the smallest machine
_NUM_CTX = re.compile(r"^num_ctx\s+([0-9]{1,9})\s*$", re.MULTILINE)
NO_CHAT_TEMPLATE = "The model has no chat template."


@dataclass(frozen=True, slots=True)
class Probed:
    """What is known of an endpoint. `template` is None where the engine applies its own.

    `context_wanted` is the context's length that the user set, in tokens, 0 for none.
    """

    profile: Profile
    model: str
    capabilities: Capabilities
    description: str
    template: Template | None = None
    tokenizer: Tokenizer | None = None
    context_wanted: int = 0


@dataclass(frozen=True, slots=True)
class _Model:
    """A model of the endpoint; `path` is its file, where the engine tells."""

    name: str
    context_length: int = 0
    detail: str = ""
    path: str = ""
    fim: str = ""  # why the engine can't fill in the middle with it, "" where it can


async def probe(connection: Connection, name: str, settings: ModelSettings) -> Probed:
    """Ask the endpoint for everything that is fixed while it serves. Raises MidspanError."""
    options = connection.options
    listed, headers = await repeated(
        lambda: _models(connection, settings.profile), Policy(options.retries, options.pause)
    )
    owners = frozenset(str(row.get("owned_by", "")) for row in listed)
    server = headers.get("Server", "")
    profile = PROFILES.get(settings.profile) or recognise(connection.endpoint.host, server, owners)
    row = _pick(listed, settings.remote_model or name, bool(settings.remote_model), profile)
    model = await _ASK.get(profile.shape, _nothing_more)(connection, row)
    length = settings.context_length or model.context_length
    template: Template | NoFim | None = None
    tokenizer = None
    if profile.way is Way.TOKENS:
        tokenizer = await LlamaTokenizer.connect(connection)
        template = _template(settings, f"{model.name} {_stem(model.path)}")
        if isinstance(template, Template):
            template = family.within(template, tokenizer.control)
    elif profile.way is Way.TEXT:
        template = _template(settings, model.name)
    reason = template.reason if isinstance(template, NoFim) else model.fim
    reason = profile.no_fim or reason
    found = template if isinstance(template, Template) else None
    return Probed(
        profile,
        model.name,
        Capabilities(
            fim=not reason,
            no_fim_reason=reason,
            family=found.family if found else "",
            context_length=length,
            chat=True,
            tools=True,
            counting=profile.counting is not Counting.NONE,
        ),
        _described(connection, profile, model),
        found,
        tokenizer,
        settings.context_length,
    )


async def _models(
    connection: Connection, named: str
) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    """Return the endpoint's list of models. A server may lack it only if the user named it."""
    path = PROFILES[named].models if named else "/v1/models"
    try:
        answer, headers = await connection.json("GET", path)
    except (RemoteRefused, RemoteFailed):
        if named:
            return [], {}
        raise
    rows = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(rows, list):
        raise RemoteProtocolError(
            f"{connection.endpoint.root}{path} is no list of models; is the endpoint right?"
        )
    return [
        row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)
    ], headers


def _pick(
    listed: list[dict[str, Any]], wanted: str, was_named: bool, profile: Profile
) -> dict[str, Any]:
    """Return the row of the model to use. One that nobody named is it if it is the only one."""
    for row in listed:
        if wanted in (row["id"], *_list(row.get("aliases"))):
            return row
    if len(listed) == 1 and (not was_named or profile.shape is Shape.LLAMA):
        return listed[0]
    if not listed or profile.shape is Shape.OLLAMA:  # it leaves ":latest" to be guessed
        return {"id": wanted}
    names = ", ".join(row["id"] for row in listed[:SHOWN_NAMES])
    more = ", …" if len(listed) > SHOWN_NAMES else ""
    raise UnknownModel(
        f"The endpoint has no model {wanted!r}; set remote_model to one of: {names}{more}."
    )


async def _nothing_more(connection: Connection, row: dict[str, Any]) -> _Model:
    named = ("max_model_len", "max_context_length", "context_length")
    length = next((_count(row[name]) for name in named if row.get(name)), 0)
    capable = row.get("capabilities")
    lacks = isinstance(capable, dict) and capable.get("completion_fim") is False
    reason = f"{row['id']} does not fill in the middle; choose a Codestral model." if lacks else ""
    return _Model(row["id"], length, fim=reason)


async def _llama(connection: Connection, row: dict[str, Any]) -> _Model:
    props, _ = await connection.json("GET", "/props")
    if not isinstance(props, dict):
        raise RemoteProtocolError("llama-server's /props is no object.")
    settings = props.get("default_generation_settings")
    length = _count(settings.get("n_ctx")) if isinstance(settings, dict) else 0
    detail = f"{props.get('model_ftype', '')} llama.cpp {props.get('build_info', '')}".strip()
    return _Model(row["id"], length, detail, str(props.get("model_path", "")))


async def _ollama(connection: Connection, row: dict[str, Any]) -> _Model:
    answer, _ = await connection.json("POST", "/api/show", {"model": row["id"]})
    shown = answer if isinstance(answer, dict) else {}
    info = shown.get("model_info") or {}
    if not isinstance(info, dict):
        raise RemoteProtocolError("Ollama's /api/show has a model_info that is no object.")
    lengths = [n for key in info if key.endswith(".context_length") and (n := _count(info[key]))]
    capable = shown.get("capabilities")
    lacks = isinstance(capable, list) and "insert" not in capable
    reason = f"Ollama's template of {row['id']} has no suffix, so it can't fill in the middle."
    # What does not fit it takes off the prompt's beginning without a word, where the model's
    # control tokens are: so what it serves with counts, not what the model could do.
    asked = _NUM_CTX.search(str(shown.get("parameters", "")))
    serves = int(asked[1]) if asked else await _ollama_loaded(connection, row["id"])
    return _Model(
        row["id"],
        min([serves or OLLAMA_CONTEXT, *lengths[:1]]),
        fim=reason if lacks else "",
    )


async def _ollama_loaded(connection: Connection, name: str) -> int:
    """Return the context that a model was loaded with, 0 where it is not loaded."""
    try:
        answer, _ = await connection.json("GET", "/api/ps")
    except (RemoteRefused, RemoteFailed):
        return 0
    rows = answer.get("models") if isinstance(answer, dict) else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and name in (row.get("name"), row.get("model")):
            return _count(row.get("context_length"))
    return 0


def _count(value: object) -> int:
    """Return a number of tokens as an engine says it, 0 where it is none."""
    return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else 0


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


_ASK = {Shape.LLAMA: _llama, Shape.OLLAMA: _ollama}


def _template(settings: ModelSettings, name: str) -> Template | NoFim:
    return family.chosen(settings.family) if settings.family else family.by_name(name)


def _stem(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2].removesuffix(".gguf")


def _described(connection: Connection, profile: Profile, model: _Model) -> str:
    detail = f" ({model.detail})" if model.detail else ""
    name = _stem(model.name) if model.name.endswith(".gguf") else model.name
    return f"{name}{detail} at {connection.endpoint.root} ({profile.title})"
