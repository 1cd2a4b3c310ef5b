from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from benchmarks import holdout


@pytest.mark.parametrize("module", ["mailbox", "json", "email", "argparse", "csv"])
def test_is_held_out_is_one_in_five_by_sha256(module: str) -> None:
    digest = int(hashlib.sha256(module.encode()).hexdigest(), 16)
    assert holdout.is_held_out(module) is (digest % 5 == 0)


def test_is_held_out_splits_the_known_modules_as_when_the_starter_was_trained() -> None:
    names = ("csv", "email", "enum", "mailbox", "tempfile", "argparse", "json", "os", "re")
    assert {name for name in names if holdout.is_held_out(name)} == {
        "csv",
        "email",
        "enum",
        "mailbox",
        "tempfile",
    }


def test_held_out_and_training_share_no_file() -> None:
    held_out = set(holdout.held_out_files())
    training = {path for files in holdout.training_modules().values() for path in files}
    assert held_out
    assert len(training) > len(held_out) / 2
    assert held_out.isdisjoint(training)


def test_module_files_keeps_packages_together_and_leaves_tests_out(tmp_path: Path) -> None:
    for name in (
        "csv.py",
        "email/__init__.py",
        "email/mime/text.py",
        "email/test/test_a.py",
        "idlelib/run.py",
        "not_stdlib.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert holdout.module_files(tmp_path) == {
        "csv": [tmp_path / "csv.py"],
        "email": [tmp_path / "email/__init__.py", tmp_path / "email/mime/text.py"],
    }


def test_holdout_imports_only_the_standard_library() -> None:
    source = Path(holdout.__file__).read_text()
    imported = [
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    ]
    assert set(imported) <= sys.stdlib_module_names | {"__future__"}
