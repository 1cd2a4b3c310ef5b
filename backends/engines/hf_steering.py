"""Steering vectors in a transformers model: added to the states that decoder layers put out.

Rule: hooks are there for one pass and on the layers that it needs, and gone however it ends; only
the rows of tokens that carry steering are changed. What the vectors are and where they are kept is
`backends.steering`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from backends.engines.hf_cells import Work
from backends.model_folder import FolderHeader
from backends.steering.held import Held, States, Uses


def decoder_layers(module: Any) -> Sequence[Any]:
    """Return a model's decoder layers in order; none where they are not to be found."""
    text = module.config.get_text_config(decoder=True)
    count = getattr(text, "num_hidden_layers", 0)
    lists = [
        (name.count("."), part)
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == count
    ]
    return min(lists, key=lambda found: found[0])[1] if lists else ()


class HfSteering(Held):
    """The vectors that a model's requests use, and the hooks that add them."""

    def __init__(self, layers: Sequence[Any], header: FolderHeader) -> None:
        super().__init__(header, len(layers))
        self._modules = layers

    @contextmanager
    def applied(self, works: Sequence[Work], steering: Sequence[Uses]) -> Iterator[None]:
        """Add to the states of each work's tokens, which are packed in this order, what it uses.

        Raises Unsupported for what was not resolved.
        """
        with ExitStack() as stack:
            for layer, added in self._by_layer(works, steering).items():
                handle = self._modules[layer].register_forward_hook(_adding(added))
                stack.callback(handle.remove)
            yield

    def _by_layer(
        self, works: Sequence[Work], steering: Sequence[Uses]
    ) -> dict[int, list[tuple[slice, Tensor]]]:
        """Return by layer what is added to which rows."""
        found: dict[int, list[tuple[slice, Tensor]]] = {}
        first = 0
        for work, uses in zip(works, steering, strict=True):
            rows = slice(first, first + len(work.tokens))
            first = rows.stop
            for layer, total in self.sums(uses).items():
                found.setdefault(layer, []).append((rows, torch.from_numpy(total)))
        return found

    @contextmanager
    def recorded(self, layer: int) -> Iterator[list[States]]:
        """Collect the states that a layer puts out, an array for each pass."""
        passes: list[States] = []

        def record(_module: object, _inputs: object, output: Any) -> None:
            passes.append(_states(output)[0].float().cpu().numpy().copy())

        handle = self._modules[layer].register_forward_hook(record)
        try:
            yield passes
        finally:
            handle.remove()


def _states(output: Any) -> Tensor:
    """Return the hidden states, (1, tokens, hidden size), among what a layer puts out."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _adding(added: list[tuple[slice, Tensor]]) -> Callable[[object, object, Any], Any]:
    def add(_module: object, _inputs: object, output: Any) -> Any:
        states = _states(output).clone()  # the layer may go on using its own
        for rows, total in added:
            states[0, rows] += total.to(states)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return add
