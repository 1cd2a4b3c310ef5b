"""The catalogue: one row of data for each family of models that fill in the middle.

Rule: data only, no decisions; adding a model is adding a row. Sources are the model cards, papers
and tokenizers; what could not be confirmed says so in its `note`. A begin-of-text token is not part
of a row: the engine puts it where the vocabulary asks for one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Order(StrEnum):
    """In what order a family is shown prefix (P), suffix (S) and its control tokens."""

    PSM = "psm"  # PRE P SUF S MID; anchored: PRE before SUF S MID typed
    SPM = "spm"  # SUF S PRE P MID
    SPM_MIDDLE_FIRST = "spm_middle_first"  # PRE SUF S MID P: only text follows the tokens


class OwnPath(StrEnum):
    """When the current file's own path is shown."""

    WITH_OTHERS = "with_others"  # only after other files
    ALWAYS = "always"  # whenever it is known


class Place(StrEnum):
    """Where other files and the current file's path go."""

    AHEAD = "ahead"  # before the first FIM token, own path included
    OWN_PATH_IN_PREFIX = "own_path_in_prefix"  # the files ahead, the own path after PRE
    IN_PREFIX = "in_prefix"  # all of it as the beginning of the prefix's text


@dataclass(frozen=True, slots=True)
class Context:
    """How a family was shown other files: `repository` R, then `file` path, newline, text."""

    repository: str = ""  # control token before the repository's name
    file: str = ""  # control token before each path
    file_text: str = ""  # where there is no such token: the text before each path
    end: str = "\n"  # a file's text ends with this
    repository_end: str = "\n"  # the repository's name does with this
    place: Place = Place.AHEAD
    own_path: OwnPath = OwnPath.WITH_OTHERS
    others: bool = True  # False: trained to see its own path, but no other files


@dataclass(frozen=True, slots=True)
class Template:
    """A family's format. Tokens are given by their text in the vocabulary.

    `middle` is "" where the family has none. `prefix_lead` is text that training put before every
    non-empty prefix (Text is tokenised exactly as written: tokenizers must add no space).
    `architectures` (letters and digits only) and `names` are what `detect` checks besides the
    tokens. `context_length` is in tokens, that of the family's largest.
    """

    family: str
    prefix: str
    suffix: str
    middle: str
    architectures: frozenset[str]
    names: re.Pattern[str] | None = None  # None: the tokens and the architecture are proof enough
    order: Order = Order.PSM
    context: Context | None = None
    prefix_lead: str = ""
    end_tokens: tuple[str, ...] = ()
    padding: str = ""
    context_length: int = 0
    note: str = ""

    @property
    def fim_tokens(self) -> tuple[str, ...]:
        """The control tokens that every prompt of this family needs."""
        return tuple(token for token in (self.prefix, self.suffix, self.middle) if token)

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """Texts of the control tokens that end a generation, the likeliest first.

        A vocabulary may lack some of them. Control tokens only: a stop made of ordinary text, such
        as "//", cuts good completions.
        """
        context = (self.context.file, self.context.repository) if self.context else ()
        tokens = (
            *self.end_tokens[:1],
            *context[:1],
            *self.fim_tokens,
            *self.end_tokens[1:],
            *context[1:],
            self.padding,
        )
        return tuple(dict.fromkeys(token for token in tokens if token))


def _named(pattern: str) -> re.Pattern[str]:
    """Compile a pattern for normalised names (see `templates.normalise`): whole words only."""
    return re.compile(rf"(?:^|-)(?:{pattern})(?:-|$)")


_ANY_LLAMA = frozenset({"llama", "mistral"})

