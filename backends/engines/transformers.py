"""Hugging Face transformers on torch: the adapter for folders of safetensors.

Rule: an adapter and nothing more; what to evaluate, reuse or sample is decided above the
`TokenModel` seam. It imports its runtime together with its `hf_…` siblings. Facts it rests on:
- tokens of several sequences go through the model as one row, and attention keeps them apart
  (`hf_attention`); KV cells are ours (`hf_cells`), so that they can be forked, cut and copied.
  Models with other layers keep transformers' caches and never go back (`hf_whole`);
- every module is a place to stop: hooks poll `abort` before each of them, and raise;
- architectures differ more than their configurations say, so the first thing a loaded model does
  is to compute some text both ways. One that differs is refused: it would go wrong silently;
- nothing of the folder is run: no `auto_map`, no pickles, no kernels by name, no network.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

# Before the runtime reads it, whatever the environment says: a worker fetches nothing.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from backends import cache_spec, engine_settings, memory, model_folder
from backends.backend import SteeringUse
from backends.cache_spec import ModelCacheSpec
from backends.decoding.token_model import Aborted, CacheFull, Feed, Logits
from backends.engines import hf_attention, hf_options, hf_steering
from backends.engines.hf_attention import Attention, PackedTexts
from backends.engines.hf_cells import Plain, Work
from backends.engines.hf_options import Options
from backends.engines.hf_steering import HfSteering
from backends.engines.hf_vocabulary import HfVocabulary
from backends.engines.hf_whole import WholeTexts
from backends.errors import (
    BackendError,
    EngineMissing,
    LoadFailed,
    MidspanError,
    ModelFileError,
    Unsupported,
)
from backends.frames import Load
from backends.model_folder import FolderHeader

logger = logging.getLogger(__name__)

BATCH: Final = 512  # tokens of one forward
PASS: Final = 128  # tokens that go through the model at once; small enough to lose in an abort
NARROW_PASS: Final = 16  # tokens; a draft to verify, or the next token of several documents
SMALL_MODEL_BYTES: Final = 64 * 1024 * 1024
# Tokens of the comparison at load, and where it is cut in two passes.
PROBE: Final = 48
PROBE_CUT: Final = 31
# As a part of the logits' spread, by type: 16 bits are summed in another order, with other errors.
TOLERANCE: Final = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.05}
# Scaling of positions that depends on how long the text is: cells computed below this length would
# not be those that are computed above it.
_LENGTH_DEPENDENT: Final = frozenset({"dynamic", "longrope"})


def load(request: Load) -> TransformersModel:
    """Load a folder. Raises ModelFileError, Unsupported, BadRequest, EngineMissing, LoadFailed."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    engine_settings.check("transformers", request.settings)
    started = time.perf_counter()
    header = model_folder.read(Path(request.path))
    machine = hf_options.this_machine()
    options = hf_options.choose(request.settings, header.dtype, machine)
    torch.set_num_threads(request.settings.threads or _cores())
    config = _config(header)
    with _as_load_failed(header):
        module = _module(header, config, options)
        model = TransformersModel(module, header, options, request)
    logger.info("loaded %s in %.0f ms", request.name, (time.perf_counter() - started) * 1000)
    return model


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _config(header: FolderHeader) -> Any:
    """Return the configuration, of a class of transformers' own."""
    if header.architecture not in CONFIG_MAPPING:
        own = ", and code that comes with a model is never run" if header.wants_own_code else ""
        raise LoadFailed(
            f"{header.name}: transformers {transformers.__version__} does not know the "
            f"architecture {header.architecture!r}{own}. A newer transformers may know it."
        )
    try:
        return CONFIG_MAPPING[header.architecture].from_dict(header.config)
    # Configurations are checked by their classes, each in its own way.
    except Exception as exc:
        raise ModelFileError(f"{header.path}/config.json can't be used: {exc}") from exc


