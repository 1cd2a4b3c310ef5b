"""Trains the model: one script for CPU and GPU, resumable, scheduled by tokens.

Rule of this module: the loop, its schedule and its checkpoints; what is learnt is in `examples`,
how in `optimizer`. The schedule is warm-up, constant, then a separate cooldown to zero (WSD), so
that a stable run can go on for as long as there is time and be cooled down from any checkpoint.

    python -m training.train --data DIR --out RUN --stage stable --tokens 20_000_000
    python -m training.train --data DIR --out RUN --stage stable --tokens 40_000_000 --resume
    python -m training.train --data DIR --out RUN --stage cooldown --tokens 8_000_000 --resume

SIGTERM and SIGINT end a run after the step in hand, with a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch

from training.corpus import load
from training.examples import Rows
from training.model import SIZES, Config, Qwen2
from training.optimizer import Optimizer
from training.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

SHARES = {"stdlib": 0.5, "packages": 0.5}
"""Where examples are drawn from: the standard library is oversampled, since it is the style we are
measured on."""

WARM_UP_STEPS = 150
LOG_EVERY = 50
QUEUED_BATCHES = 32


def produce(
    queue: Queue[Any], data: Path, length: int, rows: int, seed: int, first: int, stride: int
) -> None:
    """Fills `queue` with (step, ids, weights) for steps first, first + stride, …; runs in a
    process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    documents = load(data / "corpus.jsonl")
    groups = {
        "stdlib": [d for d in documents if d.source == "stdlib"],
        "packages": [d for d in documents if d.source != "stdlib"],
    }
    source = Rows(groups, SHARES, load_tokenizer(data / "tokenizer.json"), length, seed)
    step = first
    while os.getppid() == parent:
        queue.put((step, *source.batch(step, rows)))
        step += stride


