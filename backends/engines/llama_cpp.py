"""llama.cpp through llama-cpp-python's low-level API; `llama_cpp_options` is the other half.

Rule: an adapter and nothing more; what to evaluate, reuse or sample is decided above the
`TokenModel` seam. Facts it rests on:
- one context, unified KV, many sequences: any sequence can use any free cell, and `seq_cp` shares
  cells instead of copying them;
- an aborted decode returns 2 and keeps the micro-batches that were finished;
- on CPUs with AMX some compilers' builds crash when weights are repacked
  (ggml-org/llama.cpp#20824); `safe_mode` loads without repacking. The manager turns it on after a
  crash in warm-up.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import msgspec
import numpy as np

from backends import auto_config, cache_spec, engine_settings, gguf_parts, hardware, memory
from backends.auto_config import Shape
from backends.cache_spec import ModelCacheSpec
from backends.config import ModelSettings
from backends.decoding.token_model import Aborted, CacheFull, Feed, Logits, VocabInfo
from backends.engines.llama_cpp_options import MAX_SEQUENCES, context_params, model_params
from backends.errors import BackendError, LoadFailed, MidspanError
from backends.frames import Load
from backends.hardware import Hardware
from fim.prompt import apart

logger = logging.getLogger(__name__)

NARROW_BATCH = 16  # tokens; a draft to verify, or the next token of several documents
SMALL_MODEL_BYTES = 64 * 1024 * 1024

_ATTR_CONTROL = 1 << 3  # llama.h: LLAMA_TOKEN_ATTR_CONTROL
_ATTR_USER_DEFINED = 1 << 4
_GUARD = "☺"
_FIM_TOKENS = ("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")
_ABORTED = 2
_NO_SLOT = 1

_LEVEL_DEBUG = 1  # ggml.h: GGML_LOG_LEVEL_DEBUG, a line for each node of the graph
_LEVEL_WARNING = 3
_LEVEL_ERROR = 4


class _Log:
    """llama.cpp's own log: to debug, with the first error kept for messages to the user.

    The first has the cause; those after it say that what needed it failed too. The log's account
    of the model, the devices and the memory is passed on where `verbose`.
    """

    def __init__(self) -> None:
        self.first_error = ""
        self.verbose = False
        self.callback = llama.llama_log_callback(self._line)

    def _line(self, level: int, text: bytes, _data: object) -> None:
        line = text.decode("utf-8", "replace").strip()
        if level == _LEVEL_ERROR and not self.first_error:
            self.first_error = line
        wanted = level != _LEVEL_DEBUG if self.verbose else level in (_LEVEL_WARNING, _LEVEL_ERROR)
        if line and wanted:
            logger.debug("llama.cpp: %s", line)


_log = _Log()


def load(request: Load) -> LlamaCppModel:
    """Load a GGUF. Raises LoadFailed with llama.cpp's own reason, Unsupported, BadRequest."""
    device = hardware.wished_device(request.settings.device)
    request = msgspec.structs.replace(request, settings=replace(request.settings, device=device))
    engine_settings.check("llama-cpp", request.settings)
    llama.llama_log_set(_log.callback, ctypes.c_void_p(0))
    _log.verbose = request.settings.verbose
    llama.llama_backend_init()
    offload = bool(llama.llama_supports_gpu_offload())
    machine = hardware.detect(hardware.run if offload else hardware.run_nothing)
    _log.first_error = ""
    started = time.perf_counter()
    model = _load_weights(request, machine, offload=offload)
    try:
        spec = _cache_spec(model, Path(request.path))
        size, trained = llama.llama_model_size(model), llama.llama_model_n_ctx_train(model)
        settings = _configured(machine, Shape(size, trained, spec), request, offload=offload)
        request = msgspec.structs.replace(request, settings=settings)
        context, cells = _context(model, spec, request)
    except MidspanError:
        llama.llama_model_free(model)
        raise
    logger.info("loaded %s in %.0f ms", request.name, (time.perf_counter() - started) * 1000)
    return LlamaCppModel(model, context, cells, spec, request)


