"""The configuration that users of KernelAgent have: its environment names and its JSON file.

    MODEL_BACKEND=deepseek-r1  DEEPSEEK_R1_MODEL_PATH=…      {"backend_type": "deepseek-r1", …}

Rule: each name is a row of a table and becomes a setting of ours; a name that has no equivalent is
a problem that says so. A remote model is made from environment names only if MODEL_BACKEND or a
setting of ours selects it: OPENAI_API_KEY, which many tools share, sends nothing anywhere. Keys
themselves are never read, only the name of the variable that holds one. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backends.config_schema import (
    NEVER_A_KEY,
    Given,
    Key,
    Layer,
    Origin,
    Problem,
    Spec,
    UnfitError,
    is_credential,
    similar,
)

OriginOf = Callable[[Key], Origin]  # tells where a key of the file stands

SELECT = "MODEL_BACKEND"
OPENAI_URL = "https://api.openai.com/v1"
_TEMPLATE = "models use the chat template in their own file; set chat_template for another"
_SAMPLING = "sampling belongs to each request here, not to the configuration"

# JSON key, and in capitals the end of the variable's name → our field.
FIELDS: Mapping[str, str] = {
    "model_path": "path",
    "n_ctx": "context_length",
    "n_gpu_layers": "gpu_layers",
    "n_threads": "threads",
    "n_batch": "batch",
    "low_vram": "low_vram",
    "mmap": "mmap",
    "use_mmap": "mmap",
    "mlock": "mlock",
    "use_mlock": "mlock",
    "verbose": "verbose",
    "f16_kv": "kv_type",
    "base_url": "endpoint",
    "timeout": "timeout_s",
    "max_retries": "retries",
    "high_reasoning_effort": "reasoning_effort",
    "proxy_config": "proxy",
}
JSON_ONLY = frozenset({"proxy_config"})  # an object
# What KernelAgent, or llama-cpp-python behind it, takes and midspan has no setting for.
NO_EQUIVALENT: Mapping[str, str] = {
    "chat_format": _TEMPLATE,
    "temperature": _SAMPLING,
    "top_p": _SAMPLING,
    "max_tokens": _SAMPLING,
    "stop": _SAMPLING,
    "seed": _SAMPLING,
    "organization": "no such header is sent; a key belongs to one organisation",
    "org_id": "no such header is sent; a key belongs to one organisation",
    "project": "no such header is sent; a key belongs to one project",
    "project_id": "no such header is sent; a key belongs to one project",
    "n_ubatch": "the engine chooses it; set batch",
    "n_threads_batch": "one number of threads serves for both; set threads",
    "rope_freq_base": "it is read from the model's file",
    "rope_freq_scale": "it is read from the model's file",
    "tensor_split": "set device_map, or start a llama-server with it and set endpoint",
    "main_gpu": "set device, as in cuda:1",
    "lora_path": "merge the adapter into the model's file",
    "logits_all": "engines do as each request needs",
    "embedding": "there are no embeddings here",
}


@dataclass(frozen=True, slots=True)
class Backend:
    """A row: a value of MODEL_BACKEND, which is also its JSON table and the model's name here."""

    name: str
    prefix: str
    roles: tuple[str, ...]  # the tables in which it becomes `model` when it is selected
    shared: bool = False  # other tools have these variables too
    remote_name: str = ""  # what names the model at the endpoint: JSON key; in the environment too
    fixed: Mapping[str, object] = field(default_factory=dict)


BACKENDS: Mapping[str, Backend] = {
    row.name: row
    for row in (
        # Neither o3 nor R1 fills in the middle: they chat and write kernels.
        Backend(
            "openai",
            "OPENAI_",
            ("chat",),
            shared=True,
            remote_name="model_name",
            fixed={"endpoint": OPENAI_URL, "profile": "openai"},
        ),
        Backend("deepseek-r1", "DEEPSEEK_R1_", ("chat",)),
        Backend("llama-cpp", "LLAMA_CPP_", ("completion", "chat")),
    )
}


def is_ours(values: Mapping[str, object]) -> bool:
    """Whether a JSON document is laid out as KernelAgent's."""
    return "backend_type" in values or any(isinstance(values.get(name), dict) for name in BACKENDS)


# --- the JSON file ----------------------------------------------------------------------------


