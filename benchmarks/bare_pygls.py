"""The least a pygls server can be: what `midspan bench startup` measures itself against."""

from __future__ import annotations

from pygls.lsp.server import LanguageServer


def main() -> None:
    """Serve stdio with no feature at all."""
    LanguageServer("bare", "0").start_io()


if __name__ == "__main__":
    main()