def _load_weights(request: Load, machine: Hardware, *, offload: bool) -> Any:
    settings = request.settings
    path = Path(request.path)
    if offload:  # which layers go to the GPU is decided before any is loaded
        header = gguf_parts.read(path)
        shape = Shape(header.file_bytes, header.context_length, cache_spec.from_gguf(header))
        settings = _configured(machine, shape, request, offload=True)
    params = model_params(settings, safe_mode=request.safe_mode, offload=offload)
    model = llama.llama_model_load_from_file(os.fsencode(request.path), params)
    if not model:
        raise LoadFailed(f"{path.name}: {_log.first_error or 'llama.cpp refused it'}")
    return model


def _configured(machine: Hardware, shape: Shape, request: Load, *, offload: bool) -> ModelSettings:
    """Return the model's settings with what the user left open, and log why."""
    choices = auto_config.configure(machine, shape, request.settings, offload=offload)
    for choice in choices:
        logger.debug("%s: %s = %s: %s", request.name, choice.name, choice.value, choice.reason)
    # No device of its own choosing: a model may be spread over all that there are.
    return replace(auto_config.apply(request.settings, choices), device=request.settings.device)


def _context(model: Any, spec: ModelCacheSpec, request: Load) -> tuple[Any, int]:
    """Make the context, a smaller one where there is no memory; return it and its cells.

    Raises LoadFailed where there is none for that either.
    """
    settings = request.settings
    trained = llama.llama_model_n_ctx_train(model)
    per_cell = memory.cell_bytes(spec, settings.kv_type)
    wanted = memory.cells(per_cell, memory.context(settings.context_length, trained))
    threads = _threads(model, request)
    _log.first_error = ""
    for cells in (wanted, memory.fewer_cells(wanted)):
        params = context_params(settings, cells)
        params.n_threads, params.n_threads_batch = threads
        if context := llama.llama_init_from_model(model, params):
            return context, cells
        logger.warning("%s: no memory for a context of %d tokens", request.name, cells)
    raise LoadFailed(
        f"There is no memory for a context of {wanted} tokens, nor for one of {cells}: "
        f"{_log.first_error or 'llama.cpp gave no reason'}. Close other programs, or choose a "
        "smaller model."
    )


def _cache_spec(model: Any, path: Path) -> ModelCacheSpec:
    """Return what the loaded model caches, by its own metadata.

    The runtime keeps no arrays: where numbers may differ by layer, the file is asked.
    """
    metadata = _scalars(model)
    architecture = metadata.get("general.architecture", "")
    plain = f"{architecture}.attention.head_count_kv" in metadata
    if not plain or f"{architecture}.attention.sliding_window" in metadata:
        return cache_spec.from_gguf(gguf_parts.read(path))
    return cache_spec.from_metadata(metadata)


def _scalars(model: Any) -> dict[str, int | str]:
    """Return the metadata that the runtime holds, whole numbers as such."""
    buffer = ctypes.create_string_buffer(256)
    found: dict[str, int | str] = {}
    for index in range(llama.llama_model_meta_count(model)):
        llama.llama_model_meta_key_by_index(model, index, buffer, len(buffer))
        key = buffer.value.decode("utf-8", "replace")
        llama.llama_model_meta_val_str_by_index(model, index, buffer, len(buffer))
        value = buffer.value.decode("utf-8", "replace")
        found[key] = int(value) if value.isascii() and value.isdigit() else value
    return found


def _threads(model: Any, request: Load) -> tuple[int, int]:
    """Return the threads for a step of a few tokens and for a prefill.

    A small model's step is over before a second thread is awake.
    """
    threads = request.settings.threads
    small = llama.llama_model_size(model) < SMALL_MODEL_BYTES
    return 1 if small else threads, threads


