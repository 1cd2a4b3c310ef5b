from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from backends import cache_spec, catalogue, chosen, starter
from backends.catalogue import Model, Source
from backends.config import ModelSettings
from tests.backends import gguf_files

pytestmark = pytest.mark.engine
MODEL = Model("m", starter.path(), Source.STARTER, ModelSettings(engine="llama-cpp"))


def _values(model: Model) -> dict[str, object]:
    header = catalogue.read_header(model.path)
    found = chosen.choices(model, header, cache_spec.from_header(header))
    assert all(choice.reason for choice in found)
    return {choice.name: choice.value for choice in found}


def test_choices_are_of_settings_that_the_engine_has() -> None:
    assert "gpu_layers" in _values(MODEL)
    folder = replace(MODEL, settings=ModelSettings(threads=1, kv_type="q8_0"))
    assert _values(folder)["threads"] == 1
    assert _values(folder)["kv_type"] == "q8_0"


def test_log_says_what_is_loaded_and_into_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine-Q4_K_M.gguf"
    path.write_bytes(starter.path().read_bytes())
    with caplog.at_level(logging.DEBUG, "backends.chosen"):
        chosen.log(replace(MODEL, path=path))
    text = caplog.text
    assert "llama-cpp, weights in Q8_0 (" in text
    assert "its name says Q4_K_M" in text
    assert "MiB expected" in text
    assert "gpu_layers = 0: " in text
    assert "device = cpu: " in text


def test_log_asks_nothing_where_nobody_reads_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalogue, "read_header", lambda path: pytest.fail("it was read"))
    with caplog.at_level(logging.INFO, "backends.chosen"):
        chosen.log(MODEL)
    assert caplog.records == []


def test_log_of_a_bad_file_says_what_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = gguf_files.write(tmp_path / "bad.gguf", b"GGUF")
    with caplog.at_level(logging.DEBUG, "backends.chosen"):
        chosen.log(replace(MODEL, path=path))
    assert "bad.gguf" in caplog.text
