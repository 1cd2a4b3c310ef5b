"""One forward pass over tokens of several sequences, packed into one row: attention over own cells.

Rule: transformers computes a pass as if its tokens were one sequence; only attention must know
better. It is replaced by a function that, for each sequence, writes the new keys and values to its
cells and calls the model's own attention over them, with the mask that belongs there. So batching
costs no padding, and what a sequence gets does not depend on who else is in the pass. Knows nothing
of tokens, prompts or when a sequence ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface, Cache, PreTrainedConfig
from transformers.cache_utils import get_layer_types_and_kwargs

from backends.engines.hf_cells import Codec, Sequences, Storage, Work

NAME: Final = "midspan"  # of the attention function, as transformers looks it up


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one sequence in a pass: `start` cells are held, `stop - first` tokens come."""

    sequence: int
    storage: Storage
    start: int
    first: int  # rows of the pass, first to stop
    stop: int

    @property
    def end(self) -> int:
        """Return the cells held after the pass."""
        return self.start + self.stop - self.first


@dataclass(frozen=True, slots=True)
class Packed:
    """A pass: its segments, and how attention is computed."""

    segments: Sequence[Segment]
    attention: Attention


@dataclass(frozen=True, slots=True)
class Attention:
    """How one model's attention is computed: by which function, how far back, in which cells."""

    function: Callable[..., tuple[Tensor, Any]] | None  # None: the module's own, "eager"
    adds_mask: bool  # the function adds its mask; otherwise true means "attend"
    makes_mask: bool  # it knows causality and windows by itself
    windows: tuple[int | None, ...]  # by layer
    codec: Codec

    def __call__(
        self, module: Any, segment: Segment, states: tuple[Tensor, Tensor, Tensor], options: Any
    ) -> Tensor:
        """Return (1, tokens, heads, width) for a segment's (1, heads, tokens, width)."""
        query, keys, values = states
        layer, window = module.layer_idx, self.windows[module.layer_idx]
        new = [*self.codec.encode(keys[0]), *self.codec.encode(values[0])]
        segment.storage.write(layer, segment.start, new)
        begin = 0 if window is None else max(0, segment.start - window + 1)
        held = segment.storage.read(layer, begin, segment.end)
        all_keys, all_values = (self.codec.decode(planes).unsqueeze(0) for planes in held)
        mask = None if self.makes_mask else self._mask(query, segment, begin, window)
        function = self.function or _own(module)
        output, _ = function(module, query, all_keys, all_values, mask, **options)
        return output

    def _mask(
        self, query: Tensor, segment: Segment, begin: int, window: int | None
    ) -> Tensor | None:
        """Return who sees whom, of shape (1, 1, tokens, cells); None where plainly all do.

        Without a mask the functions take many tokens after none for causal.
        """
        tokens = segment.stop - segment.first
        narrow = window is not None and segment.end - begin > window
        if not narrow and (tokens == 1 or (segment.start == 0 and not self.adds_mask)):
            return None
        rows = torch.arange(segment.start, segment.end, device=query.device)[:, None]
        cells = torch.arange(begin, segment.end, device=query.device)
        seen = cells <= rows
        if window is not None:
            seen &= cells > rows - window
        if self.adds_mask:
            least = torch.finfo(query.dtype).min
            return torch.zeros_like(seen, dtype=query.dtype).masked_fill(~seen, least)[None, None]
        return seen[None, None]


# Attention functions get no argument of ours from most models.
_packed: ContextVar[Packed] = ContextVar("packed")
# What transformers passes on for models that see one sequence.
_FOREIGN: Final = frozenset({"position_ids", "attention_mask", "cache_position", "use_cache"})


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: object, **options: Any
) -> tuple[Tensor, None]:
    packed = _packed.get()
    options = {name: option for name, option in options.items() if name not in _FOREIGN}
    outputs = []
    for segment in packed.segments:
        states = (
            query[:, :, segment.first : segment.stop],
            key[:, :, segment.first : segment.stop],
            value[:, :, segment.first : segment.stop],
        )
        outputs.append(packed.attention(module, segment, states, options))
    return torch.cat(outputs, dim=1), None


# No mask function goes with it: transformers then makes no masks at all.
AttentionInterface.register(NAME, _attend)


class NewOnly(Cache):  # type: ignore[misc]
    """What models take for a cache: it hands back what it gets, `_attend` does the rest."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the new states alone."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions are given."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return sizes of the pass alone."""
        return query_length, 0


class PackedTexts(Sequences):
    """The sequences of a model whose attention is ours, and its passes over them."""

    can_rewind = True
    max_sequences = 32

    def __init__(self, attention: Attention, device: Any) -> None:
        super().__init__()
        self.attention = attention
        self._device = device

    def run(self, works: Sequence[Work], model: Callable[..., Any]) -> Tensor:
        """Evaluate texts together; return the rows asked for: (rows, vocabulary)."""
        segments: list[Segment] = []
        ids: list[int] = []
        rows: list[int] = []
        for work in works:
            storage = self.begin(work.sequence, len(work.tokens))
            first = len(ids)
            ids.extend(work.tokens)
            start = self.length(work.sequence)
            segments.append(Segment(work.sequence, storage, start, first, len(ids)))
            rows.extend(range(len(ids) - work.wanted, len(ids)))
        try:
            logits = self._run(segments, model, ids, rows)
            for segment in segments:
                self.commit(segment.sequence, segment.stop - segment.first)
        finally:
            for segment in segments:
                self.end(segment.sequence)
        return logits

    def _run(
        self, segments: list[Segment], model: Callable[..., Any], ids: list[int], rows: list[int]
    ) -> Tensor:
        device = self._device
        positions = [torch.arange(one.start, one.end, device=device) for one in segments]
        token = _packed.set(Packed(segments, self.attention))
        try:
            output = model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.cat(positions)[None],
                past_key_values=NewOnly(),
                use_cache=True,
                logits_to_keep=torch.tensor(rows, device=device, dtype=torch.long),
            )
        finally:
            _packed.reset(token)
        logits: Tensor = output.logits[0]
        return logits


def windows(config: PreTrainedConfig) -> tuple[int | None, ...] | None:
    """Return by layer how many tokens it sees, itself included, None for all of them.

    Returns None where a layer is of another kind: recurrent, chunked, sharing others' keys.
    """
    text = config.get_text_config(decoder=True)
    kinds, options = get_layer_types_and_kwargs(text)
    if set(kinds) - {"full_attention", "sliding_attention"}:
        return None
    return tuple(option.get("sliding_window") for option in options)


def _own(module: Any) -> Callable[..., tuple[Tensor, Any]]:
    """Return the "eager" attention of the file that the module's class stands in."""
    function: Callable[..., tuple[Tensor, Any]]
    function = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    return function
