"""The ledger's file: SQLite, added to by several windows at once.

Rule: the one module that knows SQL. Every failure is `Unusable`; a file that is no database is set
aside, never deleted. Must not be imported by the language server's start: `sqlite3` is only needed
when something is written.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from pathlib import Path

from backends.errors import MidspanError
from lsp_server.ledger import Count, Key, Row

VERSION = 1
NAME = "ledger.sqlite"
LOCKED_S = 5.0  # how long another window may be writing
_COUNTS = {count.value for count in Count}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS counts (
    day TEXT, model TEXT, language TEXT, what TEXT, n INTEGER NOT NULL,
    PRIMARY KEY (day, model, language, what)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO counts VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET n = n + excluded.n
"""


class Unusable(MidspanError):  # noqa: N818 - named as the rest of the error tree
    """The ledger's file cannot be read or written; the message says why."""

    kind = "ledger_unusable"


class LedgerFile:
    """The file at `path`, which is opened for each use. Methods raise Unusable."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, rows: Iterable[Row]) -> None:
        """Add counts to those there."""
        values = [(row.day, row.key.model, row.key.language, str(row.what), row.n) for row in rows]
        if not values:
            return
        try:
            with self._open() as connection:
                connection.executemany(_ADD, values)
        except _NotOurs:
            self._set_aside()
            with self._open() as connection:
                connection.executemany(_ADD, values)

    def rows(self, days: int | None = None) -> list[Row]:
        """Return what was counted: in the last `days` days, today included; default: ever."""
        since = "" if days is None else (date.today() - timedelta(days=days - 1)).isoformat()
        if not self.path.is_file():
            return []
        with self._open() as connection:
            found = connection.execute(
                "SELECT day, model, language, what, n FROM counts WHERE day >= ?", (since,)
            ).fetchall()
        return [
            Row(day, Key(model, language), _what(what), n)
            for day, model, language, what, n in found
            if what.isdigit() or what in _COUNTS
        ]

    def reset(self) -> None:
        """Forget everything."""
        if self.path.is_file():
            with self._open() as connection:
                connection.execute("DELETE FROM counts")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other window's comes between."""
        try:
            self._make_private()
            connection = sqlite3.connect(self.path, timeout=LOCKED_S, isolation_level=None)
            try:
                connection.execute("BEGIN IMMEDIATE")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version > VERSION:
                    raise Unusable(f"{self.path} was written by a newer version of midspan.")
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()
        except sqlite3.DatabaseError as exc:
            if getattr(exc, "sqlite_errorname", "") in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                raise _NotOurs(f"{self.path} is no database.") from exc
            raise Unusable(f"{self.path}: {exc}") from exc
        except OSError as exc:
            raise Unusable(f"{self.path}: {exc.strerror}") from exc

    def _make_private(self) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # journals get the file's own mode
        finally:
            os.close(descriptor)

    def _set_aside(self) -> None:
        try:
            self.path.replace(self.path.with_name(f"{NAME}.broken"))
        except OSError as exc:
            raise Unusable(f"{self.path}: {exc.strerror}") from exc


class _NotOurs(Unusable):
    """What is there is no database."""


def _what(name: str) -> Count | int:
    return int(name) if name.isdigit() else Count(name)
