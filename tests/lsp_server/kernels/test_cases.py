"""The plan of cases: what every kernel is tried with."""

from __future__ import annotations

from dataclasses import replace

from lsp_server.kernels import cases
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
