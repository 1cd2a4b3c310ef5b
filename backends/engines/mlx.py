"""MLX through mlx-lm's models, on Apple's GPUs and on CPUs; with `mlx_options`, `mlx_cache` and
`mlx_steering`.

Rule: an adapter and nothing more; what to evaluate, reuse or sample is decided above the
`TokenModel` seam. Facts it rests on:
- evaluation is lazy: a pass is built in Python at once and computed layer by layer, so that
  `abort` can be polled between layers, and what nobody reads (most tokens' logits) costs nothing;
- mlx-lm reads rope's base at the top level of config.json only; transformers 5 writes it into
  `rope_parameters`, and mlx-lm then silently computes other text (see `mlx_options`);
- a model whose cache is no plain KV cache can't be cut at any length and says so in `can_rewind`.
  What a model computes from its cache is tested when it is loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from backends import cache_spec, engine_settings, hardware, memory, model_folder
from backends.backend import SteeringUse
from backends.cache_spec import ModelCacheSpec
from backends.config import ModelSettings
from backends.decoding.token_model import Aborted, CacheFull, Feed, Logits
from backends.engines import mlx_options
from backends.engines.hf_vocabulary import HfVocabulary
from backends.engines.mlx_cache import Cells, Joined, Kind
from backends.engines.mlx_steering import MlxSteering
from backends.errors import BackendError, LoadFailed, MidspanError, Unsupported
from backends.frames import Load
from backends.model_folder import FolderHeader
from backends.steering.held import Uses

logger = logging.getLogger(__name__)

MAX_SEQUENCES = 32
BATCH = 512  # tokens of one forward pass, unless the user wants another number
NARROW = 8  # tokens; evaluated in one piece, and together with other sequences'
PIECES = (8, 512)  # tokens of a piece of a longer feed, at least and at most
FIRST_PIECE = 32
POLLS = 8  # of `abort` within a piece, at most
POLL_SECONDS = 0.02  # wanted between them; a piece's length follows from it
FREED_BYTES = 128 * memory.MIB  # of freed buffers, which MLX keeps for the next pass
PROBE = range(12)  # tokens of the test at loading
PROBE_CUT = 8
PROBE_AGREES = 0.2  # of the logits' spread: sums in another order, in 16 bits, differ by up to half


def load(request: Load) -> MlxModel:
    """Load a folder of safetensors. Raises ModelFileError, Unsupported, BadRequest, LoadFailed."""
    started = time.perf_counter()
    settings = request.settings
    engine_settings.check("mlx", settings)
    device = mlx_options.device(hardware.wished_device(settings.device))
    header = model_folder.read(Path(request.path))
    mx.set_cache_limit(FREED_BYTES)
    if device.type == mx.cpu:
        # It would run a C++ compiler, and a thread's compiled functions may end the process by
        # SIGABRT where the thread and the process end at the same time.
        mx.disable_compile()
    try:
        # One for loading and for all passes, which come from different threads.
        stream = mx.new_thread_unsafe_stream(device)
        with mx.stream(stream):
            loaded = MlxModel(mlx_options.read(header, settings), header, settings, stream)
    except MidspanError:
        raise
    except Exception as exc:  # what mlx-lm makes of a configuration it does not expect
        raise LoadFailed(f"{request.name}: mlx-lm can't load it: {_reason(exc)}") from exc
    logger.info("loaded %s in %.0f ms", request.name, (time.perf_counter() - started) * 1000)
    return loaded


def _reason(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__


def next_piece(piece: int, poll_seconds: float) -> int:
    """Return how many tokens to evaluate in one piece, by the time between polls in the last."""
    least, most = PIECES
    if poll_seconds > POLL_SECONDS:
        return max(least, piece // 2)
    return min(most, piece * 2) if poll_seconds < POLL_SECONDS / 4 else piece


class MlxModel:
    """A `TokenModel` over one of mlx-lm's models."""

    max_sequences = MAX_SEQUENCES

    def __init__(
        self, model: nn.Module, header: FolderHeader, settings: ModelSettings, stream: Any
    ) -> None:
        self._model = model
        self._stream = stream
        self._piece = FIRST_PIECE
        weights = [array for _, array in tree_flatten(model.parameters())]
        self.model_bytes = sum(array.nbytes for array in weights)
        self._kind = Kind(model, mlx_options.kv_bits(settings.kv_type, weights))
        self._joins = self._kind.joins
        self.steering: MlxSteering | None = None
        cells, width = self._tested(header)
        per_cell = self._kind.learn(cells)
        context = memory.context(
            settings.context_length, header.context_length or memory.MAX_CONTEXT
        )
        self.cache_cells = memory.cells(per_cell, context)
        self.cache_bytes = self.cache_cells * per_cell
        self.context_length = min(context, self.cache_cells)
        self.max_batch = settings.batch or BATCH
        self.can_rewind = self._kind.plain
        self._sequences = [self._kind.new() for _ in range(MAX_SEQUENCES)]
        self.steering = self._steerable(header)
        self.can_steer = self.steering is not None
        self._vocabulary = HfVocabulary(header, width)
        self.vocab = self._vocabulary.info
        version, where = metadata.version("mlx-lm"), str(stream.device.type).rpartition(".")[2]
        size = self.model_bytes >> 20
        self.description = f"{header.architecture} {size} MB, mlx-lm {version} on {where}"

    @property
    def cache_spec(self) -> ModelCacheSpec:
        """What it caches of each token, by the arguments it was built with."""
        return cache_spec.from_config(vars(self._model.args))

    def _tested(self, header: FolderHeader) -> tuple[Cells, int]:
        """Return a sequence of the test's tokens, and the width of their logits.

        What comes from a cache in two steps must be what comes at once, for one sequence and for
        several. Raises LoadFailed.
        """
        tokens = list(PROBE)
        whole, parts, other = (self._kind.new() for _ in range(3))
        expected = self._logits([whole], [tokens], [1], [()])[0][0]
        self._kind.learn(whole)
        self._logits([parts], [tokens[:PROBE_CUT]], [1], [()])
        copied = self._kind.load(self._kind.dump(parts)) or self._kind.new()
        again = self._logits([copied], [tokens[PROBE_CUT:]], [1], [()])[0][0]
        if not _agree(again, expected):
            raise LoadFailed(
                f"{header.name}: mlx-lm's {header.architecture} computes other text from its cache "
                "than without. Use another engine for this model."
            )
        if self._joins:
            alone = self._logits([other], [tokens[:2]], [1], [()])[0][0]
            other = self._kind.new()
            both = [tokens[PROBE_CUT:], tokens[:2]]
            rows = self._logits([parts, other], both, [1, 1], [(), ()])
            self._joins = _agree(rows[0][0], expected) and _agree(rows[1][0], alone)
            if not self._joins:
                logger.warning("%s is evaluated one sequence at a time", header.architecture)
        return whole, len(expected)

    def _steerable(self, header: FolderHeader) -> MlxSteering | None:
        """Return what adds vectors, where the layers' states are what that expects."""
        steering = MlxSteering(getattr(self._model, "layers", ()), header)
        probe = self._kind.new()
        tried = steering.fits(lambda: self._logits([probe], [list(PROBE)], [1], [()]))
        return steering if tried else None

    # -- vocabulary ---------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Tokenise exactly `text`."""
        return self._vocabulary.tokenize(text)

    def token_bytes(self, token: int) -> bytes:
        """Return a token's bytes, none for control tokens."""
        return self._vocabulary.token_bytes(token)

    # -- evaluation ---------------------------------------------------------------------------

    def forward(self, feeds: Sequence[Feed], abort: Callable[[], bool]) -> list[list[Logits]]:
        """Append the feeds' tokens to their sequences; see `TokenModel.forward`."""
        used = sum(cells.length for cells in self._sequences)
        if used + sum(len(feed.tokens) for feed in feeds) > self.cache_cells:
            raise CacheFull
        fed = [self._sequences[feed.sequence] for feed in feeds]
        try:
            with mx.stream(self._stream):
                rest = [
                    self._prefill(cells, feed, abort)
                    for cells, feed in zip(fed, feeds, strict=True)
                ]
                if abort():
                    raise Aborted
                outputs = [feed.outputs for feed in feeds]
                return self._logits(fed, rest, outputs, [feed.steering for feed in feeds])
        except (RuntimeError, ValueError, MemoryError) as exc:
            for feed in feeds:  # nobody knows what they hold
                self.free(feed.sequence)
            raise BackendError(f"mlx failed: {_reason(exc)}") from exc

    def _prefill(self, cells: Cells, feed: Feed, abort: Callable[[], bool]) -> list[int]:
        """Append all tokens of a long feed but those that logits are wanted of; return these."""
        tokens = list(feed.tokens)
        short = len(tokens) <= max(NARROW, feed.outputs)
        todo, rest = ([], tokens) if short else (tokens[: -feed.outputs], tokens[-feed.outputs :])
        while todo:
            piece, todo = todo[: self._piece], todo[self._piece :]
            started = time.perf_counter()
            polls = self._append(cells, piece, feed.steering, abort)
            if len(piece) == self._piece:
                poll_seconds = (time.perf_counter() - started) / polls
                self._piece = next_piece(self._piece, poll_seconds)
        return rest

    def _append(
        self, cells: Cells, tokens: Sequence[int], uses: Uses, abort: Callable[[], bool]
    ) -> int:
        """Evaluate `tokens` layer by layer, all of them or none. Returns how often it polled."""
        # Kept as it is: for a piece of this length, copying what there was is a small part.
        before = cells.first(cells.length) if self._kind.plain else None
        parts = POLLS if before else 1
        step = -(-len(cells.caches) // parts)
        if abort():
            raise Aborted
        self._pass([list(tokens)], cells.caches, [uses])
        groups = [cells.caches[i : i + step] for i in range(0, len(cells.caches), step)]
        for group in groups:
            if before and abort():
                cells.caches = before.caches
                raise Aborted
            mx.eval([cache.state for cache in group])
        cells.length += len(tokens)
        return len(groups)

    def _pass(
        self, rows: list[list[int]], caches: Sequence[Any], steering: Sequence[Uses]
    ) -> mx.array:
        """Build one pass over rows of tokens; return their logits, not yet computed."""
        chosen = self.steering if any(steering) else None
        with chosen.applied(steering) if chosen else nullcontext():
            logits: mx.array = self._model(mx.array(rows), cache=caches)
        return logits

    def _logits(
        self,
        sequences: Sequence[Cells],
        tokens: Sequence[list[int]],
        outputs: Sequence[int],
        steering: Sequence[Uses],
    ) -> list[list[Logits]]:
        """Append each sequence's tokens; return the logits after its last `outputs`."""
        if self._joins and len(sequences) > 1:
            given = self._together(sequences, tokens, steering)
        else:
            given = [
                self._pass([own], cells.caches, [uses])[0]
                for cells, own, uses in zip(sequences, tokens, steering, strict=True)
            ]
        wanted = [
            rows[len(own) - n : len(own)].astype(mx.float32)
            for rows, own, n in zip(given, tokens, outputs, strict=True)
        ]
        mx.eval(wanted, [cache.state for cells in sequences for cache in cells.caches])
        for cells, own in zip(sequences, tokens, strict=True):
            cells.length += len(own)
        return [list(np.array(rows, copy=False)) for rows in wanted]

    def _together(
        self,
        sequences: Sequence[Cells],
        tokens: Sequence[list[int]],
        steering: Sequence[Uses],
    ) -> list[mx.array]:
        """Return each sequence's logits from one pass, with rows of padding at the end."""
        lengths = [len(own) for own in tokens]
        rows = [own + [own[-1]] * (max(lengths) - len(own)) for own in tokens]
        layers = zip(*(cells.caches for cells in sequences), strict=True)
        return list(self._pass(rows, [Joined(layer, lengths) for layer in layers], steering))

    def resolve_steering(self, uses: Sequence[SteeringUse]) -> Uses:
        """Find a request's vectors; see `Steerable`."""
        if self.steering is None:
            raise Unsupported(f"{self.description} can't be steered.")
        return self.steering.resolve(uses)

    # -- sequences ----------------------------------------------------------------------------

    def length(self, sequence: int) -> int:
        """Return the number of cached tokens."""
        return self._sequences[sequence].length

    def trim(self, sequence: int, n: int) -> bool:
        """Keep the first `n` tokens."""
        cells = self._sequences[sequence]
        if n >= cells.length:
            return n == cells.length
        if self._kind.plain:
            cells.trim(n)
        return self._kind.plain

    def fork(self, source: int, target: int, n: int) -> bool:
        """Share the first `n` cells of `source` with `target`, until one of them is written to."""
        self.free(target)
        if not self._kind.plain or n > self.length(source):
            return False
        self._sequences[target] = self._sequences[source].first(n)
        return True

    def snapshot(self, sequence: int) -> bytes:
        """Copy a sequence's cells out."""
        return self._kind.dump(self._sequences[sequence])

    def restore(self, sequence: int, data: bytes) -> bool:
        """Replace a sequence's cells by a snapshot."""
        self.free(sequence)
        cells = self._kind.load(data)
        used = sum(cells.length for cells in self._sequences)
        if cells is None or used + cells.length > self.cache_cells:
            return False
        self._sequences[sequence] = cells
        return True

    def free(self, sequence: int) -> None:
        """Forget a sequence."""
        self._sequences[sequence] = self._kind.new()

    def close(self) -> None:
        """Forget the weights and all sequences."""
        self._sequences.clear()
        del self._model, self._kind, self.steering
        mx.clear_cache()


def _agree(logits: Logits, expected: Logits) -> bool:
    return bool(np.abs(logits - expected).max() <= PROBE_AGREES * expected.std())
