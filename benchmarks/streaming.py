"""One streamed `/infill`, timed at the client: the same code for midspan and for its peer."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """What one key cost. Milliseconds are the client's, tokens the server's own count."""

    first_ms: float  # to the first text, or to the end where there is none
    whole_ms: float
    evaluated: int  # prompt tokens computed, not cached
    cached: int
    generated: int
    text: str


class Engine:
    """A server that answers `POST /infill` with llama-server's stream."""

    def __init__(self, name: str, address: str, headers: Mapping[str, str]) -> None:
        self.name = name
        self._headers = {"Content-Type": "application/json", **headers}
        self._address = address

    def infill(self, body: Mapping[str, Any]) -> Sample:
        """Send `body`, read the whole stream. Raises RuntimeError with the server's refusal.

        On a connection of its own: llama-server closes its after a stream.
        """
        started = time.perf_counter()
        data = json.dumps({**body, "stream": True})
        connection = http.client.HTTPConnection(self._address, timeout=300)
        with closing(connection):
            connection.request("POST", "/infill", data, self._headers)
            return self._read(connection.getresponse(), started)

    def _read(self, response: http.client.HTTPResponse, started: float) -> Sample:
        if response.status != 200:
            raise RuntimeError(f"{self.name} answered {response.status}: {response.read()[:500]!r}")
        text, first = "", None
        last: dict[str, Any] = {}
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            last = json.loads(line[len(b"data: ") :])
            text += last.get("content", "")
            if first is None and text:
                first = time.perf_counter()
        ended = time.perf_counter()
        timings = last["timings"]
        return Sample(
            first_ms=((first or ended) - started) * 1000,
            whole_ms=(ended - started) * 1000,
            evaluated=timings["prompt_n"],
            cached=timings["cache_n"],
            generated=timings["predicted_n"],
            text=text,
        )
