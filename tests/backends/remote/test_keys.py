from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.config import ModelSettings
from backends.errors import BadRequest
from backends.remote import keys
from backends.remote.keys import Key

SECRET = "sk-very-secret"


def test_none_is_no_key() -> None:
    assert keys.find(ModelSettings(), "", {}) == Key("")
    assert keys.find(ModelSettings(), "", {}).header() == {}


def test_environment_by_name_and_by_default() -> None:
    environment = {"MINE": SECRET, "OPENAI_API_KEY": "sk-other"}
    settings = ModelSettings(api_key_env="MINE")
    assert keys.find(settings, "OPENAI_API_KEY", environment).value == SECRET
    assert keys.find(ModelSettings(), "OPENAI_API_KEY", environment).value == "sk-other"
    assert keys.find(ModelSettings(), "", environment).value == ""
    with pytest.raises(BadRequest, match="MINE, which is not set"):
        keys.find(settings, "OPENAI_API_KEY", {"OPENAI_API_KEY": "sk-other"})


def test_file_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\n")
    settings = ModelSettings(api_key_file=str(path))
    for mode in (0o644, 0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(BadRequest, match="chmod 600"):
            keys.find(settings, "", {})
    path.chmod(0o600)
    assert keys.find(settings, "", {}).value == SECRET


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_file_without_a_key_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadRequest, match="key"):
        keys.find(ModelSettings(api_key_file=str(path)), "", {})
    with pytest.raises(BadRequest, match="cannot be read"):
        keys.find(ModelSettings(api_key_file=str(tmp_path / "missing")), "", {})


def test_pipe_that_nobody_writes_to_holds_no_key(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(BadRequest, match="holds no key"):
        keys.find(ModelSettings(api_key_file=str(tmp_path / "key")), "", {})


def test_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend
    from keyring.errors import KeyringLocked

    class Ring(KeyringBackend):
        priority = 1  # type: ignore[assignment]

        def get_password(self, service: str, username: str) -> str | None:
            if service == "locked":
                raise KeyringLocked(SECRET)
            return SECRET if (service, username) == ("midspan", "me") else None

        def set_password(self, service: str, username: str, password: str) -> None: ...
        def delete_password(self, service: str, username: str) -> None: ...

    before = keyring.get_keyring()
    keyring.set_keyring(Ring())
    try:
        assert keys.find(ModelSettings(api_key_keyring="midspan/me"), "", {}).value == SECRET
        for name in ("midspan/other", "midspan", "locked/me"):
            with pytest.raises(BadRequest) as caught:
                keys.find(ModelSettings(api_key_keyring=name), "", {})
            assert SECRET not in str(caught.value)
    finally:
        keyring.set_keyring(before)


def test_two_sources_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET)
    path.chmod(0o600)
    settings = ModelSettings(api_key_env="MINE", api_key_file=str(path))
    with pytest.raises(BadRequest, match="from one of"):
        keys.find(settings, "", {"MINE": SECRET})


@pytest.mark.parametrize("value", ["two words", "line\nfeed: x", "schlüssel", "x" * 9000])
def test_key_that_fits_no_header_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        keys.checked(value)
    assert value not in str(caught.value)


def test_key_is_shown_nowhere() -> None:
    key = Key(SECRET)
    assert SECRET not in repr(key)
    assert SECRET not in f"{key}"
    assert key.struck_from(f"bad key {SECRET}!") == "bad key ***!"
    assert Key("").struck_from("as it is") == "as it is"
