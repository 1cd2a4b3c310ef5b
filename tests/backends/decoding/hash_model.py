"""A `TokenModel` whose logits are a hash of every token before them.

Any token reused at the wrong place, left behind or lost changes the answer, so comparing a cached
generation with a cold one finds every mistake in the bookkeeping, with no weights at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backends.decoding.token_model import Aborted, CacheFull, Feed, VocabInfo

MICRO_BATCH = 4
CONTROL = {"<|endoftext|>": 0, "<|fim_prefix|>": 1, "<|fim_middle|>": 2, "<|fim_suffix|>": 3}
# A few whole words, so that healing has longer tokens to find.
WORDS = [b"def", b"return", b"print", b"self", b" self", b"(self", b"    ", b"  ", b"\n\n", b"\r\n"]


class HashModel:
    """Bytes are tokens 4..259, then WORDS."""

    max_batch = 32
    description = "hash"
    model_bytes = 0
    cache_bytes = 1 << 20

    def __init__(
        self,
        *,
        context_length: int = 512,
        cells: int = 4096,
        sequences: int = 8,
        memory: int | None = None,
    ) -> None:
        """With `memory`, only that many last tokens are hashed: the text then repeats itself."""
        self.memory = memory
        self.steps = 0
        self.context_length = context_length
        self.cache_cells = cells
        self.max_sequences = sequences
        self.can_rewind = True
        self.can_steer = False
        self.cached: dict[int, list[int]] = {}
        self.evaluated = 0
        self.restored = 0
        self.vocab = VocabInfo(
            size=4 + 256 + len(WORDS),
            architecture="qwen2",
            name="midspan-starter",
            control_tokens=dict(CONTROL),
            end_tokens=frozenset({0}),
        )

    def tokenize(self, text: str) -> list[int]:
        data, tokens = text.encode("utf-8", "replace"), []
        while data:
            word = max((w for w in WORDS if data.startswith(w)), key=len, default=data[:1])
            tokens.append(260 + WORDS.index(word) if len(word) > 1 else 4 + word[0])
            data = data[len(word) :]
        return tokens

    def token_bytes(self, token: int) -> bytes:
        if token < 4:
            return b""
        return bytes([token - 4]) if token < 260 else WORDS[token - 260]

    def forward(self, feeds: Sequence[Feed], abort: Callable[[], bool]) -> list[list[Any]]:
        total = sum(len(self.cached.get(s, ())) for s in range(self.max_sequences))
        if total + sum(len(feed.tokens) for feed in feeds) > self.cache_cells:
            raise CacheFull
        self.steps += 1
        rows = []
        for feed in feeds:
            held = self.cached.setdefault(feed.sequence, [])
            logits = []
            for start in range(0, len(feed.tokens), MICRO_BATCH):
                if abort():
                    raise Aborted
                for token in feed.tokens[start : start + MICRO_BATCH]:
                    held.append(int(token))
                    logits.append(self._logits(held))
                    self.evaluated += 1
            rows.append(logits[-feed.outputs :])
        return rows

    def _logits(self, held: list[int]) -> Any:
        seen = held if self.memory is None else held[-self.memory :]
        seed = zlib.crc32(np.array(seen, dtype=np.int32).tobytes())
        logits = np.random.default_rng(seed).standard_normal(self.vocab.size).astype(np.float32)
        logits[: len(CONTROL)] -= 2.0  # ends now and then, not at once
        # Mostly printable ASCII, as a model of code.
        logits[4 + 32 : 4 + 127] += 2.0
        return logits

    def length(self, sequence: int) -> int:
        return len(self.cached.get(sequence, ()))

    def trim(self, sequence: int, n: int) -> bool:
        if not self.can_rewind:
            return False
        del self.cached.setdefault(sequence, [])[n:]
        return True

    def fork(self, source: int, target: int, n: int) -> bool:
        if not self.can_rewind:
            return False
        self.cached[target] = self.cached[source][:n]
        return True

    def snapshot(self, sequence: int) -> bytes:
        return np.array(self.cached.get(sequence, []), dtype=np.int32).tobytes()

    def restore(self, sequence: int, data: bytes) -> bool:
        self.restored += 1
        self.free(sequence)
        total = sum(map(len, self.cached.values())) + len(data) // 4
        if len(data) % 4 or total > self.cache_cells:
            return False
        self.cached[sequence] = np.frombuffer(data, dtype=np.int32).tolist()
        return True

    def free(self, sequence: int) -> None:
        self.cached.pop(sequence, None)

    def close(self) -> None:
        self.cached.clear()
