"""The backend manager, its HTTP API and the engines. Knows nothing of LSP."""

__version__ = "0.1.0"