def batches(
    arguments: argparse.Namespace, first: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of ids and weights from step `first` on, in order, made by `--workers` processes."""
    context = multiprocessing.get_context("spawn")
    queues: list[Queue[Any]] = []
    for worker in range(arguments.workers):
        queue: Queue[Any] = context.Queue(max(2, QUEUED_BATCHES // arguments.workers))
        queues.append(queue)
        context.Process(
            target=produce,
            args=(
                queue,
                arguments.data,
                arguments.length,
                arguments.rows,
                arguments.seed,
                first + worker,
                arguments.workers,
            ),
            daemon=True,
        ).start()
    step = first
    while True:
        made, ids, weights = queues[(step - first) % len(queues)].get()
        assert made == step
        yield torch.from_numpy(ids), torch.from_numpy(weights)
        step += 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint to a temporary name, then renames it, so that `path` is always whole."""
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def factor_at(stage: str, steps: int, done: int, total: int) -> float:
    """Learning-rate factor, 0 to 1. Stable: linear warm-up over the first steps. Cooldown: linear
    from 1 to 0.

    `steps` counts the run's steps; `done` and `total` are the stage's tokens.
    """
    if stage == "stable":
        return min(1.0, (steps + 1) / WARM_UP_STEPS)
    return max(0.0, 1 - done / total)


class Run:
    """A model, its optimizer and the counters of one training run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.checkpoint = arguments.out / "checkpoint.pt"
        state = (
            torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if arguments.resume
            else None
        )
        config = Config(**state["config"]) if state else SIZES[arguments.size]
        torch.manual_seed(arguments.seed)
        self.model = Qwen2(config).to(self.device, torch.bfloat16)
        if state is None and arguments.init_from_gguf:
            from training.export import read_weights  # the only use of gguf in training

            self.model.load_state_dict(read_weights(arguments.init_from_gguf), strict=True)
        self.optimizer = Optimizer(
            self.model, arguments.matrix_rate, arguments.other_rate, arguments.decay
        )
        self.steps, self.tokens, self.stage_tokens, self.stage = 0, 0, 0, arguments.stage
        self.seconds = 0.0
        self.longest = arguments.length
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
            self.steps, self.tokens, self.seconds = (
                state["steps"],
                state["tokens"],
                state["seconds"],
            )
            self.longest = max(self.longest, state.get("longest", 0))
            if state["stage"] == arguments.stage and not arguments.start_rate:
                self.stage_tokens = state["stage_tokens"]

    def save(self) -> None:
        """Writes the checkpoint; the model's weights are in it in float32, too, for evaluation and
        export."""
        content = {
            "config": asdict(self.model.config),
            "optimizer": self.optimizer.state_dict(),
            "model": self.optimizer.named_masters(self.model),
            "steps": self.steps,
            "tokens": self.tokens,
            "stage": self.stage,
            "stage_tokens": self.stage_tokens,
            "seconds": self.seconds,
            "longest": self.longest,
            "settings": {k: str(v) for k, v in vars(self.arguments).items()},
        }
        save(self.checkpoint, content)

    def train(self) -> None:
        """Runs the stage to its end, or until a signal."""
        stop: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _: stop.append(n))
        loss = torch.compile(self.model.loss, dynamic=False)
        log = (self.arguments.out / "log.jsonl").open("a", encoding="utf-8")
        sums, summed = [0.0, 0.0], 0
        since = saved = time.monotonic()
        goal = self.arguments.tokens
        source = batches(self.arguments, self.steps + self.arguments.skip)
        while not stop and (self.stage_tokens if self.stage == "cooldown" else self.tokens) < goal:
            ids, weights = (t.to(self.device, non_blocking=True) for t in next(source))
            weighted, plain = loss(ids, weights)
            torch.autograd.backward(weighted)
            factor = factor_at(self.stage, self.steps, self.stage_tokens, goal)
            factor *= self.arguments.start_rate or 1.0
            self.optimizer.step(factor)
            count = ids.shape[0] * (ids.shape[1] - 1)
            self.steps, self.tokens, self.stage_tokens = (
                self.steps + 1,
                self.tokens + count,
                self.stage_tokens + count,
            )
            sums[0] += float(weighted.detach())
            sums[1] += float(plain.detach())
            summed += 1
            if self.steps % LOG_EVERY == 0:
                now = time.monotonic()
                self.seconds += now - since
                row = {
                    "step": self.steps,
                    "tokens": self.tokens,
                    "stage": self.stage,
                    "loss": round(sums[1] / summed, 4),
                    "weighted_loss": round(sums[0] / summed, 4),
                    "rate": round(factor, 4),
                    "tokens_per_s": round(count * summed / (now - since)),
                    "seconds": round(self.seconds, 1),
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                if not math.isfinite(sums[0]):
                    raise FloatingPointError(f"loss is not finite at step {self.steps}")
                sums, summed, since = [0.0, 0.0], 0, now
                if now - saved > self.arguments.save_every:
                    self.save()
                    saved = now
        self.save()
        logger.info("stopped at step %d, %d tokens", self.steps, self.tokens)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of corpus.jsonl and tokenizer.json"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of checkpoint.pt and log.jsonl"
    )
    parser.add_argument("--stage", choices=("stable", "cooldown"), default="stable")
    parser.add_argument(
        "--tokens", type=int, required=True, help="stable: stop at this total; cooldown: its length"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument(
        "--init-from-gguf", type=Path, help="start from an exported model's weights"
    )
    parser.add_argument(
        "--start-rate",
        type=float,
        help="begin the stage anew, its rates times this: to give a cooldown another length",
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--length", type=int, default=512, help="tokens a row")
    parser.add_argument("--rows", type=int, default=8, help="rows a step")
    parser.add_argument("--matrix-rate", type=float, default=5e-3)
    parser.add_argument("--other-rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="steps of data to leave out")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=180, help="seconds between checkpoints")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with suppress(RuntimeError):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    Run(arguments).train()


if __name__ == "__main__":
    main()
