"""The model card's text, from measured numbers.

Rule of this module: one pure function; every figure is an argument's, so that the card can't say
what nobody measured.
"""

from __future__ import annotations

from typing import Any

from training.examples import CUT_SHARE, MODES
from training.model import Config


def parameters(config: Config) -> int:
    """Number of weights of a model of this shape."""
    kv = config.kv_heads * config.head_size
    attention = 2 * config.hidden * config.hidden + 2 * config.hidden * kv + config.hidden + 2 * kv
    layer = attention + 3 * config.hidden * config.feed_forward + 2 * config.hidden
    return config.vocabulary * config.hidden + config.layers * layer + config.hidden


def model_card(
    state: dict[str, Any], manifest: dict[str, Any], evaluation: dict[str, Any], size: int
) -> str:
    """Markdown of the card: `state` is the checkpoint, `size` the GGUF's bytes, the others their
    JSON files' content."""
    config = Config(**state["config"])
    loss = evaluation["held_out_loss"]
    rows = [
        f"| {found['layout']} | {'yes' if found['healing'] else 'no'} | {found['context']} "
        f"| {' | '.join(cell(found[part]) for part in ('all', 'inside_words', 'elsewhere'))} |"
        for found in evaluation["exact_match"]
    ]
    mix = ", ".join(f"{name} {share:.0%}" for name, share in MODES.items())
    shape = (
        f"feed-forward {config.feed_forward}, {config.heads} heads, "
        f"{config.kv_heads} key-value heads, tied embeddings"
    )
    packages = len(manifest["licences"]) - 1
    return f"""# midspan-starter

A small Python fill-in-the-middle model, trained from scratch by `training/` in this repository, so
that midspan completes something before any download. Written by `training.export`; every figure
below was measured, none typed.

| | |
|---|---|
| Architecture | Qwen2: {config.layers} layers, hidden {config.hidden}, {shape} |
| Parameters | {parameters(config):,} |
| File | `midspan-starter-q8_0.gguf`, {size:,} bytes, Q8_0 |
| Tokenizer | byte-level BPE, {config.vocabulary:,} entries, split and FIM tokens of Qwen2.5-Coder |
| Longest row trained on | {state["longest"]:,} tokens |
| Tokens seen | {state["tokens"]:,} |
| Training time | {state["seconds"] / 60:.0f} minutes, machine shared with other work |
| Licence | Apache-2.0 |

## Data
{manifest["files"]:,} Python files, {manifest["bytes"]:,} bytes: Python {manifest["python"]}'s
standard library ({manifest["stdlib_bytes"]:,} bytes, oversampled) and {packages} packages whose
own metadata names a permissive licence. `manifest.json` lists every file with its hash, the
licences, and what was refused. Left out: tests, generated files, tables, vendored copies, and
files that share more than a tenth of their six-line runs with a held-out module.

Held out, never seen by tokenizer or model (a fifth of the standard library's top-level modules, by
hash of name, `benchmarks/holdout.py`): {", ".join(manifest["held_out_modules"])}.

## Objective
Next-token prediction over a mix of layouts ({mix}); in {CUT_SHARE:.0%} of the holes the text is
cut at any character, so that tokens are split at the cursor. The shares of holes, sources and loss
weights were adjusted while training went on; what `training/` has is how it ended.

## Measured
On {evaluation["held_out_files"]} held-out files, with `training.evaluate` on
`{evaluation["model"]}`:

- Loss: {loss["nats_per_token"]} nats per token, {loss["bits_per_byte"]} bits per byte
  ({loss["tokens"]:,} tokens in windows of {loss["window"]}).
- Exact completions of the rest of a line, greedy, at random cursors (seed {evaluation["seed"]}):

| Prompt | Healing | Context | All | Inside words | Elsewhere |
|---|---|---|---|---|---|
{chr(10).join(rows)}

## Not good for
Anything but Python. Anything that needs knowledge of a library, a plan of more than a line, or
text in a natural language: it repeats, and it invents names. It finishes words, brackets and lines
that resemble the text around them. Use a model of the Qwen2.5-Coder family for real work; this one
shows that everything is set up, and tests it.
"""


def cell(share: dict[str, Any]) -> str:
    """One share as a table's cell."""
    return f"{share['percent']} % ({share['exact']} of {share['of']})"
