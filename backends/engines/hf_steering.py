"""Steering vectors in a transformers model: added to the states that decoder layers put out.

Rule: hooks are there for one pass and on the layers that it needs, and gone however it ends; only
the rows of tokens that carry steering are changed. What the vectors are and where they are kept is
`backends.steering`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backends import catalogue
from backends.backend import SteeringUse
from backends.engines.hf_cells import Work
from backends.errors import Unsupported
from backends.model_folder import FolderHeader
from backends.steering.library import Library, check_model
from backends.steering.vector_file import ModelIdentity, Vector

States = npt.NDArray[np.float32]  # shape (tokens, hidden size)


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


class HfSteering:
    """The vectors that a model's requests use, and the hooks that add them."""

    def __init__(self, layers: Sequence[Any], header: FolderHeader) -> None:
        self._layers = layers
        self._header = header
        # Requests under way go on with what they began with; a vector is a few KB.
        self._held: dict[tuple[str, str], tuple[int, Tensor]] = {}

    @cached_property
    def model(self) -> ModelIdentity:
        """What vectors must have been made for. Raises ModelFileError."""
        header = self._header
        fingerprint = catalogue.sample(header.path)
        return ModelIdentity(
            header.name,
            header.architecture,
            header.embedding_length,
            len(self._layers),
            fingerprint,
        )

    def resolve(self, uses: Sequence[SteeringUse]) -> tuple[SteeringUse, ...]:
        """See `Steerable.resolve_steering`."""
        library = Library()
        found = []
        for use in uses:
            vector, version = library.load(use.name)
            if (use.name, version) not in self._held:
                self.hold(vector, version)
            found.append(SteeringUse(use.name, use.coefficient, version))
        return tuple(found)

    def hold(self, vector: Vector, version: str) -> None:
        """Take a vector for feeds that name it with this version. Raises Unsupported."""
        check_model(vector, self.model)
        values = torch.frombuffer(bytearray(vector.values), dtype=torch.float32)
        self._held[vector.name, version] = vector.layer, values

    @contextmanager
    def applied(
        self, works: Sequence[Work], steering: Sequence[tuple[SteeringUse, ...]]
    ) -> Iterator[None]:
        """Add to the states of each work's tokens, which are packed in this order, what it uses.

        Raises Unsupported for what was not resolved.
        """
        with ExitStack() as stack:
            for layer, added in self._by_layer(works, steering).items():
                handle = self._layers[layer].register_forward_hook(_adding(added))
                stack.callback(handle.remove)
            yield

    def _by_layer(
        self, works: Sequence[Work], steering: Sequence[tuple[SteeringUse, ...]]
    ) -> dict[int, list[tuple[slice, Tensor]]]:
        """Return by layer what is added to which rows."""
        found: dict[int, list[tuple[slice, Tensor]]] = {}
        first = 0
        for work, uses in zip(works, steering, strict=True):
            rows = slice(first, first + len(work.tokens))
            first = rows.stop
            sums: dict[int, Tensor] = {}
            for use in uses:
                if (use.name, use.version) not in self._held:
                    raise Unsupported(f"The steering vector {use.name!r} is not loaded.")
                layer, values = self._held[use.name, use.version]
                sums[layer] = sums.get(layer, 0) + use.coefficient * values
            for layer, total in sums.items():
                found.setdefault(layer, []).append((rows, total))
        return found

    @contextmanager
    def recorded(self, layer: int) -> Iterator[list[States]]:
        """Collect the states that a layer puts out, an array for each pass."""
        passes: list[States] = []

        def record(_module: object, _inputs: object, output: Any) -> None:
            passes.append(_states(output)[0].float().cpu().numpy().copy())

        handle = self._layers[layer].register_forward_hook(record)
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
