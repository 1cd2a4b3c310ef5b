"""Evidence is for one text of kernel and reference and one set of versions."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lsp_server.kernels import evidence
from lsp_server.kernels.evidence import Store
from lsp_server.kernels.task import Check, Evidence, Language, Level, Parameter, Result, Task

CODE, REFERENCE = "kernel text", "reference text"


def make(*checks: Check, language: Language = Language.TRITON) -> Evidence:
    versions = evidence.versions([("no-such-package", "1.0"), ("python", "3.11.0")])
    key = evidence.key(CODE, REFERENCE, versions)
    return Evidence(key, language, checks, versions)


GOOD = make(
    Check(Level.PARSES, Result.PASSED),
    Check(Level.ALLOWED, Result.PASSED),
    Check(Level.COMPILES, Result.PASSED, summary="sm_90"),
    Check(Level.CORRECT, Result.PASSED, summary="16 cases, float32", cases=16),
    Check(Level.ROBUST, Result.PASSED, summary="8 cases, float32", cases=8),
    Check(Level.FAST, Result.NOT_RUN, reason="no GPU on this machine"),
)


def test_what_is_saved_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path / "evidence")
    store.save(GOOD, CODE, REFERENCE)
    assert store.find(CODE, REFERENCE) == GOOD
    (path,) = (tmp_path / "evidence").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert CODE not in path.read_text()  # the folder keeps no one's code


def test_it_is_kept_for_the_code_as_its_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path))
    task = Task("f", REFERENCE, (), Language.TRITON)
    evidence.keep(GOOD, "x = 1\r\ny = 2\r\n\r\n", task)
    found = evidence.known("x = 1\ny = 2\n", task)
    assert found is not None
    assert found.checks == GOOD.checks
    # Not for other shapes, which it was never tried with.
    x = Parameter("x", "tensor", ("N", 128))
    assert evidence.known("x = 1\ny = 2\n", replace(task, parameters=(x,))) is None


def test_any_edit_makes_it_stale(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(GOOD, CODE, REFERENCE)
    assert store.find(CODE + " ", REFERENCE) is None
    assert store.find(CODE, REFERENCE + "\n") is None


@pytest.mark.parametrize("name", ["midspan", "ladder", "numpy"])
def test_another_version_makes_it_stale(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    versions = tuple(sorted({**dict(GOOD.versions), name: "0.0.0"}.items()))
    old = replace(GOOD, versions=versions, key=evidence.key(CODE, REFERENCE, versions))
    store.save(old, CODE, REFERENCE)
    assert store.find(CODE, REFERENCE) is None


def test_packages_of_another_interpreter_are_not_held_against_those_of_this(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    for interpreter, is_found in (("/another/bin/python", True), (sys.executable, False)):
        others = {"numpy": "0.0.0", evidence.INTERPRETER: os.path.abspath(interpreter)}
        versions = tuple(sorted({**dict(GOOD.versions), **others}.items()))
        old = replace(GOOD, versions=versions, key=evidence.key(CODE, REFERENCE, versions))
        store.save(old, CODE, REFERENCE)
        assert (store.find(CODE, REFERENCE) is not None) is is_found


@pytest.mark.parametrize(
    "change",
    [
        lambda data: {**data, "key": "0" * 64},
        lambda data: {**data, "versions": [["midspan", "9"]]},
        lambda data: {**data, "checks": "none"},
        lambda data: {**data, "checks": [{"level": 9}]},
        lambda data: [],
    ],
)
def test_file_that_was_meddled_with_is_nothing(tmp_path: Path, change: object) -> None:
    store = Store(tmp_path)
    store.save(GOOD, CODE, REFERENCE)
    (path,) = tmp_path.iterdir()
    assert callable(change)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert store.find(CODE, REFERENCE) is None
    path.write_text("{")
    assert store.find(CODE, REFERENCE) is None
    store.save(GOOD, CODE, REFERENCE)
    assert store.find(CODE, REFERENCE) == GOOD


def test_failed_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.save(GOOD, CODE, REFERENCE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evidence.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save(replace(GOOD, checks=()), CODE, REFERENCE)
    assert len(list(tmp_path.iterdir())) == 1
    assert store.find(CODE, REFERENCE) == GOOD


def test_statement_of_each_outcome() -> None:
    assert evidence.statement(GOOD) == (
        "verified on CPU interpreter, 24 cases, float32 · compiled for sm_90 · speed not measured"
    )
    wrong = Check(
        Level.CORRECT, Result.FAILED, reason="3 values are wrong\nmore", counterexample="N = 7"
    )
    assert evidence.statement(make(wrong)) == "failed: wrong: 3 values are wrong (N = 7)"
    cuda = make(
        Check(Level.COMPILES, Result.NOT_RUN, reason="there is no nvcc on this machine"),
        Check(Level.CORRECT, Result.NOT_RUN, reason="no GPU on this machine"),
        language=Language.CUDA,
    )
    assert evidence.statement(cuda) == (
        "not verified (no GPU on this machine) · "
        "not compiled (there is no nvcc on this machine) · speed not measured"
    )
    fast = Check(Level.FAST, Result.PASSED, summary="2.1 times as fast as eager")
    assert evidence.statement(make(*GOOD.checks[:-1], fast)).endswith(
        "· 2.1 times as fast as eager"
    )
