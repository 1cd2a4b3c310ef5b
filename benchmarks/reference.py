"""Greedy decoding in the plainest way: no cache, no batch, no index. What the engine must equal."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

import numpy as np

from backends.decoding.copying import Copier
from backends.decoding.prompting import TokenPrompt
from backends.decoding.token_model import Feed, Logits, TokenModel


@dataclass(slots=True)
class Trace:
    """What was seen on the way."""

    first: Logits | None = None  # after the prompt, shape (vocabulary,)
    margins: list[float] = field(default_factory=list)  # by picked token, to the next best one


def greedy(
    model: TokenModel,
    prompt: TokenPrompt,
    max_tokens: int,
    *,
    single_line: bool = False,
    copier: Copier | None = None,
    trace: Trace | None = None,
) -> str:
    """Return the greedy completion of `prompt`, evaluated from nothing on sequence 0."""
    trace = trace or Trace()
    pieces = list(map(model.token_bytes, range(model.vocab.size)))
    pending, text, produced = prompt.pending, b"", 0
    control = set(model.vocab.control_tokens.values()) | model.vocab.end_tokens
    todo, length = list(prompt.tokens), 0
    model.free(0)
    while produced < max_tokens:
        for start in range(0, len(todo), model.max_batch):
            part = todo[start : start + model.max_batch]
            logits = model.forward([Feed(0, part)], lambda: False)[0][-1].copy()
        length += len(todo)
        if trace.first is None:
            trace.first = logits.copy()
        ahead, bonus = copier.ahead(text, pending) if copier else (b"", 0.0)
        logits[[bool(piece) and ahead.startswith(piece) for piece in pieces]] += bonus
        if pending:
            agree = [
                piece.startswith(pending) or (bool(piece) and pending.startswith(piece))
                for piece in pieces
            ]
            logits[~np.array(agree)] = -np.inf
        token = int(np.argmax(logits))
        second, first = np.partition(logits, -2)[-2:]
        trace.margins.append(float(first - second))
        if token in control:
            break
        piece = pieces[token]
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