def _module(header: FolderHeader, config: Any, options: Options) -> Any:
    """Return the model with its weights, refusing one that lacks some."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise LoadFailed(
            f"{header.name}: models of architecture {header.architecture!r} do not go on with "
            "text, so they can't complete code."
        )
    kind = kind[0] if isinstance(kind, tuple) else kind
    module, report = kind.from_pretrained(
        header.path,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **hf_options.load_arguments(options),
    )
    lacking = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if lacking:
        raise LoadFailed(
            f"{header.name}: the files lack {len(lacking)} of the model's tensors, or hold them in "
            f"another shape, among them {lacking[0]}. The download may not be complete."
        )
    return module.eval()


@contextlib.contextmanager
def _as_load_failed(header: FolderHeader) -> Iterator[None]:
    """Turn what the runtime raises while it loads a model into our own errors."""
    try:
        yield
    except LoadFailed:
        raise
    except BackendError as exc:
        raise LoadFailed(f"{header.name} can't be run: {exc}") from exc
    except MidspanError:
        raise
    except ImportError as exc:
        raise EngineMissing(f"{header.name} needs a package that is not installed: {exc}") from exc
    except torch.OutOfMemoryError as exc:
        raise LoadFailed(f"{header.name} does not fit into the device's memory.") from exc
    # From quantisers, compilers and device drivers comes anything.
    except Exception as exc:
        raise LoadFailed(f"{header.name} can't be loaded: {type(exc).__name__}: {exc}") from exc


class TransformersModel:
    """A `TokenModel` over one transformers model."""

    def __init__(self, module: Any, header: FolderHeader, options: Options, request: Load) -> None:
        """Take a model and its folder. Raises Unsupported where it can't be run in parts."""
        self._module = module
        self._forward: Callable[..., Any] = module
        self._abort: Callable[[], bool] = lambda: False
        self.steering: HfSteering | None = None
        self.max_batch = request.settings.batch or BATCH
        self.model_bytes = sum(map(_bytes, (*module.parameters(), *module.buffers())))
        threads = torch.get_num_threads()
        # A small model's step is over before a second thread is awake.
        self._threads = (1 if self.model_bytes < SMALL_MODEL_BYTES else threads, threads)
        self._device = module.get_input_embeddings().weight.device
        self.cache_cells = 4 * PROBE  # until it is known how large a cell is
        expected = self._whole_text()
        self._texts = _texts(module, options, self._device)
        self.can_rewind = self._texts.can_rewind
        self.max_sequences = self._texts.max_sequences
        if options.compile:  # hooks would cut the graph at every module
            self._forward = torch.compile(module, dynamic=True)
        else:
            self._hook(module)
        self._prove(expected, header, TOLERANCE[options.dtype])
        if not options.compile:
            self.steering = self._steering(module, header)
        self.can_steer = self.steering is not None
        self._keep_cells_as(options, header)
        cell_bytes, state_bytes = self._measure()
        trained = _context(module.config, header)
        self.context_length = memory.context(request.settings.context_length, trained)
        self.cache_cells = memory.cells(max(cell_bytes, 1), self.context_length)
        self.context_length = min(self.context_length, self.cache_cells)
        self.cache_bytes = self.cache_cells * cell_bytes + self.max_sequences * state_bytes
        self._vocabulary = HfVocabulary(header, expected.shape[-1])
        self.vocab = self._vocabulary.info
        self.description = _describe(header, options, module)

    @property
    def cache_spec(self) -> ModelCacheSpec:
        """What it caches of each token, by the configuration it was built with."""
        return cache_spec.from_config(self._module.config.to_dict())

    # -- at load ------------------------------------------------------------------------------

    def _probe(self) -> torch.Tensor:
        """Return ids of no meaning, from all over the vocabulary."""
        size = self._module.get_input_embeddings().weight.shape[0]
        return (torch.arange(PROBE, device=self._device) * 7919 + 13) % size

    def _whole_text(self) -> torch.Tensor:
        """Return the logits after the probe's last token, as transformers computes them."""
        with torch.inference_mode():
            output = self._module(input_ids=self._probe()[None], use_cache=False)
        return output.logits[0, -1].float()

    def _prove(self, expected: torch.Tensor, header: FolderHeader, tolerance: float) -> None:
        """Compute the probe in parts, from a snapshot, beside another text.

        Raises Unsupported if it differs.
        """
        probe = self._probe().tolist()
        self.forward([Feed(0, probe[:PROBE_CUT]), Feed(1, probe[::-1])], lambda: False)
        self._texts.learn(0)
        self.restore(2, self.snapshot(0))
        self.free(0)
        rows = self.forward([Feed(1, probe[:3]), Feed(2, probe[PROBE_CUT:])], lambda: False)
        got = torch.from_numpy(rows[1][0]).to(expected.device)
        for sequence in (1, 2):
            self.free(sequence)
        if not bool((got - expected).abs().max() < tolerance * expected.std()):
            raise _refusal(header, "computes other text in parts than as a whole")

    def _keep_cells_as(self, options: Options, header: FolderHeader) -> None:
        """Take the user's type of cells; the proof was for ones that lose nothing."""
        lengths = header.key_length, header.value_length
        if isinstance(self._texts, PackedTexts):
            codec = hf_options.codec(options.kv_type, options.torch_dtype, lengths)
            self._texts.attention = replace(self._texts.attention, codec=codec)
        elif options.kv_type:
            raise Unsupported(
                f"{header.name}: what transformers' {header.architecture} keeps of a text has "
                "other types than keys and values: leave kv_type empty."
            )

    def _steering(self, module: Any, header: FolderHeader) -> HfSteering | None:
        """Return the hooks for steering, where the layers' states are what those expect."""
        layers = hf_steering.decoder_layers(module)
        if not layers or not isinstance(self._texts, PackedTexts):
            return None
        steering = HfSteering(layers, header)
        with steering.recorded(len(layers) - 1) as passes:
            self.forward([Feed(0, self._probe().tolist()[:2])], lambda: False)
        self.free(0)
        return steering if passes[0].shape == (2, header.embedding_length) else None

    def _measure(self) -> tuple[int, int]:
        """Return the bytes that each token takes, and those that each sequence does."""
        self.forward([Feed(0, self._probe().tolist()[:2])], lambda: False)
        taken = self._texts.learn(0)
        self.free(0)
        return taken

    def _hook(self, module: Any) -> None:
        """Poll `abort` before every module that has no parts of its own."""

        def poll(*_: object) -> None:
            if self._abort():
                raise Aborted

        for part in module.modules():
            if next(part.children(), None) is None:
                part.register_forward_pre_hook(poll)

    # -- vocabulary ---------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Tokenise exactly `text`; control tokens in it stay text."""
        return self._vocabulary.tokenize(text)

    def token_bytes(self, token: int) -> bytes:
        """Return a token's bytes, none for control tokens."""
        return self._vocabulary.token_bytes(token)

    # -- evaluation ---------------------------------------------------------------------------

    def forward(self, feeds: Sequence[Feed], abort: Callable[[], bool]) -> list[list[Logits]]:
        """Append the feeds' tokens to their sequences; see `TokenModel.forward`."""
        needed = sum(len(feed.tokens) for feed in feeds)
        if self._texts.used + needed > self.cache_cells:
            raise CacheFull
        step, prefill = self._threads
        torch.set_num_threads(step if needed <= NARROW_PASS else prefill)
        self._abort = abort
        results: list[list[Logits]] = [[] for _ in feeds]
        try:
            for parts in passes([len(feed.tokens) for feed in feeds], PASS):
                if abort():
                    raise Aborted
                with torch.inference_mode():
                    self._pass(feeds, parts, results)
        except torch.OutOfMemoryError as exc:
            raise BackendError("the device has no memory left for this batch") from exc
        except RuntimeError as exc:
            raise BackendError(f"torch failed: {exc}") from exc
        return results

    def _pass(
        self, feeds: Sequence[Feed], parts: Sequence[Part], results: list[list[Logits]]
    ) -> None:
        """Evaluate one pass; the logits that were asked for go to `results`."""
        works = []
        for index, begin, end in parts:
            feed = feeds[index]
            wanted = max(0, end - max(begin, len(feed.tokens) - feed.outputs))
            works.append(Work(feed.sequence, feed.tokens[begin:end], wanted))
        with self._steered(works, [feeds[index].steering for index, _, _ in parts]):
            rows = iter(self._texts.run(works, self._forward).float().cpu().numpy())
        for (index, _, _), work in zip(parts, works, strict=True):
            results[index].extend(islice(rows, work.wanted))

    def resolve_steering(self, uses: Sequence[SteeringUse]) -> tuple[SteeringUse, ...]:
        """Find a request's vectors; see `Steerable`."""
        if self.steering is None:
            raise Unsupported(f"{self.description} can't be steered.")
        return self.steering.resolve(uses)

    def _steered(
        self, works: Sequence[Work], uses: Sequence[tuple[SteeringUse, ...]]
    ) -> contextlib.AbstractContextManager[None]:
        if self.steering is None or not any(uses):
            return contextlib.nullcontext()
        return self.steering.applied(works, uses)

    # -- sequences ----------------------------------------------------------------------------

    def length(self, sequence: int) -> int:
        """Return the number of cached tokens."""
        return self._texts.length(sequence)

    def trim(self, sequence: int, n: int) -> bool:
        """Keep the first `n` tokens."""
        return self._texts.trim(sequence, n)

    def fork(self, source: int, target: int, n: int) -> bool:
        """Share the first `n` cells of `source` with `target`."""
        return self._texts.fork(source, target, n)

    def snapshot(self, sequence: int) -> bytes:
        """Copy a sequence's cells out."""
        return self._texts.snapshot(sequence)

    def restore(self, sequence: int, data: bytes) -> bool:
        """Replace a sequence's cells by a snapshot."""
        self.free(sequence)
        return self._texts.restore(sequence, data, self.cache_cells - self._texts.used)

    def free(self, sequence: int) -> None:
        """Forget a sequence."""
        self._texts.free(sequence)

    def close(self) -> None:
        """Free the weights and the cells."""
        del self._module, self._forward, self._texts
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


