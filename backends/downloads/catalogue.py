"""The catalogue of models that can be downloaded by a short name: data, no decisions.

Rule: a row says what is known of a model from its card, paper or configuration; what could not be
confirmed says so in its `note`, and numbers that are not known are 0. Families are rows of
`fim.catalogue`. Adding a model is adding a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backends.cache_spec import CachedLayer, ModelCacheSpec

# Bits a weight of whole files, embeddings and all, by common conversions; for sizes that are shown
# before a hub was asked.
BITS: Final = {
    "Q4_K_M": 4.85,
    "Q5_K_M": 5.7,
    "Q6_K": 6.6,
    "Q8_0": 8.5,
    "MXFP4_MOE": 4.65,
    "4bit": 4.5,
    "bfloat16": 16.0,
}
_USUAL: Final = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
_APACHE: Final = "apache-2.0"


@dataclass(frozen=True, slots=True)
class Downloadable:
    """A model that can be downloaded.

    `parameters` and `active` (those that one token uses, 0 for all) are in billions; `cells` are
    layers, KV heads and elements of a head.
    """

    name: str
    repository: str
    architecture: str  # GGUF's `general.architecture`, transformers' `model_type`
    family: str  # of fim.catalogue; "" for models that do not fill in the middle
    parameters: float
    context_length: int  # tokens
    licence: str
    chat: bool
    cells: tuple[int, int, int] = (0, 0, 0)
    active: float = 0.0
    format: str = "gguf"  # or safetensors, mlx
    quantisations: tuple[str, ...] = _USUAL
    note: str = ""

    @property
    def fim(self) -> bool:
        """Whether it fills in the middle."""
        return bool(self.family)

    @property
    def spec(self) -> ModelCacheSpec | None:
        """What it caches; None where that is not known."""
        layers, kv_heads, width = self.cells
        if not layers:
            return None
        return ModelCacheSpec(self.architecture, (CachedLayer(kv_heads, width, width),) * layers)

    def file_bytes(self, quantisation: str) -> int:
        """Return about how many bytes its files take."""
        return int(self.parameters * 1e9 * BITS[quantisation] / 8)


def _qwen(
    size: str,
    repository: str,
    parameters: float,
    context_length: int,
    cells: tuple[int, int, int],
    *,
    chat: bool = False,
    licence: str = _APACHE,
    format: str = "gguf",
    quantisations: tuple[str, ...] = _USUAL,
    note: str = "",
) -> Downloadable:
    """Return a row of Qwen2.5-Coder."""
    return Downloadable(
        name=f"qwen2.5-coder-{size}",
        repository=repository,
        architecture="qwen2",
        family="qwen2.5-coder",
        parameters=parameters,
        context_length=context_length,
        licence=licence,
        chat=chat,
        cells=cells,
        format=format,
        quantisations=quantisations,
        note=note,
    )


_RESEARCH: Final = "qwen-research"
_OFFICIAL: Final = "Qwen/Qwen2.5-Coder-{}-Instruct-GGUF"
_Q8: Final = ("Q8_0",)

DOWNLOADABLE: Final[tuple[Downloadable, ...]] = (
    # Base models first: they complete best.
    _qwen(
        "0.5b",
        "ggml-org/Qwen2.5-Coder-0.5B-Q8_0-GGUF",
        0.494,
        32768,
        (24, 2, 64),
        quantisations=_Q8,
    ),
    _qwen(
        "1.5b",
        "ggml-org/Qwen2.5-Coder-1.5B-Q8_0-GGUF",
        1.544,
        32768,
        (28, 2, 128),
        quantisations=_Q8,
    ),
    _qwen(
        "3b",
        "ggml-org/Qwen2.5-Coder-3B-Q8_0-GGUF",
        3.086,
        32768,
        (36, 2, 128),
        licence=_RESEARCH,
        quantisations=_Q8,
        note="not for commercial use",
    ),
    _qwen("7b", "QuantFactory/Qwen2.5-Coder-7B-GGUF", 7.616, 131072, (28, 4, 128)),
    _qwen("14b", "QuantFactory/Qwen2.5-Coder-14B-GGUF", 14.77, 131072, (48, 8, 128)),
    _qwen("0.5b-instruct", _OFFICIAL.format("0.5B"), 0.494, 32768, (24, 2, 64), chat=True),
    _qwen("1.5b-instruct", _OFFICIAL.format("1.5B"), 1.544, 32768, (28, 2, 128), chat=True),
    _qwen(
        "3b-instruct",
        _OFFICIAL.format("3B"),
        3.086,
        32768,
        (36, 2, 128),
        chat=True,
        licence=_RESEARCH,
        note="not for commercial use",
    ),
    _qwen("7b-instruct", _OFFICIAL.format("7B"), 7.616, 131072, (28, 4, 128), chat=True),
    _qwen("14b-instruct", _OFFICIAL.format("14B"), 14.77, 131072, (48, 8, 128), chat=True),
    _qwen("32b-instruct", _OFFICIAL.format("32B"), 32.76, 131072, (64, 8, 128), chat=True),
    Downloadable(
        "qwen3-coder-30b-a3b",
        "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF",
        "qwen3moe",
        "qwen2.5-coder",
        30.5,
        262144,
        _APACHE,
        True,
        (48, 4, 128),
        active=3.3,
        note="a mixture of experts: as large as 30B, nearly as fast as 3B",
    ),
    Downloadable(
        "deepseek-coder-1.3b",
        "TheBloke/deepseek-coder-1.3b-base-GGUF",
        "llama",
        "deepseek-coder",
        1.35,
        16384,
        "deepseek",
        False,
        (24, 16, 128),
    ),
    Downloadable(
        "deepseek-coder-6.7b",
        "TheBloke/deepseek-coder-6.7B-base-GGUF",
        "llama",
        "deepseek-coder",
        6.74,
        16384,
        "deepseek",
        False,
        (32, 32, 128),
    ),
    Downloadable(
        "deepseek-coder-v2-lite",
        "bartowski/DeepSeek-Coder-V2-Lite-Base-GGUF",
        "deepseek2",
        "deepseek-coder",
        15.7,
        131072,
        "deepseek",
        False,
        active=2.4,
        note="a mixture of experts",
    ),
    Downloadable(
        "starcoder2-3b",
        "second-state/StarCoder2-3B-GGUF",
        "starcoder2",
        "starcoder2",
        3.03,
        16384,
        "bigcode-openrail-m",
        False,
        (30, 2, 128),
    ),
    Downloadable(
        "starcoder2-7b",
        "second-state/StarCoder2-7B-GGUF",
        "starcoder2",
        "starcoder2",
        7.17,
        16384,
        "bigcode-openrail-m",
        False,
        (32, 4, 128),
    ),
    Downloadable(
        "starcoder2-15b",
        "second-state/StarCoder2-15B-GGUF",
        "starcoder2",
        "starcoder2",
        15.96,
        16384,
        "bigcode-openrail-m",
        False,
        (40, 4, 128),
    ),
    Downloadable(
        "codestral-22b",
        "bartowski/Codestral-22B-v0.1-GGUF",
        "llama",
        "codestral",
        22.2,
        32768,
        "mnpl-0.1",
        True,
        (56, 8, 128),
        note="not for production use",
    ),
    Downloadable(
        "codellama-7b",
        "TheBloke/CodeLlama-7B-GGUF",
        "llama",
        "codellama",
        6.74,
        16384,
        "llama2",
        False,
        (32, 32, 128),
    ),
    Downloadable(
        "codellama-13b",
        "TheBloke/CodeLlama-13B-GGUF",
        "llama",
        "codellama",
        13.02,
        16384,
        "llama2",
        False,
        (40, 40, 128),
    ),
    Downloadable(
        "codegemma-2b",
        "bartowski/codegemma-2b-GGUF",
        "gemma",
        "codegemma",
        2.51,
        8192,
        "gemma",
        False,
        (18, 1, 256),
    ),
    Downloadable(
        "granite-3b-code",
        "ibm-granite/granite-3b-code-base-2k-GGUF",
        "llama",
        "granite-code",
        3.48,
        2048,
        _APACHE,
        False,
        (32, 32, 80),
    ),
    Downloadable(
        "granite-8b-code",
        "ibm-granite/granite-8b-code-base-4k-GGUF",
        "llama",
        "granite-code",
        8.05,
        4096,
        _APACHE,
        False,
        (36, 8, 128),
    ),
    Downloadable(
        "granite-20b-code",
        "ibm-granite/granite-20b-code-base-8k-GGUF",
        "starcoder",
        "granite-code",
        20.1,
        8192,
        _APACHE,
        False,
        (52, 1, 128),
    ),
    Downloadable(
        "mellum-4b",
        "JetBrains/Mellum-4b-base-gguf",
        "llama",
        "mellum",
        4.02,
        8192,
        _APACHE,
        False,
        quantisations=_Q8,
        note="its cells are not confirmed",
    ),
    Downloadable(
        "seed-coder-8b",
        "mradermacher/Seed-Coder-8B-Base-GGUF",
        "llama",
        "seed-coder",
        8.25,
        32768,
        "mit",
        False,
        note="its cells are not confirmed, nor that this conversion keeps its control tokens",
    ),
    Downloadable(
        "stable-code-3b",
        "TheBloke/stable-code-3b-GGUF",
        "stablelm",
        "stable-code",
        2.8,
        16384,
        "stability-ai",
        False,
        (32, 32, 80),
        note="not for commercial use without a membership",
    ),
    Downloadable(
        "glm-4.5-air",
        "unsloth/GLM-4.5-Air-GGUF",
        "glm4moe",
        "glm-4.5",
        106.0,
        131072,
        "mit",
        True,
        (46, 8, 128),
        active=12.0,
        note="a mixture of experts; its files are split",
    ),
    # For chat and kernels: they do not fill in the middle.
    Downloadable(
        "devstral-small-2507",
        "mistralai/Devstral-Small-2507_gguf",
        "llama",
        "",
        23.6,
        131072,
        _APACHE,
        True,
        (40, 8, 128),
    ),
    Downloadable(
        "gpt-oss-20b",
        "ggml-org/gpt-oss-20b-GGUF",
        "gpt-oss",
        "",
        20.9,
        131072,
        _APACHE,
        True,
        (24, 8, 64),
        active=3.6,
        quantisations=("MXFP4_MOE",),
        note="a mixture of experts; thinks before it answers",
    ),
    Downloadable(
        "deepseek-r1-distill-qwen-7b",
        "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF",
        "qwen2",
        "",
        7.62,
        131072,
        "mit",
        True,
        (28, 4, 128),
        note="thinks before it answers",
    ),
    # For transformers and MLX.
    _qwen(
        "0.5b-safetensors",
        "Qwen/Qwen2.5-Coder-0.5B",
        0.494,
        32768,
        (24, 2, 64),
        format="safetensors",
        quantisations=("bfloat16",),
    ),
    _qwen(
        "1.5b-safetensors",
        "Qwen/Qwen2.5-Coder-1.5B",
        1.544,
        32768,
        (28, 2, 128),
        format="safetensors",
        quantisations=("bfloat16",),
    ),
    _qwen(
        "1.5b-instruct-mlx",
        "mlx-community/Qwen2.5-Coder-1.5B-Instruct-4bit",
        1.544,
        32768,
        (28, 2, 128),
        chat=True,
        format="mlx",
        quantisations=("4bit",),
    ),
    _qwen(
        "7b-instruct-mlx",
        "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit",
        7.616,
        131072,
        (28, 4, 128),
        chat=True,
        format="mlx",
        quantisations=("4bit",),
    ),
)

BY_NAME: Final = {row.name: row for row in DOWNLOADABLE}
