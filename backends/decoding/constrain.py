"""Holding a generation to a grammar: which tokens may come next.

llguidance keeps the state and computes the mask, a bit per token; no Python loop runs over a
vocabulary but once, when its tokenizer is made. Rule: knows grammars and tokens, not chats.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llguidance
import numpy as np

from backends.decoding.sampling import TokenIds
from backends.decoding.token_model import TokenModel
from backends.errors import BackendError, BadRequest

# As models were taught to write JSON, and no room to pad it for ever.
JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraint:
    """The grammar of one generation."""

    def __init__(self, matcher: Any, tokenizer: Any) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer

    def allowed(self) -> TokenIds:
        """Return the ids of the tokens that may come next, never none. Raises BackendError."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(mask, bitorder="little")[: self._tokenizer.vocab_size]
        ids = np.flatnonzero(bits).astype(np.int32)
        if self._matcher.is_error() or not len(ids):
            raise BackendError(f"The grammar can't be followed: {self._matcher.get_error()}")
        return ids

    def consume(self, token: int) -> None:
        """Note a token that `allowed` gave. Raises BackendError."""
        if not self._matcher.consume_token(token):
            raise BackendError(f"The grammar can't be followed: {self._matcher.get_error()}")

    def feed(self, data: bytes) -> bool:
        """Note bytes that were generated before the grammar held; False where they don't fit.

        Then nothing of them is taken.
        """
        tokens = self._tokenizer.greedy_tokenize(data.decode()) if data else []
        taken = self._matcher.try_consume_tokens(tokens)
        if taken == len(tokens):
            return True
        self._matcher.rollback(taken)
        return False

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())


class Constrainer:
    """Makes constraints for one model. Any thread may."""

    def __init__(self, model: TokenModel, words: Sequence[bytes]) -> None:
        """Take the bytes of all tokens as `words`."""
        vocab = model.vocab
        self._words = words
        self._tokenize = model.tokenize
        self._control_tokens = vocab.control_tokens
        self._ends = sorted(vocab.end_tokens) or sorted(vocab.control_tokens.values())[:1]
        self._made: Any = None
        self._lock = threading.Lock()

    def schema(self, schema: Mapping[str, Any]) -> Constraint:
        """Return the constraint to JSON that fits `schema`. Raises BadRequest for a bad schema."""
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides=JSON_STYLE
            )
        except ValueError as exc:
            raise BadRequest(f"The JSON schema can't be used: {exc}") from exc
        return self._constraint(grammar, "The JSON schema can't be used")

    def lark(self, lark: str) -> Constraint:
        """Return the constraint to a grammar in Lark's notation. Raises BadRequest."""
        grammar = llguidance.LLMatcher.grammar_from_lark(lark)
        return self._constraint(grammar, "The tools' parameters can't be used as a schema")

    def _constraint(self, grammar: str, failed: str) -> Constraint:
        tokenizer = self._tokenizer()
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            said = matcher.get_error().strip().splitlines()
            raise BadRequest(f"{failed}: {said[0] if said else 'no reason given'}")
        return Constraint(matcher, tokenizer)

    def _tokenizer(self) -> Any:
        """Return the vocabulary as llguidance wants it; made once, when first needed."""
        with self._lock:
            if self._made is None:
                vocabulary = _Vocabulary(self._words, self._control_tokens, self._ends[0])
                self._made = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(vocabulary),
                    n_vocab=len(self._words),
                    eos_token=self._ends,
                    slices=llguidance.LLTokenizer.json_slices(),
                )
                vocabulary.tokenize = self._tokenize
            return self._made


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, words: Sequence[bytes], control_tokens: Mapping[str, int], end: int) -> None:
        self.eos_token_id = end
        self.tokens = list(words)
        for text, token in control_tokens.items():
            self.tokens[token] = text.encode()
        # A token without bytes can't be part of any text.
        empty = [token for token, word in enumerate(self.tokens) if not word]
        self.special_token_ids = sorted({*control_tokens.values(), *empty})
        # The model's own is for its own thread alone, where masks are computed.
        self.tokenize: Callable[[str], list[int]] = lambda _text: []

    def __call__(self, text: bytes | str) -> list[int]:
        return self.tokenize(text.decode() if isinstance(text, bytes) else text)
