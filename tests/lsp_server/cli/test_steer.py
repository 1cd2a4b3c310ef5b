"""`midspan steer`, from pairs to a steered answer of a real model."""

from __future__ import annotations

import importlib.util
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from backends import catalogue, starter, state
from backends.steering.library import Library
from benchmarks import same_weights
from lsp_server.cli.app import run_command
from tests.backends.steering.vectors import vector
from tests.conftest import Env

RUNTIME = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
# The starter has no template of its own; it goes on with the last message.
TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIDSPAN_VECTORS_DIR", str(tmp_path / "vectors"))
    return tmp_path / "vectors"


def test_list_show_and_remove(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["steer", "list"]) == 0
    assert "midspan steer train" in capsys.readouterr().out
    Library().save(vector("mine"))
    (folder / "torn.safetensors").write_bytes(b"x")
    assert run_command(["steer", "list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["mine", "torn"]
    assert "too short" in shown[1]
    assert run_command(["steer", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["vectors"]
    assert rows[0]["model"]["architecture"] == "qwen2"
    assert "too short" in rows[1]["problem"]
    assert run_command(["steer", "show", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows[0]
    assert run_command(["steer", "show", "mine"]) == 0
    assert "layer" in capsys.readouterr().out
    assert run_command(["steer", "remove", "mine"]) == 0
    assert not (folder / "mine.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "gone"], 2, "There is no steering vector 'gone'"),
        (["remove", "../x"], 2, "cannot name"),
        (["train", "docstrings", "--name", "a/b"], 2, "cannot name"),
        (["train", "nothing.jsonl", "--name", "x"], 2, "ready-made sets"),
        (["train", "docstrings", "--name", "taken"], 1, "--overwrite"),
        (["train", "docstrings", "--name", "x", "--search", "--measure", "none"], 2, "--measure"),
        (["train", "docstrings", "--name", "x", "--model", str(starter.path())], 4, "llama-cpp"),
        (["train", "docstrings", "--name", "x"], 4, "Name a folder of safetensors with --model"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    Library().save(vector("taken"))
    assert run_command(["steer", *arguments]) == code
    assert said in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = str(same_weights.write(tmp_path / "same").transformers)
    find = importlib.util.find_spec
    monkeypatch.setattr(catalogue, "_found", {})
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("transformers", "mlx_lm") else find(name),
    )
    assert run_command(["steer", "train", "docstrings", "--name", "x", "--model", model]) == 4
    assert 'pip install "midspan[transformers]"' in capsys.readouterr().err


@pytest.mark.skipif(not RUNTIME, reason="transformers is not installed")
def test_a_vector_from_pairs_to_a_steered_answer(
    midspan_env: Env, tmp_path: Path, run_midspan: Any, one_object: Any
) -> None:
    model = same_weights.write(tmp_path / "same").transformers
    template = tmp_path / "plain.jinja"
    template.write_text(TEMPLATE)
    Path(midspan_env["MIDSPAN_CONFIG"]).write_text(
        f'[models.hf]\npath = "{model}"\nengine = "transformers"\ndtype = "float32"\n'
        f'chat_template = "{template}"\n[completion]\nmodel = "hf"\n'
    )
    arguments = ["steer", "train", "type-hints", "--name", "hints", "--model", "hf", "--json"]
    trained = run_midspan([*arguments, "--measure", "none"], midspan_env)
    assert trained.returncode == 0, trained.stderr
    answer = one_object(trained.stdout)
    assert Path(answer["path"]).is_file()
    margin = answer["held_out"]["effects"][0]
    assert margin["trained"]["low"] > max(0, margin["random"]["high"])
    assert "pairs to learn from" in trained.stderr

    def ask(*options: str) -> Any:
        said = "def size(path):\n    return 1\n\n\ndef count_words(text"
        chat = ["chat", said, "--model", "hf", "--max-tokens", "12", "--temperature", "0", *options]
        return run_midspan(chat, midspan_env)

    before = ask()
    assert before.returncode == 0, before.stderr
    steered = ask("--steer", "hints=0.4")
    assert steered.returncode == 0, steered.stderr
    assert steered.stdout != before.stdout
    assert ask().stdout == before.stdout
    unknown = ask("--steer", "nobody=1")
    assert unknown.returncode != 0
    assert "There is no steering vector 'nobody'. There are: hints" in unknown.stderr

    def infilled(*steering: dict[str, Any], path: str = "/infill") -> str:
        said = "def size(path):\n    return 1\n\n\ndef count_words(text"
        endpoint = state.read(Path(midspan_env["MIDSPAN_RUNTIME_DIR"]))
        assert endpoint is not None
        body = {
            "/infill": {"input_prefix": said, "n_predict": 8, "document": "file:///a.py"},
            "/v1/completions": {"prompt": said, "max_tokens": 8},
        }[path]
        request = urllib.request.Request(
            f"http://{endpoint.host}:{endpoint.port}{path}",
            json.dumps({**body, "steering": steering}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        return str(answer["content"] if path == "/infill" else answer["choices"][0]["text"])

    hints = {"name": "hints", "coefficient": 0.4}
    plain = infilled()
    assert infilled(hints).startswith(":")
    assert not plain.startswith(":")
    assert infilled() == plain, "nothing is left of it, in the document's cache either"
    assert infilled(hints, path="/v1/completions").startswith(":")
    with pytest.raises(urllib.error.HTTPError) as refused:
        infilled({"name": "nobody", "coefficient": 1})
    assert b"There is no steering vector 'nobody'" in refused.value.read()
