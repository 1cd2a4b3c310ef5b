from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGMLQuantizationType, LlamaFileType

from backends import catalogue, gguf_header, quantisation, starter
from backends.cache_spec import CachedLayer, ModelCacheSpec
from backends.catalogue import Model, Source
from backends.config import ModelSettings
from backends.gguf_header import GGUFHeader
from backends.model_folder import FolderHeader
from backends.quantisation import Candidate

GIB = 2**30
NUMBERS = {name: number for number, name in quantisation.TENSOR_TYPE_NAMES.items()}


def header(file_type: int | None, **types: int) -> GGUFHeader:
    metadata: dict[str, gguf_header.Value] = {}
    if file_type is not None:
        metadata["general.file_type"] = file_type
    by_number = {NUMBERS[name]: size for name, size in types.items()}
    return GGUFHeader(3, 1, 0, metadata, {}, type_bytes=by_number, parameters=1000)


def test_tensor_types_are_called_as_ggml_calls_them() -> None:
    theirs = {int(kind): kind.name for kind in GGMLQuantizationType}
    ours = quantisation.TENSOR_TYPE_NAMES
    assert {number: ours.get(number) for number in theirs if number in ours} == {
        number: name for number, name in theirs.items() if number in ours
    }
    assert set(gguf_header.TENSOR_TYPES) == set(ours)


def test_file_types_are_called_as_llama_cpp_calls_them() -> None:
    theirs = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in LlamaFileType
        if kind is not LlamaFileType.GUESSED
    }
    ours = {number: name for number, (name, _) in quantisation.FILE_TYPES.items()}
    assert theirs.items() <= ours.items()


@pytest.mark.engine
def test_file_types_are_all_that_the_runtime_knows() -> None:
    import llama_cpp.llama_cpp as llama

    numbers = {
        value
        for name, value in vars(llama).items()
        if name.startswith("LLAMA_FTYPE_") and isinstance(value, int)
    }
    # These were taken out of the format.
    assert numbers - {quantisation.GUESSED, 33, 34, 35} == set(quantisation.FILE_TYPES)


@pytest.mark.parametrize(
    ("name", "claimed"),
    [
        ("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Model.Q8_0.gguf", "Q8_0"),
        ("model-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model-fp16.gguf", "F16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4_MOE"),
        ("q4_0-of-something-q6_k.gguf", "Q6_K"),
        ("model-bf16-00001-of-00002.gguf", "BF16"),
        ("model.gguf", ""),
        ("q4_0x.gguf", ""),
        ("iq4_nlp.gguf", ""),
    ],
)
def test_from_name_reads_the_claim(name: str, claimed: str) -> None:
    assert quantisation.from_name(name) == claimed


@pytest.mark.parametrize(
    ("file_type", "types", "name", "found", "warning"),
    [
        (15, {"Q4_K": 800, "Q6_K": 200}, "m-Q4_K_M.gguf", "Q4_K_M", ""),
        (15, {"Q6_K": 600, "Q4_K": 400}, "m.gguf", "Q4_K_M", ""),
        (15 + 1024, {"Q4_K": 800}, "m-q4_k_m.gguf", "Q4_K_M", ""),
        (15, {"Q5_0": 700, "Q8_0": 300}, "m-Q4_K_M.gguf", "Q4_K_M", ""),  # rows of 896
        (7, {"Q8_0": 900}, "m-Q4_K_M.gguf", "Q8_0", "its name says Q4_K_M"),
        (2, {"Q8_0": 900}, "m-Q8_0.gguf", "Q8_0", "its header says Q4_0"),
        (2, {"Q8_0": 9}, "m-F16.gguf", "Q8_0", "its header says Q4_0 and its name says F16"),
        (None, {"Q4_K": 900}, "m-Q4_K_M.gguf", "Q4_K", ""),
        (None, {"Q4_K": 900}, "m-Q2_K.gguf", "Q4_K", "its name says Q2_K"),
        (None, {"F16": 900}, "m.gguf", "F16", ""),
        (999, {"F16": 900}, "m.gguf", "F16", ""),
    ],
)
def test_tensors_win_over_header_and_header_over_name(
    file_type: int | None, types: dict[str, int], name: str, found: str, warning: str
) -> None:
    result = quantisation.of(header(file_type, **types), name)
    assert result.name == found
    assert bool(result.warning) is bool(warning)
    assert warning in result.warning


