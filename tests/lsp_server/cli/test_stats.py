from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from lsp_server.cli.exits import Exit
from lsp_server.ledger import Count, Key, Row, latency_class
from lsp_server.ledger_file import NAME, LedgerFile

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"MIDSPAN_STATE_DIR": str(tmp_path), "MIDSPAN_RUNTIME_DIR": str(tmp_path / "run")}


@pytest.fixture
def file(tmp_path: Path) -> LedgerFile:
    file = LedgerFile(tmp_path / NAME)
    today = date.today().isoformat()
    counts = {Count.SHOWN: 8, Count.ACCEPTED: 2, Count.CHECKED: 2, Count.KEPT: 1}
    for key in (Key("starter", "python"), Key("other-7b", "rust")):
        file.add(Row(today, key, what, n) for what, n in counts.items())
        file.add([Row(today, key, latency_class(40), 9), Row(today, key, latency_class(300), 1)])
    file.add([Row("2020-01-01", Key("starter", "python"), Count.SHOWN, 100)])
    return file


def test_stats_are_one_object(env, file, run_midspan: Run, one_object: OneObject) -> None:
    done = run_midspan(["stats", "--days", "30", "--json"], env)
    assert done.returncode == Exit.OK
    answer = one_object(done.stdout)
    assert answer["total"]["shown"] == 16
    assert answer["total"]["acceptance"] == 0.25
    assert answer["total"]["kept_share"] == 0.5
    assert answer["models"]["starter"]["latency_ms"]["p50"] == pytest.approx(40, rel=0.05)
    assert answer["languages"]["rust"]["latency_ms"]["p99"] == pytest.approx(300, rel=0.05)


def test_stats_are_a_table_for_people(env, file, run_midspan: Run) -> None:
    done = run_midspan(["stats"], env)
    assert done.returncode == Exit.OK
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2020-01-01 to ")
    total = next(line for line in lines if line.startswith("all"))
    assert total.split()[1:4] == ["116", "4", "(3%)"]
    assert [line.split()[0] for line in lines if line.startswith("  ")][1:] == [
        "starter",
        "other-7b",
        "python",
        "rust",
    ]


def test_stats_of_nothing_say_what_to_do(env, tmp_path, run_midspan: Run) -> None:
    done = run_midspan(["stats"], env)
    assert (done.returncode, done.stdout.count("\n")) == (Exit.OK, 1)
    assert "Nothing has been counted yet" in done.stdout
    assert not (tmp_path / NAME).exists()  # reading makes no file


def test_stats_become_a_page(env, file, tmp_path, run_midspan: Run, one_object: OneObject) -> None:
    target = tmp_path / "stats.html"
    done = run_midspan(["stats", "--html", str(target), "--json"], env)
    assert one_object(done.stdout) == {"html": str(target)}
    assert "other-7b" in target.read_text()
    done = run_midspan(["stats", "--html", str(tmp_path / "no" / "where.html")], env)
    assert done.returncode == Exit.USAGE
    assert "cannot be written" in done.stderr


def test_stats_are_forgotten(env, file, run_midspan: Run) -> None:
    assert run_midspan(["stats", "--reset", "--days", "3"], env).returncode == Exit.USAGE
    assert file.rows()
    assert run_midspan(["stats", "--reset"], env).returncode == Exit.OK
    assert json.loads(run_midspan(["stats", "--json"], env).stdout)["total"]["shown"] == 0
