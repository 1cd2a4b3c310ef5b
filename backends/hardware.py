"""What this machine can compute with, and why a device is or is not there.

Rule: `probe` asks the system, by small files and by commands that are given up after seconds, and
imports no runtime; everything else is a pure function of what it found. That a device is there says
nothing of an engine's build: see `availability`. Must not know models or engines.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.errors import Unsupported

COMMAND_TIMEOUT: Final = 5.0  # seconds; a wedged driver makes its tools wait forever
OVERRIDE: Final = "MIDSPAN_DEVICE"
MIB: Final = 1024 * 1024

# What users call a device → what it is called here. PyTorch calls AMD's devices "cuda" too.
_ALIASES: Final = {"metal": ("mps",), "cuda": ("cuda", "rocm"), "hip": ("rocm",)}

# Instructions that the speed of inference depends on, slowest machine to fastest.
CPU_FEATURES: Final = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve"),
)
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_LIBRARIES: Final = (
    *("/usr/lib64", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"),
    *("/usr/lib/wsl/lib", "/usr/local/cuda/compat", "/usr/local/nvidia/lib64"),
)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command said. `problem` says why it said nothing, if it did not."""

    output: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the system says, before anything is made of it."""

    system: str = "Linux"  # platform.system()
    machine: str = "x86_64"  # platform.machine()
    processor: str = ""
    flags: frozenset[str] = frozenset()
    cores: int = 1  # of the machine
    affinity: int = 1  # cores that this process may be put on
    quota: float | None = None  # cores' worth of time that its control groups allow
    memory_total: int = 0  # bytes
    memory_available: int = 0  # bytes, control groups' limits included
    nvidia: CommandResult | None = None  # nvidia-smi's table; None: there is no such command
    cuda_driver: str = ""  # where the driver was found
    amd: CommandResult | None = None  # rocm-smi's JSON; None: there is no such command
    amd_driver: str = ""
    environment: Mapping[str, str] | None = None  # the variables that hide devices


@dataclass(frozen=True, slots=True)
class Device:
    """Something to compute with, or why it is not there."""

    name: str  # cpu, cuda, cuda:1, rocm, mps
    available: bool
    reason: str  # what was found, or what is missing
    memory_bytes: int = 0  # its own; 0 where it shares the machine's
    free_bytes: int = 0
    possible: bool = True  # this system could have it


@dataclass(frozen=True, slots=True)
class Hardware:
    """What there is to compute with, best first; the CPU is always there and last."""

    processor: str
    cores: int  # that computing should use
    cores_reason: str
    features: tuple[str, ...]  # of CPU_FEATURES
    memory_total: int  # bytes
    memory_available: int  # bytes
    devices: tuple[Device, ...]

    @property
    def best(self) -> Device:
        """The first device that is there."""
        return next(device for device in self.devices if device.available)


# -- pure -----------------------------------------------------------------------------------------


def describe(probe: Probe) -> Hardware:
    """Make sense of what the system says."""
    cores, reason = usable(probe.cores, probe.affinity, probe.quota)
    devices = [*_cuda(probe), *_rocm(probe), _metal(probe)]
    there = [device for device in devices if device.available]
    missing = [device for device in devices if not device.available]
    cpu = Device("cpu", True, f"{probe.processor or probe.machine}, {cores} cores")
    return Hardware(
        processor=probe.processor or probe.machine,
        cores=cores,
        cores_reason=reason,
        features=tuple(name for name in CPU_FEATURES if name in probe.flags),
        memory_total=probe.memory_total,
        memory_available=probe.memory_available,
        devices=(*there, cpu, *missing),
    )


def usable(cores: int, affinity: int, quota: float | None) -> tuple[int, str]:
    """Return how many threads should compute, and why."""
    if quota is not None and quota < affinity:
        # A started core counts whole: with 1.5 cores' time two threads beat one.
        return max(1, math.ceil(quota)), f"a control group allows {quota:g} of {cores} cores"
    if affinity < cores:
        return affinity, f"this process may run on {affinity} of {cores} cores"
    return max(1, cores), f"all {max(1, cores)} cores of this machine"


def choose(hardware: Hardware, wish: str = "") -> tuple[Device, str]:
    """Return the device to compute on, and why; `wish` is the user's. Raises Unsupported."""
    if not wish:
        best = hardware.best
        why = "the best there is" if best.name != "cpu" else _why_cpu(hardware)
        return best, why
    kind, _, index = wish.partition(":")
    kinds = _ALIASES.get(kind, (kind,))
    family = [device for device in hardware.devices if device.name.partition(":")[0] in kinds]
    if not family:
        known = sorted({device.name.partition(":")[0] for device in hardware.devices})
        raise Unsupported(f"There is no device {wish!r}; known are {', '.join(known)}.")
    for device in family:
        if device.available and (device.name.partition(":")[2] or "0") == (index or "0"):
            return device, "as you set it"
    there = ", ".join(device.name for device in family if device.available)
    reason = f"there is {there}" if there else family[0].reason
    raise Unsupported(
        f'device = {wish} cannot be used: {reason}. Remove the setting, or set it to "cpu".'
    )


