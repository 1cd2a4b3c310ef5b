"""The vectors that a loaded model's requests use: found, checked and kept, whatever runs the model.

Rule: numbers and names. Must not know how a runtime adds them to its states.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from backends import catalogue
from backends.backend import SteeringUse
from backends.errors import Unsupported
from backends.model_folder import FolderHeader
from backends.steering.library import Library, check_model
from backends.steering.vector_file import ModelIdentity, Vector

States = npt.NDArray[np.float32]  # shape (tokens, hidden size)
Values = npt.NDArray[np.float32]  # shape (hidden size,)
Uses = tuple[SteeringUse, ...]

ENGINES: Final = ("transformers", "mlx")  # those that can add them


class Held:
    """The vectors of one model of `layers` decoder layers."""

    def __init__(self, header: FolderHeader, layers: int) -> None:
        self._header = header
        self._layers = layers
        # Requests under way go on with what they began with; a vector is a few KB.
        self._held: dict[tuple[str, str], tuple[int, Values]] = {}

    @cached_property
    def model(self) -> ModelIdentity:
        """What vectors must have been made for. Raises ModelFileError."""
        header = self._header
        fingerprint = catalogue.sample(header.path)
        return ModelIdentity(
            header.name, header.architecture, header.embedding_length, self._layers, fingerprint
        )

    def resolve(self, uses: Sequence[SteeringUse]) -> Uses:
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
        self._held[vector.name, version] = vector.layer, np.frombuffer(vector.values, "<f4")

    def sums(self, uses: Uses) -> dict[int, Values]:
        """Return by layer what `uses` add to a state. Raises Unsupported for unresolved ones."""
        found: dict[int, Values] = {}
        for use in uses:
            if (use.name, use.version) not in self._held:
                raise Unsupported(f"The steering vector {use.name!r} is not loaded.")
            layer, values = self._held[use.name, use.version]
            added = np.float32(use.coefficient) * values
            found[layer] = found[layer] + added if layer in found else added
        return found
