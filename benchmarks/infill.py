"""`midspan bench infill`: how often the model writes the rest of the line as its author did.

Seeded random places in modules that training has never seen; the rest of the line is removed and
asked for, through the real manager and worker, beside a baseline with no model in the same run.
Exact match: the first line of the answer equals what was removed, trailing whitespace aside.
Edit similarity: 1 - Levenshtein distance / the longer length, of the same two strings.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.client import ManagerClient
from benchmarks import holdout
from benchmarks.baseline import NgramBaseline
from benchmarks.report import quantile, report, share
from lsp_server.documents import Document
from lsp_server.snapshot import take

BASELINE_ORDER = 8
# Plain n-grams take the token before the cursor as complete; ours can also go on with it, which is
# a much stronger baseline: both are reported.
BASELINES = {"baseline": False, "baseline_part_words": True}
MAX_CHARS = 200  # of the baseline's answer
MAX_TOKENS = 64  # of the model's

# Character tables are a quarter of the held-out text and no one types them.
GENERATED = re.compile(r"\bgenerated (from|by)\b", re.IGNORECASE)
GENERATED_WITHIN = 500  # characters from the top


@dataclass(frozen=True, slots=True)
class Cut:
    """A place whose rest of line was removed. `path` is relative to the standard library."""

    path: str
    line: int  # from 1
    column: int  # from 1, in characters
    prefix: str
    truth: str  # what was removed, without trailing whitespace
    suffix: str  # begins with the line end

    @property
    def inside_word(self) -> bool:
        """Whether the cursor stands between two characters of one identifier or number."""
        return _is_word(self.prefix[-1:]) and _is_word(self.truth[:1])


@dataclass(frozen=True, slots=True)
class Answer:
    """What was written at a cut; tokens are None for the baseline."""

    text: str
    ms: float
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def cuts(files: Iterable[tuple[str, str]], count: int, seed: int) -> list[Cut]:
    """Return `count` cuts of `files` (name, text), uniform over the characters of all lines.

    A place counts if something other than whitespace is left of the line after it.
    """
    lines = [
        (name, text, start, number, line)
        for name, text in files
        for number, (start, line) in enumerate(_lines(text), start=1)
        if line.strip()
    ]
    # Places of a line: before each character up to its last that is no whitespace.
    ends = list(itertools.accumulate(len(line.rstrip()) for *_, line in lines))
    if not ends:
        raise ValueError("no file has a line to cut")
    chosen = random.Random(seed).sample(range(ends[-1]), min(count, ends[-1]))
    result = []
    for place in chosen:
        index = bisect.bisect_right(ends, place)
        name, text, start, number, line = lines[index]
        column = place - (ends[index - 1] if index else 0)
        cursor = start + column
        truth, end = line[column:].rstrip(), start + len(line)
        result.append(Cut(name, number, column + 1, text[:cursor], truth, text[end:]))
    return result


def _lines(text: str) -> Iterable[tuple[int, str]]:
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1


def first_line(text: str) -> str:
    """Return what is compared: the first line of `text`, without trailing whitespace."""
    return text.partition("\n")[0].rstrip()


def edit_similarity(a: str, b: str) -> float:
    """Return 1 - Levenshtein distance / the longer length; 1 for two empty strings."""
    if not a and not b:
        return 1.0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(diagonal + (x != y), row[j] + 1, row[j - 1] + 1)
    return 1 - row[-1] / max(len(a), len(b))


def score(cut_list: Sequence[Cut], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return exact match and edit similarity: overall, at word boundaries, inside words."""
    pairs = list(zip(cut_list, answers, strict=True))
    groups = {
        "overall": pairs,
        "at_word_boundaries": [pair for pair in pairs if not pair[0].inside_word],
        "inside_words": [pair for pair in pairs if pair[0].inside_word],
    }
    return {name: _score(group) for name, group in groups.items()}


def _score(pairs: Sequence[tuple[Cut, Answer]]) -> dict[str, Any]:
    texts = [(first_line(answer.text), cut.truth) for cut, answer in pairs]
    similar = [edit_similarity(text, truth) for text, truth in texts]
    result: dict[str, Any] = {
        "exact_match": share(sum(text == truth for text, truth in texts), len(texts)),
        "edit_similarity": {
            "mean": round(sum(similar) / len(similar), 4) if similar else None,
            "interval_95": bootstrap_mean(similar),
        },
    }
    return result


def bootstrap_mean(values: Sequence[float], rounds: int = 1000, seed: int = 0) -> list[float]:
    """Return the percentile bootstrap's 95 % interval of the mean; [0, 1] of nothing."""
    if not values:
        return [0.0, 1.0]
    rng = random.Random(seed)
    means = [sum(rng.choices(values, k=len(values))) / len(values) for _ in range(rounds)]
    return [round(quantile(means, 0.025), 4), round(quantile(means, 0.975), 4)]


