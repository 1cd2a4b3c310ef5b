"""What suits which machine: golden answers."""

from __future__ import annotations

import pytest

from backends.downloads import offers
from backends.downloads.catalogue import BY_NAME
from backends.hardware import Device, Hardware

GIB = 1 << 30


def machine(cores: int, free: float, gpu: float = 0.0, integrated: bool = False) -> Hardware:
    cpu = Device("cpu", True, "")
    devices = [cpu]
    if gpu:
        devices.insert(0, Device("cuda:0", True, "", int(gpu * GIB), int(gpu * GIB)))
    if integrated:
        devices.insert(0, Device("mps", True, ""))
    total = int(free * GIB)
    return Hardware("", cores, "", (), total, total, tuple(devices))


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (machine(2, 0.5), "qwen2.5-coder-0.5b-instruct"),  # nothing fits: the smallest
        (machine(2, 4), "qwen2.5-coder-1.5b-instruct"),
        (machine(4, 16), "qwen2.5-coder-1.5b"),
        (machine(8, 32), "qwen2.5-coder-7b"),
        (machine(8, 16, gpu=12), "qwen2.5-coder-14b"),
        (machine(16, 64, gpu=24), "qwen3-coder-30b-a3b"),
        (machine(10, 36, integrated=True), "qwen3-coder-30b-a3b"),
    ],
)
def test_recommended_is_the_largest_that_suits(here: Hardware, expected: str) -> None:
    assert offers.recommended(offers.offers(here), here) == expected


def test_recommended_may_be_used_freely_and_completes() -> None:
    for cores in (1, 2, 4, 8, 16, 32):
        for free in (1, 2, 4, 8, 16, 32, 64, 128):
            here = machine(cores, free)
            row = BY_NAME[offers.recommended(offers.offers(here), here)]
            assert row.fim
            assert row.licence in offers.FREE_LICENCES


def test_offer_says_what_it_takes_and_why() -> None:
    row = BY_NAME["qwen2.5-coder-7b"]
    good = offers.offer(row, machine(8, 32))
    assert (good.fits, good.quantisation) == ("yes", "Q4_K_M")
    assert good.memory_bytes > good.size_bytes > 4 * GIB
    slow = offers.offer(row, machine(2, 32))
    assert slow.fits == "tight"
    assert "slowly" in slow.why
    none = offers.offer(row, machine(8, 4))
    assert none.fits == "no"
    assert "none fits" in none.why


def test_offer_of_a_mixture_of_experts_is_as_fast_as_its_experts() -> None:
    moe, dense = BY_NAME["qwen3-coder-30b-a3b"], BY_NAME["qwen2.5-coder-32b-instruct"]
    here = machine(8, 64)
    assert offers.offer(moe, here).fits == "yes"
    assert offers.offer(dense, here).fits == "tight"
