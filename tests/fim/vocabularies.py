"""Real tokenizers for golden tests: GGUF files without weights, loaded by llama.cpp.

They are looked for in the folder that MIDSPAN_TEST_VOCABS names, else in ../shared/data/vocab;
tests skip where there are none, or no llama-cpp-python. Two families have no file of their own:
their control tokens are written into the file of the model that they were made from.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from fim.prompt import Control, Piece, apart
from fim.templates import NoFim, Template, detect

ROOT = Path(__file__).parents[2]
CONTROL = 3  # GGUF's token type
_ATTR_CONTROL = 1 << 3  # llama.cpp's

QWEN_CODER = {
    151659: "<|fim_prefix|>",
    151660: "<|fim_middle|>",
    151661: "<|fim_suffix|>",
    151662: "<|fim_pad|>",
    151663: "<|repo_name|>",
    151664: "<|file_sep|>",
}
CODELLAMA = {32007: "▁<PRE>", 32008: "▁<SUF>", 32009: "▁<MID>", 32010: "▁<EOT>"}


def vocabulary_file(name: str) -> Path:
    """Return the file of a vocabulary, or skip the test."""
    folder = Path(os.environ.get("MIDSPAN_TEST_VOCABS", ROOT.parent / "shared" / "data" / "vocab"))
    file = folder / f"ggml-vocab-{name}.gguf"
    if not file.is_file():
        pytest.skip(f"no vocabulary {file.name} (MIDSPAN_TEST_VOCABS names their folder)")
    return file


def with_control_tokens(file: Path, tokens: Mapping[int, str], name: str, target: Path) -> Path:
    """Write `file` to `target` with its entries at the ids of `tokens` named so, as control tokens.

    Ids past the end are added. GGUF is edited as bytes: gguf's reader takes seconds for 150k
    entries.
    """
    data = file.read_bytes()
    data = _replaced(data, "general.name", lambda value, at: (_string(name), at + _size(value, at)))

    def texts(value: bytes, at: int) -> tuple[bytes, int]:
        (count,) = struct.unpack_from("<Q", value, at + 4)
        begin, entries = at + 12, []
        for _ in range(count):
            end = begin + _size(value, begin)
            entries.append(value[begin:end])
            begin = end
        entries += [_string(f"[PAD{token}]") for token in range(count, max(tokens) + 1)]
        for token, text in tokens.items():
            entries[token] = _string(text)
        return value[at : at + 4] + struct.pack("<Q", len(entries)) + b"".join(entries), begin

    def numbers(form: str, filler: float) -> Edit:
        def edit(value: bytes, at: int) -> tuple[bytes, int]:
            (count,) = struct.unpack_from("<Q", value, at + 4)
            entries = list(struct.unpack_from(f"<{count}{form}", value, at + 12))
            entries += [filler] * (max(tokens) + 1 - count)
            if form == "i":
                for token in tokens:
                    entries[token] = CONTROL
            packed = struct.pack(f"<Q{len(entries)}{form}", len(entries), *entries)
            return value[at : at + 4] + packed, at + 12 + 4 * count

        return edit

    data = _replaced(data, "tokenizer.ggml.tokens", texts)
    data = _replaced(data, "tokenizer.ggml.token_type", numbers("i", CONTROL))
    if b"tokenizer.ggml.scores" in data:
        data = _replaced(data, "tokenizer.ggml.scores", numbers("f", -1000.0))
    target.write_bytes(data)
    return target


Edit = Callable[[bytes, int], tuple[bytes, int]]


def _replaced(data: bytes, key: str, edit: Edit) -> bytes:
    """Replace the value of `key`: `edit` gets its offset, after the type, returns bytes and end."""
    at = data.index(_string(key)) + len(_string(key)) + 4
    new, end = edit(data, at)
    return data[:at] + new + data[end:]


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _size(data: bytes, at: int) -> int:
    """Return the size of the string at `at`, its length field included."""
    return 8 + int(struct.unpack_from("<Q", data, at)[0])


class Vocabulary:
    """A tokenizer as an engine offers it, with the template found for it."""

    def __init__(self, file: Path) -> None:
        self._llama = llama = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
        self._silence = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self._silence, None)
        llama.llama_backend_init()
        parameters = llama.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama.llama_model_load_from_file(str(file).encode(), parameters)
        assert self._model, f"{file} can't be loaded"
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.size = llama.llama_vocab_n_tokens(self._vocab)
        self.control_tokens = {
            llama.llama_vocab_get_text(self._vocab, token).decode(): token
            for token in range(self.size)
            if llama.llama_vocab_get_attr(self._vocab, token) & _ATTR_CONTROL
        }
        self.name = self._meta("general.name")
        self.template: Template | NoFim = detect(
            self.control_tokens, architecture=self._meta("general.architecture"), name=self.name
        )

    def close(self) -> None:
        self._llama.llama_model_free(self._model)

    def raw(self, text: str) -> list[int]:
        """What llama.cpp makes of `text` with specials off."""
        data = text.encode("utf-8", "replace")
        room = (self._llama.llama_token * (len(data) + 8))()
        n = self._llama.llama_tokenize(self._vocab, data, len(data), room, len(room), False, False)
        assert n >= 0
        return list(room[:n])

    def tokenize(self, text: str) -> list[int]:
        """The tokens of exactly `text`: no control token, and no space that isn't in it."""
        stops = self.template.stop_tokens if isinstance(self.template, Template) else ()
        return [token for part in apart(text, stops) for token in self._exact(part)]

    def _exact(self, text: str) -> list[int]:
        # SentencePiece vocabularies put a space before every text: hide it behind a character that
        # merges with nothing (as CodeLlama's reference code does).
        guard = self.raw("☺")
        return self.raw("☺" + text)[len(guard) :] if self._text(guard[0]) == "▁" else self.raw(text)

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        """The tokens of a prompt's pieces."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, Control):
                ids.append(self.control_tokens[piece.token])
            else:
                ids += self.tokenize(piece.text)
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens; control tokens have none."""
        data = b""
        buffer = ctypes.create_string_buffer(256)
        for token in ids:
            n = self._llama.llama_token_to_piece(self._vocab, token, buffer, 256, 0, False)
            assert n >= 0
            data += buffer.raw[:n]
        return data.decode()

    def _text(self, token: int) -> str:
        return str(self._llama.llama_vocab_get_text(self._vocab, token).decode())

    def _meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        self._llama.llama_model_meta_val_str(self._model, key.encode(), buffer, 256)
        return buffer.value.decode()