class LlamaCppModel:
    """A `TokenModel` over one llama.cpp context."""

    max_sequences = MAX_SEQUENCES
    can_steer = False

    def __init__(
        self, model: Any, context: Any, cells: int, spec: ModelCacheSpec, request: Load
    ) -> None:
        self._model = model
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._handle = llama.llama_model_get_vocab(model)
        trained = llama.llama_model_n_ctx_train(model)
        self.context_length = min(memory.context(request.settings.context_length, trained), cells)
        self.cache_cells = cells
        self.cache_spec = spec
        self.cache_bytes = cells * memory.cell_bytes(spec, request.settings.kv_type)
        self.max_batch = int(llama.llama_n_batch(context))
        self.model_bytes = int(llama.llama_model_size(model))
        self.can_rewind = not (
            llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
        )
        self._threads = _threads(model, request)
        self._buffer = ctypes.create_string_buffer(512)
        self._size = int(llama.llama_vocab_n_tokens(self._handle))
        self._bytes: list[bytes | None] = [None] * self._size
        self.vocab = self._vocab_info()
        self._find_quirks()
        self.description = self._describe(request)
        self._batch = llama.llama_batch_init(self.max_batch, 0, 1)
        self._abort: Callable[[], bool] = lambda: False
        # Kept as an attribute: llama.cpp holds only the bare pointer.
        self._abort_callback = llama.ggml_abort_callback(lambda _data: self._abort())
        self._unheard = llama.ggml_abort_callback()  # a null pointer

    # -- vocabulary ---------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Tokenise exactly `text`: control tokens in it stay text, no space goes before it."""
        return [token for part in apart(text, self._parsed) for token in self._exact(part)]

    def _exact(self, text: str) -> list[int]:
        if not self._guard:
            return self._raw(text)
        return self._raw(_GUARD + text)[len(self._guard) :]

    def _raw(self, text: str) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            ids = (llama.llama_token * room)()
            count = llama.llama_tokenize(self._handle, data, len(data), ids, room, False, False)
            if count >= 0:
                return ids[:count]
            room = -count

    def _find_quirks(self) -> None:
        """See what llama.cpp's tokenizer does to plain text that must be undone.

        Tokens marked "user defined" are recognised in it even with specials off, and SentencePiece
        vocabularies put a space before it: that is hidden behind a character that merges with none.
        """
        self._parsed = [
            text
            for text, token in self.vocab.control_tokens.items()
            if llama.llama_vocab_get_attr(self._handle, token) & _ATTR_USER_DEFINED
        ]
        guard = self._raw(_GUARD)
        first = llama.llama_vocab_get_text(self._handle, guard[0]) or b""
        self._guard = guard if first.decode("utf-8", "replace").startswith("\u2581") else []

    def token_bytes(self, token: int) -> bytes:
        """Return a token's bytes, none for control tokens."""
        known = self._bytes[token]
        if known is None:
            known = self._bytes[token] = self._piece(token)
        return known

    def _piece(self, token: int) -> bytes:
        size = len(self._buffer)
        count = llama.llama_token_to_piece(self._handle, token, self._buffer, size, 0, False)
        if count < 0:
            self._buffer = ctypes.create_string_buffer(-count)
            return self._piece(token)
        return self._buffer.raw[:count]

    def _vocab_info(self) -> VocabInfo:
        ids = range(self._size)
        control = [
            token
            for token in ids
            if llama.llama_vocab_get_attr(self._handle, token) & _ATTR_CONTROL
            or llama.llama_vocab_is_eog(self._handle, token)
        ]
        for name in _FIM_TOKENS:
            token = getattr(llama, f"llama_vocab_{name}")(self._handle)
            if token >= 0 and token not in control:
                control.append(token)
        text = {token: llama.llama_vocab_get_text(self._handle, token) for token in control}
        wants_bos = llama.llama_vocab_get_add_bos(self._handle)
        return VocabInfo(
            size=self._size,
            architecture=self._meta("general.architecture"),
            name=self._meta("general.name"),
            control_tokens={(text[t] or b"").decode("utf-8", "replace"): t for t in control},
            end_tokens=frozenset(t for t in control if llama.llama_vocab_is_eog(self._handle, t)),
            bos=int(llama.llama_vocab_bos(self._handle)) if wants_bos else None,
            chat_template=self._meta("tokenizer.chat_template"),
            template_tokens=self._template_tokens(),
        )

    def _template_tokens(self) -> dict[str, str]:
        """Return the tokens that chat templates name, as far as there are such."""
        found = {}
        for name in ("bos", "eos", "pad"):
            token = getattr(llama, f"llama_vocab_{name}")(self._handle)
            if token >= 0:
                text = llama.llama_vocab_get_text(self._handle, token) or b""
                found[f"{name}_token"] = text.decode("utf-8", "replace")
        return found

    def _meta(self, key: str) -> str:
        """Return a text of the file's metadata, "" where it has none; templates are long."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            needed = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if needed < size:
                return buffer.value.decode("utf-8", "replace") if needed >= 0 else ""
            size = needed + 1

    def _describe(self, request: Load) -> str:
        buffer = ctypes.create_string_buffer(128)
        llama.llama_model_desc(self._model, buffer, len(buffer))
        import llama_cpp

        mode = ", safe mode" if request.safe_mode else ""
        model = buffer.value.decode().replace(" ?B", "")  # a size that llama.cpp has no name for
        return f"{model}, llama-cpp-python {llama_cpp.__version__}{mode}"

    # -- evaluation ---------------------------------------------------------------------------

    def forward(self, feeds: Sequence[Feed], abort: Callable[[], bool]) -> list[list[Logits]]:
        """Append the feeds' tokens to their sequences; see `TokenModel.forward`."""
        rows = self._fill(feeds)
        narrow = self._batch.n_tokens <= NARROW_BATCH
        self._listen(abort, brief=narrow and self.model_bytes < SMALL_MODEL_BYTES)
        step, prefill = self._threads
        # llama.cpp takes the second number for any batch of more than one token.
        llama.llama_set_n_threads(self._context, step, step if narrow else prefill)
        status = llama.llama_decode(self._context, self._batch)
        if status == _ABORTED:
            raise Aborted
        if status == _NO_SLOT:
            raise CacheFull
        if status != 0:
            raise BackendError(f"llama.cpp failed (llama_decode returned {status})")
        return [[self._logits(row) for row in own] for own in rows]

    def _listen(self, abort: Callable[[], bool], *, brief: bool) -> None:
        """Have `abort` asked at every node of the graph, unless that is what would take time."""
        self._abort = abort
        callback = self._unheard if brief else self._abort_callback
        llama.llama_set_abort_callback(self._context, callback, ctypes.c_void_p(0))

    def _fill(self, feeds: Sequence[Feed]) -> list[list[int]]:
        """Fill the batch; return each feed's batch indices that have logits."""
        batch = self._batch
        index = 0
        rows: list[list[int]] = []
        for feed in feeds:
            position = self.length(feed.sequence)
            first = index
            for token in feed.tokens:
                batch.token[index] = token
                batch.pos[index] = position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = feed.sequence
                batch.logits[index] = False
                position += 1
                index += 1
            own = list(range(max(first, index - feed.outputs), index))
            for row in own:
                batch.logits[row] = True
            rows.append(own)
        batch.n_tokens = index
        return rows

    def _logits(self, row: int) -> Logits:
        pointer = llama.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, shape=(self._size,))

    # -- sequences ----------------------------------------------------------------------------

    def length(self, sequence: int) -> int:
        """Return the number of cached tokens."""
        return int(llama.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def trim(self, sequence: int, n: int) -> bool:
        """Keep the first `n` tokens."""
        return bool(llama.llama_memory_seq_rm(self._memory, sequence, n, -1))

    def fork(self, source: int, target: int, n: int) -> bool:
        """Share the first `n` cells of `source` with `target`."""
        if not self.can_rewind:
            return False  # a recurrent state is that of all its tokens, not of the first n
        self.free(target)
        llama.llama_memory_seq_cp(self._memory, source, target, 0, n)
        return self.length(target) == n

    def snapshot(self, sequence: int) -> bytes:
        """Copy a sequence's cells out."""
        size = llama.llama_state_seq_get_size(self._context, sequence)
        buffer = (ctypes.c_uint8 * size)()
        copied = llama.llama_state_seq_get_data(self._context, buffer, size, sequence)
        return bytes(memoryview(buffer)[:copied])

    def restore(self, sequence: int, data: bytes) -> bool:
        """Replace a sequence's cells by a snapshot."""
        self.free(sequence)
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        return bool(llama.llama_state_seq_set_data(self._context, buffer, len(data), sequence))

    def free(self, sequence: int) -> None:
        """Forget a sequence."""
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def close(self) -> None:
        """Free the context and the weights."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)
