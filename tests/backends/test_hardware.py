from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backends import hardware
from backends.errors import Unsupported
from backends.hardware import CommandResult, Device, Hardware, Probe

GIB, MIB = 2**30, 2**20
TWO = "0, NVIDIA H100 80GB HBM3, 81559, 80000, 570.124\n1, NVIDIA L4, 23034, 22000, 570.124\n"
ROCM = (
    '{"card1": {"Card Series": "Radeon PRO W7800", "VRAM Total Memory (B)": "200",'
    ' "VRAM Total Used Memory (B)": "50"}, "card0": {"Card series": "Radeon RX 7900 XTX",'
    ' "VRAM Total Memory (B)": "25753026560", "VRAM Total Used Memory (B)": "27590656"},'
    ' "system": {"Driver version": "6.8"}}'
)
MAC = Probe(system="Darwin", machine="arm64", processor="Apple M4")


def devices(probe: Probe) -> dict[str, Device]:
    return {device.name: device for device in hardware.describe(probe).devices}


@pytest.mark.parametrize(
    ("probe", "name", "reason"),
    [
        (Probe(), "cuda", "no NVIDIA driver (no nvidia-smi, no libcuda.so.1)"),
        (
            Probe(nvidia=CommandResult(problem="does not answer within 5 s")),
            "cuda",
            "nvidia-smi does not answer within 5 s",
        ),
        (
            Probe(nvidia=CommandResult(problem="failed: No devices were found")),
            "cuda",
            "nvidia-smi failed: No devices were found",
        ),
        (Probe(nvidia=CommandResult("No devices\n")), "cuda", "nvidia-smi lists no device"),
        (
            Probe(nvidia=CommandResult(TWO), environment={"CUDA_VISIBLE_DEVICES": ""}),
            "cuda",
            "CUDA_VISIBLE_DEVICES hides every device",
        ),
        (MAC, "cuda", "Macs have no NVIDIA driver"),
        (Probe(), "rocm", "no AMD compute driver (no rocm-smi, no /dev/kfd)"),
        (
            Probe(amd_driver="/dev/kfd"),
            "rocm",
            "/dev/kfd is there, but ROCm is not installed (no rocm-smi)",
        ),
        (Probe(amd=CommandResult("WARNING")), "rocm", "rocm-smi's answer cannot be read"),
        (Probe(amd=CommandResult("[]")), "rocm", "rocm-smi's answer cannot be read"),
        (Probe(amd=CommandResult("{}")), "rocm", "rocm-smi lists no device"),
        (
            Probe(amd=CommandResult(problem="cannot be run: Permission denied")),
            "rocm",
            "rocm-smi cannot be run: Permission denied",
        ),
        (
            Probe(amd=CommandResult(ROCM), environment={"HIP_VISIBLE_DEVICES": "-1"}),
            "rocm",
            "HIP_VISIBLE_DEVICES hides every device",
        ),
        (MAC, "rocm", "ROCm needs Linux"),
        (Probe(), "mps", "Metal needs macOS"),
        (replace(MAC, machine="x86_64"), "mps", "Metal inference needs Apple silicon"),
    ],
)
def test_a_device_that_is_not_there_has_its_reason(probe: Probe, name: str, reason: str) -> None:
    found = devices(probe)
    assert not found[name].available
    assert found[name].reason == reason
    if probe.system != "Darwin" or probe.machine != "arm64":
        assert hardware.describe(probe).best.name == "cpu"


def test_nvidia_devices_have_names_and_memory() -> None:
    found = devices(Probe(nvidia=CommandResult(TWO)))
    first = Device(
        "cuda:0", True, "NVIDIA H100 80GB HBM3, driver 570.124", 81559 * MIB, 80000 * MIB
    )
    assert found["cuda:0"] == first
    assert found["cuda:1"].reason == "NVIDIA L4, driver 570.124"
    shared = devices(Probe(nvidia=CommandResult("0, GB10, Blackwell, [N/A], [N/A], 580.1\n")))
    assert shared["cuda:0"] == Device("cuda:0", True, "GB10, Blackwell, driver 580.1")


