"""The language server and the command line. The only package that knows pygls and lsprotocol."""

from backends import __version__

__all__ = ["__version__"]
