"""A worker: one process, one loaded model, frames in on stdin and out on stdout.

The main thread reads frames and never computes, so pings and cancellations are heard in
mid-generation; a second thread runs the scheduler. The worker ends with its manager: at end of
input, and by the kernel's parent-death signal where there is one. Must not know HTTP or LSP.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from backends import child_process, engines, frames, memory
from backends.backend import Capabilities, ChatRequest, Chunk
from backends.backups import BackupSender, Joiner, parts
from backends.decoding.copying import weights_for
from backends.decoding.scheduler import Scheduler
from backends.decoding.snapshots import Snapshot
from backends.decoding.token_model import TokenModel
from backends.errors import MidspanError, Unsupported
from fim import templates

if TYPE_CHECKING:
    from backends.decoding.chat import Chats

logger = logging.getLogger(__name__)


class Worker:
    """Answers the manager's frames."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._sink_lock = threading.Lock()
        self._no_chat_reason = ""
        self._unsent: dict[int, list[Chunk]] = {}  # of the requests that nobody reads along

    def run(self) -> int:
        """Load the model of the first frame and serve until the end of input; the exit status."""
        body = frames.read_frame(self._source)
        if body is None:
            return 0
        request = frames.decode_to_worker(body)
        if not isinstance(request, frames.Load):
            raise frames.FrameError("the first frame must be Load")
        try:
            self._serve(request)
        except MidspanError as exc:
            self._send(frames.Failed(0, exc.kind, str(exc)))
            return 1
        return 0

    def _serve(self, request: frames.Load) -> None:
        started = time.perf_counter()
        model = engines.load(request)
        template = templates.detect(
            model.vocab.control_tokens,
            architecture=model.vocab.architecture,
            name=templates.called(model.vocab.name, request.path),
        )
        chats, no_chat_reason = _chats(model, request.settings.chat_template)
        self._no_chat_reason = no_chat_reason
        copying = weights_for(model.model_bytes)
        backups = BackupSender(request.backup_bytes, self._send, lambda: scheduler.active > 0)
        scheduler = Scheduler(
            model, template, self._emit, copying=copying, backups=backups, chats=chats
        )
        scheduler.warm_up()
        load_ms = (time.perf_counter() - started) * 1000
        capabilities = _capabilities(model, template, chats, no_chat_reason)
        self._send(_loaded(model, capabilities, load_ms, request.engine))
        loop = threading.Thread(target=_run_or_die, args=(scheduler,), name="scheduler")
        loop.start()
        try:
            limit = self._read(scheduler, request.cold_prefill_ms or None)
            scheduler.stop()
            loop.join()
            backups.stop()  # a part of one in mid-snapshot would tear it
            self._hand_over(scheduler, limit)
        finally:
            scheduler.stop()
            loop.join()
            if chats is not None:
                chats.close()
            model.close()

    def _read(self, scheduler: Scheduler, cold_prefill_ms: float | None) -> int:
        """Serve until the end; return how many bytes of what is cached are wanted."""
        joiner = Joiner()
        while (body := frames.read_frame(self._source)) is not None:
            message = frames.decode_to_worker(body)
            match message:
                case frames.Infill(id=id, request=request):
                    if request.prompt_ms is None:
                        request = replace(request, prompt_ms=cold_prefill_ms)
                    if request.whole:
                        self._unsent[id] = []
                    scheduler.submit(id, request)
                case frames.Chat(id=id, request=conversation):
                    self._chat(scheduler, id, conversation)
                case frames.Cancel(id=id):
                    scheduler.cancel(id)
                case frames.Ping(id=id):
                    self._send(_pong(id, scheduler))
                case frames.Snapshot() as part:
                    if (whole := joiner.add(part)) is not None:
                        scheduler.give(Snapshot(whole.tokens, whole.data))
                case frames.Unload(limit=limit):
                    return limit
                case frames.Load():
                    raise frames.FrameError("a worker loads one model")
        return 0

    def _chat(self, scheduler: Scheduler, id: int, request: ChatRequest) -> None:
        if self._no_chat_reason:
            self._emit(id, Unsupported(self._no_chat_reason))
        else:
            scheduler.submit(id, request)

    def _hand_over(self, scheduler: Scheduler, limit: int) -> None:
        """Send what is cached, up to `limit` bytes; the scheduler must have ended."""
        if limit == 0:
            return
        for snapshot in scheduler.snapshots():
            limit -= len(snapshot.data)
            if limit < 0:
                return
            for part in parts(snapshot):
                self._send(part)

    def _emit(self, id: int, outcome: Chunk | MidspanError) -> None:
        if isinstance(outcome, MidspanError):
            self._unsent.pop(id, None)
            self._send(frames.Failed(id, outcome.kind, str(outcome)))
        elif outcome.finish_reason is None and id in self._unsent:
            # Frames of a token each would wake the manager for nothing, sixteen times a key.
            self._unsent[id].append(outcome)
        else:
            self._send(frames.Piece(id, outcome.after(self._unsent.pop(id, ()))))

    def _send(self, message: frames.FromWorker) -> None:
        frame = frames.encode(message)
        with self._sink_lock:
            self._sink.write(frame)
            self._sink.flush()


