"""`midspan steer train|list|show|remove`: steering vectors of the user's own.

Rule: talks with people and shows figures; what a vector is, how it is made and kept is
`backends.steering`'s. Only `train` loads a model, and it does so in this process.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backends.errors import BadRequest, Conflict, Unsupported
from backends.steering.library import Library, Row, check_name
from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json, progress

if TYPE_CHECKING:
    from backends.catalogue import Model
    from backends.steering.vector_file import Shift, Vector


@click.group()
def steer() -> None:
    """Make, list, show and remove steering vectors."""


@steer.command()
@click.argument("pairs")
@click.option("--name", required=True, help="What to call the vector.")
@click.option("--model", help="Model by its name or folder; default: the one that chats.")
@click.option("--layer", type=int, help="Layer, from 0; default: two thirds of the way up.")
@click.option(
    "--position",
    type=click.Choice(["last", "mean"]),
    default="last",
    show_default=True,
    help="Compare the states after the last token, or their mean from where the texts differ.",
)
@click.option(
    "--coefficient",
    type=float,
    default=0.4,
    show_default=True,
    help="How much of it is added when its effect is measured.",
)
@click.option(
    "--measure",
    type=click.Choice(["docstrings", "type-hints", "brevity", "none"]),
    help="What to count in generated code; default: what the ready-made set is about.",
)
@click.option(
    "--search",
    is_flag=True,
    help="Try layers and coefficients on the pairs to learn from, and take the best.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which pairs are held out.")
@click.option("--overwrite", is_flag=True, help="Replace a vector of that name.")
@json_option
def train(
    pairs: str,
    name: str,
    model: str | None,
    layer: int | None,
    position: str,
    coefficient: float,
    measure: str | None,
    search: bool,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Make a steering vector from PAIRS and measure it on pairs that were held out.

    PAIRS is a ready-made set (docstrings, type-hints, brevity) or a JSONL file with an object
    {"positive": ..., "negative": ...} on each line.
    """
    from backends.steering import pairs as contrast

    library = Library()
    # Before the minutes that it takes, what would be wrong after them.
    if library.path(check_name(name)).exists() and not overwrite:
        raise Conflict(f"There is a steering vector {name!r} already; --overwrite replaces it.")
    read = contrast.read(pairs)
    wanted = measure or (pairs if pairs in contrast.READY_MADE else "none")
    if search and wanted == "none":
        raise BadRequest("--search needs something to count in generated text: give --measure.")
    message = _load_message(model)
    progress(f"Loading {message.name} …")
    from backends import engines

    loaded = engines.load(message)
    try:
        from backends.steering.measures import MEASURES
        from backends.steering.training import Plan
        from backends.steering.training import train as make

        plan = Plan(
            name=name,
            pairs=read,
            called=pairs if pairs in contrast.READY_MADE else Path(pairs).name,
            layer=layer,
            position=position,
            coefficient=coefficient,
            measure=MEASURES.get(wanted),
            seed=seed,
        )
        if search:
            from backends.steering.search import choose

            plan = choose(loaded, plan, progress)
        vector = make(loaded, plan, progress)
    finally:
        loaded.close()
    path = library.save(vector, overwrite=overwrite)
    if as_json:
        print_json({**_facts(Row(name, vector)), "path": str(path)})
    else:
        _show(vector)
        click.echo(f"Saved as {path}")
        click.echo(f"To use it: midspan chat --steer {name}={plan.coefficient:g}")
    return Exit.OK


def _load_message(name: str | None) -> Any:
    """Return what loads the model with an engine that can steer. Raises MidspanError."""
    from backends import catalogue
    from backends.steering import held

    model = _model(name)
    if model.is_remote:
        raise BadRequest(f"{model.name} runs at {model.place}; a vector needs a model run here.")
    engine = model.settings.engine or catalogue.engine_for(model).name
    if not model.settings.engine and engine not in held.ENGINES:
        if model.path.is_file():
            raise Unsupported(
                f"{model.name} is run by {engine}, which has no steering. Name a folder of "
                f"safetensors with --model, for {' or '.join(held.ENGINES)}."
            )
        engine = held.ENGINES[0]
    chosen = replace(model, settings=replace(model.settings, engine=engine))
    return catalogue.load_message(chosen, safe_mode=False)


def _model(name: str | None) -> Model:
    from backends import catalogue, config, paths
    from backends.catalogue import Model, Source
    from backends.config import ModelSettings
    from backends.remembered import Remembered

    path = Path(name or "").expanduser()
    if name and (path.suffix == ".gguf" or path.is_dir()):
        found = catalogue.check_path(str(path.absolute()))
        return Model(found.name, found, Source.ADDED, ModelSettings())
    settings, _ = config.load(paths.config_file())
    models = catalogue.Catalogue(settings, Remembered(paths.state_dir()))
    return models.get(name or settings.chat.model or models.default())


@steer.command(name="list")
@json_option
def list_vectors(as_json: bool) -> int:
    """List the steering vectors there are."""
    rows = list(Library().rows())
    if as_json:
        print_json({"vectors": [_facts(row) for row in rows]})
        return Exit.OK
    for row in rows:
        click.echo(f"{row.name:24} {row.problem or _line(row.vector)}")
    if not rows:
        click.echo("There are none; this makes one: midspan steer train docstrings --name NAME")
    return Exit.OK


def _line(vector: Vector | None) -> str:
    assert vector is not None
    return f"layer {vector.layer} of {vector.model.name}, from {vector.made.pairs}"


@steer.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> int:
    """Show how the vector NAME was made and what it did to held-out prompts."""
    vector, _ = Library().load(name)
    if as_json:
        print_json(_facts(Row(name, vector)))
    else:
        _show(vector)
    return Exit.OK


@steer.command()
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> int:
    """Remove the vector NAME; its file is deleted."""
    Library().remove(name)
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(f"Removed {name}.")
    return Exit.OK


def _facts(row: Row) -> dict[str, Any]:
    if row.vector is None:
        return {"name": row.name, "problem": row.problem}
    vector = row.vector
    return {
        "name": row.name,
        "layer": vector.layer,
        "length": round(vector.length, 4),
        "model": asdict(vector.model),
        "made": asdict(vector.made),
        "held_out": asdict(vector.held_out) if vector.held_out else None,
    }


def _show(vector: Vector) -> None:
    model, made = vector.model, vector.made
    rows = [
        ("name", vector.name),
        ("model", f"{model.name} ({model.architecture}, {model.layers} layers)"),
        ("layer", f"{vector.layer}, {model.hidden_size} numbers, length {vector.length:.1f}"),
        ("made from", f"{made.trained_on} pairs of {made.pairs}"),
    ]
    if held_out := vector.held_out:
        coefficient = f"coefficient {held_out.coefficient:g}"
        rows.append(("held out", f"{held_out.prompts} prompts, {coefficient}"))
        for effect in held_out.effects:
            rows.append((effect.measure, _change(effect.trained)))
            rows.append(("  random directions", _change(effect.random)))
    for name, value in rows:
        click.echo(f"{name:48} {value}")


def _change(shift: Shift) -> str:
    return (
        f"{shift.before:.2f} → {shift.after:.2f}, change {shift.change:+.2f} "
        f"(95%: {shift.low:+.2f} to {shift.high:+.2f}, n = {shift.count})"
    )
