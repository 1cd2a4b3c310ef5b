"""Tokenizers of all kinds, byte for byte: trained here on a few lines, then read from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

from backends import model_folder
from backends.engines.hf_vocabulary import HfVocabulary
from backends.errors import ModelFileError
from tests.backends import model_folders

LINES = ["import os", "def size(path):", "    return os.stat(path).st_size", "é 中 🙂"] * 5
SPECIALS = ["<unk>", "<s>", "</s>", "<fim_prefix>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Any:
    """As Qwen2.5-Coder: NFC, a space before the text, control tokens that aren't special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens([AddedToken("<|fim_middle|>"), AddedToken("        "), AddedToken("õ")])
    tokenizer.add_special_tokens([AddedToken("<|eot|>", lstrip=True, rstrip=True)])
    return tokenizer


def metaspace(step: str) -> Any:
    """As Llama 2 and CodeLlama: spaces as ▁, one before the text, bytes for the rest."""
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *BYTES, "\u2581", *"adefinrstu"])}
    merges = [("d", "e"), ("de", "f"), ("\u2581", "def")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    if step == "normalizer":
        prepend, replace = normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")
        tokenizer.normalizer = normalizers.Sequence([prepend, replace])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


KINDS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "metaspace normalizer": lambda: metaspace("normalizer"),
    "metaspace pre-tokenizer": lambda: metaspace("pre_tokenizer"),
}


def vocabulary(folder: Path, tokenizer: Any, **files: object) -> HfVocabulary:
    model_folders.write(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return HfVocabulary(model_folder.read(folder), tokenizer.get_vocab_size() + 5)


@pytest.fixture(scope="module", params=KINDS)
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HfVocabulary:
    return vocabulary(tmp_path_factory.mktemp("model"), KINDS[request.param]())


SPELLINGS = [*SPECIALS, "<|endoftext|>", "<|fim_middle|>", "<|eot|>", "<0x41>", "\u2581", "õ"]


@given(text=st.lists(st.text(max_size=8) | st.sampled_from(SPELLINGS) | st.just("  "), max_size=6))
def test_any_text_is_its_tokens_bytes_and_holds_no_control_token(
    known: HfVocabulary, text: list[str]
) -> None:
    whole = "".join(text)
    tokens = known.tokenize(whole)
    assert b"".join(map(known.token_bytes, tokens)) == whole.encode()
    assert not set(tokens) & set(known.info.control_tokens.values())


def test_control_tokens_stand_for_no_bytes_and_unused_rows_neither(known: HfVocabulary) -> None:
    assert known.info.control_tokens
    assert all(known.token_bytes(token) == b"" for token in known.info.control_tokens.values())
    assert known.token_bytes(known.info.size - 1) == b""


def test_added_tokens_that_are_text_stay_text(tmp_path: Path) -> None:
    known = vocabulary(tmp_path, byte_level())
    assert set(known.info.control_tokens) == {"<|endoftext|>", "<|fim_middle|>", "<|eot|>"}
    tokenizer = byte_level()
    for text in ("        ", "õ"):
        assert known.tokenize(text) == [tokenizer.token_to_id(text)]


@pytest.mark.parametrize(
    ("kind", "settings", "bos"),
    [
        ("byte level", {}, None),
        ("byte level", {"add_bos_token": True, "bos_token": "<|endoftext|>"}, "<|endoftext|>"),
        ("byte level", {"add_bos_token": False, "bos_token": "<|endoftext|>"}, None),
        ("metaspace normalizer", {}, "<s>"),
        ("metaspace normalizer", {"add_bos_token": False}, None),
        ("metaspace normalizer", {"add_bos_token": True, "bos_token": {"content": "<s>"}}, "<s>"),
    ],
)
def test_bos_is_what_the_files_say(
    tmp_path: Path, kind: str, settings: dict[str, Any], bos: str | None
) -> None:
    info = vocabulary(tmp_path, KINDS[kind](), tokenizer_config=settings).info
    assert info.bos == (None if bos is None else info.control_tokens[bos])


def test_end_tokens_are_those_listed_and_those_known_by_name(tmp_path: Path) -> None:
    files = {
        "generation_config": {"eos_token_id": [7, 0]},
        "tokenizer_config": {"eos_token": {"content": "<fim_prefix>"}},
    }
    info = vocabulary(tmp_path, metaspace("normalizer"), **files).info
    named = {info.control_tokens[text] for text in ("</s>", "<fim_prefix>")}
    assert info.end_tokens == {7, 0} | named


def test_a_tokenizer_that_loses_text_is_refused(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "def": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelFileError, match="changes the text"):
        vocabulary(tmp_path, words)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    header = model_folder.read(model_folders.write(tmp_path))
    with pytest.raises(ModelFileError, match="is no tokenizer"):
        HfVocabulary(header, 300)
