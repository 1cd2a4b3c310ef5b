"""docs/scaling-out.md is true: its configuration is read, and what it says is sent is sent."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from backends import config
from backends.backend import InfillRequest
from backends.remote.backend import RemoteBackend
from backends.remote.profiles import PROFILES
from tests.backends.remote.conftest import collected
from tests.backends.remote.upstream import as_json, serving, sse

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = DOCS / "examples" / "scaling-out"
PAGE = (DOCS / "scaling-out.md").read_text(encoding="utf-8")


def example() -> config.ModelSettings:
    settings, problems = config.load(EXAMPLES / "midspan.toml", {})
    assert problems == []
    assert settings.completion.model == "cluster"
    return settings.models["cluster"]


def test_page_names_every_example() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(
        re.findall(r"\(examples/scaling-out/([\w.-]+)\)", PAGE)
    )


def test_page_has_a_row_for_each_profile() -> None:
    table = PAGE.split("## Other engines")[1].split("\n\n")[1]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert set(re.findall(r"`([\w-]+)`", "".join(rows))) == set(PROFILES)


def test_cluster_serves_the_model_that_developers_ask_for() -> None:
    yaml = pytest.importorskip("yaml")
    served = yaml.safe_load((EXAMPLES / "ray-serve.yaml").read_text())
    (application,) = served["applications"]
    (model,) = application["args"]["llm_configs"]
    settings = example()
    assert model["model_loading_config"]["model_id"] == settings.remote_model
    assert model["engine_kwargs"]["max_model_len"] == settings.context_length
    assert model["engine_kwargs"]["enable_prefix_caching"] is True
    router = model["deployment_config"]["request_router_config"]["request_router_class"]
    assert router.endswith("PrefixCacheAffinityRouter")


def test_nginx_keeps_documents_together_by_the_header_that_is_sent() -> None:
    text = (EXAMPLES / "nginx.conf").read_text()
    header = PROFILES[example().profile].session_header
    assert f"hash $http_{header.lower().replace('-', '_')} consistent;" in text
    assert text.count("{") == text.count("}")


async def test_request_on_the_page_is_what_is_sent() -> None:
    pytest.importorskip("httpx2")
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    expected: dict[str, Any] = json.loads(shown)
    async with serving() as upstream:
        upstream.answers("/v1/models", as_json({"data": []}))
        end = {"choices": [{"index": 0, "text": " a + b", "finish_reason": "stop"}]}
        upstream.answers("/v1/completions", sse(end))
        settings = config.ModelSettings(
            endpoint=upstream.url,
            **{name: getattr(example(), name) for name in ("profile", "remote_model", "family")},
        )
        backend = await RemoteBackend.connect("cluster", settings)
        request = InfillRequest(
            "def add(a, b):\n    return ",
            "\n\nprint(add(1, 2))\n",
            document="file:///a.py",
            max_tokens=64,
            single_line=True,
        )
        text, _ = await collected(backend.infill(request))
        await backend.close()
        assert text == "a + b"
        (sent,) = upstream.to("/v1/completions")
    said = sent.json
    assert list(said) == list(expected)
    assert said | {"cache_salt": "…"} == expected
    listed = re.findall(r"`([\w-]+)(?:: midspan)?`", PAGE.split("No file name")[1].split("\n")[0])
    assert set(sent.headers) <= {name.lower() for name in listed} | {"authorization"}
