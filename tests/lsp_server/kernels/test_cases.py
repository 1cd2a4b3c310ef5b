"""The plan of cases: what every kernel is tried with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.errors import BadRequest
from lsp_server.kernels import cases
from lsp_server.kernels.sandbox import Bounds
from lsp_server.kernels.task import Language, Level, Parameter
from tests.lsp_server.kernels.golden import GOLDEN, task, tensor


def test_plan_has_odd_sizes_one_layouts_types_and_hidden_values() -> None:
    norm = GOLDEN["norm"].task
    plan = cases.plan(norm, 7, cases.dtypes(norm))
    assert [case.index for case in plan] == list(range(len(plan)))
    assert [case.dtype for case in plan[:2]] == ["float32", "float16"]
    sizes = {dict(case.sizes)["N"] for case in plan if case.level is Level.CORRECT}
    assert 1 in sizes
    assert max(sizes) > 1024
    assert any(size % 2 for size in sizes)
    assert {case.layout for case in plan} == {"contiguous", "strided", "transposed"}
    assert {case.values for case in plan} == {"normal", *cases.HIDDEN}
    assert len({case.seed for case in plan}) == len(plan)
    assert plan[-1].numbers == "other"
    assert cases.numbers(norm.parameters, plan[0]) == {"eps": 1e-5}
    assert cases.numbers(norm.parameters, plan[-1]) == {"eps": 0.25001}


def test_same_name_is_the_same_size_and_fixed_sizes_stay() -> None:
    fixed = task("f", "x", tensor("x", "N", 128), tensor("y", "N"))
    for case in cases.plan(fixed, 0, ("float32",)):
        assert [name for name, _ in case.sizes] == ["N"]
    large = task("f", "x", tensor("x", "N", 2**16))
    assert all(
        dict(case.sizes)["N"] * 2**16 <= cases.MAX_ELEMENTS
        for case in cases.plan(large, 0, ("float32",))
    )
    many = task("f", "x", tensor("x", "A", "B", "C", "D", "E"))
    assert all(len(case.sizes) == 5 for case in cases.plan(many, 0, ("float32",)))


@pytest.mark.parametrize("size", [64, 1500, 2048, 4096])
def test_plan_is_no_more_than_one_answer_may_hold(size: int) -> None:
    linear = task("f", "x @ w", tensor("x", "N", size), tensor("w", size, size))
    types = cases.dtypes(linear)
    whole, plan = cases.whole(linear, 7, types), cases.plan(linear, 7, types)
    taken = sum(cases.input_bytes(linear, case) for case in plan)
    assert taken <= cases.MAX_BYTES < (Bounds().output_mb - 16) * 2**20
    assert (plan == whole) is (size <= 1500)
    assert 1 not in dict(plan[0].sizes).values(), "what hides a wrong index comes later"
    assert [case for case in whole if case in plan] == list(plan), "in the same order"
    assert tuple(case.dtype for case in plan[: len(types)]) == types
    assert {case.level for case in plan} == {Level.CORRECT, Level.ROBUST}
    if size < 4096:
        assert {case.values for case in plan} > {"normal", "times 3"}


def test_plan_without_room_for_one_call_of_each_type_says_the_size() -> None:
    linear = task("f", "x @ w", tensor("x", "N", 8192), tensor("w", 8192, 8192))
    with pytest.raises(BadRequest, match=r"inputs of f are too large .* takes 256 MiB"):
        cases.plan(linear, 0, cases.dtypes(linear))


def test_input_bytes_are_those_of_the_cases_type() -> None:
    mixed = task("f", "x", tensor("x", "N"), tensor("i", "N", 2, dtype="int64"))
    case = cases.plan(mixed, 0, ("float16",))[0]
    (size,) = dict(case.sizes).values()
    assert cases.input_bytes(mixed, case) == 2 * size + 16 * size
    assert cases.input_bytes(mixed, replace(case, dtype="")) == 4 * size + 16 * size


def test_types_follow_the_language_and_what_was_declared() -> None:
    add = GOLDEN["add"].task
    half = replace(add, parameters=(tensor("x", "N", dtype="bfloat16"),))
    mixed = replace(add, parameters=(tensor("x", "N"), tensor("y", "N", dtype="float16")))
    whole = replace(add, parameters=(tensor("x", "N", dtype="int64"),))
    assert cases.dtypes(add) == ("float32", "float16")
    assert cases.dtypes(half) == ("bfloat16", "float32")
    assert cases.dtypes(mixed) == ("",)
    assert cases.dtypes(whole) == ("",)
    assert cases.dtypes(replace(add, language=Language.C)) == ("float32",)


def test_plan_without_sizes_or_tensors_is_not_empty() -> None:
    scalar = task("f", "a", Parameter("a", "float", value=2.0))
    plan = cases.plan(scalar, 0, cases.dtypes(scalar))
    assert {case.level for case in plan} == {Level.CORRECT, Level.ROBUST}
    assert {case.layout for case in plan} == {"contiguous"}
    assert cases.numbers(scalar.parameters, plan[-1]) == {"a": 3.0}


def test_case_says_what_it_is() -> None:
    plan = cases.plan(GOLDEN["add"].task, 5, ("float16",))
    assert plan[0].describe() == "N = 1000, float16, seed 5"
    assert any("float16, strided, seed" in case.describe() for case in plan)
    assert any("times 0.01" in case.describe() for case in plan)
