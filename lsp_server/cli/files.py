"""Files of the user's as documents, for commands that stand in for an editor.

Must not know what is done with them.
"""

from __future__ import annotations

from pathlib import Path

from backends.errors import BadRequest
from lsp_server.documents import Document
from lsp_server.repository import Repositories
from lsp_server.snapshot import refusal

MAX_BYTES = 40 * 1024 * 1024  # whatever the encoding; documents have a limit of their own

# Suffix → LSP's language id, where an editor would not just use the suffix.
_LANGUAGES = {
    "py": "python",
    "pyi": "python",
    "js": "javascript",
    "ts": "typescript",
    "rs": "rust",
    "rb": "ruby",
    "sh": "shellscript",
    "h": "c",
    "cc": "cpp",
    "hpp": "cpp",
    "cs": "csharp",
    "md": "markdown",
    "txt": "plaintext",
    "": "plaintext",
}


def language_id(path: Path) -> str:
    """Return what an editor would call the language of `path`."""
    suffix = path.suffix.lower().removeprefix(".")
    return _LANGUAGES.get(suffix, suffix)


def open_document(path: Path) -> Document:
    """Return `path` as a document whose characters count one each.

    Raises BadRequest where it cannot be read, is no text, or must not be shown to a model.
    """
    document = Document(path.resolve().as_uri(), read_text(path), 1, language_id(path), "utf-32")
    document.kept_back = Repositories().refusal(document.path, document.language_id) or ""
    if reason := refusal(document):
        raise BadRequest(f"{path} is not completed: {reason}")
    return document


def read_text(path: Path) -> str:
    """Return the text of `path`, line ends as they are. Raises BadRequest."""
    try:
        if path.is_dir():
            raise BadRequest(f"{path} is a directory.")
        if not path.is_file() and path.exists():
            raise BadRequest(f"{path} is not a regular file.")
        if path.stat().st_size > MAX_BYTES:
            raise BadRequest(f"{path} is larger than {MAX_BYTES // 2**20} MiB.")
        data = path.read_bytes()
    except OSError as exc:
        raise BadRequest(f"{path} cannot be read: {exc.strerror}.") from exc
    if b"\0" in data:
        raise BadRequest(f"{path} is a binary file.")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise BadRequest(f"{path} is not UTF-8 text (byte {exc.start}).") from exc


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`. Raises BadRequest."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise BadRequest(f"{path} cannot be written: {exc.strerror}.") from exc
