"""The ledger as a page: one HTML file with its styles and pictures inside, light and dark.

Rule: pure; rows in, HTML out. It loads nothing, from nowhere, and runs no script; every name that
stands in it is escaped. Must not know the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from html import escape

from lsp_server.ledger import Count, Row, class_ms
from lsp_server.ledger_report import Figures, by_day, by_language, by_model, grouped

MAX_DAYS = 90  # bars; older days are in the sums alone
BAR_WIDTH, BAR_HEIGHT = 8, 90
_STYLE = """
:root { color-scheme: light dark; --text: #222; --dim: #777; --line: #ddd; --back: #fff;
  --shown: #b8c4d6; --accepted: #3568b0; }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --dim: #888; --line: #3a3a3a;
  --back: #1b1b1d; --shown: #44506a; --accepted: #7fa8e8; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2.2rem; }
.dim { color: var(--dim); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 500; color: var(--dim); }
svg text { font: 10px system-ui, sans-serif; fill: var(--dim); }
.shown { fill: var(--shown); } .accepted { fill: var(--accepted); }
""".strip()
COLUMNS = (
    "shown",
    "accepted",
    "still there after 30 s",
    "whole · more than a word · word",
    "characters saved",
    "p50",
    "p95",
)


def page(rows: Sequence[Row]) -> str:
    """Return the whole page."""
    return "".join(_parts(rows))


def _parts(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>midspan stats</title><style>{_STYLE}</style></head><body>\n"
    )
    yield "<h1>What midspan suggested, and what became of it</h1>\n"
    days = sorted({row.day for row in rows})
    if not days:
        yield '<p class="dim">Nothing has been counted yet.</p></body></html>\n'
        return
    yield f'<p class="dim">{days[0]} to {days[-1]}, counted on this machine, and kept on it.</p>\n'
    total = Figures.of(rows)
    yield _table("", {"all": total})
    yield "<h2>Each day: shown, and accepted</h2>\n" + _days(rows)
    yield "<h2>How long answers took</h2>\n" + _latencies(total)
    yield "<h2>Models</h2>\n" + _table("model", grouped(rows, by_model))
    yield "<h2>Languages</h2>\n" + _table("language", grouped(rows, by_language))
    yield "</body></html>\n"


def cells(figures: Figures) -> tuple[str, ...]:
    """Return a group's figures as they are shown, in the order of `COLUMNS`."""
    counts = figures.counts
    parts = (counts[Count.WHOLE], counts[Count.LINE], counts[Count.WORD])
    return (
        f"{counts[Count.SHOWN]:,}",
        f"{counts[Count.ACCEPTED]:,}{_percent(figures.acceptance)}",
        _percent(figures.kept).strip(" ()") or "–",
        " · ".join(f"{part:,}" for part in parts),
        f"{counts[Count.CHARACTERS]:,}",
        _ms(figures.latency_ms(0.5)),
        _ms(figures.latency_ms(0.95)),
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.0%})"


def _ms(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:,.0f} ms"


def _table(name: str, groups: Mapping[str, Figures]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in (name, *COLUMNS))
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in (group, *cells(figures)))
        + "</tr>\n"
        for group, figures in groups.items()
    )
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>\n'


def _days(rows: Sequence[Row]) -> str:
    figures = grouped(rows, by_day)
    last = date.fromisoformat(max(figures))
    first = max(date.fromisoformat(min(figures)), last - timedelta(days=MAX_DAYS - 1))
    days = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
    bars = [
        (
            f"{day}: {shown:,} shown, {accepted:,} accepted",
            (("shown", shown), ("accepted", accepted)),
        )
        for day in days
        for counts in [figures[day].counts if day in figures else {}]
        for shown, accepted in [(counts.get(Count.SHOWN, 0), counts.get(Count.ACCEPTED, 0))]
    ]
    return _chart(bars, days[0], days[-1])


def _latencies(figures: Figures) -> str:
    found = figures.latencies
    if not found:
        return '<p class="dim">No answers yet.</p>\n'
    classes = range(min(found), max(found) + 1)
    bars = [
        (f"about {class_ms(number):,.0f} ms: {found[number]:,}", (("accepted", found[number]),))
        for number in classes
    ]
    return _chart(bars, _ms(class_ms(classes[0])), _ms(class_ms(classes[-1])))


def _chart(bars: Sequence[tuple[str, Sequence[tuple[str, int]]]], first: str, last: str) -> str:
    """Bars side by side, each of parts that stand one before the other."""
    most = max((n for _, parts in bars for _, n in parts), default=0) or 1
    width = max(len(bars) * BAR_WIDTH, 160)
    drawn = "".join(
        f"<g><title>{escape(label)}</title>"
        + "".join(_bar(kind, place, n / most) for kind, n in parts)
        + "</g>"
        for place, (label, parts) in enumerate(bars)
    )
    below = BAR_HEIGHT + 12
    return (
        f'<div class="scroll"><svg role="img" width="{width}" height="{BAR_HEIGHT + 16}" '
        f'viewBox="0 0 {width} {BAR_HEIGHT + 16}">{drawn}'
        f'<text x="0" y="{below}">{escape(first)}</text>'
        f'<text x="{width}" y="{below}" text-anchor="end">{escape(last)}</text></svg></div>\n'
    )


def _bar(kind: str, place: int, height: float) -> str:
    tall = round(BAR_HEIGHT * height, 1)
    x, y = place * BAR_WIDTH, round(BAR_HEIGHT - tall, 1)
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{BAR_WIDTH - 2}" height="{tall}"/>'
