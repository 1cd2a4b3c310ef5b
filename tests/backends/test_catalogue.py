from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from backends import catalogue, engines
from backends.catalogue import Catalogue, Model, Source
from backends.config import ModelSettings, Settings
from backends.errors import (
    BadRequest,
    Conflict,
    EngineMissing,
    ModelFileError,
    UnknownModel,
    Unsupported,
)
from backends.remembered import Remembered
from tests.backends import gguf_files, model_folders


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


def test_folder_is_a_model(
    models: Catalogue, private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "is_installed", lambda engine: True)
    folder = model_folders.write(private_dirs / "Qwen2.5-Coder-0.5B")
    model = models.add(str(folder), None)
    assert model.name == "Qwen2.5-Coder-0.5B"
    facts = catalogue.facts(model)
    assert (facts.engine, facts.family) == ("transformers", "qwen2.5-coder")
    assert (facts.fim, facts.chat, facts.problem) == (True, False, "")
    assert facts.size_bytes > 0
    before = catalogue.identity(folder)
    (folder / "tokenizer.json").touch()
    assert catalogue.identity(folder) != before
    message = catalogue.load_message(model, safe_mode=False)
    assert (message.engine, message.path) == ("transformers", str(folder))


def test_folders_beside_files_in_the_models_folder_are_found(
    models: Catalogue, private_dirs: Path
) -> None:
    model_folders.write(private_dirs / "models" / "a-folder")
    (private_dirs / "models" / "no model").mkdir()
    found = [m.name for m in models.models().values() if m.source is Source.FOLDER]
    assert found == ["a-folder", "found-one"]


def test_model_of_a_download_cache_is_called_after_its_repository(
    models: Catalogue, private_dirs: Path
) -> None:
    snapshot = private_dirs / "models--Org--Coder-1B" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    model_folders.write(snapshot)
    assert models.add(str(snapshot), None).name == "Coder-1B"


def model_with(path: Path, **settings: str) -> Model:
    return Model("m", path, Source.CONFIG, ModelSettings(path=str(path), **settings))  # type: ignore[arg-type]


def test_engine_is_the_first_installed_that_fits_unless_one_is_chosen(
    private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf_files.write(private_dirs / "m.gguf")
    installed = {"llama-cpp", "llama-server"}
    monkeypatch.setattr(catalogue, "is_installed", lambda engine: engine.name in installed)
    assert catalogue.engine_for(model_with(path)).name == "llama-cpp"
    assert catalogue.engine_for(model_with(path, engine="llama-server")).name == "llama-server"
    assert catalogue.engine_for(model_with(path, binary="/bin/true")).name == "llama-server"
    installed.remove("llama-cpp")
    assert catalogue.engine_for(model_with(path)).name == "llama-server"
    with pytest.raises(EngineMissing, match="llama-cpp-python"):
        catalogue.load_message(model_with(path, engine="llama-cpp"), safe_mode=False)
    installed.clear()
    with pytest.raises(EngineMissing, match=r'midspan\[llama-cpp\].* or "midspan\[llama-server\]"'):
        catalogue.load_message(model_with(path), safe_mode=False)
    catalogue.load_message(model_with(path, binary="/bin/true"), safe_mode=False)


@pytest.mark.parametrize(
    ("engine", "said"),
    [("mlx", "mlx does not run"), ("none", "No engine is called 'none'")],
)
def test_engine_that_cannot_run_a_model_is_refused(
    private_dirs: Path, engine: str, said: str
) -> None:
    path = gguf_files.write(private_dirs / "m.gguf")
    with pytest.raises(Unsupported, match=said):
        catalogue.engine_for(model_with(path, engine=engine))
    assert said in catalogue.facts(model_with(path, engine=engine)).problem


def test_endpoint_is_shown_without_what_may_be_secret(private_dirs: Path) -> None:
    settings = ModelSettings(
        endpoint="https://user:hunter2@gpu.example:8443/v1?key=hunter2", profile="vllm"
    )
    facts = catalogue.facts(Model("m", Path(), Source.CONFIG, settings))
    assert facts.endpoint == "https://gpu.example:8443/v1"
    assert (facts.engine, facts.fim, facts.chat, facts.problem) == ("vllm", None, None, "")
    assert "hunter2" not in str(facts)
    hosted = Model("m", Path(), Source.CONFIG, ModelSettings(profile="openai"))
    assert hosted.is_remote
    assert catalogue.facts(hosted).endpoint.startswith("https://api.openai.com")


def test_add_refuses_an_endpoint_and_says_where_to_name_one(models: Catalogue) -> None:
    with pytest.raises(ModelFileError, match="configuration file"):
        models.add("http://127.0.0.1:8000/v1", None)


def test_a_runtime_is_looked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, there = 100.0, False
    looked: list[str] = []

    def find(name: str) -> object:
        looked.append(name)
        return object() if there else None

    monkeypatch.setattr(catalogue, "_found", {})
    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    engine = engines.ENGINES["mlx"]
    assert not catalogue.is_installed(engine)
    there = True  # somebody installs it
    assert not catalogue.is_installed(engine)
    assert looked == ["mlx_lm"], "each status would look otherwise"
    clock += 60
    assert catalogue.is_installed(engine)
    there = False
    assert catalogue.is_installed(engine)
    clock += 60
    assert not catalogue.is_installed(engine)
