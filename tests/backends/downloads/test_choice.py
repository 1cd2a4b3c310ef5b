from __future__ import annotations

from dataclasses import replace

import pytest

from backends.downloads.choice import Chosen, Kind, Machine, Wish, choose
from backends.downloads.hub import Listing, RemoteFile
from backends.errors import BadRequest, Conflict, MidspanError, Unsupported

GIB = 1 << 30
PLENTY = Machine(free_bytes=1 << 40, quick_bytes=1 << 40, context=2048)


def listing(*files: tuple[str, float] | str, skipped: tuple[str, ...] = ()) -> Listing:
    rows = [(file, 1.0) if isinstance(file, str) else file for file in files]
    made = (RemoteFile(path, int(size * GIB), sha256="a" * 64) for path, size in rows)
    return Listing("o/n", "c" * 40, tuple(made), skipped)


QUANTISATIONS = listing(
    ("m-f16.gguf", 15.2),
    ("m-Q8_0.gguf", 8.1),
    ("m-Q6_K.gguf", 6.3),
    ("m-Q4_K_M.gguf", 4.7),
    ("m-Q2_K.gguf", 3.0),
    ("m-UD-Q4_K_XL.gguf", 4.9),
    ("mmproj-m-f16.gguf", 1.0),
    ("imatrix_m.gguf", 0.1),
)
SPLIT = listing("m-q4_k_m-00002-of-00002.gguf", "m-q4_k_m-00001-of-00002.gguf")
FOLDER = listing(
    "config.json",
    "tokenizer.json",
    "merges.txt",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "consolidated.safetensors",
    "original/model.safetensors",
)


def paths(chosen: Chosen) -> list[str]:
    return [file.path for file in chosen.files]


@pytest.mark.parametrize(
    ("free", "quick", "expected"),
    [
        (1000, 1000, "m-Q8_0.gguf"),  # 16 bits change no answer
        (8, 1000, "m-Q6_K.gguf"),
        (5.5, 1000, "m-Q4_K_M.gguf"),
        (1000, 5, "m-Q4_K_M.gguf"),
        (3.5, 1000, "m-Q2_K.gguf"),
    ],
)
def test_choose_takes_what_suits_the_machine(free: float, quick: float, expected: str) -> None:
    machine = Machine(int(free * GIB), int(quick * GIB), 2048)
    chosen = choose(QUANTISATIONS, Wish(), machine)
    assert paths(chosen) == [expected]
    assert chosen.reason


def test_choose_refuses_what_does_not_fit_unless_insisted_on() -> None:
    small = Machine(GIB, GIB, 2048)
    with pytest.raises(Conflict, match="none fits"):
        choose(QUANTISATIONS, Wish(), small)
    assert paths(choose(QUANTISATIONS, Wish(quantisation="q8_0"), small)) == ["m-Q8_0.gguf"]
    assert paths(choose(QUANTISATIONS, Wish(file="m-f16.gguf"), small)) == ["m-f16.gguf"]


@pytest.mark.parametrize("wish", [Wish(file="m-UD-Q4_K_XL"), Wish(file="m-UD-Q4_K_XL.gguf")])
def test_choose_takes_a_named_file(wish: Wish) -> None:
    assert paths(choose(QUANTISATIONS, wish, PLENTY)) == ["m-UD-Q4_K_XL.gguf"]


def test_choose_takes_all_parts_of_a_split_model_first_part_first() -> None:
    parts = ["m-q4_k_m-00001-of-00002.gguf", "m-q4_k_m-00002-of-00002.gguf"]
    wishes = (Wish(), Wish(file=parts[1]), Wish(file="m-q4_k_m"), Wish(quantisation="Q4_K_M"))
    for wish in wishes:
        chosen = choose(SPLIT, wish, PLENTY)
        assert paths(chosen) == parts
        assert chosen.size == 2 * GIB


def test_choose_refuses_a_split_model_with_a_part_missing() -> None:
    lacking = replace(SPLIT, files=SPLIT.files[:1])
    with pytest.raises(Conflict, match="lacks parts"):
        choose(lacking, Wish(), PLENTY)


def test_choose_prefers_the_whole_file_where_there_are_parts_too() -> None:
    both = replace(SPLIT, files=(*SPLIT.files, RemoteFile("m-q4_k_m.gguf", 2 * GIB, "b" * 64)))
    assert paths(choose(both, Wish(), PLENTY)) == ["m-q4_k_m.gguf"]


@pytest.mark.parametrize(
    "files",
    [
        ("a-q4_k_m.gguf", "b-q4_k_m.gguf"),
        ("a-q4_k_m.gguf", "b-q8_0.gguf"),
        ("one.gguf", "two.gguf"),
    ],
)
def test_choose_leaves_several_models_to_the_user(files: tuple[str, ...]) -> None:
    several = listing(*files)
    with pytest.raises(BadRequest, match="several models") as caught:
        choose(several, Wish(), PLENTY)
    assert all(name in str(caught.value) for name in files)
    assert paths(choose(several, Wish(file=files[1]), PLENTY)) == [files[1]]


def test_choose_says_what_there_is_where_the_wish_fits_none() -> None:
    for wish in (Wish(file="x.gguf"), Wish(quantisation="Q5_K_M")):
        with pytest.raises(BadRequest, match=r"m-Q8_0\.gguf"):
            choose(QUANTISATIONS, wish, PLENTY)
    twice = listing("a/m-q8_0.gguf", "b/m-q8_0.gguf")
    with pytest.raises(BadRequest, match="several files in Q8_0"):
        choose(twice, Wish(quantisation="Q8_0"), PLENTY)


def test_choose_takes_a_folder_with_what_engines_read() -> None:
    chosen = choose(FOLDER, Wish(), PLENTY)
    assert chosen.kind is Kind.FOLDER
    assert "consolidated.safetensors" not in paths(chosen)
    assert "original/model.safetensors" not in paths(chosen)
    assert {"config.json", "tokenizer.json", "merges.txt"} < set(paths(chosen))
    assert len(chosen.files) == 6


def test_choose_takes_safetensors_beside_gguf_only_if_asked() -> None:
    both = replace(FOLDER, files=(*FOLDER.files, RemoteFile("m-q8_0.gguf", GIB, "b" * 64)))
    assert choose(both, Wish(), PLENTY).kind is Kind.GGUF
    assert choose(both, Wish(quantisation="safetensors"), PLENTY).kind is Kind.FOLDER


@pytest.mark.parametrize(
    ("found", "wish", "error", "words"),
    [
        (listing("config.json", skipped=("pytorch_model.bin",)), Wish(), Unsupported, "any code"),
        (listing("config.json"), Wish(), Unsupported, "no GGUF and no safetensors"),
        (listing("model.safetensors", "config.json"), Wish(), Unsupported, r"tokenizer\.json"),
        (FOLDER, Wish(quantisation="Q8_0"), BadRequest, "no GGUF files"),
    ],
)
def test_choose_refuses(found: Listing, wish: Wish, error: type[MidspanError], words: str) -> None:
    with pytest.raises(error, match=words):
        choose(found, wish, PLENTY)
