"""`midspan models memory|spec`: what a model takes here, and how it would be run.

Rule: reads the model's header and asks the machine; loads nothing and starts no manager. Must not
know how the numbers are made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from backends import cache_spec, catalogue, chosen, config, memory, paths, quantisation
from backends.cache_spec import KV_TYPES, ModelCacheSpec
from backends.catalogue import Header, Model, Source
from backends.config import ModelSettings
from backends.errors import Unsupported
from backends.remembered import Remembered
from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json


@dataclass(frozen=True, slots=True)
class _Found:
    model: Model
    header: Header
    spec: ModelCacheSpec


def find_model(name: str) -> Model:
    """Return the model called `name`, or the one at that path. Raises MidspanError."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf" or path.is_dir():
        path = catalogue.check_path(str(path.absolute()))
        return Model(path.name, path, Source.ADDED, ModelSettings())
    settings, _ = config.load(paths.config_file())
    return catalogue.Catalogue(settings, Remembered(paths.state_dir())).get(name)


def _find(name: str) -> _Found:
    model = find_model(name)
    if model.is_remote:
        raise Unsupported(f"{model.name} runs at {model.place}: it takes no memory here.")
    header = catalogue.read_header(model.path)
    return _Found(model, header, cache_spec.from_header(header))


@click.command(name="memory")
@click.argument("model")
@click.option("--context", type=click.IntRange(1), help="Tokens to hold; default: the model's own.")
@click.option("--kv-type", type=click.Choice(list(KV_TYPES)), help="Type of the KV cells.")
@click.option(
    "--budget-mb", type=click.IntRange(0), help="MiB for KV cells; default: what is free."
)
@json_option
def memory_command(
    model: str, context: int | None, kv_type: str | None, budget_mb: int | None, as_json: bool
) -> int:
    """Say what MODEL (a name, a GGUF file or a folder) takes, and how many tokens fit."""
    found = _find(model)
    engine = catalogue.engine_for(found.model).name
    settings = replace(found.model.settings, kv_type=kv_type or found.model.settings.kv_type)
    kind = memory.kept_type(found.header, settings, engine) or cache_spec.DEFAULT_KV_TYPE
    tokens = context or found.header.context_length or memory.MAX_CONTEXT
    free = memory.available()
    weights = memory.weight_bytes(found.header, settings, engine)
    budget = max(free - weights, 0) if budget_mb is None else budget_mb * memory.MIB
    cells = found.spec.cache_bytes(tokens, kind)
    blocks = cache_spec.blocks(budget, found.spec, kind)
    answer = {
        "model": found.model.name,
        "engine": engine,
        "weights_bytes": weights,
        "runtime_bytes": memory.runtime_bytes(engine),
        "kv_type": kind,
        "token_bytes": found.spec.token_bytes(kind),
        "context": tokens,
        "cache_bytes": cells,
        "total_bytes": weights + cells,
        "free_bytes": free,
        "fits": weights + cells <= free,
        "served_bytes": memory.expected(found.header, settings, engine),
        "budget": {"bytes": budget, **asdict(blocks)},
    }
    if as_json:
        print_json(answer)
    else:
        _show_memory(answer)
    return Exit.OK


def _show_memory(answer: dict[str, Any]) -> None:
    budget = answer["budget"]
    rows = (
        ("weights", _size(answer["weights_bytes"])),
        ("one token", f"{answer['token_bytes']:,} bytes of KV cells ({answer['kv_type']})"),
        (f"{answer['context']:,} tokens", _size(answer["cache_bytes"])),
        ("together", f"{_size(answer['total_bytes'])} of {_size(answer['free_bytes'])} free"),
        (
            "as midspan runs it",
            f"{_size(answer['served_bytes'])}, all documents' cells and {answer['engine']} "
            f"({_size(answer['runtime_bytes'])}) included",
        ),
        (
            f"{_size(budget['bytes'])} of cells",
            f"{budget['blocks']:,} blocks of {budget['block_tokens']} tokens "
            f"({_size(budget['block_bytes'])} each): {budget['tokens']:,} tokens",
        ),
    )
    for name, value in rows:
        click.echo(f"{name:20} {value}")
    if not answer["fits"]:
        click.echo("✗ It does not fit. Try a smaller --context, --kv-type q8_0, or a smaller file.")


@click.command(name="spec")
@click.argument("model")
@json_option
def spec_command(model: str, as_json: bool) -> int:
    """Say how MODEL is built and quantised, and with which settings it would run here, and why."""
    found = _find(model)
    engine = catalogue.engine_for(found.model).name
    weights = asdict(quantisation.of_header(found.header, found.model.path.name))
    answer = {
        "model": found.model.name,
        "engine": engine,
        "architecture": found.spec.architecture,
        "weights": weights,
        "layers": [{"count": count, **asdict(layer)} for count, layer in found.spec.groups()],
        "token_bytes": {kind: _token_bytes(found.spec, kind) for kind in KV_TYPES},
        "settings": [
            asdict(choice) for choice in chosen.choices(found.model, found.header, found.spec)
        ],
    }
    if as_json:
        print_json(answer)
    else:
        _show_spec(answer)
    return Exit.OK


def _token_bytes(spec: ModelCacheSpec, kv_type: str) -> int | None:
    """Return a token's bytes; None where the model's heads do not fit such cells."""
    try:
        return spec.token_bytes(kv_type)
    except Unsupported:
        return None


def _show_spec(answer: dict[str, Any]) -> None:
    weights = answer["weights"]
    per_weight = weights["bits_per_weight"]
    bits = f", {per_weight:.2f} bits a weight" if per_weight else ""
    click.echo(f"{answer['architecture']}, {weights['name']}{bits}")
    if weights["warning"]:
        click.echo(f"! {weights['warning']}")
    for layer in answer["layers"]:
        click.echo(f"{layer['count']:4} × {_layer(layer)}")
    sizes = (
        f"{size:,} bytes ({kind})"
        for kind, size in answer["token_bytes"].items()
        if size is not None
    )
    click.echo(f"One token takes {', '.join(sizes)}.")
    for choice in answer["settings"]:
        click.echo(f"{choice['name']:15} {choice['value']!s:8} {choice['reason']}")


def _layer(layer: dict[str, Any]) -> str:
    if not layer["kv_heads"]:
        return "recurrent: keeps no tokens"
    widths = f"keys of {layer['head_dim_k']}, values of {layer['head_dim_v']}"
    latent = f", kept as {layer['latent']} elements (MLA)" if layer["latent"] else ""
    window = f", sees {layer['window']} tokens back" if layer["window"] else ""
    return f"{layer['kv_heads']} KV heads, {widths}{latent}{window}"


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
