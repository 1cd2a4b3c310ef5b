"""What holds for the project as a whole: style, types, imports, packaging, documents."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import backends
from backends import errors, starter
from lsp_server.cli import exits
from tests import docs_cli

ROOT = Path(__file__).parents[1]
PACKAGES = ("lsp_server", "backends", "fim", "benchmarks")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def check(command: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_style_ruff_finds_nothing() -> None:
    check(["ruff", "check", "."])


def test_style_is_ruffs_format() -> None:
    check(["ruff", "format", "--check", *PACKAGES, "tests"])


def test_types_hold_under_mypy_strict() -> None:
    check(["mypy"])


def test_imports_follow_the_layers() -> None:
    # import-linter has no `python -m`.
    check_imports = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", check_imports],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_import_contracts_can_fail(tmp_path: Path) -> None:
    """The layers contract refuses an import that points up; else it would guard nothing."""
    (tmp_path / "setup.cfg").write_text(
        "[importlinter]\nroot_packages =\n    fim\n    backends\n\n"
        "[importlinter:contract:1]\nname = upside down\ntype = layers\nlayers =\n"
        "    fim\n    backends\n"
    )
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", str(tmp_path / "setup.cfg"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "1 broken" in done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    check(["hatchling", "build", "-t", "wheel", "-d", str(folder)])
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert top == {*PACKAGES, f"midspan-{backends.__version__}.dist-info"}
    modules = {name for name in wheel.namelist() if name.endswith(".py")}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules == expected


def test_wheel_holds_the_starter_model_with_its_card_and_licence(wheel: zipfile.ZipFile) -> None:
    sizes = {info.filename: info.file_size for info in wheel.infolist()}
    assert 1_000_000 < sizes[f"backends/starter/{starter.FILE_NAME}"] <= 32 * 2**20
    assert sizes["backends/starter/MODEL_CARD.md"] > 0
    assert sizes["backends/starter/manifest.json"] > 0
    assert any(name.endswith("licenses/LICENSE") for name in sizes)
    assert all(f"{package}/py.typed" in sizes for package in PACKAGES)


def test_wheel_metadata_names_the_command_and_the_engine_extras(wheel: zipfile.ZipFile) -> None:
    info = f"midspan-{backends.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "midspan = lsp_server.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert "Provides-Extra: llama-cpp" in metadata
    engines = [line for line in metadata.splitlines() if "llama-cpp-python" in line.lower()]
    required = [line for line in engines if line.startswith("Requires-Dist")]
    assert required
    assert all("extra == " in line for line in required)  # the core needs no engine


def test_dependencies_are_all_imported_somewhere() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    )
    # uvicorn finds httptools by itself.
    names = {re.split(r"[<>=\[]", entry)[0] for entry in PYPROJECT["project"]["dependencies"]}
    unused = [
        name
        for name in names - {"httptools"}
        if not re.search(rf"^\s*(import|from) {name}\b", sources, re.MULTILINE)
    ]
    assert unused == []


def test_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert versions[0] in ("Unreleased", backends.__version__)
    assert backends.__version__ in versions or versions == ["Unreleased"]


def test_docs_cli_shows_the_commands_as_they_are() -> None:
    page = docs_cli.PAGE.read_text(encoding="utf-8")
    assert docs_cli.render(page) == page, "run python -m tests.docs_cli"


def test_docs_cli_shows_every_exit_code_with_its_errors() -> None:
    page = docs_cli.PAGE.read_text(encoding="utf-8")
    table = {
        int(row[0]): set(re.findall(r"`(\w+)`", row[1])) - {"usage"}
        for row in re.findall(r"^\| (\d+) \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    }
    codes = {code.value: set() for code in exits.Exit}  # type: dict[int, set[str]]
    for error in _tree(errors.MidspanError):
        if error.__module__ == errors.__name__:
            codes[exits.exit_code(error(""))].add(error.kind)
    assert table == codes


def _tree(root: type[errors.MidspanError]) -> list[type[errors.MidspanError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


def _commands(text: str) -> list[str]:
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def test_readme_installs_the_engine_in_both_commands() -> None:
    commands = [line for line in _commands(README) if "-m venv" in line]
    assert len(commands) == 2
    demo, tests = commands
    assert '".[llama-cpp]"' in demo
    assert demo.endswith("midspan demo")
    assert '".[llama-cpp,test]"' in tests
    command = tests.rpartition(".venv/bin/")[2]
    assert command.startswith("python -m pytest")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert '".[all,test,' in ci
    assert ci.endswith(f"\n{command}\n")


@pytest.mark.parametrize(
    "page", sorted(["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
)
def test_documents_name_only_what_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    base = (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (base / link).exists()] == []
    files = re.findall(
        r"`((?:lsp_server|backends|fim|benchmarks|training|tests|docs)/[\w./]+)`", text
    )
    assert [name for name in files if not (ROOT / name).exists()] == []
    modules = re.findall(r"`((?:lsp_server|backends|fim|benchmarks)(?:\.\w+)+)`", text)
    assert [name for name in modules if not _exists(name)] == []


def _exists(dotted: str) -> bool:
    """Whether `dotted` is a module, or an attribute of one."""
    try:
        if importlib.util.find_spec(dotted) is not None:
            return True
    except ModuleNotFoundError:
        pass
    module, _, attribute = dotted.rpartition(".")
    found: Any = importlib.import_module(module)
    return hasattr(found, attribute)
