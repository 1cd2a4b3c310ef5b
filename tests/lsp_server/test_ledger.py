"""The ledger: its file between processes, its figures, and what happens when nothing is kept."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ManagerUnavailable
from lsp_server import ledger as ledgers
from lsp_server.kept import Acceptance, distance
from lsp_server.ledger import Count, Key, Ledger, Row, class_ms, latency_class
from lsp_server.ledger_file import NAME, LedgerFile, Unusable
from lsp_server.ledger_page import page
from lsp_server.ledger_report import Figures, as_json, by_language, by_model, grouped

KEY = Key("starter", "python")
TODAY = date.today().isoformat()


def row(what: Count | int, n: int = 1, day: str = TODAY, key: Key = KEY) -> Row:
    return Row(day, key, what, n)


def totals(rows) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in rows:
        found[str(one.what)] = found.get(str(one.what), 0) + one.n
    return found


# --- the file ----------------------------------------------------------------------------------


def test_file_adds_to_what_is_there_and_only_the_user_can_read_it(tmp_path):
    os.umask(0o022)
    file = LedgerFile(tmp_path / NAME)
    assert file.rows() == []
    file.add([row(Count.SHOWN, 3), row(latency_class(40.0), 2)])
    LedgerFile(file.path).add([row(Count.SHOWN, 4)])
    assert totals(file.rows()) == {"shown": 7, str(latency_class(40.0)): 2}
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.path.chmod(0o644)
    file.add([row(Count.SHOWN)])
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_file_tells_the_last_days_alone_and_forgets_everything(tmp_path):
    file = LedgerFile(tmp_path / NAME)
    days = [(date.today() - timedelta(days=n)).isoformat() for n in range(3)]
    file.add([row(Count.SHOWN, 1, day) for day in days])
    assert {one.day for one in file.rows(2)} == set(days[:2])
    file.reset()
    assert file.rows() == []


def test_windows_that_write_at_once_lose_nothing(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from lsp_server.ledger import Count, Key, Row\n"
        "from lsp_server.ledger_file import LedgerFile\n"
        "file = LedgerFile(Path(sys.argv[1]))\n"
        "for _ in range(40):\n"
        "    file.add([Row('2026-01-01', Key('m', 'l'), Count.SHOWN, 1)])\n"
    )
    path = tmp_path / NAME
    windows = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(4)]
    assert [window.wait(120) for window in windows] == [0, 0, 0, 0]
    assert totals(LedgerFile(path).rows()) == {"shown": 160}


def test_file_that_is_no_database_is_set_aside(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(b"not a database, but somebody's" * 100)
    LedgerFile(path).add([row(Count.SHOWN)])
    assert totals(LedgerFile(path).rows()) == {"shown": 1}
    assert (tmp_path / f"{NAME}.broken").read_bytes().startswith(b"not a database")


def test_file_of_a_newer_version_is_left_alone(tmp_path):
    path = tmp_path / NAME
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(Unusable, match="newer version"):
        LedgerFile(path).add([row(Count.SHOWN)])
    assert path.read_bytes() == before


def test_counts_this_version_does_not_know_are_passed_over(tmp_path):
    file = LedgerFile(tmp_path / NAME)
    file.add([row(Count.SHOWN)])
    with sqlite3.connect(file.path) as connection:
        connection.execute("INSERT INTO counts VALUES ('2026-01-01', 'm', 'l', 'fancy', 1)")
    assert totals(file.rows()) == {"shown": 1}


def test_link_in_the_files_place_is_refused(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"")
    (tmp_path / NAME).symlink_to(other)
    with pytest.raises(Unusable):
        LedgerFile(tmp_path / NAME).add([row(Count.SHOWN)])
    assert other.read_bytes() == b""


# --- collecting ----------------------------------------------------------------------------------


def test_ledger_writes_what_it_collected_when_it_is_closed(tmp_path):
    ledger = Ledger(lambda: tmp_path / NAME)
    ledger.count(KEY, Count.SHOWN, 2)
    ledger.latency(KEY, 12.5)
    ledger.check_kept(KEY, Acceptance("return a", "x = 1\nreturn a\n"))
    ledger.check_kept(KEY, Acceptance("return a", "something else entirely"))
    ledger.close(timeout=30)
    expected = {"shown": 2, "checked": 2, "kept": 1, str(latency_class(12.5)): 1}
    assert totals(LedgerFile(tmp_path / NAME).rows()) == expected
    assert ledger.unwritten() == ()


def test_ledger_writes_while_it_is_open(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "WRITE_AFTER_S", 0.05)
    ledger = Ledger(lambda: tmp_path / NAME)
    for expected in (1, 2):  # the thread ends when there is nothing more, and starts again
        ledger.count(KEY, Count.SHOWN)
        end = time.monotonic() + 30
        while totals(LedgerFile(tmp_path / NAME).rows()) != {"shown": expected}:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_ledger_that_is_off_counts_nothing_and_makes_no_file(tmp_path):
    ledger = Ledger(lambda: tmp_path / NAME)
    ledger.count(KEY, Count.SHOWN)  # before the settings were read
    ledger.switch(False)
    ledger.count(KEY, Count.SHOWN)
    ledger.latency(KEY, 1)
    ledger.check_kept(KEY, Acceptance("a", "a"))
    ledger.close(timeout=30)
    assert ledger.unwritten() == ()
    assert list(tmp_path.iterdir()) == []


def nowhere() -> Path:
    raise ManagerUnavailable("There is no folder.")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("path", [lambda: Path("/dev/full"), nowhere, lambda: Path("/proc/x.db")])
def test_ledger_that_cannot_be_written_counts_in_memory_with_one_line(path, monkeypatch, caplog):
    monkeypatch.setattr(ledgers, "WRITE_AFTER_S", 0.02)
    monkeypatch.setattr(ledgers, "RETRY_AFTER_S", 0.02)
    monkeypatch.setattr(LedgerFile, "_make_private", lambda self: None)
    caplog.set_level(logging.INFO, "lsp_server")
    ledger = Ledger(path)
    for n in range(3):
        ledger.count(KEY, Count.SHOWN)
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            time.sleep(0.02)
        assert len(caplog.records) == 1, n
    ledger.close(timeout=30)
    assert totals(ledger.unwritten()) == {"shown": 3}


def test_disk_that_fills_up_loses_what_was_counted_nowhere(tmp_path, monkeypatch):
    """SQLite's own limit of pages makes it say what a full disk makes it say."""
    file = LedgerFile(tmp_path / NAME)
    file.add([row(Count.SHOWN)])
    real = sqlite3.connect

    def full(*args, **options):
        connection = real(*args, **options)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    monkeypatch.setattr(sqlite3, "connect", full)
    many = [row(n, 1, key=Key("m" * 50, str(n))) for n in range(2000)]
    with pytest.raises(Unusable, match="full"):
        file.add(many)
    monkeypatch.setattr(sqlite3, "connect", real)
    assert totals(file.rows()) == {"shown": 1}
    file.add(many)
    assert len(file.rows()) == 2001


