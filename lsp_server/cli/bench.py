"""`midspan bench NAME`: a command line over the benchmarks; each prints one JSON object.

The one module that may import `benchmarks`, besides the demo for its held-out file.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json, progress

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def _count(name: str, default: int, meaning: str = "", least: int = 1) -> Decorator:
    kind = click.IntRange(least)
    return click.option(name, type=kind, default=default, show_default=True, help=meaning or None)


def _time(name: str, default: float, meaning: str, least: float = 0) -> Decorator:
    kind = click.FloatRange(least)
    return click.option(name, type=kind, default=default, show_default=True, help=meaning)


def _seed(meaning: str = "Where the typing happens.") -> Decorator:
    return click.option("--seed", type=int, default=0, show_default=True, help=meaning)


def _model(meaning: str = "As for `keystrokes`.") -> Decorator:
    return click.option("--model", default="starter", show_default=True, help=meaning)


def _against() -> Decorator:
    meaning = "llama-server (from the xllamacpp wheel), or a binary of it."
    return click.option("--against", help=meaning)


@click.group()
def bench() -> None:
    """Run a benchmark. Progress goes to stderr, one JSON object to stdout with --json."""
    # Ended from outside, it must still stop the servers that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@bench.command()
@_count("--cuts", 300, "Places to complete at.")
@_seed("Which places are drawn.")
@click.option("--model", help="The model to ask; default: the one in use.")
@click.option("--baseline-only", is_flag=True, help="Measure the baseline alone.")
@click.option("--details", is_flag=True, help="Add every cut with its answers to the JSON.")
@json_option
def infill(
    cuts: int, seed: int, model: str | None, baseline_only: bool, details: bool, as_json: bool
) -> int:
    """Rest-of-line exact match on modules that training never saw, beside a baseline."""
    from benchmarks import infill as benchmark

    result = benchmark.run(
        count=cuts,
        seed=seed,
        model=model,
        baseline_only=baseline_only,
        details=details,
        progress=progress,
    )
    return _print(result, as_json)


@bench.command()
@click.option(
    "--language",
    "languages",
    multiple=True,
    type=click.Choice(["python", "javascript", "cpp", "sql"]),
    help="Only these; default: those that can be run here.",
)
@_count("--samples", 1, "Of each task; one is greedy, several are drawn at temperature 0.7.")
@click.option("--model", help="The model to ask; default: the one in use.")
@click.option("--details", is_flag=True, help="Add every answer to the JSON.")
@json_option
def tasks(
    languages: tuple[str, ...], samples: int, model: str | None, details: bool, as_json: bool
) -> int:
    """Does what is filled in work? Small programs, run in a sandbox: pass@1, times, failures."""
    from benchmarks import tasks as benchmark

    result = benchmark.run(
        languages=languages, samples=samples, model=model, details=details, progress=progress
    )
    return _print(result, as_json)


@bench.command()
@_count("--runs", 20, "Starts of each server.")
@json_option
def startup(runs: int, as_json: bool) -> int:
    """Time to `initialize` and idle memory of the language server, beside bare pygls."""
    from benchmarks import startup as benchmark

    return _print(benchmark.run(runs=runs, progress=progress), as_json)


@bench.command()
@_model("starter, tiny, 0.5b or 1.5b (random weights of Qwen2.5-Coder's shapes), or a GGUF file.")
@_count("--keys", 48, "A scenario.", least=8)
@_seed()
@_count("--tokens", 16, "Of a suggestion.")
@_time("--interval-ms", 60.0, "From an answer to the next key.")
@click.option("--scenario", "scenarios", multiple=True, help="Only these; default: all.")
@_against()
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="A file to type.")
@click.option("--trace", type=click.Path(exists=True, path_type=Path), help="Keys to replay.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a PNG (needs matplotlib).")
@json_option
def keystrokes(scenarios: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """What each key costs: tokens evaluated, time to the first token, beside llama-server."""
    from benchmarks import keystrokes as benchmark
    from benchmarks import traces

    unknown = set(scenarios) - set(traces.SCENARIOS)
    if unknown:
        raise click.BadParameter(f"{unknown.pop()}: one of {', '.join(traces.SCENARIOS)}")
    chosen = scenarios or tuple(traces.SCENARIOS)
    return _print(benchmark.run(scenarios=chosen, progress=progress, **options), as_json)


@bench.command()
@_count("--runs", 20, "Cancelled requests.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="starter, tiny, 0.5b or 1.5b (random weights), or a GGUF file; default: starter and 0.5b.",
)
@_count("--prompt-tokens", 2000, "Of each request, as far as the model's context holds them.")
@_seed("What, and when, is cancelled.")
@json_option
def cancel(runs: int, models: tuple[str, ...], prompt_tokens: int, seed: int, as_json: bool) -> int:
    """Time from `$/cancelRequest` in mid-prefill to an idle worker, and what is kept."""
    from benchmarks import cancel as benchmark

    result = benchmark.run(
        runs=runs,
        models=models or benchmark.MODELS,
        prompt_tokens=prompt_tokens,
        seed=seed,
        progress=progress,
    )
    return _print(result, as_json)


@bench.command()
@_count("--swaps", 20, "To a loaded model.")
@_count("--loads", 5, "Cold ones.")
@click.option(
    "--models",
    nargs=2,
    default=("starter", "0.5b"),
    show_default=True,
    help="Two of starter, tiny, 0.5b and 1.5b (random weights), or GGUF files.",
)
@json_option
def swap(swaps: int, loads: int, models: tuple[str, str], as_json: bool) -> int:
    """Time to switch to a model used before, the key after it, and loading beside a bare load."""
    from benchmarks import swap as benchmark

    result = benchmark.run(swaps=swaps, loads=loads, models=models, progress=progress)
    return _print(result, as_json)


@bench.command()
@_model()
@_count("--clients", 8)
@_count("--keys", 32, "Of each.", least=8)
@_seed("Where they type.")
@_count("--tokens", 16, "Of a suggestion.")
@_time("--interval-ms", 60.0, "From an answer to the same client's next key.")
@_against()
@json_option
def clients(as_json: bool, **options: Any) -> int:
    """Several people typing at once: completions per second, beside llama-server with slots."""
    from benchmarks import clients as benchmark

    return _print(benchmark.run(progress=progress, **options), as_json)


@bench.command()
@_model()
@_count("--scripts", 1000)
@_count("--steps", 8, "Of a script.")
@_seed("Which scripts.")
@json_option
def exactness(as_json: bool, **options: Any) -> int:
    """Random edit scripts: cached generation against a cold one of the same prompts."""
    from benchmarks import exactness as benchmark

    return _print(benchmark.run(progress=progress, **options), as_json)


@bench.command()
@_model()
@_count("--keys", 60, "A scenario.", least=8)
@_seed()
@_count("--tokens", 48, "Of a suggestion.")
@_count("--rounds", 3)
@json_option
def speculation(as_json: bool, **options: Any) -> int:
    """Tokens per second with drafts and without, on replayed typing."""
    from benchmarks import speculation as benchmark

    return _print(benchmark.run(progress=progress, **options), as_json)


@bench.command()
@_model()
@_count("--keys", 240, "Waited for.")
@_time("--pace-ms", 120.0, "Between those.")
@_count("--rapid-keys", 1000, "Not waited for.")
@_time("--rapid-ms", 30.0, "Between those.", least=1)
@_seed()
@json_option
def typing(as_json: bool, **options: Any) -> int:
    """Whole keystrokes through the language server: how many need no evaluation, round trips."""
    from benchmarks import editor_typing as benchmark

    return _print(benchmark.run(progress=progress, **options), as_json)


@bench.command()
@click.option(
    "--engine",
    "names",
    multiple=True,
    type=click.Choice(["llama-cpp", "transformers", "mlx"]),
    help="Only these; default: all that are installed.",
)
@_model(
    "starter, tiny or 0.5b (random weights), or a Qwen2 GGUF; in float32, four times as large "
    "as in 8 bits, and three times on disk."
)
@click.option(
    "--documents", "places", type=click.IntRange(1), default=12, show_default=True, help="Typed in."
)
@_count("--keys", 8, "In each.")
@_count("--tokens", 16, "Of a suggestion.")
@_seed()
@json_option
def engines(as_json: bool, **options: Any) -> int:
    """Every installed engine on the same weights: load, first token, tokens per second, memory."""
    from benchmarks import engines as benchmark

    return _print(benchmark.run(progress=progress, **options), as_json)


@bench.command()
@click.option(
    "--edits",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Of each of twelve documents: three position encodings, four line endings.",
)
@_count("--runs", 5, "1,000 edits.")
@_count("--huge-edits", 50, "Of a 10 MB line.")
@_seed("Which edits are made.")
@json_option
def edits(as_json: bool, **options: Any) -> int:
    """Is the server's text the editor's after random edits, and how fast, beside bare pygls."""
    from benchmarks import edits as benchmark

    result = benchmark.run(progress=progress, **options)
    _print(result, as_json)
    return Exit.FAILURE if result["results"]["same_text"]["differing"] else Exit.OK


def _print(result: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(result)
    else:
        from rich.console import Console

        Console().print_json(data=result)
    return Exit.OK
