from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.errors import BadRequest
from lsp_server.cli.files import language_id, open_document, read_text, write_text


def test_read_text_keeps_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a\r\nb\rc\n")
    assert read_text(file) == "a\r\nb\rc\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"\x7fELF\x00\x01", "binary"), (b"caf\xe9", "not UTF-8 text"), (None, "cannot be read")],
)
def test_read_text_says_what_is_wrong(tmp_path: Path, data: bytes | None, said: str) -> None:
    file = tmp_path / "f"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(BadRequest, match=said):
        read_text(file)


def test_read_text_refuses_a_pipe_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadRequest, match="not a regular file"):
        read_text(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("name", "language"),
    [("a.py", "python"), ("a.RS", "rust"), ("a.go", "go"), ("Makefile", "plaintext")],
)
def test_language_id_is_the_editors(name: str, language: str) -> None:
    assert language_id(Path(name)) == language


def test_open_document_refuses_secrets(tmp_path: Path) -> None:
    (tmp_path / "server.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(BadRequest, match="not completed"):
        open_document(tmp_path / "server.pem")


def test_a_file_that_cannot_be_written_is_the_callers_mistake(tmp_path: Path) -> None:
    target = tmp_path / "no" / "demo.svg"
    with pytest.raises(BadRequest, match="cannot be written: No such file"):
        write_text(target, "x")
