"""Sessions with scripted answers, every one of them really checked, and with the starter model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from backends.client import ManagerClient
from backends.errors import ManagerUnavailable
from lsp_server.kernels import answers, prompts, reference, sandbox, session
from lsp_server.kernels.models import ManagerModel
from lsp_server.kernels.settings import KernelSettings
from lsp_server.kernels.task import Attempt, Language, Outcome, Step, Task
from lsp_server.kernels.templates import library
from tests.lsp_server.kernels.golden import GOLDEN
from tests.lsp_server.kernels.real_functions import HEAD, ROWS

pytestmark = pytest.mark.kernels

# No template knows a loop, and a kernel of it is short.
SOURCE = """
def thrice(x: Tensor) -> Tensor:
    for _ in range(3):
        x = x * 0.5
    return x
"""
SAME = "def halved(x: Tensor):\n    return x * 0.5 * 0.5 * 0.5\n"


def task(language: Language = Language.C) -> Task:
    return reference.task(HEAD + SOURCE, "thrice", language, "x: (N,)")


def right() -> str:
    """A kernel that is right, made by a template of a function that computes the same."""
    made = library.make(reference.task(HEAD + SAME, "halved", Language.C, "x: (N,)"))
    assert made.candidate is not None
    return made.candidate.code.replace("halved", "thrice")


WRONG = ("0.5f;", "0.25f;")


@dataclass
class Scripted:
    """Stands for a model: `says` holds what each call of `write` returns, in turn."""

    says: list[str | Exception]
    chats: bool = True
    name: str = "scripted"
    shown: list[tuple[Attempt, ...]] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)

    async def write(
        self, task: Task, failed: Sequence[Attempt], *, temperature: float, worker: int
    ) -> str:
        self.shown.append(tuple(failed))
        self.temperatures.append(temperature)
        if not self.says:
            await asyncio.sleep(3600)  # a slow model; the session stops it
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said


def run(
    model: Scripted | None,
    wanted: Task | None = None,
    *,
    workers: int = 1,
    rounds: int = 3,
    known: Sequence[Attempt] = (),
    resample: bool = False,
    time_limit_s: float = 200,
) -> tuple[Outcome, list[Step]]:
    steps: list[Step] = []
    settings = KernelSettings(workers=workers, rounds=rounds, time_limit_s=time_limit_s)
    outcome = asyncio.run(
        session.generate(
            wanted or task(),
            model=model,
            settings=settings,
            tell=steps.append,
            known=known,
            resample=resample,
        )
    )
    return outcome, steps


@pytest.fixture(scope="module")
def repaired() -> tuple[Scripted, Outcome, list[Step]]:
    """A model that is wrong, says the same again, answers nothing, and is right when told."""
    wrong = right().replace(*WRONG)
    assert wrong != right()
    model = Scripted([wrong, wrong, "", right()])
    return (model, *run(model, rounds=5))


def test_session_repairs_with_what_the_checks_said(
    repaired: tuple[Scripted, Outcome, list[Step]],
) -> None:
    model, outcome, _ = repaired
    assert outcome.success
    assert outcome.best is not None
    assert outcome.best.candidate.origin == "model:scripted"
    assert [len(shown) for shown in model.shown] == [0, 1, 1, 1]
    failure = model.shown[1][0].evidence.failure
    assert failure is not None
    said = prompts.conversation(task(), model.shown[1])[-1]["content"]
    assert failure.reason in said
    assert failure.counterexample in said


def test_session_counts_what_was_written_and_what_was_worth_checking(
    repaired: tuple[Scripted, Outcome, list[Step]],
) -> None:
    _, outcome, _ = repaired
    assert [one.evidence.verified for one in outcome.attempts] == [False, True]
    assert "wrote 4, 2 worth checking, 1 verified" in outcome.message
    assert "No template fits: no template knows the statement 'for'" in outcome.message


def test_session_tells_each_step_of_a_worker(
    repaired: tuple[Scripted, Outcome, list[Step]],
) -> None:
    _, _, steps = repaired
    states = [step.state for step in steps]
    assert states[0] == "writing"
    assert states[-1] == "verified"
    assert states.count("writing") == 4
    assert states.count("failed") == 3
    assert {step.worker for step in steps} == {1}


def test_session_writes_the_users_test_from_the_reference(
    repaired: tuple[Scripted, Outcome, list[Step]],
) -> None:
    _, outcome, _ = repaired
    compile(outcome.test, "test_thrice_c.py", "exec")
    assert "thrice_c" in outcome.test


def test_session_first_success_stops_the_others() -> None:
    model = Scripted([right()])  # the others' calls never return
    outcome, steps = run(model, workers=3)
    assert outcome.success
    assert len(outcome.attempts) == 1
    assert sorted(model.temperatures) == [0.8, 0.9, 1.0]
    assert {step.worker for step in steps if step.state == "stopped"} == {2, 3}


def test_session_models_that_only_complete_are_not_told_what_was_wrong() -> None:
    model = Scripted(["def thrice(y):\n    return y\n", "def thrice(:\n"], chats=False)
    outcome, _ = run(model, rounds=2)
    assert not outcome.success
    assert model.shown == [(), ()]
    assert outcome.message.startswith("No kernel passed its checks.")
    assert "only completes: a model that chats is told what was wrong." in outcome.message


def test_session_template_needs_no_model() -> None:
    row = ROWS["relu_squared"]
    model = Scripted([])
    wanted = reference.task(row.text, "relu_squared", Language.C, row.shapes)
    outcome, steps = run(model, wanted)
    assert outcome.success
    assert outcome.message.startswith("A template gives a kernel that is verified")
    assert model.shown == []
    assert steps[-1] == Step(0, "verified", steps[-1].message)


def test_session_with_no_template_and_no_model_says_so() -> None:
    outcome, _ = run(None)
    assert outcome.best is None
    assert not outcome.success
    assert outcome.message.endswith("No model was asked.")


def test_session_known_attempts_are_repaired_or_left_behind() -> None:
    first, _ = run(Scripted(["def thrice(y):\n    return y\n"]), rounds=1)
    known = first.attempts
    repairing = Scripted(["def thrice(x):\n    return x\n"])
    run(repairing, known=known, rounds=1)
    assert repairing.shown == [known]
    afresh = Scripted(["def thrice(x):\n    return x\n"])
    run(afresh, known=known, resample=True, rounds=1)
    assert afresh.shown == [()]


def test_session_known_kernel_is_not_another() -> None:
    first, _ = run(Scripted([right()]), rounds=1)
    assert first.success
    again = Scripted([right(), "def thrice(y):\n    return y\n"])
    outcome, _ = run(again, known=first.attempts, resample=True, rounds=2)
    assert [one.candidate.attempt for one in outcome.attempts] == [2]


def test_session_ends_with_a_kernel_that_nothing_here_can_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "has_device", lambda: False)
    given = GOLDEN["cuda"]
    # No template knows a loop.
    source = given.task.source.replace(
        "return x + y", "for _ in range(1):\n        x = x + y\n    return x"
    )
    wanted = replace(given.task, source=source)
    model = Scripted([given.code])  # asked again, it would never answer
    outcome, _ = run(model, wanted, workers=2)
    assert outcome.message.startswith("Not verified")


def test_session_model_that_cannot_be_reached_is_an_error_only_where_nothing_else_is_there() -> (
    None
):
    gone = ManagerUnavailable("The backend manager is not running.")
    with pytest.raises(ManagerUnavailable):
        run(Scripted([gone]))
    outcome, _ = run(Scripted(["def thrice(y):\n    return y\n", gone]), rounds=2)
    assert len(outcome.attempts) == 1
    assert outcome.message.endswith(str(gone))


def test_session_time_limit_gives_what_there_is() -> None:
    # Checks alone may take longer than the shortest limit that can be set, so none is begun.
    steps: list[Step] = []
    settings = KernelSettings(workers=2, rounds=1, time_limit_s=3)
    outcome = asyncio.run(
        session.generate(task(), model=Scripted([]), settings=settings, tell=steps.append)
    )
    assert outcome.best is None
    assert "time limit of 3 s" in outcome.message


async def test_session_cancelled_stops_its_workers() -> None:
    model = Scripted([])
    steps: list[Step] = []
    running = asyncio.create_task(
        session.generate(task(), model=model, settings=KernelSettings(workers=2), tell=steps.append)
    )
    async with asyncio.timeout(60):
        while len(model.shown) < 2:
            await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [step.worker for step in steps if step.state == "stopped"] == [1, 2]
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left


# --- answers and prompts --------------------------------------------------------------------------

KERNEL = "import torch\n\n\ndef f(x):\n    y = x\n\n\n    return y\n"


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{KERNEL}```",
        f"Here it is:\n\n```py\n{KERNEL}```\nIt works.",
        f"<think>Perhaps\n```python\ndef f(x):\n    return 1\n```\n</think>\n```\n{KERNEL}```",
        f"def f(x): no\n</think>\n```\n{KERNEL}```",
        f"```\ndef g(x):\n    return x\n```\nthen\n```\n{KERNEL}```\nand\n```\nf(1)\n```",
        f"~~~~python\n{KERNEL}~~~~",
        f"```python\n{KERNEL}",  # cut off
        KERNEL,
        KERNEL.replace("\n", "\r\n"),
    ],
)
def test_answers_code_is_cut_out_and_keeps_its_blank_lines(answer: str) -> None:
    assert answers.code(answer, "f") == KERNEL


@pytest.mark.parametrize(
    "answer", ["", "I cannot do that.", f"<think>```python\n{KERNEL}```", "```python\n```"]
)
def test_answers_that_hold_no_code_give_none(answer: str) -> None:
    assert answers.code(answer, "f") == ""


def test_answers_skeleton_ends_where_it_is_still_python() -> None:
    whole = answers.filled("def f(x):\n    ", "y = x\n\n    return y\ndef g(\n", "\n\nz = 1\n")
    assert whole == "def f(x):\n    y = x\n\n    return y\n\n\nz = 1\n"


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("name", ["swiglu", "layer_norm"])
def test_prompts_skeleton_is_a_module_once_it_is_filled(language: Language, name: str) -> None:
    row = ROWS[name]
    made = reference.task(row.text, name, language, row.shapes)
    hole = prompts.skeleton(made)
    compile(f"{hole.prefix}pass\n{hole.suffix}", "kernel.py", "exec")
    assert "return" in hole.prefix  # the reference


@pytest.mark.parametrize("language", Language)
def test_prompts_show_the_reference_the_shapes_and_an_example(language: Language) -> None:
    made = reference.task(ROWS["swiglu"].text, "swiglu", language, ROWS["swiglu"].shapes)
    system, asked = prompts.conversation(made)
    assert "swiglu" in system["content"]
    assert "F.silu(gate) * up" in asked["content"]
    assert "gate: (B, D) float16" in asked["content"]
    example = asked["content"].split("```python\n")[2].split("```")[0]
    compile(example, "example.py", "exec")


# --- the real thing -------------------------------------------------------------------------------


@pytest.mark.engine
def test_session_starter_model_only_completes_and_its_failure_is_said(
    midspan_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that is shipped writes no kernel that is right; the session says just that."""
    for name, value in midspan_env.items():
        monkeypatch.setenv(name, value)

    async def real() -> tuple[ManagerModel, Outcome]:
        client = ManagerClient(client_name="midspan-kernel")
        model, _ = await session.given(client)
        assert isinstance(model, ManagerModel)
        settings = KernelSettings(workers=2, rounds=1, max_tokens=64)
        try:
            return model, await session.generate(
                task(), model=model, settings=settings, tell=lambda step: None
            )
        finally:
            await client.close()

    model, outcome = asyncio.run(real())
    assert not model.chats
    assert not outcome.success
    assert "The model wrote 2" in outcome.message
    assert all(one.candidate.origin == f"model:{model.name}" for one in outcome.attempts)
    assert model.name not in ("", "unknown")
