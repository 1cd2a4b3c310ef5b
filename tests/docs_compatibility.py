"""Writes docs/compatibility.md from the contract suites, the engines' rows and settings.

    python -m tests.docs_compatibility             what a test compares
    python -m tests.docs_compatibility --measure   and what cells of fewer bits lose

A cell says "tested" where a suite holds the engine to that line whenever the tests run, and
"untested" where nobody did. A test fails while the two differ.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from backends import contract as backend_contract
from backends import engine_settings, engines
from backends.cache_spec import KV_TYPES
from backends.config import ModelSettings
from backends.decoding.token_model import Feed
from backends.engines import ENGINES as REGISTRY
from backends.engines import Engine
from backends.engines import contract as model_contract
from backends.frames import Load
from backends.steering import held
from benchmarks import same_weights
from tests.backends import test_backend_contract as suite
from tests.backends.engines import test_contract as model_suite

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
_REGION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)

_MEASURED = re.compile(r"(<!-- measured: loss -->\n).*?(<!-- end -->\n)", re.DOTALL)
TOKENS = 600
PASS = 100  # tokens

ENGINES = tuple(REGISTRY[name] for name in engine_settings.SETTINGS)  # ours, not a plug-in's
TESTED, UNTESTED = "tested", "untested"
# Where the tests run, and where they never did. What a GPU needs is checked with stubs alone.
PLATFORMS: dict[str, set[str]] = {
    "Linux x86-64, CPU": {engine.name for engine in ENGINES},
    "Linux arm64, CPU": set(),
    "macOS arm64, CPU and Metal": set(),
    "Linux, CUDA": set(),
    "Linux, ROCm": set(),
}
ANYWHERE = frozenset(
    {"path", "engine", "family", "chat_template", "reasoning_effort", "binary", "context_length"}
)


def platforms() -> Iterator[str]:
    """Where each engine was run by the tests."""
    yield from _table(
        ["", *(engine.name for engine in ENGINES)],
        (
            [place, *(TESTED if engine.name in tested else UNTESTED for engine in ENGINES)]
            for place, tested in PLATFORMS.items()
        ),
    )


def features() -> Iterator[str]:
    """What each engine runs and can do."""
    rows: dict[str, Callable[[str], str]] = {
        "models": lambda name: ", ".join(_engine(name).suffixes),
        "installed with": lambda name: f"`midspan[{_engine(name).extra}]`",
        "KV cells": lambda _: ", ".join(KV_TYPES),
        "steering vectors": lambda name: "yes" if name in held.ENGINES else "no",
    }
    names = [engine.name for engine in ENGINES]
    yield from _table(["", *names], ([row, *map(what, names)] for row, what in rows.items()))


def settings() -> Iterator[str]:
    """Which settings of a model each engine has; others are refused by name."""
    every = [one.name for one in fields(ModelSettings)]
    local = set().union(*engine_settings.SETTINGS.values()) - ANYWHERE
    names = list(engine_settings.SETTINGS)
    yield from _table(
        ["setting", *names],
        (
            [f"`{one}`", *("yes" if one in engine_settings.SETTINGS[n] else "—" for n in names)]
            for one in every
            if one in local
        ),
    )


def models() -> Iterator[str]:
    """The suite of the `TokenModel` seam."""
    columns = model_suite.LOCAL
    yield from _table(
        ["", *columns],
        ([_said(check.__name__), *(TESTED for _ in columns)] for check in model_contract.CHECKS),
    )


def backends() -> Iterator[str]:
    """The suite of the `Backend` seam."""
    kinds = suite.KINDS
    checks = [*backend_contract.CHECKS, *backend_contract.ENDINGS]
    yield from _table(
        ["", *(kind.name for kind in kinds)],
        ([_said(check.__name__), *(_outcome(kind, check) for kind in kinds)] for check in checks),
    )


def _outcome(kind: suite.Kind, check: object) -> str:
    lack = next((why for lacking, why in kind.lacks.items() if lacking is check), "")
    return f"{UNTESTED}: {lack}" if lack else TESTED


def _said(name: str) -> str:
    """Return a check's name as a sentence."""
    return name.replace("_s_", "'s ").replace("_", " ")


def _engine(name: str) -> Engine:
    return REGISTRY[name]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}\n"
    for row in rows:
        yield f"| {' | '.join(row)} |\n"


def loss() -> Iterator[str]:
    """What cells of fewer bits change, on the starter's weights in float32. Takes a minute."""
    with TemporaryDirectory() as folder:
        paths = same_weights.write(Path(folder)).by_engine()
        rows = [row for engine, path in paths.items() for row in _losses(engine, str(path))]
    yield from _table(
        ["", "cells", "bytes of a token", "same likeliest token", "divergence, nats"],
        rows,
    )


def _losses(engine: str, path: str) -> Iterator[list[str]]:
    exact, _ = _logits(engine, path, "f32")
    for kind in ("f16", "q8_0", "q4_0"):
        if engine == "mlx" and kind == "f16":
            continue  # it keeps cells in the weights' type
        got, cell_bytes = _logits(engine, path, kind)
        same = float((got.argmax(1) == exact.argmax(1)).mean())
        p, q = (_log_softmax(rows) for rows in (exact, got))
        divergence = float((np.exp(p) * (p - q)).sum(1).mean())
        yield [engine, kind, f"{cell_bytes:,}", f"{same:.1%}", f"{divergence:.1e}"]


def _logits(engine: str, path: str, kind: str) -> tuple[npt.NDArray[np.float64], int]:
    """Return the logits after each token of a text, and the bytes of a cell."""
    model = engines.load(Load(engine, path, "m", ModelSettings(kv_type=kind)))
    try:
        tokens = model.tokenize(Path(textwrap.__file__).read_text(encoding="utf-8"))[:TOKENS]
        rows: list[npt.NDArray[np.float32]] = []
        for begin in range(0, len(tokens), PASS):
            part = tokens[begin : begin + PASS]
            given = model.forward([Feed(0, part, outputs=len(part))], lambda: False)[0]
            rows += [row.copy() for row in given]
        return np.asarray(rows, np.float64), model.cache_bytes // model.cache_cells
    finally:
        model.close()


def _log_softmax(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = rows - rows.max(1, keepdims=True)
    whole: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return whole


_PARTS = {
    "platforms": platforms,
    "features": features,
    "settings": settings,
    "models": models,
    "backends": backends,
}


def measured(page: str) -> str:
    """Return `page` with what is measured renewed."""
    return _MEASURED.sub(lambda found: f"{found[1]}\n{''.join(loss())}\n{found[2]}", page)


def render(page: str) -> str:
    """Return `page` with its generated parts renewed."""
    return _REGION.sub(lambda found: f"{found[1]}\n{''.join(_PARTS[found[2]]())}\n{found[3]}", page)


if __name__ == "__main__":
    text = render(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(measured(text) if "--measure" in sys.argv else text, encoding="utf-8")