def test_language_server_starts_without_what_the_ledger_needs():
    script = (
        "import sys; from lsp_server.server import create_server; create_server()\n"
        "sys.exit('sqlite3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- kept ----------------------------------------------------------------------------------------

TEXT = "total = sum(values)\nreturn total / len(values)"


@pytest.mark.parametrize(
    ("now", "kept", "why"),
    [
        (f"def f():\n    {TEXT}\n", True, "as it was"),
        ("total=sum( values )\n\n  return total/len(values)", True, "formatted"),
        ("total = sum(numbers)\nreturn total / len(numbers)", True, "one name changed"),
        ("total = sum(values)\n", False, "half of it deleted"),
        ("", False, "all of it deleted"),
        ("import os\n\nprint(os.name)\nexit(1)\n# done with it, and more", False, "other text"),
    ],
)
def test_kept_is_what_was_not_mostly_rewritten(now, kept, why):
    assert Acceptance(TEXT, now).kept() is kept, why


@pytest.mark.parametrize("before", [0, 100, 50_000])
def test_kept_is_found_wherever_the_place_has_moved_to(before):
    """Text typed above moves it; text typed below does not."""
    was = "a" * 60_000 + TEXT + "b" * 60_000
    above = "new\n" * (before // 4) + was
    below = was + "new\n" * (before // 4)
    for now in (above, below):
        found = Acceptance.around(now, TEXT, 60_000, len(was))
        assert found.kept()
        assert len(found.around_now) < 20_000


WORDS = st.lists(st.sampled_from("abc"), max_size=6)


@given(WORDS, WORDS)
def test_distance_is_the_least_over_all_parts(words, text):
    def levenshtein(left, right):
        if not left or not right:
            return len(left) + len(right)
        return min(
            levenshtein(left[1:], right[1:]) + (left[0] != right[0]),
            levenshtein(left[1:], right) + 1,
            levenshtein(left, right[1:]) + 1,
        )

    parts = [text[a:b] for a in range(len(text) + 1) for b in range(a, len(text) + 1)]
    if len(words) + len(text) <= 8:  # the naive one takes exponential time
        assert distance(words, text) == min(levenshtein(words, part) for part in parts)


# --- figures -------------------------------------------------------------------------------------


@given(st.floats(1.0, 600_000.0))
def test_latency_is_told_within_five_percent(ms):
    assert class_ms(latency_class(ms)) == pytest.approx(ms, rel=0.05)


@given(st.lists(st.floats(1.0, 10_000.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.95]))
def test_quantiles_are_those_of_the_answers(latencies, q):
    figures = Figures.of(row(latency_class(ms)) for ms in latencies)
    ordered = sorted(latencies)
    at = next(n for n in range(len(ordered)) if n + 1 >= q * len(ordered))
    assert figures.latency_ms(q) == pytest.approx(ordered[at], rel=0.05)


def test_figures_of_nothing_are_none_and_not_a_division():
    empty = as_json([])
    assert empty["total"]["acceptance"] is None
    assert empty["total"]["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert empty["first_day"] is None


def test_groups_add_up_to_the_total():
    rows = [
        row(Count.SHOWN, 5),
        row(Count.ACCEPTED, 2),
        row(Count.SHOWN, 9, key=Key("other", "rust")),
        row(Count.SHOWN, 1, key=Key("other", "")),
    ]
    assert list(grouped(rows, by_model)) == ["other", "starter"]
    assert list(grouped(rows, by_language)) == ["rust", "python", "unknown"]
    report = as_json(rows)
    assert report["total"]["shown"] == 15
    assert report["models"]["starter"]["acceptance"] == 0.4
    assert sum(day["shown"] for day in report["days"].values()) == 15


def test_page_is_self_contained_and_escapes_names():
    rows = [
        row(Count.SHOWN, 5, key=Key("<script>alert(1)</script>", 'a"b')),
        row(Count.ACCEPTED, 2, "2025-01-01"),
        row(latency_class(50), 7),
    ]
    text = page(rows)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 2
    assert page([]).count("<svg") == 0
