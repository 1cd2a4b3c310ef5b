"""The `Retry-After` header (RFC 9110, section 10.2.3). Pure."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

MOST = 24 * 3600.0  # seconds; more is no answer to "when"


def seconds(value: str, now: float | None = None) -> float | None:
    """Return the seconds to wait that `value` asks for, None where it says nothing readable.

    `now` is in seconds since the epoch, for dates.
    """
    value = value.strip()
    if not value:
        return None
    if value.replace(".", "", 1).isascii() and value.replace(".", "", 1).isdigit():
        return min(float(value), MOST)
    try:
        moment = parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(0.0, moment - (time.time() if now is None else now)), MOST)
