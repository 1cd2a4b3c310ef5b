"""The system calls that generated code may not make, as a filter the Linux kernel runs.

Rule: data and pure functions. What namespaces and limits cannot stop is stopped here: new processes
(the limit on them does not bind root), and the calls that have broken sandboxes. Must not know who
is confined.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_X32 = 0x40000000


@dataclass(frozen=True, slots=True)
class _Machine:
    audit: int  # AUDIT_ARCH_*
    clone: int
    clone3: int
    processes: tuple[int, ...]  # fork, vfork
    refused: tuple[int, ...]


# clone3 and the calls after it have the same number everywhere.
_NEWER = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442)
MACHINES = {
    "x86_64": _Machine(
        audit=0xC000003E,
        clone=56,
        clone3=435,
        processes=(57, 58),
        # ptrace, syslog, personality, pivot_root, chroot, acct, mount, umount2, swapon, swapoff,
        # reboot, sethostname, setdomainname, modules, quotactl, kexec, keys, unshare,
        # perf_event_open, name_to_handle_at, open_by_handle_at, setns, process_vm_*, kcmp,
        # finit_module, bpf, userfaultfd
        refused=(101, 103, 135, 155, 161, 163, 165, 166, 167, 168, 169, 170, 171, 175, 176, 179)
        + (246, 248, 249, 250, 272, 298, 303, 304, 308, 310, 311, 312, 313, 320, 321, 323),
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        clone=220,
        clone3=435,
        processes=(),
        # The same in its numbering.
        refused=(39, 40, 41, 51, 60, 89, 92, 97, 104, 105, 106, 116, 117, 142, 161, 162, 217, 218)
        + (219, 224, 225, 241, 264, 265, 268, 270, 271, 272, 273, 280, 282, 294),
    ),
}


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, value)


def program(machine: str, *, processes: bool) -> bytes:
    """Assemble the filter for `machine` (a key of MACHINES), as `bwrap --seccomp` reads it.

    `processes` is whether new processes may be started; threads always may.
    """
    numbers = MACHINES[machine]
    refuse = _step(_RETURN, _ERROR | errno.EPERM)
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, numbers.audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _X32, 0, 1),
        _step(_RETURN, _KILL),
        # Its flags are behind a pointer; libraries fall back to clone when it is not there.
        _step(_EQUAL, numbers.clone3, 0, 1),
        _step(_RETURN, _ERROR | errno.ENOSYS),
    ]
    refused = numbers.refused + _NEWER + (() if processes else numbers.processes)
    for number in refused:
        steps += [_step(_EQUAL, number, 0, 1), refuse]
    steps += [
        _step(_EQUAL, numbers.clone, 1, 0),
        _step(_RETURN, _ALLOW),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _NEW_NAMESPACES, 0, 1),
        refuse,
    ]
    if not processes:
        steps += [_step(_ANY_BIT, _CLONE_THREAD, 1, 0), refuse]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])
