"""A model folder's tokenizer (tokenizer.json), byte for byte: for every engine that reads folders.

Rule: text in, its own bytes out. What tokenizers do to text that must not be done here is taken out
of the tokenizer's description before it is built: control tokens in text stay text, nothing is
normalised, no space goes before it. Imports the `tokenizers` package and no runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer

from backends.decoding.token_model import VocabInfo
from backends.errors import ModelFileError
from backends.model_folder import MAX_TOKENIZER, TOKENIZER, FolderHeader, read_json
from fim.prompt import apart

_SPACE: Final = "\u2581"  # how SentencePiece writes one
# Texts that tokenizers like to change.
_PROBES: Final = ("def f(x):\n\treturn  x  # é中🙂\r\n", "e\u0301", "X", " x", "")
# What ends a generation, by name, besides what the model's own files list.
_END_TOKENS: Final = frozenset(
    {"<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>"}
    | {"<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<turn|>", "</s>", "<eos>", "<EOT>"}
    | {"<｜end▁of▁sentence｜>", "<|end_of_sentence|>", "<|eos|>"}
    | {"<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}  # another file begins: this one is over
)


class HfVocabulary:
    """Text to tokens and back, and what the template catalogue needs to know."""

    def __init__(self, header: FolderHeader, size: int) -> None:
        """Take the number of logits the model gives. Raises ModelFileError."""
        description = read_json(header.path, TOKENIZER, dict[str, Any], MAX_TOKENIZER) or {}
        control = header.control_tokens
        self._control = frozenset(control.values())
        self._spellings = tuple(control)
        added = {token["id"]: token["content"] for token in description.get("added_tokens", ())}
        self._added: dict[int, str] = {
            token: text for token, text in added.items() if token not in self._control
        }
        self._tokenizer = _build(header.path, exact(description, frozenset(control)))
        self._byte_level = "ByteLevel" in set(_types(description))
        spelt = () if self._byte_level else map("<0x{:02X}>".format, _SPACE.encode())
        self._space_bytes = [t for t in map(self._tokenizer.token_to_id, spelt) if t is not None]
        self._bytes: list[bytes | None] = [None] * size
        self.info = VocabInfo(
            size=size,
            architecture=header.architecture,
            name=header.name,
            control_tokens={text: token for text, token in control.items() if token < size},
            end_tokens=_end_tokens(header),
            bos=_bos(header, description),
            chat_template=header.chat_template,
            template_tokens=_template_tokens(header),
        )
        if any(b"".join(map(self.token_bytes, self.tokenize(t))) != t.encode() for t in _PROBES):
            raise ModelFileError(
                f"{header.path / TOKENIZER}: this kind of tokenizer changes the text it is given, "
                "so its model can't complete code here."
            )

    def tokenize(self, text: str) -> list[int]:
        """Tokenise exactly `text`; control tokens in it stay text."""
        text = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs
        if self._space_bytes and _SPACE in text:  # the character itself, which is no space
            first, *parts = map(self.tokenize, text.split(_SPACE))
            return first + [token for part in parts for token in (*self._space_bytes, *part)]
        tokens = self._encode(text)
        if self._control.isdisjoint(tokens):
            return tokens
        # Spelt by ordinary pieces of the vocabulary: no part holds a whole spelling then.
        return [token for part in apart(text, self._spellings) for token in self._encode(part)]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token_bytes(self, token: int) -> bytes:
        """Return a token's bytes, none for control tokens and for ids that no token has."""
        known = self._bytes[token]
        if known is None:
            known = self._bytes[token] = self._piece(token)
        return known

    def _piece(self, token: int) -> bytes:
        if token in self._control:
            return b""
        if token in self._added:
            return self._added[token].encode()
        piece: str | None = self._tokenizer.id_to_token(token)
        if piece is None:  # rows that only fill the matrix up
            return b""
        if self._byte_level:
            return bytes(_BYTES[character] for character in piece if character in _BYTES)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes.fromhex(piece[3:5])
        return piece.replace(_SPACE, " ").encode()


def exact(description: Mapping[str, Any], control: frozenset[str]) -> dict[str, Any]:
    """Return a tokenizer's description, less all that would change or add to plain text."""
    added = [
        {**token, "special": token["content"] in control, "lstrip": False, "rstrip": False}
        for token in description.get("added_tokens", ())
    ]
    return {
        **description,
        "added_tokens": added,
        "normalizer": _normalizer(description.get("normalizer")),
        "pre_tokenizer": _pre_tokenizer(description.get("pre_tokenizer")),
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }


def _normalizer(step: Any) -> Any:
    """Keep what only spells spaces another way, which `token_bytes` undoes."""
    if not isinstance(step, dict):
        return None
    if step.get("type") == "Sequence":
        kept = [one for one in map(_normalizer, step.get("normalizers", ())) if one is not None]
        return {"type": "Sequence", "normalizers": kept} if kept else None
    spells_spaces = step.get("type") == "Replace" and step.get("content") == _SPACE
    return step if spells_spaces else None


def _pre_tokenizer(step: Any) -> Any:
    if not isinstance(step, dict):
        return None
    if step.get("type") == "Sequence":
        steps = [_pre_tokenizer(one) for one in step.get("pretokenizers", ())]
        return {**step, "pretokenizers": steps}
    if step.get("type") == "ByteLevel":
        return {**step, "add_prefix_space": False}
    if step.get("type") == "Metaspace":
        plain = {key: value for key, value in step.items() if key != "add_prefix_space"}
        return {**plain, "prepend_scheme": "never"}
    return step


def _build(folder: Path, description: Mapping[str, Any]) -> Any:
    try:
        tokenizer = Tokenizer.from_str(msgspec.json.encode(description).decode())
    except Exception as exc:  # the package raises nothing narrower
        raise ModelFileError(f"{folder / TOKENIZER} is no tokenizer: {exc}.") from exc
    tokenizer.encode_special_tokens = True  # the other way round: special tokens as text
    return tokenizer


def _types(step: Any) -> Iterator[str]:
    """Yield the types of a description's steps, those within sequences too."""
    if isinstance(step, dict):
        if isinstance(step.get("type"), str):
            yield step["type"]
        for key in ("pre_tokenizer", "pretokenizers", "decoder", "decoders"):
            yield from _types(step.get(key))
    elif isinstance(step, list):
        for one in step:
            yield from _types(one)


def _end_tokens(header: FolderHeader) -> frozenset[int]:
    """Return the tokens that end a generation: by the model's own files, and by their names."""
    generation = read_json(header.path, "generation_config.json", dict[str, Any]) or {}
    settings = read_json(header.path, "tokenizer_config.json", dict[str, Any]) or {}
    listed: list[Any] = []
    for value in (generation.get("eos_token_id"), header.config.get("eos_token_id")):
        listed.extend(value if isinstance(value, list) else [value])
    names = _END_TOKENS | {_content(settings.get("eos_token"))}
    named = (token for text, token in header.control_tokens.items() if text in names)
    return frozenset((*named, *(one for one in listed if isinstance(one, int))))


def _bos(header: FolderHeader, description: Mapping[str, Any]) -> int | None:
    """Return the token that every prompt begins with: as the tokenizer's files have it."""
    settings = read_json(header.path, "tokenizer_config.json", dict[str, Any]) or {}
    wanted = settings.get("add_bos_token")
    if wanted is False:
        return None
    if wanted is True:
        return header.control_tokens.get(_content(settings.get("bos_token")))
    steps = _template(description.get("post_processor"))
    first = steps[0].get("SpecialToken", {}).get("id", "") if steps else ""
    return header.control_tokens.get(first)


def _template_tokens(header: FolderHeader) -> dict[str, str]:
    """Return the tokens that chat templates name ("bos_token", …), as far as there are such."""
    settings = read_json(header.path, "tokenizer_config.json", dict[str, Any]) or {}
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return {name: text for name in names if (text := _content(settings.get(name)))}


def _template(step: Any) -> list[dict[str, Any]]:
    if not isinstance(step, dict):
        return []
    if step.get("type") == "TemplateProcessing":
        single = step.get("single")
        return [one for one in single if isinstance(one, dict)] if isinstance(single, list) else []
    return next((found for one in step.get("processors", ()) if (found := _template(one))), [])


def _content(token: Any) -> str:
    """Return the text of a token that a file has as text or as a table."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else ""


def _byte_characters() -> dict[str, int]:
    """Return what byte-level vocabularies write each byte as: printable ones as themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable}
    return characters | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES: Final = _byte_characters()