def _run_or_die(scheduler: Scheduler) -> None:
    """Run the scheduler; a defect in it ends the process, so that the manager starts another.

    A thread that died alone would leave a worker that answers pings and nothing else.
    """
    try:
        scheduler.run()
    except Exception:
        logger.exception("the scheduler failed")
        logging.shutdown()
        os._exit(70)


def _pong(id: int, scheduler: Scheduler) -> frames.Pong:
    return frames.Pong(id, scheduler.active, scheduler.generating, scheduler.evaluated_tokens)


def _chats(model: TokenModel, template_file: str) -> tuple[Chats | None, str]:
    """Return the model's chats, else None and the reason why it has none, for the user."""
    source = model.vocab.chat_template
    if template_file:
        try:
            source = Path(template_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            return None, f"The chat template {template_file} can't be read: {exc}."
    if not source:
        return None, (
            "This model has no chat template, so it can't chat. Choose a chat or instruct model, "
            "or set chat_template to a Jinja file if you know the form it was trained on."
        )
    # Not for models without a template: the starter must not wait for Jinja.
    from backends.decoding.chat import Chats
    from backends.decoding.chat_template import ChatTemplate

    try:
        return Chats(model, ChatTemplate(source, model.vocab.template_tokens)), ""
    except MidspanError as exc:
        return None, str(exc)


def _capabilities(
    model: TokenModel,
    template: templates.Template | templates.NoFim,
    chats: Chats | None,
    no_chat_reason: str,
) -> Capabilities:
    no_fim = isinstance(template, templates.NoFim)
    return Capabilities(
        fim=not no_fim,
        no_fim_reason=template.reason if isinstance(template, templates.NoFim) else "",
        family="" if isinstance(template, templates.NoFim) else template.family,
        context_length=model.context_length,
        chat=chats is not None,
        no_chat_reason=no_chat_reason,
        tools=chats is not None and chats.can_constrain,
        steering=model.can_steer,
        counting=chats is not None,
    )


def _loaded(
    model: TokenModel, capabilities: Capabilities, load_ms: float, engine: str
) -> frames.Loaded:
    return frames.Loaded(
        capabilities=capabilities,
        model_bytes=model.model_bytes,
        context_length=model.context_length,
        load_ms=load_ms,
        description=model.description,
        cache_bytes=model.cache_bytes + memory.snapshot_bytes(model.cache_bytes),
        runtime_bytes=memory.runtime_bytes(engine),
    )


def main() -> int:
    """Run a worker on this process's stdin and stdout."""
    child_process.die_with_parent()
    logging.basicConfig(
        level=os.environ.get("MIDSPAN_LOG_LEVEL", "INFO").upper(),
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    sink = child_process.claim_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the manager's to handle
    try:
        return Worker(sys.stdin.buffer, sink).run()
    except (frames.FrameError, BrokenPipeError) as exc:
        logger.error("the manager's pipe broke: %s", exc)
        return 1


if __name__ == "__main__":
    sys.exit(main())
