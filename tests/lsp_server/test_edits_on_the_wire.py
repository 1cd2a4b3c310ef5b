"""A document in the editor and in the real server stay the same, whatever is done to it.

A state machine over the wire: hypothesis chooses the steps. Thousands of random edits
for each combination are `midspan bench edits`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from benchmarks.edited_text import ENCODINGS, LINE_ENDS, PIECES, EditedText
from tests.lsp_server.wire import Wire

OFFSET = st.integers(0, 400)
STEPS = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # shrinking over a wire takes five minutes, and the steps are few
    suppress_health_check=list(HealthCheck),
)


def machine(wire: Wire, encoding: str, line_ends: list[str]) -> type[RuleBasedStateMachine]:
    pieces = st.lists(st.sampled_from([*PIECES, *line_ends * 8]), max_size=12).map("".join)
    edit = st.tuples(OFFSET, OFFSET, pieces, st.sampled_from((0, 0, 1, 10**6)))
    documents = itertools.count()

    class Document(RuleBasedStateMachine):
        """One document, opened anew for each example in the same server."""

        @initialize(text=pieces)
        def open(self, text):
            self.uri = f"file:///w/{next(documents)}.py"
            self.text = EditedText(encoding, text)
            self.version = 0
            self.open_with(text)

        def open_with(self, text):
            item = {"uri": self.uri, "languageId": "python", "version": self.version, "text": text}
            wire.notify("textDocument/didOpen", {"textDocument": item})

        def send(self, changes):
            self.version += 1
            document = {"uri": self.uri, "version": self.version}
            wire.notify(
                "textDocument/didChange", {"textDocument": document, "contentChanges": changes}
            )

        def made(self, start, end, new, beyond):
            size = len(self.text.text) + 1
            return self.text.edit(start % size, end % size, new, beyond)

        @rule(one=edit)
        def change(self, one):
            self.send([self.made(*one)])

        @rule(several=st.lists(edit, min_size=2, max_size=6))
        def batch(self, several):
            self.send([self.made(*one) for one in several])

        @rule(text=pieces, before=edit, behind=edit)
        def replace_all_between_edits(self, text, before, behind):
            changes = [self.made(*before), self.text.replace_all(text), self.made(*behind)]
            self.send(changes)

        @rule()
        def nothing(self):
            self.send([])

        @rule(halves=st.sampled_from((("\r", "\n"), ("e", "\u0301"), ("\n", "\r"))), at=OFFSET)
        def type_what_joins(self, halves, at):
            place = self.text.between(at % (len(self.text.text) + 1))
            first, second = halves
            self.send([self.text.edit(place, place, first)])
            behind = place + len(first)
            if self.text.between(behind) == behind:
                self.send([self.text.edit(behind, behind, second)])

        @rule(text=pieces)
        def close_and_open(self, text):
            wire.notify("textDocument/didClose", {"textDocument": {"uri": self.uri}})
            self.text.replace_all(text)
            self.open_with(text)

        @rule(text=pieces)
        def stale_change_is_ignored(self, text):
            if self.version > 0:
                document = {"uri": self.uri, "version": self.version - 1}
                wire.notify(
                    "textDocument/didChange",
                    {"textDocument": document, "contentChanges": [{"text": text}]},
                )

        @rule()
        def compare(self):
            answer = wire.call("workspace/executeCommand", {"command": "midspan.documents"})
            found = next(d for d in answer["result"]["documents"] if d["uri"] == self.uri)
            assert found["characters"] == len(self.text.text)
            assert found["sha256"] == self.text.digest()

        def teardown(self):
            if hasattr(self, "uri"):
                self.compare()
                wire.notify("textDocument/didClose", {"textDocument": {"uri": self.uri}})

    return Document


@pytest.mark.parametrize("line_ends", LINE_ENDS.values(), ids=LINE_ENDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_document_is_the_editors_after_any_steps(start: Callable[..., Wire], encoding, line_ends):
    wire = start()
    result = wire.initialize({"general": {"positionEncodings": [encoding]}})
    assert result["capabilities"]["positionEncoding"] == encoding
    run_state_machine_as_test(machine(wire, encoding, line_ends), settings=STEPS)
    assert wire.call("shutdown")["result"] is None