FAMILIES: tuple[Template, ...] = (
    Template(
        family="qwen2.5-coder",
        prefix="<|fim_prefix|>",
        suffix="<|fim_suffix|>",
        middle="<|fim_middle|>",
        architectures=frozenset({"qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen3next"}),
        # The general Qwen models have the same vocabulary, untrained. "starter" is midspan's own.
        names=_named("(?:qwen[0-9.]*)?coder|codeqwen[0-9.]*|starter"),
        context=Context(repository="<|repo_name|>", file="<|file_sep|>"),
        end_tokens=("<|endoftext|>", "<|im_end|>"),
        padding="<|fim_pad|>",
        context_length=131072,
        note="32K up to 3B. Qwen3-Coder-Next is a hybrid: partial cache trimming is limited. "
        "Qwen3-Coder's README wraps the same prompt in a chat turn",
    ),
    Template(
        family="codeqwen1.5",
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        architectures=frozenset({"qwen2"}),
        names=_named("codeqwen[0-9.]*"),
        context=Context(repository="<reponame>", file="<file_sep>"),
        end_tokens=("<|endoftext|>", "<|im_end|>"),
        context_length=65536,
        note="not confirmed beyond its tokenizer",
    ),
    Template(
        family="deepseek-coder",
        prefix="<｜fim▁begin｜>",
        suffix="<｜fim▁hole｜>",
        middle="<｜fim▁end｜>",
        architectures=frozenset({"llama", "deepseek2", "deepseekv2"}),
        # DeepSeek's chat models and their distillations share the vocabulary.
        names=_named("(?:deepseek)?coder"),
        context=Context(file_text="#", place=Place.IN_PREFIX),
        end_tokens=("<｜end▁of▁sentence｜>", "<|EOT|>"),
        context_length=131072,
        note="full-width bars and U+2581 in its tokens; 16K for v1, 128K for V2-Lite",
    ),
    Template(
        family="starcoder2",
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        architectures=frozenset({"starcoder2"}),
        context=Context(
            repository="<repo_name>",
            file="<file_sep>",
            end="",
            repository_end="",
            place=Place.OWN_PATH_IN_PREFIX,
        ),
        end_tokens=("<|endoftext|>",),
        padding="<fim_pad>",
        context_length=16384,
        note="the path comes after the prefix token; it ends a file with <file_sep>",
    ),
    Template(
        family="mellum",
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        architectures=_ANY_LLAMA,
        names=_named("mellum[0-9.]*"),
        order=Order.SPM,
        context=Context(file="<filename>", own_path=OwnPath.ALWAYS),
        end_tokens=("<|endoftext|>",),
        padding="<fim_pad>",
        context_length=8192,
        note="StarCoder's tokens, but suffix first",
    ),
    Template(
        family="granite-code",
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        architectures=frozenset({"llama", "granite", "starcoder", "gptbigcode"}),
        names=_named("granite[0-9.]*"),
        context=Context(repository="<reponame>", file="<filename>"),
        end_tokens=("<|endoftext|>", "<|end_of_text|>"),
        padding="<fim_pad>",
        context_length=131072,
        note="the code models and 3.3; the form with other files is not confirmed",
    ),
    Template(
        family="granite-4",
        prefix="<|fim_prefix|>",
        suffix="<|fim_suffix|>",
        middle="<|fim_middle|>",
        architectures=frozenset({"granite", "granitemoe", "granitehybrid", "granitemoehybrid"}),
        names=_named("granite[0-9.]*"),
        context=Context(repository="<|reponame|>", file="<|filename|>"),
        end_tokens=("<|end_of_text|>",),
        padding="<|fim_pad|>",
        context_length=131072,
        note="4-H is a hybrid; the form with other files is not confirmed",
    ),
    Template(
        family="starcoder",
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        architectures=frozenset({"starcoder", "gptbigcode", "refact", "gptrefact"}),
        end_tokens=("<|endoftext|>",),
        padding="<fim_pad>",
        context_length=8192,
        note="StarCoder 8K and Refact 4K",
    ),
    Template(
        family="santacoder",
        prefix="<fim-prefix>",
        suffix="<fim-suffix>",
        middle="<fim-middle>",
        architectures=frozenset({"starcoder", "gptbigcode", "gpt2custom"}),
        end_tokens=("<|endoftext|>",),
        padding="<fim-pad>",
        context_length=2048,
        note="hyphens where StarCoder has underscores",
    ),
    Template(
        family="stable-code",
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        architectures=frozenset({"stablelm", "stablelmepoch"}),
        names=_named("stable-?code"),
        end_tokens=("<|endoftext|>",),
        padding="<fim_pad>",
        context_length=16384,
        note="StarCoder's tokens",
    ),
    Template(
        family="codellama",
        prefix="<PRE>",
        suffix="<SUF>",
        middle="<MID>",
        architectures=_ANY_LLAMA,
        names=_named("code-?llama"),
        # "<PRE> P <SUF>S <MID>": the space after PRE is text, the others belong to the tokens,
        # which are spelt "▁<SUF>" and "▁<MID>" in the vocabulary.
        prefix_lead=" ",
        end_tokens=("<EOT>", "</s>"),
        context_length=16384,
        note="7B and 13B only; the 34B, 70B and Python variants have no FIM",
    ),
    Template(
        family="codegemma",
        prefix="<|fim_prefix|>",
        suffix="<|fim_suffix|>",
        middle="<|fim_middle|>",
        architectures=frozenset({"gemma"}),
        names=_named("codegemma|code-gemma"),
        context=Context(file="<|file_separator|>"),
        end_tokens=("<|file_separator|>", "<eos>"),
        context_length=8192,
        note="2B and 7B, not 7B-it",
    ),
    Template(
        family="codestral",
        prefix="[PREFIX]",
        suffix="[SUFFIX]",
        middle="",
        architectures=_ANY_LLAMA,
        # Mistral's other models have the same tokens, untrained.
        names=_named("codestral"),
        order=Order.SPM,
        context=Context(file_text="+++++ ", end="\n\n", place=Place.IN_PREFIX),
        end_tokens=("</s>",),
        context_length=32768,
        note="no middle token; Mamba-Codestral has no FIM",
    ),
    Template(
        family="seed-coder",
        prefix="<[fim-prefix]>",
        suffix="<[fim-suffix]>",
        middle="<[fim-middle]>",
        architectures=_ANY_LLAMA,
        names=_named("seed-coder"),
        order=Order.SPM,
        end_tokens=("<[end▁of▁sentence]>",),
        context_length=32768,
    ),
    Template(
        family="aixcoder",
        prefix="<AIX-SPAN-PRE>",
        suffix="<AIX-SPAN-POST>",
        middle="<AIX-SPAN-MIDDLE>",
        architectures=_ANY_LLAMA,
        names=_named("aixcoder(?:-7b)?"),
        order=Order.SPM_MIDDLE_FIRST,
        context=Context(
            file_text="# the file path is: ",
            place=Place.IN_PREFIX,
            own_path=OwnPath.ALWAYS,
            others=False,
        ),
        end_tokens=("</s>",),
        context_length=32768,
        note="the prefix is the last thing in the prompt, after the middle token",
    ),
    Template(
        family="glm-4.5",
        prefix="<|code_prefix|>",
        suffix="<|code_suffix|>",
        middle="<|code_middle|>",
        architectures=frozenset({"glm4moe"}),
        end_tokens=("<|endoftext|>", "<|user|>"),
        context_length=131072,
    ),
    Template(
        family="falcon-h1-tiny-coder",
        prefix="<|prefix|>",
        suffix="<|suffix|>",
        middle="<|middle|>",
        architectures=frozenset({"falconh1"}),
        names=_named("coder"),
        end_tokens=("<|end_of_text|>", "<|endoftext|>"),
        context_length=8192,
        note="a hybrid; its context length is not confirmed",
    ),
)


