"""The VS Code extension without VS Code: its package, its texts, its types and pure modules."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lsp_server.settings import settings_schema

FOLDER = Path(__file__).parents[2] / "editors" / "vscode"
SETTINGS = FOLDER / "scripts" / "settings.py"


def read(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((FOLDER / name).read_text("utf-8"))
    return value


@pytest.fixture(scope="module")
def package() -> dict[str, Any]:
    return read("package.json")


@pytest.fixture(scope="module")
def npm() -> str:
    found = shutil.which("npm")
    if found is None or not (FOLDER / "node_modules").is_dir():
        pytest.skip("`npm ci` was not run in editors/vscode")
    return found


def test_settings_are_those_of_the_server(package: dict[str, Any]):
    spec = importlib.util.spec_from_file_location("vscode_settings", SETTINGS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    nls = read("package.nls.json")
    assert module.generated(package, nls) == (package, nls), f"run {SETTINGS.name}"


def test_what_names_programs_and_models_is_restricted_in_untrusted_workspaces(
    package: dict[str, Any],
):
    groups = package["contributes"]["configuration"]
    properties = {name: each for group in groups for name, each in group["properties"].items()}
    untrusted = package["capabilities"]["untrustedWorkspaces"]
    assert untrusted["supported"] == "limited"
    assert set(untrusted["restrictedConfigurations"]) <= set(properties)
    machine = {name for name, each in properties.items() if each["scope"] == "machine"}
    schema: dict[str, Any] = settings_schema()["properties"]  # type: ignore[assignment]
    of_server = {name for name, each in schema.items() if each["scope"] == "machine"}
    assert {"midspan.server.path", *of_server} <= machine
    assert machine - {"midspan.trace.server"} == set(untrusted["restrictedConfigurations"])


def test_every_text_of_the_package_is_there_in_both_languages(package: dict[str, Any]):
    used = set(re.findall(r'"%([\w.]+)%"', json.dumps(package)))
    english, german = read("package.nls.json"), read("package.nls.de.json")
    assert used == set(english)
    assert set(german) <= used
    # A new setting of the server is shown in English until somebody has translated it.
    assert {key for key in used - set(german) if not key.startswith("config.")} == set()


def test_every_text_of_the_code_is_there_in_german():
    used = set()
    for source in (FOLDER / "src").glob("*.ts"):
        used |= set(re.findall(r"\bt\(\s*'((?:[^'\\]|\\.)*)'", source.read_text("utf-8")))
    german = read("l10n/bundle.l10n.de.json")
    assert used == set(german)
    for english, text in german.items():
        assert set(re.findall(r"\{\d\}", english)) == set(re.findall(r"\{\d\}", text))


def test_every_command_is_declared_and_registered(package: dict[str, Any]):
    declared = {each["command"] for each in package["contributes"]["commands"]}
    source = (FOLDER / "src" / "extension.ts").read_text("utf-8")
    assert set(re.findall(r"^    '(midspan\.\w+)': \(\) =>", source, re.M)) == declared


def test_no_command_has_the_name_of_one_of_the_servers(package: dict[str, Any]):
    from lsp_server.server import create_server

    declared = {each["command"] for each in package["contributes"]["commands"]}
    assert not declared & set(create_server().protocol.fm.commands)


def test_no_key_is_taken(package: dict[str, Any]):
    assert "keybindings" not in package["contributes"]


def test_the_icon_is_a_square_picture(package: dict[str, Any]):
    data = (FOLDER / package["icon"]).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width == height >= 128


def test_licence_is_the_projects():
    licence = FOLDER.parents[1] / "LICENSE"
    assert (FOLDER / "LICENSE.txt").read_text() == licence.read_text()


@pytest.mark.parametrize("script", ["check", "test"])
def test_types_and_pure_modules(npm: str, script: str):
    done = subprocess.run(
        [npm, "run", "--silent", script], cwd=FOLDER, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
