"""The manager's HTTP API."""
