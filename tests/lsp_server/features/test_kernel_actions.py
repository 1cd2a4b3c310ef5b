from __future__ import annotations

import subprocess
import sys

import pytest

from tests.lsp_server.session import URI, Session

TEXT = """\
import torch


def scale(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def noisy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand(3)


def plain(a):
    return a + 1
"""
LITERALS = {"codeActionLiteralSupport": {"codeActionKind": {"valueSet": []}}}
CLIENT = {"textDocument": {"codeAction": {**LITERALS, "disabledSupport": True}}}
KIND = "refactor.rewrite.kernel"


async def listed(session: Session, line: int, only: str | None = KIND, uri: str = URI):
    position = {"line": line, "character": 4}
    context = {"diagnostics": [], **({"only": [only]} if only else {"triggerKind": 2})}
    params = {
        "textDocument": {"uri": uri},
        "range": {"start": position, "end": position},
        "context": context,
    }
    return (await session.call("textDocument/codeAction", params))["result"]


async def test_kernels_are_offered_in_a_function_of_pytorch(session: Session):
    result = await session.start(CLIENT)
    assert KIND in result["capabilities"]["codeActionProvider"]["codeActionKinds"]
    session.open(TEXT)
    actions = await listed(session, 4)
    assert [action["title"] for action in actions] == [
        "Generate Triton kernel",
        "Generate C kernel",
        "Generate Numba kernel",
        "Generate CUDA kernel",
    ]
    assert [action["kind"] for action in actions] == [
        f"{KIND}.{language}" for language in ("triton", "c", "numba", "cuda")
    ]
    wanted = {"uri": URI, "line": 4, "language": "triton", "revision": 0}
    assert actions[0]["command"]["command"] == "midspan.kernel.run"
    assert actions[0]["command"]["arguments"] == [wanted]
    assert session.manager.asked == []


async def test_one_language_can_be_asked_for(session: Session):
    await session.start(CLIENT)
    session.open(TEXT)
    (action,) = await listed(session, 4, f"{KIND}.c")
    assert action["title"] == "Generate C kernel"


@pytest.mark.parametrize(
    ("line", "only", "language", "why"),
    [
        (0, KIND, "python", "outside of any function"),
        (12, KIND, "python", "no function of PyTorch"),
        (4, None, "python", "a light bulb that is always lit says nothing"),
        (4, "quickfix", "python", "another kind"),
        (4, KIND, "markdown", "another language"),
    ],
)
async def test_kernels_are_not_offered(session: Session, line, only, language, why):
    await session.start(CLIENT)
    session.open(TEXT, language=language)
    assert await listed(session, line, only) == [], why


async def test_function_that_cannot_be_taken_is_shown_disabled_with_the_reason(session: Session):
    await session.start(CLIENT)
    session.open(TEXT)
    (action,) = await listed(session, 8)
    assert action["disabled"]["reason"].startswith("noisy cannot be taken: its result is random")
    assert "command" not in action


async def test_client_that_cannot_show_disabled_actions_gets_none(session: Session):
    await session.start({"textDocument": {"codeAction": LITERALS}})
    session.open(TEXT)
    assert await listed(session, 8) == []
    assert len(await listed(session, 4)) == 4


async def test_client_without_action_literals_gets_bare_commands(session: Session):
    await session.start()
    session.open(TEXT)
    assert {command["command"] for command in await listed(session, 4)} == {"midspan.kernel.run"}
    assert await listed(session, 8) == []


async def test_secret_and_broken_files_have_no_kernels(session: Session):
    await session.start(CLIENT)
    session.open(TEXT, "file:///w/.env")
    session.open("import torch\ndef f(x:\n", "file:///w/b.py")
    assert await listed(session, 4, uri="file:///w/.env") == []
    assert await listed(session, 1, uri="file:///w/b.py") == []


def test_kernels_are_not_imported_before_they_are_needed():
    code = (
        "import sys; from lsp_server.server import create_server; create_server();"
        "print([m for m in sys.modules if m.startswith('lsp_server.kernels.')"
        "and m != 'lsp_server.kernels.settings' or m in ('torch', 'psutil')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
