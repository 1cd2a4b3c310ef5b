"""From a model's settings to llama.cpp's parameters; `llama_cpp` is the other half.

Rule: a table or a line for each setting, and a refusal by name for what this build cannot do. Must
not know models, nor decide what the user left open.
"""

from __future__ import annotations

from typing import Any

import llama_cpp.llama_cpp as llama

from backends import cache_spec
from backends.config import ModelSettings
from backends.errors import Unsupported

MAX_SEQUENCES = 32
BATCH = 512  # tokens of one forward pass, unless the user wants another number
MICRO_BATCH = 128  # small enough that an abort loses little, large enough for full speed

_KV_TYPES = {
    "f16": llama.GGML_TYPE_F16,
    "f32": llama.GGML_TYPE_F32,
    "q8_0": llama.GGML_TYPE_Q8_0,
    "q4_0": llama.GGML_TYPE_Q4_0,
}
# (mmap, mlock) → load mode. AUTO maps the file wherever the device can read it so.
_LOAD_MODES = {
    (True, False): llama.LLAMA_LOAD_MODE_AUTO,
    (True, True): llama.LLAMA_LOAD_MODE_MMAP_MLOCK,
    (False, False): llama.LLAMA_LOAD_MODE_NONE,
    (False, True): llama.LLAMA_LOAD_MODE_MLOCK,
}


def model_params(settings: ModelSettings, *, safe_mode: bool, offload: bool) -> Any:
    """Return how llama.cpp is to load weights. Raises Unsupported for what this build cannot do.

    `offload`: it can use a GPU.
    """
    params = llama.llama_model_default_params()
    params.use_extra_bufts = not safe_mode
    params.load_mode = _LOAD_MODES[settings.mmap, settings.mlock]
    if settings.mlock and not llama.llama_supports_mlock():
        raise Unsupported("mlock = true: llama.cpp cannot lock memory on this system.")
    kind, _, index = settings.device.partition(":")
    if kind != "cpu" and (kind or settings.gpu_layers) and not offload:
        wish = f"device = {settings.device}" if kind else f"gpu_layers = {settings.gpu_layers}"
        raise Unsupported(
            f"{wish}: this build of llama-cpp-python computes on the CPU alone. Install one that "
            "was built for the GPU, or remove the setting."
        )
    if index:
        params.main_gpu = int(index)
        params.split_mode = llama.LLAMA_SPLIT_MODE_NONE
    params.n_gpu_layers = 0 if kind == "cpu" or not offload else settings.gpu_layers
    return params


def context_params(settings: ModelSettings, cells: int) -> Any:
    """Return how a context of `cells` KV cells is to be made."""
    params = llama.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = settings.batch or BATCH
    params.n_ubatch = min(max(MICRO_BATCH, params.n_batch // 4), params.n_batch)
    params.n_seq_max = MAX_SEQUENCES
    params.kv_unified = True
    # Cells behind a layer's window are kept: a sequence could not be cut back without them.
    params.swa_full = True
    params.no_perf = True
    # The fused kernel skips masked cells, so other documents' cells cost a sequence little.
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_AUTO
    params.type_k = params.type_v = _KV_TYPES[settings.kv_type or cache_spec.DEFAULT_KV_TYPE]
    on_device = settings.device.partition(":")[0] != "cpu"
    params.offload_kqv = on_device and not settings.low_vram
    params.op_offload = on_device
    return params