def test_a_driver_without_its_tool_counts() -> None:
    found = devices(Probe(cuda_driver="/usr/lib/wsl/lib/libcuda.so.1"))
    assert found["cuda:0"].available
    assert "/usr/lib/wsl/lib/libcuda.so.1" in found["cuda:0"].reason


def test_amd_devices_have_names_and_memory() -> None:
    found = devices(Probe(amd=CommandResult(ROCM)))
    free = 25753026560 - 27590656
    assert found["rocm:0"] == Device("rocm:0", True, "Radeon RX 7900 XTX", 25753026560, free)
    assert found["rocm:1"] == Device("rocm:1", True, "Radeon PRO W7800", 200, 150)


def test_a_mac_has_metal() -> None:
    described = hardware.describe(MAC)
    assert described.best == Device("mps", True, "Apple M4, memory shared with the CPU")
    assert described.devices[1].name == "cpu"


def test_the_best_device_is_chosen_and_says_why() -> None:
    gpu, why = hardware.choose(hardware.describe(Probe(nvidia=CommandResult(TWO))))
    assert (gpu.name, why) == ("cuda:0", "the best there is")
    cpu, why = hardware.choose(hardware.describe(Probe()))
    assert cpu.name == "cpu"
    assert "no cuda: no NVIDIA driver" in why
    assert "Metal" not in why  # it could not be here


@pytest.mark.parametrize(
    ("probe", "wish", "name"),
    [
        (Probe(nvidia=CommandResult(TWO)), "cuda", "cuda:0"),
        (Probe(nvidia=CommandResult(TWO)), "cuda:1", "cuda:1"),
        (Probe(nvidia=CommandResult(TWO)), "cpu", "cpu"),
        (Probe(amd=CommandResult(ROCM)), "rocm", "rocm:0"),
        (Probe(amd=CommandResult(ROCM)), "hip:1", "rocm:1"),
        (Probe(amd=CommandResult(ROCM)), "cuda", "rocm:0"),  # as PyTorch calls it
        (MAC, "mps", "mps"),
        (MAC, "metal", "mps"),
        (MAC, "metal:0", "mps"),
    ],
)
def test_what_the_user_wants_is_taken(probe: Probe, wish: str, name: str) -> None:
    device, why = hardware.choose(hardware.describe(probe), wish)
    assert (device.name, why) == (name, "as you set it")