def from_json(
    values: Mapping[str, object], origin: OriginOf, folder: str = ""
) -> tuple[list[Given], list[Problem], dict[str, object]]:
    """Translate KernelAgent's keys; return also the document's other keys, which are ours."""
    givens: list[Given] = []
    problems: list[Problem] = []
    tables = {name for name in BACKENDS if isinstance(values.get(name), dict)}
    rest = {key: value for key, value in values.items() if key not in {"backend_type", *BACKENDS}}
    for name, backend in BACKENDS.items():
        table = values.get(name)
        if isinstance(table, dict):
            _from_table(backend, table, _Sink(backend, givens, problems, origin, folder))
        elif name in values:
            problems.append(Given((name,), None, origin((name,))).problem("must be an object"))
    if "backend_type" in values:
        given = Given(("backend_type",), values["backend_type"], origin(("backend_type",)))
        _select(given, tables, givens, problems)
    return givens, problems, rest


def _from_table(backend: Backend, table: Mapping[str, object], sink: _Sink) -> None:
    for name, value in backend.fixed.items():
        sink.give(name, value, "")
    if backend.prefix == "OPENAI_" and "api_key_env" not in table:
        sink.give("api_key_env", "OPENAI_API_KEY", "")  # as KernelAgent falls back to it
    for key, value in table.items():
        sink.take(key, value)


class _Sink:
    """Takes one backend's keys, by the tables above."""

    def __init__(
        self,
        backend: Backend,
        givens: list[Given],
        problems: list[Problem],
        origin: OriginOf,
        folder: str,
    ) -> None:
        self._backend = backend
        self._givens, self._problems = givens, problems
        self._origin, self._folder = origin, folder

    def give(self, field_name: str, value: object, key: str) -> None:
        """Set a field of ours, because of `key`."""
        name = self._backend.name
        at = self._origin((name, key) if key else (name,))
        self._givens.append(Given(("models", name, field_name), value, at, folder=self._folder))

    def take(self, key: str, value: object) -> None:
        """Translate a key of theirs, or say why it cannot be."""
        if key in FIELDS:
            self._take_field(key, value)
        elif key == self._backend.remote_name:
            self.give("remote_model", value, key)
        elif key == "model_name":
            self._refuse(key, f"has no equivalent: the model is called {self._backend.name} here")
        elif is_credential(key):
            self._refuse(key, NEVER_A_KEY)
        elif key in NO_EQUIVALENT:
            self._refuse(key, f"has no equivalent: {NO_EQUIVALENT[key]}")
        else:
            self._refuse(key, f"is unknown{similar(key, FIELDS)}")

    def _take_field(self, key: str, value: object) -> None:
        if key in _CONVERTED and (problem := _not_convertible(key, value)):
            self._refuse(key, problem)
            return
        converted = _CONVERTED[key](value) if key in _CONVERTED else value
        self.give(FIELDS[key], converted, key)

    def _refuse(self, key: str, message: str) -> None:
        at = Given((), None, self._origin((self._backend.name, key)))
        self._problems.append(at.problem(f"{key!r} {message}"))


def _proxy(value: object) -> object:
    assert isinstance(value, dict)
    return value.get("https_proxy") or value.get("http_proxy") or ""


_CONVERTED: Mapping[str, Callable[[Any], object]] = {
    "f16_kv": lambda value: "f16" if value else "f32",
    "high_reasoning_effort": lambda value: "high" if value else "",
    "proxy_config": _proxy,
}


def _not_convertible(key: str, value: object) -> str:
    wanted, words = (dict, "an object") if key == "proxy_config" else (bool, "true or false")
    return "" if isinstance(value, wanted) else f"must be {words}, not {type(value).__name__}"


# --- the environment --------------------------------------------------------------------------


def from_environment(
    environment: Mapping[str, str], selected: Collection[str], known: Collection[Key]
) -> tuple[list[Given], list[Problem]]:
    """Translate KernelAgent's variables.

    `selected` are the models that settings of ours choose, `known` the keys that files and
    `MIDSPAN_*` have set already.
    """
    givens: list[Given] = []
    problems: list[Problem] = []
    asked = _plain_name(environment.get(SELECT, ""))
    defined = {key[1] for key in known if key[0] == "models" and len(key) == 3}
    for name, backend in BACKENDS.items():
        of_this = _Variables(backend, environment, known, problems)
        # Shared variables change no model that the configuration describes, and so redirect
        # nothing, unless MODEL_BACKEND says that they are meant.
        found = of_this.local()
        if not found and (name == asked or (name in selected and name not in defined)):
            found = of_this.remote()
        elif not found and name in defined and not backend.shared:
            found = of_this.fields()
        givens += found
        if found:
            defined.add(name)
        elif name in selected and name not in defined and name != asked and backend.shared:
            needed = f"{backend.prefix}MODEL"
            problems.append(Problem(f"must be set: the model {name!r} is selected", needed))
    if asked:
        given = Given((SELECT,), environment[SELECT], Origin(Layer.ENVIRONMENT, SELECT))
        _select(given, defined, givens, problems)
    return givens, problems


