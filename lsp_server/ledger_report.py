"""What the ledger's rows say: sums, shares and percentiles, per model, language and day.

Rule: pure; rows in, figures out. Shares of nothing are None. Must not know how they are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lsp_server.ledger import Count, Row, class_ms

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Figures:
    """One group's figures. `latencies` counts answers by their class (`ledger.latency_class`)."""

    counts: Counter[Count]
    latencies: Counter[int]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Figures:
        """Add up rows."""
        counts: Counter[Count] = Counter()
        latencies: Counter[int] = Counter()
        for row in rows:
            if isinstance(row.what, Count):
                counts[row.what] += row.n
            else:
                latencies[row.what] += row.n
        return cls(counts, latencies)

    @property
    def acceptance(self) -> float | None:
        """The share of what was shown that was accepted, as a whole or in part."""
        return share(self.counts[Count.ACCEPTED], self.counts[Count.SHOWN])

    @property
    def kept(self) -> float | None:
        """The share of what was accepted that was still there 30 s later."""
        return share(self.counts[Count.KEPT], self.counts[Count.CHECKED])

    def latency_ms(self, q: float) -> float | None:
        """The quantile `q` of the answers' latencies, within 5 %; None without answers."""
        total = self.latencies.total()
        passed = 0
        for number in sorted(self.latencies):
            passed += self.latencies[number]
            if passed >= q * total:
                return class_ms(number)
        return None

    def as_json(self) -> dict[str, Any]:
        """Return all figures under their names."""
        quantiles = {name: self.latency_ms(q) for name, q in QUANTILES.items()}
        return {
            **{count.value: self.counts[count] for count in Count},
            "acceptance": _rounded(self.acceptance, 4),
            "kept_share": _rounded(self.kept, 4),
            "answers": self.latencies.total(),
            "latency_ms": {name: _rounded(ms, 1) for name, ms in quantiles.items()},
        }


def grouped(rows: Sequence[Row], by: Callable[[Row], str]) -> dict[str, Figures]:
    """Return the figures of each group, by its name; what was shown most comes first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    figures = {name: Figures.of(members) for name, members in groups.items()}
    order = sorted(figures, key=lambda name: (-figures[name].counts[Count.SHOWN], name))
    return {name: figures[name] for name in order}


def by_model(row: Row) -> str:
    """Group by model."""
    return row.key.model or "unknown"


def by_language(row: Row) -> str:
    """Group by language."""
    return row.key.language or "unknown"


def by_day(row: Row) -> str:
    """Group by day."""
    return row.day


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return everything as one JSON object."""
    days = sorted({row.day for row in rows})
    return {
        "first_day": days[0] if days else None,
        "last_day": days[-1] if days else None,
        "total": Figures.of(rows).as_json(),
        "models": _each(grouped(rows, by_model)),
        "languages": _each(grouped(rows, by_language)),
        "days": _each(dict(sorted(grouped(rows, by_day).items()))),
    }


def share(part: int, whole: int) -> float | None:
    """Return a share, None of nothing."""
    return part / whole if whole else None


def _each(groups: dict[str, Figures]) -> dict[str, Any]:
    return {name: figures.as_json() for name, figures in groups.items()}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