def costs(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return milliseconds per completion and, for a model, mean tokens."""
    times = [answer.ms for answer in answers]
    result: dict[str, Any] = {
        "ms_per_completion": {
            "p50": round(quantile(times, 0.5), 1),
            "p95": round(quantile(times, 0.95), 1),
            "mean": round(sum(times) / len(times), 1),
        }
    }
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        counts = [getattr(answer, name) for answer in answers]
        if None not in counts:
            result[name] = {"mean": round(sum(counts) / len(counts), 1), "total": sum(counts)}
    return result


def read(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Return (path relative to the standard library, text), without generated files."""
    root = holdout.stdlib_root()
    result = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # lib2to3 and the like keep samples in other encodings
        if not GENERATED.search(text[:GENERATED_WITHIN]):
            result.append((path.relative_to(root).as_posix(), text))
    return result


async def ask_model(
    cut_list: Sequence[Cut], model: str | None, progress: Callable[[str], None]
) -> tuple[list[Answer], str]:
    """Ask the manager for every cut; return the answers and the model's name."""
    client = ManagerClient(client_name="midspan-bench")
    answers, name = [], ""
    try:
        for number, cut in enumerate(cut_list):
            # The same windows as an editor's request.
            document = Document(cut.path, cut.prefix + cut.suffix, 1, "python")
            snapshot = take(document, len(cut.prefix), len(cut.prefix))
            body: dict[str, object] = {
                "input_prefix": snapshot.before,
                "input_suffix": snapshot.after,
                "path": cut.path,
                "n_predict": MAX_TOKENS,
                "temperature": 0.0,
                "single_line": True,
            }
            if model is not None:
                body["model"] = model
            started = time.perf_counter()
            reply = await client.infill(body)
            elapsed = 1000 * (time.perf_counter() - started)
            usage, name = reply["usage"], reply["model"]
            answers.append(
                Answer(
                    reply["content"],
                    elapsed,
                    usage["prompt_tokens"],
                    usage["cached_tokens"],
                    usage["completion_tokens"],
                )
            )
            if number % 50 == 49:
                progress(f"model: {number + 1} of {len(cut_list)} cuts")
    finally:
        await client.close()
    return answers, name


def ask_baselines(
    cut_list: Sequence[Cut], training: Sequence[tuple[str, str]], progress: Callable[[str], None]
) -> dict[str, list[Answer]]:
    """Train the n-grams on `training` and ask them for every cut, with and without part words."""
    progress(f"baseline: training on {len(training)} files")
    baseline = NgramBaseline(order=BASELINE_ORDER)
    baseline.train([text for _, text in training])
    answers: dict[str, list[Answer]] = {}
    for who, inside_words in BASELINES.items():
        progress(f"{who}: {len(cut_list)} cuts")
        answers[who] = []
        for cut in cut_list:
            started = time.perf_counter()
            text = baseline.complete(cut.prefix, cut.suffix, MAX_CHARS, inside_words=inside_words)
            answers[who].append(Answer(text, 1000 * (time.perf_counter() - started)))
    return answers


def run(
    *,
    count: int = 300,
    seed: int = 0,
    model: str | None = None,
    baseline_only: bool = False,
    details: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return its JSON object. `details` adds every cut with its answers."""
    held_out = read(holdout.held_out_files())
    cut_list = cuts(held_out, count, seed)
    training = read(path for files in holdout.training_modules().values() for path in files)
    answers = ask_baselines(cut_list, training, progress)
    results: dict[str, Any] = {}
    model_name = None
    if not baseline_only:
        answers["model"], model_name = asyncio.run(ask_model(cut_list, model, progress))
    for who, given in answers.items():
        results[who] = score(cut_list, given) | costs(given)
    if model_name is not None:
        results["model"]["name"] = model_name
        hits = {who: results[who]["overall"]["exact_match"]["count"] for who in answers}
        results["exact_match_ratio"] = {
            who: round(hits["model"] / hits[who], 2) if hits[who] else None for who in BASELINES
        }
    results["baselines_trained_on"] = (
        f"the standard library's modules that are not held out: {len(training)} files, "
        f"{sum(len(text) for _, text in training)} characters"
    )
    if details:
        results["cuts"] = [
            {"path": cut.path, "line": cut.line, "column": cut.column, "truth": cut.truth}
            | {who: asdict(given[index]) for who, given in answers.items()}
            for index, cut in enumerate(cut_list)
        ]
    parameters = {
        "cuts": len(cut_list),
        "seed": seed,
        "model": model,
        "max_tokens": MAX_TOKENS,
        "baseline": f"longest match, order {BASELINE_ORDER}, with the current file's cache; the "
        "token before the cursor counts as complete",
        "baseline_part_words": "the same, and it may go on with that token",
        "edit_similarity": "1 - Levenshtein distance / longer length",
        "held_out": f"{len(held_out)} files of {len(holdout.held_out_modules())} modules; "
        "generated tables are left out",
    }
    return report("infill", parameters, results)