def _why_cpu(hardware: Hardware) -> str:
    missing = (d for d in hardware.devices if not d.available and d.possible)
    return "; ".join(f"no {device.name}: {device.reason}" for device in missing)


def _hidden(probe: Probe, *variables: str) -> str:
    """Return the variable that hides all devices of a kind, if one does."""
    environment = probe.environment or {}
    hiding = (v for v in variables if environment.get(v, "0").strip() in ("", "-1"))
    return next(hiding, "")


def _cuda(probe: Probe) -> list[Device]:
    if probe.system == "Darwin":
        return [Device("cuda", False, "Macs have no NVIDIA driver", possible=False)]
    if variable := _hidden(probe, "CUDA_VISIBLE_DEVICES"):
        return [Device("cuda", False, f"{variable} hides every device")]
    if probe.nvidia is None:
        if probe.cuda_driver:
            return [Device("cuda:0", True, f"driver at {probe.cuda_driver}, no nvidia-smi to ask")]
        return [Device("cuda", False, "no NVIDIA driver (no nvidia-smi, no libcuda.so.1)")]
    if probe.nvidia.problem:
        return [Device("cuda", False, f"nvidia-smi {probe.nvidia.problem}")]
    rows = [row.split(",") for row in probe.nvidia.output.splitlines() if row.count(",") >= 3]
    devices = [_nvidia_device(row) for row in rows]
    return devices or [Device("cuda", False, "nvidia-smi lists no device")]


def _nvidia_device(row: Sequence[str]) -> Device:
    index, total, free, driver = (part.strip() for part in (row[0], *row[-3:]))
    name = ",".join(row[1:-3]).strip()
    return Device(
        f"cuda:{index}",
        True,
        f"{name}, driver {driver}",
        memory_bytes=_mib(total),
        free_bytes=_mib(free),
    )


def _mib(text: str) -> int:
    return int(text) * MIB if text.isascii() and text.isdigit() else 0  # "[N/A]"


