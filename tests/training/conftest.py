"""What the training tests share: a tiny tokenizer trained on the spot."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MISSING = [name for name in ("numpy", "tokenizers", "torch") if find_spec(name) is None]
collect_ignore = ["test_examples.py", "test_model.py", "test_tokenizer.py"] if MISSING else []


def pytest_report_header() -> str:
    if not MISSING:
        return "training: all tests"
    return f"training: only what needs no {', '.join(MISSING)}; see training/README.md"


SOURCE = '''"""A document."""

import os


def walk(top, *, follow=False):
    """Yield every file below `top`."""
    for entry in os.scandir(top):
        if entry.is_dir(follow_symlinks=follow):
            yield from walk(entry.path, follow=follow)
        else:
            yield entry.path  # «é» 🎉


class Counter:
    def __init__(self):
        self.count = 0

    def add(self, number):
        self.count += number
        return self.count
'''


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    from training.tokenizer import train

    return train([SOURCE] * 4, 400)


@pytest.fixture(scope="session")
def source() -> str:
    return SOURCE
