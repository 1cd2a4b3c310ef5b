"""Steering vectors in one of mlx-lm's models: added to the states that decoder layers put out.

Rule: a layer adds only while a pass is built, and is what it was however that ends; the rows of
sequences that carry no steering keep their bits. MLX has no hooks, and models hand out copies of
their list of layers: so it is the layer's class that is another one for the time of a pass. What
the vectors are and where they are kept is `backends.steering`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from backends.model_folder import FolderHeader
from backends.steering.held import Held, States, Uses

Change = Callable[[mx.array], mx.array]  # of states of shape (sequences, tokens, hidden size)


class MlxSteering(Held):
    """The vectors that a model's requests use, and what adds them."""

    def __init__(self, layers: Sequence[nn.Module], header: FolderHeader) -> None:
        super().__init__(header, len(layers))
        self._modules = layers
        self._width = header.embedding_length

    def fits(self, run: Callable[[], object]) -> bool:
        """Whether every layer puts out states once in a pass, which `run` makes, of one sequence
        of several tokens."""
        passes: list[list[States]] = []
        with ExitStack() as stack:
            for layer in range(len(self._modules)):
                passes.append(stack.enter_context(self.recorded(layer)))
            try:
                run()
            except (TypeError, ValueError, AttributeError, RuntimeError):
                return False  # a layer that is called in another way
        return bool(passes) and all(
            len(own) == 1 and own[0].ndim == 2 and own[0].shape[1] == self._width for own in passes
        )

    @contextmanager
    def applied(self, steering: Sequence[Uses]) -> Iterator[None]:
        """Add to the states of each sequence of a pass what it uses.

        Raises Unsupported for what was not resolved.
        """
        totals = [self.sums(uses) for uses in steering]
        with ExitStack() as stack:
            for layer in {layer for own in totals for layer in own}:
                rows = [own.get(layer) for own in totals]
                stack.enter_context(_changed(self._modules[layer], _adding(rows, self._width)))
            yield

    @contextmanager
    def recorded(self, layer: int) -> Iterator[list[States]]:
        """Collect the states that a layer puts out, an array for each pass of one sequence."""
        passes: list[States] = []

        def record(states: mx.array) -> mx.array:
            passes.append(np.array(states[0].astype(mx.float32)))
            return states

        with _changed(self._modules[layer], record):
            yield passes


def _adding(rows: Sequence[Any], width: int) -> Change:
    """Return what adds to each sequence its own, or nothing where that is None."""
    steered = mx.array([own is not None for own in rows])[:, None, None]
    added = np.stack([np.zeros(width, np.float32) if own is None else own for own in rows])
    totals = mx.array(added)[:, None, :]

    def add(states: mx.array) -> mx.array:
        # Not a sum with zeros, which makes 0.0 of -0.0.
        return mx.where(steered, states + totals.astype(states.dtype), states)

    return add


@contextmanager
def _changed(layer: nn.Module, change: Change) -> Iterator[None]:
    """Have `layer` put out its states changed."""
    kind = type(layer)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = kind.__call__(self, *args, **kwargs)
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    layer.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    try:
        yield
    finally:
        layer.__class__ = kind
