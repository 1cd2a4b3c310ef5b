"""Models as their vocabularies look: what `detect` gets for each family, for parametrised tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fim.templates import Template, detect


@dataclass(frozen=True, slots=True)
class Model:
    """A model's control tokens (ids are made up), architecture and name."""

    family: str
    architecture: str
    name: str
    tokens: tuple[str, ...]

    @property
    def control_tokens(self) -> Mapping[str, int]:
        return {token: 1000 + index for index, token in enumerate(self.tokens)}

    def template(self) -> Template:
        found = detect(self.control_tokens, architecture=self.architecture, name=self.name)
        assert isinstance(found, Template), found
        return found


QWEN = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
)
STARCODER = (
    "<|endoftext|>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<filename>",
    "<gh_stars>",
    "<reponame>",
)
STARCODER2 = (*STARCODER[:5], "<repo_name>", "<file_sep>")
MISTRAL = ("<s>", "</s>", "[INST]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]")
SEED = (
    "<[begin▁of▁sentence]>",
    "<[end▁of▁sentence]>",
    "<[fim-prefix]>",
    "<[fim-suffix]>",
    "<[fim-middle]>",
)

MODELS = (
    Model("qwen2.5-coder", "qwen2", "Qwen2.5 Coder 1.5B", QWEN),
    Model("qwen2.5-coder", "qwen2", "midspan-starter", ("<|endoftext|>", *QWEN[3:])),
    Model("qwen2.5-coder", "qwen3moe", "Qwen3-Coder-30B-A3B-Instruct", QWEN),
    Model("qwen2.5-coder", "qwen3_next", "Qwen3-Coder-Next", QWEN),
    Model("codeqwen1.5", "qwen2", "CodeQwen1.5-7B", (*STARCODER2[:4], "<reponame>", "<file_sep>")),
    Model("deepseek-coder", "llama", "deepseek-coder-1.3b-base", DEEPSEEK),
    Model("deepseek-coder", "deepseek2", "DeepSeek-Coder-V2-Lite-Base", DEEPSEEK),
    Model("starcoder2", "starcoder2", "starcoder2-3b", STARCODER2),
    Model("mellum", "llama", "Mellum-4b-base", STARCODER),
    Model("granite-code", "llama", "Granite 8b Code Base", STARCODER),
    Model(
        "granite-4",
        "granitehybrid",
        "Granite 4.0 H Tiny",
        ("<|end_of_text|>", *QWEN[3:7], "<|filename|>", "<|reponame|>"),
    ),
    Model("starcoder", "gpt_bigcode", "starcoderbase-1b", STARCODER),
    Model("starcoder", "refact", "Refact 1.6B", STARCODER),
    Model(
        "santacoder",
        "starcoder",
        "santacoder",
        ("<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>", "<fim-pad>"),
    ),
    Model("stable-code", "stablelm", "Stable Code 3B", STARCODER),
    Model(
        "codellama",
        "llama",
        "codellama_codellama-7b-hf",
        ("<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    ),
    Model(
        "codegemma",
        "gemma",
        "codegemma-2b",
        ("<eos>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>"),
    ),
    Model("codestral", "llama", "Codestral-22B-v0.1", MISTRAL),
    Model("seed-coder", "llama", "Seed-Coder-8B-Base", SEED),
    Model(
        "aixcoder",
        "llama",
        "aiXcoder-7B-base",
        ("<s>", "</s>", "▁<AIX-SPAN-PRE>", "▁<AIX-SPAN-POST>", "▁<AIX-SPAN-MIDDLE>"),
    ),
    Model(
        "glm-4.5",
        "glm4moe",
        "GLM-4.5-Air",
        ("<|endoftext|>", "<|user|>", "<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"),
    ),
    Model(
        "falcon-h1-tiny-coder",
        "falcon-h1",
        "Falcon-H1-Tiny-Coder-90M",
        ("<|end_of_text|>", "<|prefix|>", "<|suffix|>", "<|middle|>"),
    ),
)
BY_FAMILY = {model.family: model for model in reversed(MODELS)}


def template(family: str) -> Template:
    return BY_FAMILY[family].template()