class _Variables:
    """The variables of one backend."""

    def __init__(
        self,
        backend: Backend,
        environment: Mapping[str, str],
        known: Collection[Key],
        problems: list[Problem],
    ) -> None:
        self._backend, self._known, self._problems = backend, known, problems
        self._set = {
            variable.removeprefix(backend.prefix): text
            for variable, text in sorted(environment.items())
            if variable.startswith(backend.prefix) and text
        }

    def local(self) -> list[Given]:
        """Return the settings of a model in a file; none where no file is named."""
        if "MODEL_PATH" not in self._set or self._backend.fixed:
            return []
        if self._set.pop("BASE_URL", ""):
            prefix = self._backend.prefix
            message = f"is not used, because {prefix}MODEL_PATH is set"
            self._problems.append(Problem(message, f"{prefix}BASE_URL"))
        return self.fields()

    def remote(self) -> list[Given]:
        """Return the settings of a model elsewhere; none where too little is said of it."""
        has_url = "BASE_URL" in self._set or "endpoint" in self._backend.fixed
        if not has_url or not ("MODEL" in self._set or self._is_known("remote_model")):
            return []
        givens = [
            Given(self._key(name), value, Origin(Layer.ENVIRONMENT, SELECT))
            for name, value in self._backend.fixed.items()
            if not self._is_known(name)  # what the file says is more than what is assumed
        ]
        if "MODEL" in self._set:
            givens.append(self._given("remote_model", "MODEL"))
        if "API_KEY" in self._set and not self._is_known(
            "api_key_env", "api_key_file", "api_key_keyring"
        ):
            variable = f"{self._backend.prefix}API_KEY"
            origin = Origin(Layer.ENVIRONMENT, variable)
            givens.append(Given(self._key("api_key_env"), variable, origin))
        return givens + self.fields()

    def fields(self) -> list[Given]:
        """Return what the table of fields says of the variables that are set."""
        givens = []
        for end in self._set:
            key = end.lower()
            if key in NO_EQUIVALENT:
                message = f"has no equivalent: {NO_EQUIVALENT[key]}"
                self._problems.append(Problem(message, self._backend.prefix + end))
            elif key in FIELDS and key not in JSON_ONLY:
                givens += self._field(key, end)
        return givens

    def _field(self, key: str, end: str) -> list[Given]:
        given = self._given(FIELDS[key], end)
        if key not in _CONVERTED:
            return [given]
        try:
            value = _CONVERTED[key](_FLAG.parse(self._set[end]))
        except UnfitError as exc:
            self._problems.append(given.problem(f"must be {exc}, not {self._set[end][:20]!r}"))
            return []
        return [replace(given, value=value, text=False)]

    def _given(self, field_name: str, end: str) -> Given:
        origin = Origin(Layer.ENVIRONMENT, self._backend.prefix + end)
        return Given(self._key(field_name), self._set[end], origin, text=True)

    def _key(self, field_name: str) -> Key:
        return ("models", self._backend.name, field_name)

    def _is_known(self, *field_names: str) -> bool:
        return any(self._key(name) in self._known for name in field_names)


_FLAG = Spec(name="", kind=bool, default=False, doc="")


def _plain_name(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _select(
    given: Given, defined: Collection[str], givens: list[Given], problems: list[Problem]
) -> None:
    """Make the backend that `given` asks for the model of its roles, if it is there."""
    name = _plain_name(str(given.value))
    backend = BACKENDS.get(name)
    if backend is None:
        what = f"must be one of {', '.join(BACKENDS)}, not {str(given.value)[:40]!r}"
        problems.append(given.problem(what))
    elif name not in defined:
        needed = f"{backend.prefix}{'MODEL' if backend.fixed else 'MODEL_PATH'}"
        problems.append(given.problem(f"asks for {name}, but {needed} is not set"))
    else:
        givens += [Given((role, "model"), name, given.origin) for role in backend.roles]