def test_a_misnamed_file_is_told_from_a_well_named_one(tmp_path: Path) -> None:
    found = gguf_header.read(starter.path())
    right = quantisation.of(found, starter.path().name)
    assert (right.name, right.warning) == ("Q8_0", "")
    assert 8.4 < right.bits_per_weight < 9
    assert right.tensors[0][0] == "Q8_0"
    wrong = quantisation.of(found, "starter-Q4_K_M.gguf")
    assert wrong.name == "Q8_0"
    assert wrong.warning == "most of its weights are Q8_0, but its name says Q4_K_M"


SPEC = ModelCacheSpec("x", (CachedLayer(8, 128, 128),) * 32)  # 128 KiB a token
SEVEN_B = [
    Candidate("F16", 15 * GIB, 16, SPEC),
    Candidate("Q2_K", int(2.8 * GIB), 3.0, SPEC),
    Candidate("Q4_K_M", int(4.4 * GIB), 4.8, SPEC),
    Candidate("Q6_K", int(5.8 * GIB), 6.6, SPEC),
    Candidate("Q8_0", int(7.5 * GIB), 8.5, SPEC),
]


@pytest.mark.parametrize(
    ("free", "context", "kv_type", "best", "why"),
    [
        (64, 8192, "", "Q8_0", "finest"),  # not F16: slower, and no better
        (8, 1024, "", "Q8_0", "finest"),
        (8, 8192, "", "Q6_K", "finest"),  # 1 GiB of cells
        (6, 8192, "", "Q4_K_M", "finest"),
        (6.3, 8192, "", "Q4_K_M", "finest"),
        (6.6, 8192, "q8_0", "Q6_K", "finest"),  # quantised cells make room for finer weights
        (4, 4096, "", "Q2_K", "costs much quality"),
        (2, 4096, "", None, "none fits: the smallest needs 3.5 GiB and 2.0 GiB are free"),
    ],
)
def test_advise_takes_the_finest_that_fits(
    free: float, context: int, kv_type: str, best: str | None, why: str
) -> None:
    advice = quantisation.advise(SEVEN_B, int(free * GIB), context, kv_type)
    assert (advice.best.name if advice.best else None) == best
    assert why in advice.reason
    assert len(advice.fits) == len(SEVEN_B)
    assert all(fit.fits == (fit.needs <= int(free * GIB)) for fit in advice.fits)


def test_advise_takes_more_than_8_bits_where_there_is_nothing_less() -> None:
    advice = quantisation.advise(SEVEN_B[:1], 64 * GIB, 4096)
    assert advice.best == SEVEN_B[0]
    assert "15.0 GiB of weights and 512 MiB for 4096 tokens" in advice.fits[0].reason


@pytest.mark.parametrize(
    ("quick", "best", "why"),
    [
        (5.0, "Q4_K_M", "the finest that is quick here; more than 5.0 GiB"),
        (1.0, "Q2_K", "slowly with more than 1.0 GiB"),
    ],
)
def test_advise_prefers_what_the_machine_is_quick_with(quick: float, best: str, why: str) -> None:
    advice = quantisation.advise(SEVEN_B, 64 * GIB, 4096, quick_bytes=int(quick * GIB))
    assert advice.best is not None
    assert advice.best.name == best
    assert why in advice.reason


def test_advise_without_candidates_is_none() -> None:
    assert quantisation.advise([], GIB, 4096).best is None


def test_a_misnamed_model_can_be_used_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "starter-Q4_K_M.gguf"
    path.symlink_to(starter.path())
    facts = catalogue.facts(Model("mine", path, Source.ADDED, ModelSettings()))
    assert facts.quantisation == "Q8_0"
    assert facts.warning == "most of its weights are Q8_0, but its name says Q4_K_M"
    own = Model("starter", starter.path(), Source.STARTER, ModelSettings())
    assert catalogue.facts(own).warning == ""


@pytest.mark.parametrize(
    ("quantization", "name"),
    [({}, "bfloat16"), ({"group_size": 64, "bits": 4}, "4bit"), ({"quant_method": "fp8"}, "fp8")],
)
def test_a_folder_says_how_it_is_stored(quantization: dict[str, Any], name: str) -> None:
    facts: dict[str, Any] = {field.name: None for field in fields(FolderHeader)}
    header = FolderHeader(**facts | {"dtype": "bfloat16", "quantization": quantization})
    assert quantisation.of_header(header).name == name