@pytest.mark.parametrize(
    ("probe", "wish", "reason"),
    [
        (Probe(), "cuda", "no NVIDIA driver"),
        (Probe(), "cuda:0", "no NVIDIA driver"),
        (Probe(), "rocm", "no AMD compute driver"),
        (Probe(), "metal", "Metal needs macOS"),
        (Probe(nvidia=CommandResult(TWO)), "cuda:7", "there is cuda:0, cuda:1"),
        (Probe(), "tpu", "There is no device 'tpu'; known are cpu, cuda, mps, rocm"),
    ],
)
def test_a_device_that_is_not_there_is_refused(probe: Probe, wish: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        hardware.choose(hardware.describe(probe), wish)


def test_the_wish_for_a_model_goes_before_that_for_all() -> None:
    assert hardware.wished_device("cpu", {hardware.OVERRIDE: "cuda"}) == "cpu"
    assert hardware.wished_device("", {hardware.OVERRIDE: "cuda"}) == "cuda"
    assert hardware.wished_device("", {}) == ""


@pytest.mark.parametrize(
    ("cores", "affinity", "quota", "found"),
    [
        (8, 8, None, (8, "all 8 cores of this machine")),
        (8, 2, None, (2, "this process may run on 2 of 8 cores")),
        (8, 8, 2.0, (2, "a control group allows 2 of 8 cores")),
        (8, 8, 1.5, (2, "a control group allows 1.5 of 8 cores")),
        (8, 8, 0.1, (1, "a control group allows 0.1 of 8 cores")),
        (8, 2, 4.0, (2, "this process may run on 2 of 8 cores")),
        (0, 0, None, (1, "all 1 cores of this machine")),
    ],
)
def test_usable_cores(
    cores: int, affinity: int, quota: float | None, found: tuple[int, str]
) -> None:
    assert hardware.usable(cores, affinity, quota) == found


def test_features_are_those_that_matter() -> None:
    described = hardware.describe(Probe(flags=frozenset({"amx_int8", "avx2", "fpu", "avx512f"})))
    assert described.features == ("avx2", "avx512f", "amx_int8")


# -- asking the system --------------------------------------------------------------------------


def quota(tmp_path: Path, membership: str) -> float | None:
    file = tmp_path / "membership"
    file.write_text(membership)
    return hardware.cpu_quota(tmp_path / "cgroup", file)


def group(tmp_path: Path, path: str, **files: str) -> None:
    folder = tmp_path / "cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def test_quota_of_version_2(tmp_path: Path) -> None:
    group(tmp_path, "user/shell", cpu__max="max 100000")
    group(tmp_path, "user", cpu__max="150000 100000")
    assert quota(tmp_path, "0::/user/shell\n") == 1.5


def test_quota_of_version_1(tmp_path: Path) -> None:
    group(tmp_path, "cpu,cpuacct/box", cpu__cfs_quota_us="200000")
    group(tmp_path, "cpu,cpuacct/box", cpu__cfs_period_us="100000")
    assert quota(tmp_path, "5:cpu,cpuacct:/box\n4:memory:/box\n") == 2.0
    assert quota(tmp_path, "5:cpuset:/box\n") is None


def test_quota_of_a_container_is_at_the_root(tmp_path: Path) -> None:
    group(tmp_path, "", cpu__max="300000 100000")
    assert quota(tmp_path, "0::/docker/012345\n") == 3.0


@pytest.mark.parametrize("content", ["", "max", "a b", "-1 100000", "100000 0", "1 2 3"])
def test_quota_that_says_nothing_is_none(tmp_path: Path, content: str) -> None:
    group(tmp_path, "", cpu__max=content)
    assert quota(tmp_path, "0::/\nbroken\n") is None
    assert hardware.cpu_quota(tmp_path, tmp_path / "none") is None


def test_a_command_that_hangs_is_given_up(tmp_path: Path) -> None:
    # Its child keeps the output open and outlives the signal that ends the command itself.
    script = tmp_path / "wedged"
    script.write_text("#!/bin/sh\ntrap '' TERM\nsleep 30 &\nsleep 30\n")
    script.chmod(0o755)
    started = time.monotonic()
    result = hardware.run([str(script)], timeout=0.2)
    assert result == CommandResult(problem="does not answer within 0.2 s")
    assert time.monotonic() - started < 10


def test_a_command_says_its_output_or_its_problem(tmp_path: Path) -> None:
    assert hardware.run([str(tmp_path / "none")]) is None
    assert hardware.run([sys.executable, "-c", "print('x')"]) == CommandResult("x\n")
    failed = hardware.run([sys.executable, "-c", "import sys; sys.exit('broken driver')"])
    assert failed == CommandResult(problem="failed: broken driver")
    silent = hardware.run([sys.executable, "-c", "raise SystemExit(3)"])
    assert silent == CommandResult(problem="failed: status 3")
    (tmp_path / "file").write_text("")
    denied = hardware.run([str(tmp_path / "file")])
    assert denied is not None
    assert denied.problem.startswith("cannot be run")


def test_probe_asks_each_tool_once() -> None:
    asked: list[str] = []

    def command(line: Sequence[str]) -> CommandResult | None:
        asked.append(line[0])
        return CommandResult(TWO) if line[0] == "nvidia-smi" else None

    found = hardware.detect(command)
    assert isinstance(found, Hardware)
    assert len(asked) == len(set(asked))
    assert found.cores >= 1
    assert found.memory_available > 0
    assert found.memory_available <= found.memory_total
    if sys.platform == "linux":
        assert set(asked) == {"nvidia-smi", "rocm-smi"}
        assert found.best.name == "cuda:0" or "CUDA_VISIBLE_DEVICES" in os.environ


def test_detection_imports_no_runtime() -> None:
    code = (
        "import sys; from backends import hardware; hardware.detect(); "
        "heavy = {'torch', 'numpy', 'llama_cpp', 'mlx', 'transformers'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