Part = tuple[int, int, int]  # which feed, and from which of its tokens to which


def passes(lengths: Sequence[int], most: int) -> Iterator[list[Part]]:
    """Cut feeds of these lengths into passes of at most `most` tokens, in order.

    >>> list(passes([1, 5, 2], 4))
    [[(0, 0, 1), (1, 0, 3)], [(1, 3, 5), (2, 0, 2)]]
    """
    parts: list[Part] = []
    room = most
    for feed, length in enumerate(lengths):
        begin = 0
        while begin < length:
            end = min(length, begin + room)
            parts.append((feed, begin, end))
            room -= end - begin
            begin = end
            if room == 0:
                yield parts
                parts, room = [], most
    if parts:
        yield parts


def _texts(module: Any, options: Options, device: Any) -> PackedTexts | WholeTexts:
    """Return how texts are kept: in cells of ours where all layers are plain attention."""
    windows = hf_attention.windows(module.config)
    if windows is None or not module._can_set_attn_implementation():
        return WholeTexts(module.config, device)
    name = module.config.get_text_config(decoder=True)._attn_implementation
    attention = Attention(
        function=None if name == "eager" else transformers.AttentionInterface()[name],
        adds_mask=name == "eager",
        makes_mask=name.startswith("flash_attention"),
        windows=windows,
        codec=Plain(options.torch_dtype, options.torch_dtype),
    )
    module.set_attn_implementation(hf_attention.NAME)
    return PackedTexts(attention, device)


def _refusal(header: FolderHeader, reason: str) -> Unsupported:
    return Unsupported(
        f"{header.name}: transformers' {header.architecture} {reason}. Use a GGUF version of it."
    )


def _bytes(tensor: Any) -> int:
    """Return the memory a tensor takes; quantised ones are made of several."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(_bytes(getattr(tensor, name)) for name in names)
    return int(tensor.numel() * tensor.element_size())


def _context(config: Any, header: FolderHeader) -> int:
    """Return the tokens that positions are good for, computed the same way from the first on."""
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or header.context_length
    if rope.get("rope_type") in _LENGTH_DEPENDENT:
        return min(int(original), header.context_length)
    return header.context_length


def _describe(header: FolderHeader, options: Options, module: Any) -> str:
    weights = options.quantize or options.dtype
    compiled = ", compiled" if options.compile else ""
    where = options.device_map or options.device
    return (
        f"{header.architecture} {module.num_parameters() / 1e6:.0f}M {weights} on {where}"
        f"{compiled}, transformers {transformers.__version__}, torch {torch.__version__}"
    )
