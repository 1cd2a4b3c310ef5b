"""Greedy decoding in the plainest way: no cache, no batch, no index. What the engine must equal."""

from __future__ import annotations

import codecs

import numpy as np

from backends.decoding.prompting import TokenPrompt
from backends.decoding.token_model import Feed, TokenModel


def greedy(
    model: TokenModel,
    prompt: TokenPrompt,
    max_tokens: int,
    *,
    single_line: bool = False,
    margins: list[float] | None = None,
) -> str:
    """Return the greedy completion of `prompt`, evaluated from nothing on sequence 0.

    `margins` gets, for each token picked, how far its logit is above the next best one's.
    """
    pending, text, produced = prompt.pending, b"", 0
    control = set(model.vocab.control_tokens.values()) | model.vocab.end_tokens
    todo, length = list(prompt.tokens), 0
    model.free(0)
    while produced < max_tokens:
        for start in range(0, len(todo), model.max_batch):
            part = todo[start : start + model.max_batch]
            logits = model.forward([Feed(0, part)], lambda: False)[0][-1].copy()
        length += len(todo)
        if pending:
            agree = [
                piece.startswith(pending) or (bool(piece) and pending.startswith(piece))
                for piece in map(model.token_bytes, range(model.vocab.size))
            ]
            logits[~np.array(agree)] = -np.inf
        token = int(np.argmax(logits))
        if margins is not None:
            second, first = np.partition(logits, -2)[-2:]
            margins.append(float(first - second))
        if token in control:
            break
        piece = model.token_bytes(token)
        healing = bool(pending)
        overlap = min(len(pending), len(piece))
        pending, text = pending[overlap:], text + piece[overlap:]
        produced += bool(text) or not healing
        todo = [token]
        if single_line and b"\n" in text:
            text = text[: text.index(b"\n")]
            break
        if length + 1 >= model.context_length:
            break
    model.free(0)
    # An unfinished character at the end is dropped, one that can't be any is replaced.
    return codecs.getincrementaldecoder("utf-8")("replace").decode(text)
