from __future__ import annotations

from pathlib import Path

import pytest

from backends import catalogue
from backends.catalogue import Catalogue, Source
from backends.config import ModelSettings, Settings
from backends.errors import BadRequest, Conflict, ModelFileError, UnknownModel
from backends.remembered import Remembered
from tests.backends import gguf_files


@pytest.fixture
def models(private_dirs: Path) -> Catalogue:
    configured = ModelSettings(path=str(gguf_files.write(private_dirs / "c.gguf")))
    gguf_files.write(private_dirs / "models" / "found one.gguf")
    settings = Settings(models={"configured": configured})
    return Catalogue(settings, Remembered(private_dirs / "state"))


def test_models_come_from_every_source(models: Catalogue, private_dirs: Path) -> None:
    models.add(str(gguf_files.write(private_dirs / "mine.gguf")), None)
    assert {name: model.source for name, model in models.models().items()} == {
        "configured": Source.CONFIG,
        "mine": Source.ADDED,
        "found-one": Source.FOLDER,
        "starter": Source.STARTER,
    }
    assert models.default() == "starter"


def test_add_is_remembered_and_remove_forgets(models: Catalogue, private_dirs: Path) -> None:
    path = gguf_files.write(private_dirs / "mine.gguf")
    assert models.add(str(path), "name").path == path
    assert models.add(str(path), "name").path == path  # again: no harm
    assert "name" in Catalogue(Settings(), Remembered(private_dirs / "state")).models()
    models.remove("name")
    assert path.exists()
    with pytest.raises(UnknownModel):
        models.get("name")


def test_remove_refuses_what_was_not_added(models: Catalogue) -> None:
    for name in ("starter", "configured"):
        with pytest.raises(Conflict):
            models.remove(name)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", "-rf", "x" * 101, "a\n", "é"])
def test_add_refuses_names_that_are_none(models: Catalogue, private_dirs: Path, name: str) -> None:
    path = gguf_files.write(private_dirs / "mine.gguf")
    with pytest.raises(BadRequest):
        models.add(str(path), name)


def test_add_refuses_a_name_that_is_taken(models: Catalogue, private_dirs: Path) -> None:
    with pytest.raises(Conflict):
        models.add(str(gguf_files.write(private_dirs / "other.gguf")), "configured")


def test_add_refuses_files_that_are_no_models(models: Catalogue, private_dirs: Path) -> None:
    text = private_dirs / "notes.txt"
    text.write_text("x")
    vocabulary = gguf_files.gguf(gguf_files.values(), [], b"")
    bad = [
        "relative.gguf",
        "/no/such.gguf",
        "/nul\0.gguf",
        str(text),
        str(private_dirs),
        str(gguf_files.write(private_dirs / "cut.gguf", gguf_files.good()[:100])),
        str(gguf_files.write(private_dirs / "vocabulary.gguf", vocabulary)),
    ]
    for path in bad:
        with pytest.raises(ModelFileError):
            models.add(path, None)


def test_facts_tell_fim_from_none(models: Catalogue, private_dirs: Path) -> None:
    facts = catalogue.facts(models.get("configured"))
    assert (facts.fim, facts.family, facts.engine) == (True, "qwen2.5-coder", "llama-cpp")
    plain = gguf_files.gguf(
        gguf_files.values({"a": 1}), [gguf_files.tensor("t", (4, 4))], bytes(64)
    )
    model = models.add(str(gguf_files.write(private_dirs / "plain.gguf", plain)), None)
    facts = catalogue.facts(model)
    assert not facts.fim
    assert facts.no_fim_reason


def test_facts_follow_a_file_that_changes(models: Catalogue, private_dirs: Path) -> None:
    model = models.get("configured")
    assert "truncated" not in catalogue.facts(model).problem
    gguf_files.write(model.path, gguf_files.good()[:-1])
    assert "truncated" in catalogue.facts(model).problem
    model.path.unlink()
    assert "No such file" in catalogue.facts(model).problem