@dataclass(frozen=True, slots=True)
class Denied:
    """Models that are refused whatever their vocabulary and name suggest."""

    names: re.Pattern[str]
    reason: str


DENIED: tuple[Denied, ...] = (
    Denied(
        _named("opencoder|open-coder"),
        "OpenCoder's vocabulary has fill-in-the-middle tokens, but it was not trained on them",
    ),
    Denied(
        _named("devstral[0-9.]*"),
        "Devstral's vocabulary has fill-in-the-middle tokens, but it was not trained on them",
    ),
    Denied(
        _named("(?:mamba-codestral|codestral-mamba)"),
        "Mamba-Codestral was not trained to fill in the middle, only Codestral 22B was",
    ),
    Denied(
        _named(r"code-?llama(?:-[a-z0-9.]+)*?-(?:34b|70b|python)"),
        "of the CodeLlama models only 7B and 13B fill in the middle, and not as Python variants",
    ),
    Denied(
        _named(r"code-?gemma(?:-[a-z0-9.]+)*?-it"),
        "CodeGemma's instruction-tuned variant was not trained to fill in the middle, "
        "only CodeGemma 2B and 7B were",
    ),
    Denied(_named("yi-coder"), "Yi-Coder is not known to be trained to fill in the middle"),
    Denied(
        _named("zeta[0-9.]*"),
        "Zeta predicts the next edit by rewriting a region, it does not fill in the middle",
    ),
    Denied(
        _named("sweep(?:-[a-z0-9.]+)*?-edit"),
        "Sweep's model predicts the next edit by rewriting lines, it does not fill in the middle",
    ),
)