def _rocm(probe: Probe) -> list[Device]:
    if probe.system != "Linux":
        return [Device("rocm", False, "ROCm needs Linux", possible=False)]
    if variable := _hidden(probe, "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        return [Device("rocm", False, f"{variable} hides every device")]
    if probe.amd is None:
        if probe.amd_driver:
            reason = f"{probe.amd_driver} is there, but ROCm is not installed (no rocm-smi)"
            return [Device("rocm", False, reason)]
        return [Device("rocm", False, "no AMD compute driver (no rocm-smi, no /dev/kfd)")]
    if probe.amd.problem:
        return [Device("rocm", False, f"rocm-smi {probe.amd.problem}")]
    try:
        cards = json.loads(probe.amd.output)
        rows = [(key, dict(card)) for key, card in cards.items() if key.startswith("card")]
    except (ValueError, TypeError, AttributeError):
        return [Device("rocm", False, "rocm-smi's answer cannot be read")]
    devices = [_amd_device(index, card) for index, (_, card) in enumerate(sorted(rows))]
    return devices or [Device("rocm", False, "rocm-smi lists no device")]


def _amd_device(index: int, card: Mapping[str, object]) -> Device:
    def number(key: str) -> int:
        text = str(card.get(key, "")).strip()
        return int(text) if text.isascii() and text.isdigit() else 0

    total = number("VRAM Total Memory (B)")
    name = str(card.get("Card Series") or card.get("Card series") or "AMD GPU")
    free = max(0, total - number("VRAM Total Used Memory (B)"))
    return Device(f"rocm:{index}", True, name, memory_bytes=total, free_bytes=free)


def _metal(probe: Probe) -> Device:
    if probe.system != "Darwin":
        return Device("mps", False, "Metal needs macOS", possible=False)
    if probe.machine != "arm64":
        return Device("mps", False, "Metal inference needs Apple silicon")
    return Device("mps", True, f"{probe.processor or 'Apple silicon'}, memory shared with the CPU")


# -- asking the system ----------------------------------------------------------------------------

Command = Callable[[Sequence[str]], "CommandResult | None"]


def run(command: Sequence[str], timeout: float = COMMAND_TIMEOUT) -> CommandResult | None:
    """Return what a command says, None where there is no such command. Never hangs."""
    # To files, not pipes, and not waited for once it was killed: a tool that is stuck inside a
    # driver cannot be killed, and its children may keep a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(  # noqa: S603 - fixed arguments, no shell
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except FileNotFoundError:
            return None
        except OSError as exc:
            return CommandResult(problem=f"cannot be run: {exc.strerror}")
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            return CommandResult(problem=f"does not answer within {timeout:g} s")
        out.seek(0)
        err.seek(0)
        said = out.read().decode("utf-8", "replace")
        if status == 0:
            return CommandResult(said)
        lines = (said.strip() or err.read().decode("utf-8", "replace").strip()).splitlines()
        return CommandResult(problem=f"failed: {lines[0] if lines else f'status {status}'}")


def run_nothing(_command: Sequence[str]) -> None:
    """Find no command: for engines that could not use what those would tell of."""


def detect(command: Command = run) -> Hardware:
    """Ask the system and make sense of it. Takes seconds at most."""
    return describe(probe(command))


def wished_device(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the device that the user set, if any: `device`, for the model, else for all."""
    return device or environment.get(OVERRIDE, "")


def probe(command: Command = run) -> Probe:
    """Ask the system."""
    import psutil  # here: a worker that only counts cores does without it

    from backends import memory

    system = platform.system()
    flags, processor = _cpuinfo()
    if system == "Darwin":
        brand = command(["sysctl", "-n", "machdep.cpu.brand_string"])
        processor = brand.output.strip() if brand else processor
    linux = system == "Linux"
    hiding = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    return Probe(
        system=system,
        machine=platform.machine(),
        processor=processor or platform.processor(),
        flags=flags,
        cores=os.cpu_count() or 1,
        affinity=_affinity(),
        quota=cpu_quota(),
        memory_total=int(psutil.virtual_memory().total),
        memory_available=memory.available(),
        nvidia=None if system == "Darwin" else command(_NVIDIA_SMI),
        cuda_driver=_first_file("libcuda.so.1") if linux else "",
        amd=command(_ROCM_SMI) if linux else None,
        amd_driver="/dev/kfd" if linux and Path("/dev/kfd").exists() else "",
        environment={name: os.environ[name] for name in hiding if name in os.environ},
    )


_NVIDIA_SMI: Final = (
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,memory.free,driver_version",
    "--format=csv,noheader,nounits",
)
_ROCM_SMI: Final = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cpu_quota(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """Return the cores' worth of time that control groups allow; None without a limit."""
    try:
        rows = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return None  # no Linux
    found = []
    for _, controllers, path in (row for row in rows if len(row) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        # v1 is mounted under its controllers' names, in whichever order or by one of them.
        hierarchies = {root / controllers, root / "cpu"} if controllers else {root}
        for hierarchy in hierarchies:
            group = hierarchy / path.lstrip("/")
            # Groups above limit too; in a container the path may be the host's: then the root.
            for folder in (group, *group.parents):
                found.append(_quota(folder))
                if folder == hierarchy:
                    break
    return min((quota for quota in found if quota is not None), default=None)


def _quota(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period) if min(int(quota), int(period)) > 0 else None
    with contextlib.suppress(OSError, ValueError):
        v1 = int((folder / "cpu.cfs_quota_us").read_text())
        period_v1 = int((folder / "cpu.cfs_period_us").read_text())
        return v1 / period_v1 if v1 > 0 and period_v1 > 0 else None
    return None


def has_bfloat16() -> bool:
    """Return whether the processor has instructions for 16-bit weights of bfloat16."""
    return bool(_cpuinfo()[0] & {"avx512_bf16", "amx_bf16", "amx_tile", "bf16"})


def _cpuinfo() -> tuple[frozenset[str], str]:
    """Return the processor's flags and name, as Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset(), ""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return frozenset(flags[1].split() if flags else ()), name[1].strip() if name else ""


def _first_file(name: str) -> str:
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep), *_LIBRARIES]
    paths = (Path(folder, name) for folder in folders if folder)
    return next((str(path) for path in paths if path.exists()), "")
