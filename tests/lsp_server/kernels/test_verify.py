"""The ladder on right kernels, and on the same kernels with one thing wrong each."""

from __future__ import annotations

import asyncio
import contextlib
import venv
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from backends.errors import BadRequest, EngineMissing
from lsp_server.kernels import cases, compiling, evidence, toolchain
from lsp_server.kernels.judge import Judge
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.task import (
    Candidate,
    Check,
    Evidence,
    Language,
    Level,
    Parameter,
    Result,
    Task,
)
from lsp_server.kernels.verify import parse, patient, verify
from tests.lsp_server.kernels.golden import GOLDEN, HEAD, MUTANTS, Mutant, task, tensor

pytestmark = pytest.mark.kernels

Found = dict[str, Evidence]


@pytest.fixture(scope="module")
def found() -> Found:
    """Everything is verified once, two at a time, one reference process for each function."""
    return asyncio.run(_climb_all())


async def _climb_all() -> Found:
    turn = asyncio.Semaphore(2)
    results: Found = {}

    async def climb(name: str) -> None:
        golden = GOLDEN[name]
        limits = Limits()
        wanted = {name: golden.candidate()}
        wanted |= {m.what: golden.candidate(*m.changes) for m in MUTANTS if m.of == name}
        async with turn, Judge.open(golden.task, limits) as judge:
            for what, candidate in wanted.items():
                results[what] = await verify(golden.task, candidate, limits=limits, judge=judge)

    await asyncio.gather(*(climb(name) for name in GOLDEN))
    return results


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "cuda"])
async def test_right_kernel_passes_every_level(found: Found, name: str) -> None:
    proof = found[name]
    assert proof.verified, evidence.statement(proof)
    assert proof.failure is None
    results = {check.level: check for check in proof.checks}
    assert results[Level.COMPILES].result is Result.PASSED
    assert results[Level.FAST].result is Result.NOT_RUN  # no device, and it says so
    assert results[Level.FAST].reason
    assert results[Level.CORRECT].cases + results[Level.ROBUST].cases >= 15


async def test_statement_says_what_was_shown_and_what_not(found: Found) -> None:
    assert evidence.statement(found["softmax"]) == (
        "verified on CPU interpreter, 24 cases, float32 and float16 · "
        "compiled for sm_80, sm_90, gfx942 · speed not measured"
    )
    assert "autotune: its first configuration" in evidence.statement(found["relu"])
    assert evidence.statement(found["c"]).startswith("verified on this processor, with sanitisers")
    assert evidence.statement(found["a mask one too wide"]).startswith("failed: wrong: it reads 1")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.of}: {mutant.what}")
async def test_wrong_kernel_fails_at_its_level(found: Found, mutant: Mutant) -> None:
    proof = found[mutant.what]
    failure = proof.failure
    assert failure is not None, evidence.statement(proof)
    assert not proof.verified
    assert failure.level is mutant.level
    assert mutant.reason in f"{failure.reason} {failure.counterexample}"
    if mutant.line:
        code = GOLDEN[mutant.of].candidate(*mutant.changes).code
        assert mutant.line in code.splitlines()[failure.line - 1]
    if failure.level in (Level.CORRECT, Level.ROBUST):
        assert "seed" in failure.counterexample
    later = [check for check in proof.checks if check.level > failure.level]
    assert all(check.result is Result.NOT_RUN and check.reason for check in later)


async def test_cuda_without_a_device_is_compiled_and_not_verified(found: Found) -> None:
    proof = found["cuda"]
    results = {check.level: check for check in proof.checks}
    assert not proof.verified
    assert results[Level.CORRECT].result is Result.NOT_RUN
    if await toolchain.compiler_version(Language.CUDA) is None:
        assert results[Level.COMPILES].result is Result.NOT_RUN
    else:
        assert "registers" in results[Level.COMPILES].summary
        assert found["no semicolon"].failure is not None


STILL = (
    HEAD
    + """\
@triton.jit
def still_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    while n > 0:
        at += 0
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


def still(x):
    out = torch.empty_like(x)
    still_kernel[(1,)](x, out, x.numel(), BLOCK=16)
    return out
"""
)


async def test_kernel_that_hangs_fails_with_its_case() -> None:
    hangs = task("still", "x + 0", tensor("x", "N"))
    limits = Limits(call_s=1)
    proof = await verify(hangs, Candidate(STILL, "model:x"), limits=limits)
    assert proof.failure is not None
    assert proof.failure.level is Level.CORRECT
    assert "one call took more than 1 s" in proof.failure.reason
    assert "N = 1000" in proof.failure.counterexample


async def test_cancelling_ends_all_that_runs() -> None:
    hangs = task("still", "x + 0", tensor("x", "N"))
    calling = asyncio.Event()
    climb = asyncio.create_task(
        verify(hangs, Candidate(STILL, "model:x"), lambda level, message: calling.set())
    )
    await calling.wait()
    me = psutil.Process()
    async with asyncio.timeout(60):
        while len(_sandboxes(me)) < 2:  # the reference's and the candidate's
            await asyncio.sleep(0.05)
    running = _sandboxes(me)
    climb.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await climb
    _, alive = psutil.wait_procs(running, timeout=10)
    assert alive == []


def _sandboxes(me: psutil.Process) -> list[psutil.Process]:
    return [one for one in me.children() if one.name() == "bwrap"]


