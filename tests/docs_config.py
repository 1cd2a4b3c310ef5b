"""Writes the generated parts of docs/configuration.md from the settings themselves.

    python -m tests.docs_config

A test fails while the two differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from backends import config, config_environment, config_legacy
from backends.config_export import shown
from backends.config_schema import Scope, Spec, specs
from lsp_server import settings
from lsp_server.kernels.settings import TABLE, KernelSettings
from lsp_server.repository import RepositorySettings

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
_REGION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def manager() -> Iterator[str]:
    """The manager's tables, each with its settings and their variables."""
    for name, kind in config.SHAPE.tables.items():
        yield f"### `[{name}]`\n\n"
        yield from _table(specs(kind), lambda spec, name=name: (name, spec.name))
    yield "### `[models.NAME]`\n\n"
    yield "In variables NAME is in capitals, with `_` for everything but letters and digits.\n\n"
    (kind,) = config.SHAPE.named.values()
    yield from _table(specs(kind), lambda spec: ("models", "NAME", spec.name))


def editor() -> Iterator[str]:
    """The language server's settings, with their names in editors."""
    yield "| `[lsp]` | in editors | default | | variable |\n| --- | --- | --- | --- | --- |\n"
    for spec in specs(settings.Settings).values():
        workspace = "" if spec.scope is Scope.WINDOW else " Not from a workspace's own settings."
        variable = config_environment.variable((settings.TABLE, spec.name))
        yield (
            f"| `{spec.name}` | `{settings.SECTION}.{settings.camel(spec.name)}` "
            f"| {_default(spec)} | {_doc(spec)}{workspace} | `{variable}` |\n"
        )


def kernels() -> Iterator[str]:
    """How kernels are generated."""
    yield from _table(specs(KernelSettings), lambda spec: (TABLE, spec.name))


def repository() -> Iterator[str]:
    """What a repository's file may say."""
    yield "| key | default | |\n| --- | --- | --- |\n"
    for spec in specs(RepositorySettings).values():
        yield f"| `{spec.name}` | {_default(spec)} | {_doc(spec)} |\n"


def kernelagent() -> Iterator[str]:
    """KernelAgent's names and what they become."""
    yield "| `MODEL_BACKEND`, `backend_type` | selects |\n| --- | --- |\n"
    for backend in config_legacy.BACKENDS.values():
        roles = " and ".join(f"`{role}.model`" for role in backend.roles)
        yield f"| `{backend.name}` | the model `{backend.name}` as {roles} |\n"
    prefixes = [f"`{backend.prefix}…`" for backend in config_legacy.BACKENDS.values()]
    yield f"\n| in JSON | end of {', '.join(prefixes)} | becomes |\n| --- | --- | --- |\n"
    for key, field in config_legacy.FIELDS.items():
        variable = "–" if key in config_legacy.JSON_ONLY else f"`{key.upper()}`"
        yield f"| `{key}` | {variable} | `{field}` |\n"
    yield "| `model_name` of `openai` | `MODEL` | `remote_model` |\n"
    yield "| – | `API_KEY` | `api_key_env`: the variable's name, never what is in it |\n"
    yield "\n| has no equivalent | |\n| --- | --- |\n"
    for key, reason in config_legacy.NO_EQUIVALENT.items():
        yield f"| `{key}` | {reason} |\n"
    yield "| `api_key` | keys are never kept in the configuration |\n"
    yield "| `model_name` of `llama-cpp` | the model is called `llama-cpp` |\n"


def _table(known: Mapping[str, Spec], key: Callable[[Spec], tuple[str, ...]]) -> Iterator[str]:
    yield "| key | default | | variable |\n| --- | --- | --- | --- |\n"
    for spec in known.values():
        variable = config_environment.variable(key(spec))
        yield f"| `{spec.name}` | {_default(spec)} | {_doc(spec)} | `{variable}` |\n"
    yield "\n"


def _default(spec: Spec) -> str:
    unit = f" {spec.unit}" if spec.unit else ""
    return f"`{shown(spec.default)}`{unit}"


def _doc(spec: Spec) -> str:
    limits = ""
    if spec.name == "profile":  # the one setting whose choices the text does not name
        limits = f" One of {', '.join(spec.choices)}."
    if spec.low is not None:
        limits = f" At least {spec.low:.15g}." if spec.high is None else ""
        limits = limits or f" From {spec.low:.15g} to {spec.high:.15g}."
    return f"{spec.doc}{limits}".replace("|", "\\|")


_PARTS: Mapping[str, Callable[[], Iterator[str]]] = {
    part.__name__: part for part in (manager, editor, kernels, repository, kernelagent)
}


def render(page: str) -> str:
    """Return `page` with its generated parts renewed."""
    return _REGION.sub(lambda found: f"{found[1]}\n{_part(found[2])}\n{found[3]}", page)


def _part(name: str) -> str:
    return "".join(_PARTS[name]()).rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
