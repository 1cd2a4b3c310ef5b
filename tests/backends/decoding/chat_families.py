"""Chat templates of real families, with the control tokens their vocabularies have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backends.decoding.chat_format import ChatFormat
from backends.decoding.chat_template import ChatTemplate

FOLDER = Path(__file__).with_name("chat_templates")


@dataclass(frozen=True)
class Family:
    name: str
    controls: tuple[str, ...]
    eos: str
    bos: str = ""

    @property
    def source(self) -> str:
        return (FOLDER / f"{self.name}.jinja").read_text(encoding="utf-8")

    @property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self.source, {"bos_token": self.bos, "eos_token": self.eos})

    @property
    def form(self) -> ChatFormat:
        return ChatFormat(self.template, self.controls, [self.eos])


_DEEPSEEK_TOOLS = (
    *(
        f"<｜tool▁{part}｜>"
        for part in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")
    ),
    *(f"<｜tool▁output{part}｜>" for part in ("s▁begin", "▁begin", "▁end", "s▁end")),
)
FAMILIES = {
    family.name: family
    for family in (
        Family("chatml", ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), "<|im_end|>"),
        Family("qwen25", ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), "<|im_end|>"),
        Family(
            "llama3",
            ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
            "<|eot_id|>",
            "<|begin_of_text|>",
        ),
        Family(
            "deepseek_r1",
            (
                "<｜begin▁of▁sentence｜>",
                "<｜end▁of▁sentence｜>",
                "<｜User｜>",
                "<｜Assistant｜>",
                *_DEEPSEEK_TOOLS,
            ),
            "<｜end▁of▁sentence｜>",
            "<｜begin▁of▁sentence｜>",
        ),
        Family(
            "mistral",
            (
                *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"),
                *("[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
            ),
            "</s>",
            "<s>",
        ),
        Family("gemma", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>"),
    )
}
