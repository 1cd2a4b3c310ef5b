"""docs/examples/barrier: good certificates pass, bad ones have a point that shows it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import MIDSPAN, Env, private_env, stop_manager
from tests.e2e.chat_endpoint import ChatEndpoint, chat_endpoint

FOLDER = Path(__file__).parents[1] / "docs" / "examples" / "barrier"
SYSTEM = FOLDER / "damped.json"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("certificate", FOLDER / "certificate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["certificate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("certificate", "wrong"),
    [
        ("x**2 + v**2 + x*v - 1", ""),
        ("2*x**2 + 2*v**2 + 2*x*v - 2", ""),
        ("x**2 + v**2 - 0.01", "B > 0 where it starts"),
        ("x**2 + v**2 - 16", "B <= 0 where it must not come"),
        ("x**2 + 9*v**2 - 3", "B grows along the motion"),
        ("-1", "B <= 0 where it must not come"),
        ("log(x) - 1", "B is no number"),
        (f"x - {10**400}", "B <= 0 where it must not come"),
    ],
)
def test_a_certificate_is_judged(example: ModuleType, certificate: str, wrong: str) -> None:
    system = json.loads(SYSTEM.read_text())
    verdict = example.check(system, certificate)
    assert verdict.wrong == wrong
    assert (verdict.at is None) == (not wrong)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "x.real",
        "y",
        "x if v else 1",
        "(lambda: x)()",
        "x +",
        "'x'",
        "+".join(["x"] * 400),
        "True",
    ],
)
def test_what_is_no_plain_expression_is_refused(example: ModuleType, text: str) -> None:
    with pytest.raises(example.RefusedError):
        example.expression(text, {"x": None, "v": None})


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    with chat_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def env(tmp_path: Path, endpoint: ChatEndpoint) -> Iterator[Env]:
    env = private_env(tmp_path)
    Path(env["MIDSPAN_CONFIG"]).write_text(endpoint.config)
    yield env
    stop_manager(env)


def test_a_models_certificate_is_asked_for_and_judged(
    example: ModuleType,
    endpoint: ChatEndpoint,
    env: Env,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    endpoint.answers(json.dumps({"certificate": "x**2 + v**2 + x*v - 1", "why": "energy"}))
    assert example.main([str(SYSTEM)], command=tuple(MIDSPAN)) == 0
    assert "no proof" in capsys.readouterr().out
    endpoint.answers(json.dumps({"certificate": "x", "why": "a guess"}))
    assert example.main([str(SYSTEM)], command=tuple(MIDSPAN)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == example.TRIES
    # The next question tells what was wrong.
    last = endpoint.upstream.requests[-1]
    assert "B = x is wrong: " in json.dumps(last.json)
