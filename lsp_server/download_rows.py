"""What the manager's rows of a download say, for the command line and for editors.

Must not know LSP or terminals; standard library only.
"""

from __future__ import annotations

from typing import Any

CATALOGUE = "/api/models/catalogue"
DOWNLOAD = "/api/models/download"
CANCEL = "/api/models/download/cancel"
PATIENCE_S = 120.0  # for one event; the manager sends one every few seconds
ASKING_S = 60.0  # the manager looks at the machine

Json = dict[str, Any]


def words(row: Json) -> str:
    """Return a download's progress in words.

    >>> words({"state": "downloading", "received_bytes": 2**20, "total_bytes": 2**23, "rate": 0.0})
    '1 of 8 MiB'
    """
    if row["state"] == "downloading":
        received, total = row["received_bytes"], row["total_bytes"]
        rate = f", {row['rate'] / 2**20:.1f} MiB/s" if row["rate"] else ""
        return f"{received // 2**20} of {total // 2**20} MiB{rate}"
    return str(row.get("reason") or row["state"])


def share(row: Json) -> float:
    """Return how much of a download is there, of 1."""
    return row["received_bytes"] / row["total_bytes"] if row["total_bytes"] else 0.0
