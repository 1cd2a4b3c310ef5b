from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from backends import paths
from backends.errors import ManagerUnavailable


def test_runtime_dir_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSPAN_RUNTIME_DIR", str(tmp_path / "run"))
    old = os.umask(0)
    try:
        assert paths.runtime_dir() == tmp_path / "run"
    finally:
        os.umask(old)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_runtime_dir_follows_xdg_then_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIDSPAN_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert paths.runtime_dir() == tmp_path / "midspan"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    assert paths.runtime_dir() == tmp_path / f"midspan-{os.getuid()}"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert paths.runtime_dir() == tmp_path / f"midspan-{os.getuid()}"


def _link(path: Path) -> None:
    path.with_name("target").mkdir(mode=0o700)
    path.symlink_to(path.with_name("target"))


def _open_to_others(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [(_link, "link"), (_open_to_others, "755"), (Path.touch, "cannot be used")],
)
def test_runtime_dir_prepared_by_another_is_refused(
    prepare: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(prepare)
    prepare(tmp_path / "run")
    monkeypatch.setenv("MIDSPAN_RUNTIME_DIR", str(tmp_path / "run"))
    with pytest.raises(ManagerUnavailable, match=reason):
        paths.runtime_dir()


def test_state_dir_falls_back_with_one_log_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("not a folder")
    monkeypatch.setenv("MIDSPAN_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path / "home" / "state"))
    with caplog.at_level(logging.WARNING):
        assert paths.state_dir() == tmp_path / "run" / "state"
        assert paths.state_dir() == tmp_path / "run" / "state"
    assert len(caplog.records) == 1


def test_write_private_replaces_in_one_step_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    paths.write_private(path, b"one")
    paths.write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - whichever the system says
        paths.write_private(tmp_path / "folder", b"three")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