async def test_reference_that_cannot_be_tried_is_said_to_be_the_cause() -> None:
    bodies = {
        "x + torch.rand_like(x)": "not give the same twice",
        "x.add_(1)": "writes to its inputs",
        "x.no_such_method()": "AttributeError",
    }
    for body, reason in bodies.items():
        one = task("add", body, tensor("x", "N"), tensor("y", "N"))
        async with Judge.open(one, Limits()) as judge:
            with pytest.raises(BadRequest, match=f"add itself cannot be tried: .*{reason}"):
                await judge.make(judge.new_set(), cases.plan(one, 1, cases.dtypes(one)))


async def test_reference_with_large_weights_is_tried_with_fewer_cases() -> None:
    linear = task("f", "x @ w", tensor("x", "N", 2048), tensor("w", 2048, 2048))
    planned = cases.plan(linear, 1, cases.dtypes(linear))
    async with Judge.open(linear, Limits()) as judge:
        made = await judge.make(judge.new_set(), planned)
    assert [one.case for one in made] == list(planned)
    for one in made:
        assert len(one.values) == cases.input_bytes(linear, one.case)


def test_calls_with_large_inputs_may_take_longer() -> None:
    limits = Limits()
    assert patient(limits, []) == limits
    assert patient(limits, [4000] * 20) == limits
    large = patient(limits, [16 * 2**20, 8 * 2**20])
    assert large.call_s == limits.call_s + 24
    assert large.candidate.wall_s == limits.candidate.wall_s + 36
    assert large.candidate.cpu_s == limits.candidate.cpu_s + 36
    assert large.candidate.memory_mb == limits.candidate.memory_mb


async def test_compiler_that_cannot_be_asked_is_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*arguments: object) -> Check:
        raise OSError("No space left on device")

    monkeypatch.setattr(compiling, "triton", broken)
    golden = GOLDEN["add"]
    proof = await verify(golden.task, golden.candidate())
    assert proof.verified, "numerics stand without it"
    checks = {check.level: check for check in proof.checks}
    assert checks[Level.COMPILES].result is Result.NOT_RUN
    assert checks[Level.COMPILES].reason == "No space left on device"
    assert "not compiled (No space left on device)" in evidence.statement(proof)


async def test_package_that_is_installed_meanwhile_is_found(tmp_path: Path) -> None:
    venv.create(tmp_path, symlinks=True)
    packages = next(tmp_path.glob("lib/python*/site-packages"))
    chain = await toolchain.find(f"{tmp_path}/bin/python")
    assert "torch" in chain.missing(Language.TRITON)
    packages.joinpath("torch").mkdir()
    packages.joinpath("torch", "__init__.py").touch()
    for version in ("2.1", "2.2"):  # and as what it is now
        about = packages / f"torch-{version}.dist-info"
        about.mkdir()
        about.joinpath("METADATA").write_text(f"Name: torch\nVersion: {version}\n")
        chain = await toolchain.find(f"{tmp_path}/bin/python")
        assert dict(chain.versions)["torch"] == version
        about.rename(tmp_path / about.name)
    assert await toolchain.find(chain.python) is await toolchain.find(chain.python)


async def test_interpreter_without_torch_is_refused_with_what_to_install() -> None:
    chain = toolchain.Toolchain("/usr/bin/python3", (), (("numpy", "2"),))
    with pytest.raises(EngineMissing, match=r"midspan\[kernels\]"):
        chain.check(Language.TRITON)
    with pytest.raises(EngineMissing, match=r"midspan\[kernels,numba\]"):
        toolchain.Toolchain("p", (), (("numpy", "2"), ("torch", "2"))).check(Language.NUMBA)


@pytest.mark.parametrize(
    ("code", "reason", "line"),
    [
        ("def f(x:\n", "", 1),
        ("x = 1\n", "f is not defined", 0),
        ("def f(x):\n    return x\n\n\ndef f(x):\n    return x\n", "twice", 5),
        ("def f(y):\n    return y\n", "takes y, expected x", 1),
        ("def f(x, z):\n    return x\n", "takes x, z", 1),
        ("def f(*x):\n    return x\n", "must take just x", 1),
        ("#" * 300_000, "longer than", 0),
        ("def f(x):\n    return " + "(" * 300 + "1" + ")" * 300, "", 0),
        ("def f(x):\n    return x\0", "", 0),
    ],
)
async def test_module_that_is_none_fails_at_the_first_level(
    code: str, reason: str, line: int
) -> None:
    wanted = Task("f", "", (Parameter("x", "tensor", ("N",)),), Language.TRITON)
    check, tree = parse(wanted, code)
    assert tree is None
    assert check.level is Level.PARSES
    assert check.result is Result.FAILED
    assert reason in check.reason
    if line:
        assert check.line == line


async def test_optional_parameters_of_its_own_are_allowed() -> None:
    wanted = Task("f", "", (Parameter("x", "tensor", ("N",)),), Language.TRITON)
    check, _ = parse(wanted, "def f(x, block=128, *, warps=4):\n    return x\n")
    assert check.result is Result.PASSED
    two = Task("f", "", (*wanted.parameters, Parameter("eps", "float", value=1e-5)), Language.C)
    check, _ = parse(two, "def f(x, mode='mean', eps=1e-5):\n    return x\n")
    assert check.result is Result.PASSED
    check, _ = parse(two, "def f(eps, x):\n    return x\n")
    assert check.reason == "f takes eps, x, expected x, eps"


@pytest.fixture(autouse=True)
async def _no_child_is_left() -> AsyncIterator[None]:
    yield
    left = [one for one in psutil.Process().children() if one.name() == "bwrap"]
    assert left == []
