"""Pictures of the benchmarks' figures. The only benchmark module that knows matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.streaming import Sample
from benchmarks.traces import Key


def plot_keystrokes(samples: Mapping[str, Sequence[tuple[Key, Sample]]], path: Path) -> None:
    """Write a PNG: time to the first token and tokens evaluated, key by key, for each engine."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (times, tokens) = plt.subplots(2, 1, figsize=(10, 6), sharex=True)
    for name, own in samples.items():
        times.plot([sample.first_ms for _, sample in own], label=name, linewidth=1)
        tokens.plot([sample.evaluated for _, sample in own], label=name, linewidth=1)
    times.set_ylabel("key to first token, ms")
    tokens.set_ylabel("prompt tokens evaluated")
    tokens.set_xlabel("key")
    for axis in (times, tokens):
        axis.set_yscale("symlog")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
