"""Picking a token from logits: greedy or sampled, optionally among a few allowed tokens.

Rule: pure functions over numpy arrays; no Python loop ever runs over a vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backends.backend import Sampling
from backends.decoding.token_model import Logits

TokenIds = npt.NDArray[np.int32]


def pick(
    logits: Logits, sampling: Sampling, rng: np.random.Generator, allowed: TokenIds | None = None
) -> int:
    """Return a token id for `logits` of shape (vocabulary,).

    With `allowed` (not empty) only those ids compete; their relative probabilities are unchanged.
    """
    scores = logits if allowed is None else logits[allowed]
    index = int(np.argmax(scores)) if sampling.temperature <= 0 else _sample(scores, sampling, rng)
    return index if allowed is None else int(allowed[index])


def _sample(scores: Logits, sampling: Sampling, rng: np.random.Generator) -> int:
    """Top-k, then top-p and min-p, then temperature, in llama.cpp's order."""
    count = len(scores)
    k = min(sampling.top_k, count) if sampling.top_k > 0 else count
    top = np.argpartition(scores, count - k)[count - k :] if k < count else np.arange(count)
    top = top[np.argsort(scores[top])[::-1]]
    probabilities = _softmax(scores[top].astype(np.float64))
    if sampling.top_p < 1:
        # The token that crosses top_p is kept, so at least one always is.
        keep = int(np.searchsorted(np.cumsum(probabilities), sampling.top_p)) + 1
        top, probabilities = top[:keep], probabilities[:keep]
    if sampling.min_p > 0:
        likely = probabilities >= sampling.min_p * probabilities[0]
        top = top[likely]
    weights = _softmax(scores[top].astype(np.float64) / sampling.temperature)
    return int(
        top[
            int(
                np.searchsorted(np.cumsum(weights), rng.random(), side="right").clip(
                    0, len(top) - 1
                )
            )
        ]
    )


def _softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    exps = np.exp(values - values.max())
    result: npt.NDArray[np.float64] = exps / exps.sum()
    return result
