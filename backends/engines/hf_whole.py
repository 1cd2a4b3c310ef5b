"""Texts of models that keep more than keys and values: recurrent states, filters, chunks.

Rule: each sequence has a cache of transformers' own making, which only ever goes forward, one text
at a time. What a pass has half changed is put back when the pass is given up. A state can't be cut
to fewer tokens, so nothing is forked or trimmed: `TokenModel.can_rewind` is false.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from transformers import DynamicCache

from backends.engines.hf_cells import Work

# Replaced at each pass, never changed in place: a reference is a copy.
_GROWING: Final = frozenset({"keys", "values", "indexer_keys"})
_TOKENS: Final = "tokens"


@dataclass(slots=True)
class _Text:
    cache: Any
    length: int = 0


class WholeTexts:
    """The sequences of a model that can't go back, and its passes over them."""

    can_rewind = False
    max_sequences = 8  # a state may take as much as thousands of cells

    def __init__(self, config: Any, device: Any) -> None:
        self._config = config
        self._device = device
        self._texts: dict[int, _Text] = {}
        self._pattern: Any = None  # a cache as a pass leaves it

    # -- evaluation ---------------------------------------------------------------------------

    def run(self, works: Sequence[Work], model: Callable[..., Any]) -> Tensor:
        """Evaluate texts one after the other; return the rows asked for: (rows, vocabulary)."""
        return torch.cat([self._one(work, model) for work in works])

    def _one(self, work: Work, model: Callable[..., Any]) -> Tensor:
        text = self._texts.setdefault(work.sequence, _Text(DynamicCache(config=self._config)))
        before = _copied(text.cache)
        n = len(work.tokens)
        try:
            output = model(
                input_ids=torch.tensor([list(work.tokens)], device=self._device),
                position_ids=torch.arange(text.length, text.length + n, device=self._device)[None],
                past_key_values=text.cache,
                use_cache=True,
                logits_to_keep=torch.arange(n - work.wanted, n, device=self._device),
            )
        except BaseException:
            text.cache = before
            raise
        text.length += n
        logits: Tensor = output.logits[0]
        return logits

    # -- sequences ----------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Return the tokens of all sequences."""
        return sum(text.length for text in self._texts.values())

    def length(self, sequence: int) -> int:
        """Return the tokens of a sequence."""
        text = self._texts.get(sequence)
        return text.length if text else 0

    def trim(self, sequence: int, n: int) -> bool:
        """Return whether nothing had to be cut."""
        return n == self.length(sequence)

    def fork(self, source: int, target: int, n: int) -> bool:
        """Return False."""
        return False

    def free(self, sequence: int) -> None:
        """Forget a sequence."""
        self._texts.pop(sequence, None)

    def learn(self, sequence: int) -> tuple[int, int]:
        """Take a sequence as the pattern of all; return the bytes of a token, and of a state."""
        text = self._texts[sequence]
        self._pattern = _copied(text.cache)
        growing, fixed = 0, 0
        for name, tensor in _tensors(self._pattern):
            if _grows(name):
                growing += tensor.numel() * tensor.itemsize
            else:
                fixed += tensor.numel() * tensor.itemsize
        return growing // text.length, fixed

    def snapshot(self, sequence: int) -> bytes:
        """Copy a sequence's state out, in the safetensors format."""
        text = self._texts.get(sequence)
        if text is None:
            return b""
        tensors = {name: tensor.contiguous() for name, tensor in _tensors(text.cache)}
        tensors[_TOKENS] = torch.tensor([text.length])
        return bytes(safetensors.torch.save(tensors))

    def restore(self, sequence: int, data: bytes, room: int) -> bool:
        """Replace a sequence by a snapshot of at most `room` tokens; False if it fits no other."""
        self.free(sequence)
        try:
            found = safetensors.torch.load(data)
        except (safetensors.SafetensorError, ValueError):
            return False  # torn, or no snapshot at all
        pattern = dict(_tensors(self._pattern))
        tokens = found.pop(_TOKENS, None)
        if tokens is None or tokens.shape != (1,) or found.keys() != pattern.keys():
            return False
        length = int(tokens)
        if not 0 < length <= room or not all(_fits(n, found[n], pattern[n]) for n in pattern):
            return False
        cache = _copied(self._pattern)
        for name, tensor in found.items():
            _put(cache, name, tensor.to(pattern[name].device))
        for layer in cache.layers:
            if hasattr(layer, "cumulative_length"):  # of a window: it goes on counting
                layer.cumulative_length = length
        self._texts[sequence] = _Text(cache, length)
        return True


def _copied(cache: Any) -> Any:
    """Return a cache that a pass over `cache` does not change."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        for name, value in vars(layer).items():
            if isinstance(value, dict):
                setattr(layer, name, {key: _own(name, one) for key, one in value.items()})
            else:
                setattr(layer, name, _own(name, value))
    return new


def _own(name: str, value: Any) -> Any:
    changes = isinstance(value, Tensor) and name not in _GROWING
    return value.clone() if changes else value


def _tensors(cache: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield "layer.attribute" or "layer.attribute.key" and the tensor there."""
    for i, layer in enumerate(cache.layers):
        for name, value in sorted(vars(layer).items()):
            if name.startswith("_"):
                continue
            for key, one in value.items() if isinstance(value, dict) else (("", value),):
                if isinstance(one, Tensor):
                    yield f"{i}.{name}" + (f".{key}" if key != "" else ""), one


def _put(cache: Any, name: str, tensor: Tensor) -> None:
    layer, attribute, *key = name.split(".")
    place = cache.layers[int(layer)]
    if key:
        getattr(place, attribute)[int(key[0])] = tensor
    else:
        setattr(place, attribute, tensor)


def _grows(name: str) -> bool:
    return name.split(".")[1] in _GROWING


def _fits(name: str, tensor: Tensor, pattern: Tensor) -> bool:
    """Whether a tensor is of the pattern's kind: growing ones may have another length."""
    if tensor.dtype != pattern.dtype or tensor.dim() != pattern.dim():
        return False
    pairs = zip(tensor.shape, pattern.shape, strict=True)
    other = [i for i, (left, right) in enumerate(pairs) if left != right]
    return not other or (_grows(name) and other == [tensor.dim() - 2])
