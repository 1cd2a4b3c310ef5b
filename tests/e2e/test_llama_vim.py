"""llama.vim, a client of llama-server that was not written for midspan, against `/infill`.

The requests are those of ggml-org/llama.vim's autoload/llama.vim, field by field; it is sent with
curl there and with http.client here. It only looks at an answer that has `"content":"` in it, with
no space after the colon, and reads the flattened timings.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends import state
from backends.state import Endpoint

pytestmark = pytest.mark.engine

TIMINGS = [
    f"timings/{name}"
    for phase in ("prompt", "predicted")
    for name in (f"{phase}_n", f"{phase}_ms", f"{phase}_per_token_ms", f"{phase}_per_second")
]


@pytest.fixture(scope="module")
def endpoint(
    shared_midspan_env: dict[str, str], run_midspan: Callable[..., CompletedProcess[str]]
) -> Endpoint:
    done = run_midspan(["models", "use", "starter"], shared_midspan_env)
    assert done.returncode == 0, done.stderr
    found = state.read(Path(shared_midspan_env["MIDSPAN_RUNTIME_DIR"]))
    assert found is not None
    return found


@pytest.fixture
def connection(endpoint: Endpoint) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=60)
    yield connection
    connection.close()


def fim_request(**changes: Any) -> dict[str, Any]:
    """Return the request of `llama#fim`, with its default configuration."""
    extra = [{"text": "import math\n", "time": [1, 2], "filename": "other.py"}]
    return {
        "id_slot": 0,
        "input_prefix": "class Square:\n    def __init__(self, side):\n",
        "input_suffix": "\n\n    def area(self):\n        return self.side ** 2\n",
        "input_extra": extra,
        "prompt": "        self.s",
        "n_predict": 128,
        "stop": [],
        "n_indent": 8,
        "top_k": 40,
        "top_p": 0.90,
        "samplers": ["top_k", "top_p", "infill"],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 1000,
        "response_fields": ["content", *TIMINGS, "truncated", "tokens_cached"],
        "model": "",  # its default, sent always
    } | changes


def warm_up_request() -> dict[str, Any]:
    """Return the request that fills the cache with chunks of other files and wants no text."""
    return {
        "id_slot": 0,
        "input_prefix": "",
        "input_suffix": "",
        "input_extra": [{"text": "import math\n", "time": [1, 2], "filename": "other.py"}],
        "prompt": "",
        "n_predict": 0,
        "temperature": 0.0,
        "samplers": [],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 1,
        "t_max_predict_ms": 1,
        "response_fields": [""],
        "model": "",
    }


def post(
    connection: http.client.HTTPConnection, body: dict[str, Any], token: str
) -> tuple[int, str]:
    connection.request(
        "POST",
        "/infill",
        # Vim's json_encode writes no spaces.
        json.dumps(body, separators=(",", ":")),
        {"Content-Type": "application/json", "Authorization": f"Bearer {token}", "Accept": "*/*"},
    )
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_fim_answer_is_what_llama_vim_looks_for(
    connection: http.client.HTTPConnection, endpoint: Endpoint
) -> None:
    status, raw = post(connection, fim_request(), endpoint.token)
    assert status == 200, raw
    assert re.match(r"\s*{", raw)
    assert '"content":"' in raw
    assert "\n" not in raw.strip()  # Vim hands over one line at a time
    answer = json.loads(raw)
    assert set(answer) == {"content", *TIMINGS, "truncated", "tokens_cached"}
    assert answer["timings/predicted_n"] > 0
    assert answer["timings/prompt_n"] + answer["tokens_cached"] > 0


def test_warm_up_leaves_the_prompt_in_the_cache_and_answers_at_once(
    connection: http.client.HTTPConnection, endpoint: Endpoint
) -> None:
    status, raw = post(connection, warm_up_request(), endpoint.token)
    assert status == 200, raw
    assert json.loads(raw) == {}


def test_typing_on_reuses_the_slots_prompt(
    connection: http.client.HTTPConnection, endpoint: Endpoint
) -> None:
    counts = []
    for typed in ("        self.s", "        self.si", "        self.sid"):
        status, raw = post(connection, fim_request(prompt=typed, n_predict=4), endpoint.token)
        assert status == 200, raw
        answer = json.loads(raw)
        counts.append((answer["tokens_cached"], answer["timings/prompt_n"]))
    # Token healing may make a token or two anew; the suffix must not be evaluated again.
    assert all(evaluated <= 4 for _, evaluated in counts[1:]), counts


@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_the_token_there_is_no_completion(
    connection: http.client.HTTPConnection, token: str
) -> None:
    status, raw = post(connection, fim_request(), token)
    assert status == 401
    assert "content" not in json.loads(raw)
