"""Greedy decoding in the plainest way: no cache, no batch, no index. What the engine must equal."""

from __future__ import annotations

import codecs

import numpy as np

from backends.decoding.prompting import TokenPrompt
from backends.decoding.token_model import Feed, TokenModel


def greedy(
    model: TokenModel, prompt: TokenPrompt, max_tokens: int, *, single_line: bool = False
) -> str:
    """Return the greedy completion of `prompt`, evaluated from nothing on sequence 0."""
    tokens, pending, text, produced = list(prompt.tokens), prompt.pending, b"", 0
    control = set(model.vocab.control_tokens.values()) | model.vocab.end_tokens
    while produced < max_tokens:
        model.free(0)
        for start in range(0, len(tokens), model.max_batch):
            part = tokens[start : start + model.max_batch]
            logits = model.forward([Feed(0, part)], lambda: False)[0][-1].copy()
        if pending:
            agree = [
                piece.startswith(pending) or (bool(piece) and pending.startswith(piece))
                for piece in map(model.token_bytes, range(model.vocab.size))
            ]
            logits[~np.array(agree)] = -np.inf
        token = int(np.argmax(logits))
        if token in control:
            break
        piece = model.token_bytes(token)
        overlap = min(len(pending), len(piece))
        pending, text = pending[overlap:], text + piece[overlap:]
        produced += bool(text)
        tokens.append(token)
        if single_line and b"\n" in text:
            text = text[: text.index(b"\n")]
            break
        if len(tokens) >= model.context_length:
            break
    model.free(0)
    # An unfinished character at the end is dropped, one that can't be any is replaced.
    return codecs.getincrementaldecoder("utf-8")("replace").decode(text)
