"""The starter model's tokenizer: byte-level BPE with Qwen2's pre-tokenizer and Qwen2.5-Coder's FIM
tokens.

Rule of this module: any text round-trips, and no text ever yields a control id (specials are never
parsed from text).

    python -m training.tokenizer --corpus corpus.jsonl --out tokenizer.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.corpus import load

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""Control tokens, each at the id of its position."""

END, PREFIX, MIDDLE, SUFFIX, PAD, REPOSITORY, FILE = range(len(CONTROL_TOKENS))

VOCABULARY_SIZE = 6144

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's split, which llama.cpp knows as pre-tokenizer "qwen2"."""


def train(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> Tokenizer:
    """A new tokenizer of `vocabulary_size` entries; ids 0 to 6 are `CONTROL_TOKENS`, then the 256
    bytes, then merges."""
    tokenizer = assembled(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return without_specials(tokenizer)


def assembled(model: models.BPE) -> Tokenizer:
    """A tokenizer of this vocabulary with Qwen2's split."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def from_vocabulary(tokens: list[str], merges: list[str]) -> Tokenizer:
    """The tokenizer of an exported model: tokens by id, merges as pairs parted by a blank."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = assembled(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    return without_specials(tokenizer)


def without_specials(tokenizer: Tokenizer) -> Tokenizer:
    """Makes `encode` treat control tokens' spellings as ordinary text: needed after training and
    after every load."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads `tokenizer.json`, with specials never parsed from text."""
    return without_specials(Tokenizer.from_file(str(path)))


def split_last_piece(text: str, tokenizer: Tokenizer) -> tuple[str, str]:
    """The text without what the pre-tokenizer sees as its last piece (a word, a run of blanks or
    signs), and that piece: healing takes it back, since only before it a token surely begins."""
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    start = pieces[-1][1][0] if pieces else 0
    return text[:start], text[start:]


def byte_table() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: character to byte value (0 to 255)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Each id's bytes, by id; empty for control tokens."""
    table = byte_table()
    size = tokenizer.get_vocab_size()
    spelled = [tokenizer.id_to_token(i) or "" for i in range(size)]
    return [
        b"" if i < len(CONTROL_TOKENS) else bytes(table[c] for c in token)
        for i, token in enumerate(spelled)
    ]


def main() -> None:
    """Command line: trains on a corpus, or takes an exported model's tokenizer, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", type=Path, help="corpus.jsonl to train on")
    parser.add_argument("--from-gguf", type=Path, help="take this model's tokenizer instead")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=VOCABULARY_SIZE)
    arguments = parser.parse_args()
    if arguments.from_gguf:
        from training.export import read_tokenizer

        tokenizer = read_tokenizer(arguments.from_gguf)
    elif arguments.corpus:
        documents = load(arguments.corpus)
        stdlib = [d.text for d in documents if d.source == "stdlib"]
        tokenizer = train([d.text for d in documents] + stdlib * 2, arguments.size)
    else:
        parser.error("one of --corpus and --from-gguf is needed")
    tokenizer.save(str(arguments.out))


if __name__ == "__main__":
    main()
