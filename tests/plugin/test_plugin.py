"""Engines of other packages: that of the guide, built and installed, and bad ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends import contract, engines, frames, starter
from backends.backend import InfillRequest
from backends.engines import _OWN, Engine, Registry
from backends.engines import contract as engines_contract
from backends.errors import Conflict, EngineMissing
from benchmarks import same_weights

for needed in ("safetensors", "tokenizers"):
    pytest.importorskip(needed)

GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-backend.md"
ROW = Engine("own", "own.adapter", "own", "own-engine", "", (".own",))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's files, as it names them."""
    root = tmp_path_factory.mktemp("project")
    files = re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", GUIDE.read_text(), re.M | re.S)
    for name, text in files:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert len(files) == 5
    return root


@pytest.fixture(scope="module")
def installed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site)]
    subprocess.run([*command, str(project)], check=True, timeout=120)
    return site


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return same_weights.write(tmp_path_factory.mktemp("same")).transformers


def beside(installed: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.getcwd()]), **more}


def run_pytest(project: Path, file: str, env: dict[str, str]) -> tuple[int, int]:
    """Return how many tests passed and how many were skipped; none may fail."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    passed, skipped = (re.search(rf"(\d+) {word}", done.stdout) for word in ("passed", "skipped"))
    return int(passed[1]) if passed else 0, int(skipped[1]) if skipped else 0


def test_the_guide_s_own_test_passes(project: Path, installed: Path, folder: Path) -> None:
    env = beside(installed, MODEL_FOLDER=str(folder))
    assert run_pytest(project, "test_decay.py", env) == (len(engines_contract.CHECKS), 0)


@pytest.mark.engine
def test_the_guide_s_test_of_a_backend_passes(
    project: Path, installed: Path, tmp_path: Path
) -> None:
    """With an engine whose model has something to say; the guide's toy has not."""
    text = (project / "test_backend.py").read_text()
    assert text.count('engine="decay"') == 1
    (tmp_path / "test_backend.py").write_text(text.replace('"decay"', '"llama-cpp"'))
    env = beside(installed, MODEL_FOLDER=str(starter.path()))
    passed, skipped = run_pytest(tmp_path, "test_backend.py", env)
    assert passed + skipped == len(contract.CHECKS) + len(contract.ENDINGS)
    assert passed > skipped > 0, "the starter has no chat template, and all else it can"


def test_a_worker_completes_with_an_installed_engine(installed: Path, folder: Path) -> None:
    request = InfillRequest("def f(x):\n    ret", "\n", "d", max_tokens=4)
    sent = [
        frames.Load(engine="decay", path=str(folder), name="midspan-starter"),
        frames.Infill(1, request),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "backends.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=beside(installed),
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"".join(map(frames.encode, sent)))
        process.stdin.flush()
        received: list[frames.FromWorker] = []
        while not _ended(received):
            body = frames.read_frame(process.stdout)
            assert body is not None, "the worker ended"
            received.append(frames.decode_from_worker(body))
        assert isinstance(received[0], frames.Loaded), received[0]
        assert received[0].description == "qwen2, decay"
        assert isinstance(received[-1], frames.Piece), received[-1]
        assert received[-1].chunk.usage is not None
        assert received[-1].chunk.usage.prompt_tokens > 0
    finally:
        process.kill()
        process.wait()


def _ended(received: list[frames.FromWorker]) -> bool:
    last = received[-1] if received else None
    return isinstance(last, frames.Failed) or (
        isinstance(last, frames.Piece) and last.chunk.finish_reason is not None
    )


def install(site: Path, distribution: str, entry_points: dict[str, str]) -> None:
    """Write what an installer leaves of a package that has these entry points."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = (f"{name} = {value}\n" for name, value in entry_points.items())
    (info / "entry_points.txt").write_text("[midspan.engines]\n" + "".join(lines))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_broken_engines_are_named_and_the_others_work(site: Path) -> None:
    (site / "rows.py").write_text(
        "from dataclasses import replace\n"
        "from backends.engines import ENGINES, Engine\n"
        "GOOD = Engine('good', 'good.adapter', 'good', 'good-engine', '', ('.good',))\n"
        "OURS = replace(GOOD, name='llama-cpp')\n"
        "SPACE = replace(GOOD, name='two words')\n"
        "NONE = 'good'\n"
    )
    (site / "raising.py").write_text("raise RuntimeError('no licence')\n")
    install(site, "a-good-one", {"good": "rows:GOOD"})
    install(site, "a-thief", {"llama-cpp": "rows:OURS"})
    install(site, "bad-names", {"space": "rows:SPACE", "text": "rows:NONE"})
    install(site, "not-there", {"gone": "no_such_module:ENGINE", "lost": "rows:LOST"})
    install(site, "raises", {"raising": "raising:ENGINE"})
    registry = Registry(_OWN)
    assert [*registry] == [*(engine.name for engine in _OWN), "good"]
    assert registry["llama-cpp"].module == "backends.engines.llama_cpp"
    problems = registry.problems()
    for words in (
        ("a-thief", "'llama-cpp' is taken by midspan's own"),
        ("bad-names", "'two words' can't name"),
        ("bad-names", "is a str"),
        ("not-there", "no_such_module"),
        ("not-there", "LOST"),
        ("raises", "no licence"),
    ):
        assert any(all(word in problem for word in words) for problem in problems), words
    assert len(problems) == 6


def test_a_name_belongs_to_the_first_package_that_takes_it(site: Path) -> None:
    (site / "twice.py").write_text(
        "from backends.engines import Engine\n"
        "ONE = Engine('same', 'one', 'one', 'one-engine', '', ('.one',))\n"
        "TWO = Engine('same', 'two', 'two', 'two-engine', '', ('.two',))\n"
    )
    install(site, "pack-b", {"same": "twice:TWO"})
    install(site, "pack-a", {"same": "twice:ONE"})
    registry = Registry(_OWN)
    assert registry["same"].module == "one"
    assert "taken by one-engine" in registry.problems()[0]


def test_our_own_engines_are_found_without_reading_entry_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def entry_points(**_: Any) -> Any:
        raise AssertionError("every worker would pay for it")

    monkeypatch.setattr(engines.metadata, "entry_points", entry_points)
    assert Registry(_OWN)["llama-cpp"].suffixes == (".gguf",)


def test_registering_by_hand_follows_the_same_rules() -> None:
    registry = Registry(_OWN)
    registry.add(ROW)
    registry.add(ROW)
    assert registry["own"] is ROW
    with pytest.raises(Conflict, match="taken by midspan"):
        registry.add(Engine("mlx", "x", "x", "x", "", ()))


def test_an_unknown_engine_is_missing_and_says_why(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "not-there", {"gone": "no_such_module:ENGINE"})
    monkeypatch.setattr(engines, "ENGINES", Registry(_OWN))
    with pytest.raises(EngineMissing, match=r"called 'gone'.*no_such_module"):
        engines.load(frames.Load(engine="gone", path="/x", name="x"))
