"""Measures a model on held-out modules: loss, and exact greedy completions of the rest of a line.

Rule of this module: it reads only held-out modules, prompts the way midspan does (anchored PSM,
healing byte by byte) and prints one JSON object. Torch on the CPU, float32.

    python -m training.evaluate --model RUN/checkpoint.pt --data DIR --cuts 300 --out
    evaluation.json
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.holdout import held_out_modules, stdlib_root
from training.corpus import read_text, rejects
from training.examples import encoder, line_end, line_start
from training.infer import Decoder
from training.model import Config, Qwen2
from training.tokenizer import (
    END,
    MIDDLE,
    PREFIX,
    SUFFIX,
    load_tokenizer,
    split_last_piece,
    token_bytes,
)

logger = logging.getLogger(__name__)

LAYOUTS = ("anchored", "psm")
MOST_TOKENS = 48
"""Tokens after which a completion of one line is given up."""

SUFFIX_SHARE = 0.25
"""Share of the context given to the text after the cursor."""


@dataclass(frozen=True)
class Cut:
    """A cursor in a held-out file: `rest` is the remainder of its line, removed from the
    document."""

    path: str
    before: str
    rest: str
    after: str

    @property
    def inside_word(self) -> bool:
        """Whether the cursor stands between two characters of one word."""
        return bool(self.before) and all(
            c.isalnum() or c == "_" for c in (self.before[-1], self.rest[0])
        )


def held_out_texts() -> dict[str, str]:
    """Held-out files' texts by path relative to the standard library, without generated ones and
    tables."""
    root, texts = stdlib_root(), {}
    for files in held_out_modules().values():
        for path in files:
            text = read_text(path)
            if text is not None and rejects(path, text) in (None, "name", "size") and text.strip():
                texts[str(path.relative_to(root))] = text
    return texts


def random_cuts(texts: dict[str, str], count: int, seed: int) -> list[Cut]:
    """Cursors drawn evenly over all characters whose line goes on with something other than
    blanks."""
    rng = random.Random(seed)
    paths = sorted(texts)
    sizes = [len(texts[path]) for path in paths]
    cuts: list[Cut] = []
    while len(cuts) < count:
        path = rng.choices(paths, sizes)[0]
        text = texts[path]
        cursor = rng.randrange(len(text))
        end = line_end(text, cursor)
        if text[cursor:end].strip():
            cuts.append(Cut(path, text[:cursor], text[cursor:end], text[end:]))
    return cuts


def prompt(
    cut: Cut, layout: str, heal: bool, context: int, tokenizer: Tokenizer
) -> tuple[list[int], bytes]:
    """The prompt's ids, at most `context` of them, and the bytes that the completion must begin
    with.

    Healing takes back what the pre-tokenizer sees as the last piece before the cursor (a word, a
    run of blanks or signs): only there may a token of the finished text begin.
    """
    encode = encoder(tokenizer)
    start = line_start(cut.before, len(cut.before)) if layout == "anchored" else len(cut.before)
    before, typed, pending = cut.before[max(0, start - context * 8) : start], cut.before[start:], ""
    if heal and layout == "anchored":
        typed, pending = split_last_piece(typed, tokenizer)
    elif heal:
        before, pending = split_last_piece(before, tokenizer)
    middle = encode(typed)
    room = context - len(middle) - 3
    suffix = encode(cut.after[: context * 8])[: int(room * SUFFIX_SHARE)]
    prefix = encode(before)[-(room - len(suffix)) :]
    return [PREFIX, *prefix, SUFFIX, *suffix, MIDDLE, *middle], pending.encode()


def completes(
    decoder: Decoder, ids: list[int], pending: bytes, rest: bytes, tokens: list[bytes]
) -> bool:
    """Whether greedy decoding writes exactly `rest`, then ends the line or the text.

    Stops at the first byte that differs. While `pending` lasts, only tokens that agree with it
    byte by byte may come.
    """
    wanted, made = pending + rest, b""
    logits = decoder.start(ids)
    for _ in range(MOST_TOKENS):
        left = pending[len(made) :]
        if left:
            allowed = [
                i for i, t in enumerate(tokens) if t and (t.startswith(left) or left.startswith(t))
            ]
            token = allowed[int(logits[allowed].argmax())]
        else:
            token = int(logits.argmax())
        if token == END or tokens[token][:1] in (b"\n", b"\r"):
            return made == wanted
        made += tokens[token]
        line = made.split(b"\n", 1)[0]
        if line != made:
            return line == wanted
        if not wanted.startswith(made):
            return False
        logits = decoder.step(token)
    return False


def exact_matches(
    model: Qwen2, tokenizer: Tokenizer, cuts: list[Cut], layout: str, heal: bool, context: int
) -> dict[str, Any]:
    """Counts and shares of exact completions, in all, inside words and at other places."""
    tokens, decoder = token_bytes(tokenizer), Decoder(model)
    hits = []
    for cut in cuts:
        ids, pending = prompt(cut, layout, heal, context, tokenizer)
        hits.append(completes(decoder, ids, pending, cut.rest.encode(), tokens))
    inside = [hit for hit, cut in zip(hits, cuts, strict=True) if cut.inside_word]

    def share(part: list[bool]) -> dict[str, Any]:
        return {
            "exact": sum(part),
            "of": len(part),
            "percent": round(100 * sum(part) / max(1, len(part)), 1),
        }

    outside = [hit for hit, cut in zip(hits, cuts, strict=True) if not cut.inside_word]
    return {
        "layout": layout,
        "healing": heal,
        "context": context,
        "all": share(hits),
        "inside_words": share(inside),
        "elsewhere": share(outside),
    }


@torch.inference_mode()
def held_out_loss(
    model: Qwen2, tokenizer: Tokenizer, texts: dict[str, str], length: int, most: int, seed: int
) -> dict[str, float]:
    """Mean cross entropy of running text in windows of `length` tokens: nats per token, and bits
    per byte.

    `most` is the number of windows, drawn at random from all.
    """
    encode, tokens = encoder(tokenizer), token_bytes(tokenizer)
    windows = []
    for _, text in sorted(texts.items()):
        ids = encode(text)
        windows += [ids[i : i + length + 1] for i in range(0, len(ids) - 1, length)]
    random.Random(seed).shuffle(windows)
    nats, count, size = 0.0, 0, 0
    for window in windows[:most]:
        ids_tensor = torch.tensor([window])
        _, mean = model.loss(ids_tensor, torch.ones(ids_tensor.shape))
        nats += float(mean) * (len(window) - 1)
        count += len(window) - 1
        size += sum(len(tokens[i]) for i in window[1:])
    return {
        "nats_per_token": round(nats / count, 4),
        "bits_per_byte": round(nats / size / math.log(2), 4),
        "tokens": count,
        "window": length,
    }


def load_model(path: Path) -> tuple[Qwen2, dict[str, Any]]:
    """A checkpoint's or a GGUF's model in float32, and what is known of its training."""
    if path.suffix == ".gguf":
        from training.export import read_config, read_weights

        state: dict[str, Any] = {
            "config": read_config(path).__dict__,
            "model": read_weights(path),
            "tokens": None,
        }
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    model = Qwen2(Config(**state["config"]))
    weights: dict[str, Tensor] = state["model"]
    model.load_state_dict(weights)
    return model.eval(), state


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", type=Path, required=True, help="checkpoint.pt or an exported .gguf"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of tokenizer.json")
    parser.add_argument("--cuts", type=int, default=300)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--layouts",
        nargs="*",
        default=["anchored", "anchored-raw", "psm"],
        help="with -raw: no healing",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model, state = load_model(arguments.model)
    tokenizer, texts = load_tokenizer(arguments.data / "tokenizer.json"), held_out_texts()
    cuts = random_cuts(texts, arguments.cuts, arguments.seed)
    result: dict[str, Any] = {
        "model": arguments.model.name,
        "tokens_seen": state["tokens"],
        "held_out_files": len(texts),
        "seed": arguments.seed,
    }
    result["held_out_loss"] = held_out_loss(
        model, tokenizer, texts, 512, arguments.windows, arguments.seed
    )
    result["exact_match"] = []
    for name in arguments.layouts:
        found = exact_matches(
            model,
            tokenizer,
            cuts,
            name.removesuffix("-raw"),
            not name.endswith("-raw"),
            arguments.context,
        )
        logger.info("%s", json.dumps(found))
        result["exact_match"].append(found)
    text = json.dumps(result, indent=1)
    logger.info("%s", text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
