"""`TokenModel`: what a local runtime must offer. Small enough to write in an afternoon.

Rule: types only, no runtime. Everything above this seam (prefix reuse, anchoring, healing,
sampling, stop rules, cancellation) is written once, in this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from backends.backend import SteeringUse

Logits = npt.NDArray[np.float32]  # shape (vocabulary,)


class Aborted(Exception):  # noqa: N818 - not an error: the caller asked for it
    """`forward` was stopped by its `abort` callback. Finished micro-batches stay in the cache."""


class CacheFull(Exception):  # noqa: N818 - the scheduler makes room and goes on
    """`forward` found no free KV cells for its batch; nothing of it was evaluated."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens to append to one sequence in a forward pass.

    Logits are given after each of the last `outputs` tokens. `steering` acts on these tokens
    alone, and only on models whose `can_steer` is true.
    """

    sequence: int
    tokens: Sequence[int]
    outputs: int = 1
    steering: tuple[SteeringUse, ...] = ()


@dataclass(frozen=True, slots=True)
class VocabInfo:
    """What the template catalogue needs to know of a vocabulary."""

    size: int
    architecture: str  # e.g. "qwen2"
    name: str  # the model's own name, from its metadata
    control_tokens: dict[str, int] = field(default_factory=dict)  # text → id, control tokens only
    end_tokens: frozenset[int] = frozenset()  # end of generation, from the model's metadata
    bos: int | None = None  # the token to begin every prompt with, None where the model wants none
    chat_template: str = ""  # Jinja, from the model's own metadata
    # What such a template calls its tokens ("bos_token", "eos_token", …) → their text.
    template_tokens: dict[str, str] = field(default_factory=dict)


class TokenModel(Protocol):
    """A loaded model, used from one thread (but for `abort`, polled inside `forward`)."""

    vocab: VocabInfo
    context_length: int  # tokens of one sequence at most
    cache_cells: int  # KV cells shared by all sequences
    cache_bytes: int  # what they take
    max_sequences: int
    max_batch: int  # tokens of one `forward` at most, over all feeds
    can_steer: bool  # feeds may carry `steering`
    can_rewind: bool  # `trim` and `fork` work at any length (not in recurrent models)
    description: str
    model_bytes: int

    def tokenize(self, text: str) -> list[int]:
        """Tokenise plain text. Never yields a control token, whatever the text says."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes a token stands for; control tokens stand for none."""
        ...

    def forward(self, feeds: Sequence[Feed], abort: Callable[[], bool]) -> list[list[Logits]]:
        """Append each feed's tokens to its sequence.

        Returns for each feed its `outputs` logits, each of shape (vocabulary,): views that the
        next `forward` overwrites. Raises Aborted or CacheFull (re-read `length` then), or
        BackendError.
        """
        ...

    def length(self, sequence: int) -> int:
        """Return the number of tokens cached for `sequence`."""
        ...

    def trim(self, sequence: int, n: int) -> bool:
        """Keep the first `n` tokens of `sequence`; False if it can't (then `free` it)."""
        ...

    def fork(self, source: int, target: int, n: int) -> bool:
        """Make `target` (emptied first) share the first `n` tokens of `source`."""
        ...

    def snapshot(self, sequence: int) -> bytes:
        """Serialise a sequence's cells."""
        ...

    def restore(self, sequence: int, data: bytes) -> bool:
        """Replace a sequence by a snapshot; False where it does not fit this model."""
        ...

    def free(self, sequence: int) -> None:
        """Forget a sequence's cells."""
        ...

    def close(self) -> None:
        """Unload the model."""
        ...


@runtime_checkable
class Steerable(Protocol):
    """What a model with `can_steer` offers beside `TokenModel`."""

    def resolve_steering(self, uses: Sequence[SteeringUse]) -> tuple[SteeringUse, ...]:
        """Find the vectors of a request and return their uses with `version`, for its feeds.

        Raises MidspanError where one is unknown or was made for another model: here, since what
        fails in `forward` fails for every request in the batch.
        """
        ...
