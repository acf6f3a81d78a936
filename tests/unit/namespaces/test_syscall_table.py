from __future__ import annotations

import ctypes
import ctypes.util
import re
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine.syscall_table import NUMBERS

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
SCMP_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.mark.parametrize("machine", NUMBERS)
def test_no_number_is_given_twice(machine: str) -> None:
    numbers = NUMBERS[machine]
    assert len(set(numbers.values())) == len(numbers)


# Written down from the manual pages and the kernel's headers, independently of the table.
@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("read", 0, 63),
        ("ioctl", 16, 29),
        ("socket", 41, 198),
        ("socketpair", 53, 199),
        ("clone", 56, 220),
        ("ptrace", 101, 117),
        ("personality", 135, 92),
        ("pivot_root", 155, 41),
        ("mount", 165, 40),
        ("keyctl", 250, 219),
        ("unshare", 272, 97),
        ("prlimit64", 302, 261),
        ("seccomp", 317, 277),
        ("rseq", 334, 293),
        ("clone3", 435, 435),
        ("landlock_restrict_self", 446, 446),
        ("file_setattr", 469, 469),
    ],
)
def test_numbers_are_the_kernels(name: str, x86_64: int, aarch64: int) -> None:
    assert (NUMBERS["x86_64"][name], NUMBERS["aarch64"][name]) == (x86_64, aarch64)


@pytest.mark.parametrize("name", ["open", "fork", "dup2", "chown", "arch_prctl"])
def test_arm64_has_only_the_calls_with_a_directory_or_flags(name: str) -> None:
    assert name in NUMBERS["x86_64"]
    assert name not in NUMBERS["aarch64"]


def test_the_table_agrees_with_what_this_machine_knows() -> None:
    """libseccomp and the installed kernel headers are oracles where they are installed; neither may contradict."""
    compared = 0
    library = ctypes.util.find_library("seccomp")
    if library:
        resolve = ctypes.CDLL(library).seccomp_syscall_resolve_name_arch
        resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        for machine, numbers in NUMBERS.items():
            for name, number in numbers.items():
                known = resolve(SCMP_ARCH[machine], name.encode())
                if known >= 0:
                    compared += 1
                    assert known == number, (machine, name)
    if HEADER.exists():
        header = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", HEADER.read_text()))
        compared += len(header)
        assert {name: int(number) for name, number in header.items()}.items() <= NUMBERS["x86_64"].items()
    assert compared or not (library or HEADER.exists())
