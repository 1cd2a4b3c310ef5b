from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.errors import BadRequest
from lsp_server import repository
from lsp_server.cli.files import open_document
from lsp_server.documents import Document, Documents
from lsp_server.repository import Repositories
from lsp_server.snapshot import refusal


def rules(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".midspan.toml").write_text(text)


def refused(path: Path, language: str = "python") -> str | None:
    return Repositories().refusal(str(path), language)


@pytest.mark.parametrize(
    ("text", "file", "why"),
    [
        ("disable = true", "a.py", "switches midspan off"),
        ("disable = false", "a.py", None),
        ('languages = ["c"]', "a.py", "leaves python out"),
        ('languages = ["c", "python"]', "a.py", None),
        ("languages = []", "a.py", None),
        ('ignore = ["*.py"]', "a.py", "ignores it"),
        ('ignore = ["*.py"]', "deep/down/a.py", "ignores it"),
        ('ignore = ["/a.py"]', "deep/a.py", None),
        ('ignore = ["secrets/"]', "x/secrets/a.py", "ignores it"),
        ('ignore = ["src/**/gen"]', "src/a/b/gen/a.py", "ignores it"),
        ('ignore = ["*.py", "!a.py"]', "a.py", None),
        ("", "a.py", None),
        ("ignore = ", "a.py", "can't be understood"),
        ('ignore = "*.txt"', "a.py", "can't be understood"),
        ('disable = "yes"', "a.py", "can't be understood"),
        ('[models.x]\nendpoint = "http://evil"', "a.py", None),
    ],
)
def test_repository_keeps_back_what_its_file_says(
    tmp_path: Path, text: str, file: str, why: str | None
) -> None:
    rules(tmp_path, text)
    reason = refused(tmp_path / file)
    assert (reason is None) == (why is None)
    assert (why or "") in (reason or "")


@pytest.mark.parametrize(
    ("name", "text", "file", "kept"),
    [
        (".aiexclude", "*.py", "deep/a.py", True),
        (".aiexclude", "*.c\n", "a.py", False),
        (".aiexclude", "\n", "deep/a.py", True),
        (".cursorignore", "# nothing of these\nprivate/\n", "x/private/a.py", True),
        (".cursorignore", "/a.py", "deep/a.py", False),
        (".cursorignore", "*.py\n!a.py", "a.py", False),
        (".cursorignore", "*.py\n!\n", "a.py", True),
        (".cursorignore", "", "a.py", False),
    ],
)
def test_what_other_tools_keep_back_is_kept_back(
    tmp_path: Path, name: str, text: str, file: str, kept: bool
) -> None:
    (tmp_path / name).write_text(text)
    assert ("ignores it" in (refused(tmp_path / file) or "")) is kept


def test_every_file_above_counts(tmp_path: Path) -> None:
    rules(tmp_path, 'ignore = ["*.c"]')
    rules(tmp_path / "sub", 'languages = ["c"]')
    assert refused(tmp_path / "sub" / "a.py")
    assert refused(tmp_path / "sub" / "a.c", "c")
    assert refused(tmp_path / "sub" / "a.h", "c") is None
    assert refused(tmp_path / "a.py") is None


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    known = Repositories()
    file = str(tmp_path / "a.py")
    assert known.refusal(file, "python") is None
    rules(tmp_path, "disable = true")
    assert known.refusal(file, "python")
    rules(tmp_path, "disable = false # now")
    assert known.refusal(file, "python") is None
    (tmp_path / ".midspan.toml").unlink()
    assert known.refusal(file, "python") is None


@pytest.mark.parametrize("name", repository.READERS)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_an_unreadable_file_keeps_everything_back(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    make(tmp_path / name)
    assert "can't be understood" in (refused(tmp_path / "a.py") or "")


def test_untitled_documents_are_in_no_repository() -> None:
    assert Repositories().refusal("Untitled-1", "python") is None


def test_documents_are_checked_when_opened_and_when_told(tmp_path: Path) -> None:
    documents = Documents(Repositories().refusal)
    uri = (tmp_path / "a.py").as_uri()
    document = documents.open(uri, "x", 1, "python")
    assert refusal(document) is None
    rules(tmp_path, "disable = true")
    documents.check_repositories()
    assert "switches midspan off" in (refusal(document) or "")
    assert refusal(Document(uri, "x", 1, "python")) is None  # nobody has asked


def test_the_command_line_refuses_too(tmp_path: Path) -> None:
    rules(tmp_path, "disable = true")
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(BadRequest, match="switches midspan off"):
        open_document(tmp_path / "a.py")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('\n[models.x]\nendpoint = "http://evil"', 2, "'models' is ignored here: a repository's"),
        ('endpoint = "http://evil"', 1, "'endpoint' is ignored here"),
        ("[manager]\nport = 1", 1, "models, endpoints and commands are the user's own choice"),
        ("languges = []", 1, "unknown key 'languges'; did you mean 'languages'?"),
        ("disable = 1", 1, "'disable' must be true or false, not 1"),
        ('\nignore = ["*.py", "!"]\n', 2, "'ignore' has a pattern that is none: "),
        ("ignore = [", 1, ""),
    ],
)
def test_check_text_says_what_is_wrong_and_where(text: str, line: int, said: str) -> None:
    problems = repository.check_text(text, ".midspan.toml")
    assert [problem.line for problem in problems] == [line]
    assert said in problems[0].message
