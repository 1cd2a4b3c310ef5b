from __future__ import annotations

from pathlib import Path

import pytest

from backends import paths, serve
from backends.catalogue import Catalogue
from backends.config import ModelSettings, Settings
from backends.errors import ModelFileError, UnknownModel, Unsupported
from backends.remembered import Remembered, Selection
from tests.backends import gguf_files

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("private_dirs")]


def _default(settings: Settings) -> str:
    return Catalogue(settings, Remembered(paths.state_dir())).default()


def test_model_of_serve_completes_and_leaves_the_one_that_chats() -> None:
    settings = serve._with_model(Settings(), "starter")
    assert (settings.completion.model, settings.chat.model) == ("starter", "")
    assert _default(settings) == "starter"


def test_model_of_serve_chats_where_it_can(private_dirs: Path) -> None:
    path = gguf_files.write(private_dirs / "second.gguf")  # with a chat template
    model = ModelSettings(path=str(path), engine="llama-cpp")
    settings = serve._with_model(Settings(models={"second": model}), "second")
    assert (settings.completion.model, settings.chat.model) == ("second", "second")


def test_model_of_serve_goes_ahead_of_what_was_chosen_before(private_dirs: Path) -> None:
    (private_dirs / "models" / "second.gguf").write_bytes(
        gguf_files.write(private_dirs / "other.gguf").read_bytes()
    )
    for chosen_when in ("", "starter"):
        Remembered(paths.state_dir()).select(Selection("second", chosen_when))
        assert _default(serve._with_model(Settings(), "starter")) == "starter"
    # Without it a choice that was made without it holds again.
    Remembered(paths.state_dir()).select(Selection("second", ""))
    serve._with_model(Settings(), "starter")
    assert _default(Settings()) == "second"


def test_model_of_serve_that_can_do_nothing_is_refused(private_dirs: Path) -> None:
    with pytest.raises(UnknownModel, match="No model is called 'none'"):
        serve._with_model(Settings(), "none")
    gone = ModelSettings(path=str(private_dirs / "gone.gguf"))
    with pytest.raises(ModelFileError, match="cannot be read"):
        serve._with_model(Settings(models={"gone": gone}), "gone")
    values = gguf_files.values({"a": gguf_files.NORMAL})
    without = [one for one in values if b"chat_template" not in one and b"Coder" not in one]
    tensors = [gguf_files.tensor("one", (4, 8))]
    plain = gguf_files.gguf(without, tensors, bytes(128))
    path = gguf_files.write(private_dirs / "plain.gguf", plain)
    with pytest.raises(Unsupported, match="does neither"):
        serve._with_model(Settings(models={"plain": ModelSettings(path=str(path))}), "plain")
