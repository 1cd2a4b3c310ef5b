from __future__ import annotations

import pytest

from backends.downloads import names
from backends.errors import BadRequest


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "a/b", "mistralai/Devstral-Small-2507_gguf"]
)
def test_repository_takes_what_hubs_have(name: str) -> None:
    assert names.repository(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a", "a/b/c", "/a", "a/", "../b", "a/..", "a/b..c", "a b/c", "a/b?x=1", "a/b#c", "a/b\n"],
)
def test_repository_refuses_the_rest(name: str) -> None:
    with pytest.raises(BadRequest):
        names.repository(name)


@pytest.mark.parametrize("name", ["", "..", "a/../b", "a//b", "-x", "a b", "x" * 300, "a\0"])
def test_revision_refuses_what_is_none(name: str) -> None:
    with pytest.raises(BadRequest):
        names.revision(name)


@pytest.mark.parametrize("name", ["main", "v1.0", "refs/pr/3", "a" * 40])
def test_revision_takes_branches_tags_and_commits(name: str) -> None:
    assert names.revision(name) == name


@pytest.mark.parametrize(
    "path",
    [
        "model-q4_k_m.gguf",
        "Q8_0/model-00001-of-00002.gguf",
        "model.safetensors",
        "tokenizer.json",
        "merges.txt",
        "chat_template.jinja",
    ],
)
def test_file_takes_weights_and_texts(path: str) -> None:
    assert names.file(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "../model.gguf",
        "a/../model.gguf",
        "/etc/model.gguf",
        "a//model.gguf",
        ".hidden.gguf",
        "a\\b.gguf",
        "a\0.gguf",
        "model.gguf.",
        "a/b/c/d/model.gguf",
        "x" * 300 + ".gguf",
        "pytorch_model.bin",
        "model.pt",
        "model.ckpt",
        "weights.pkl",
        "consolidated.00.pth",
        "model.h5",
        "modeling.py",
        "README.md",
        "model.gguf.exe",
    ],
)
def test_file_refuses_what_leads_out_or_could_run(path: str) -> None:
    with pytest.raises(BadRequest):
        names.file(path)
