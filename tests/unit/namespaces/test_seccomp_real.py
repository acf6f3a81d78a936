"""The filter in this machine's kernel: what it refuses is refused, and ordinary programs do not notice it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine import seccomp
from pytest_airlock.providers.namespaces.engine.syscall_table import NUMBERS

# argv: the program in hex, then what to execute under it.
LOADER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
program = bytes.fromhex(sys.argv[1])
code = ctypes.create_string_buffer(program, len(program))
fprog = ctypes.create_string_buffer(struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code)))
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
for option in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog, 0, 0)):
    if libc.prctl(*option):
        raise OSError(ctypes.get_errno(), "prctl")
os.execvp(sys.argv[2], sys.argv[2:])
"""

# Runs under the filter and prints {name: errno or "ok"}.
CALLER = """
import ctypes, errno, json, os, socket, sys
numbers = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(name, *args):
    number = numbers[name] if isinstance(name, str) else name
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args))
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]

def open_socket(*args):
    try:
        socket.socket(*args).close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

main, side = os.openpty()
letter = ctypes.c_char(b"x")
where = ctypes.addressof(letter)
TIOCSTI, UPPER = 0x5412, 1 << 32
answers = {
    "vsock": open_socket(40, socket.SOCK_STREAM),
    "alg": open_socket(38, socket.SOCK_SEQPACKET),
    "raw": open_socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "udplite": open_socket(socket.AF_INET, socket.SOCK_DGRAM, 136),
    "uevent": open_socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15),
    "route": open_socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "tcp": open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "tcp6 nonblocking": open_socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 6),
    "unix": open_socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    "unshare": call("unshare", 0x10000000),
    "setns": call("setns", 0, 0),
    "mount": call("mount", 0, 0, 0, 0, 0),
    "clone3": call("clone3", 0, 0),
    "clone user": call("clone", 0x10000000 | 17, 0, 0, 0, 0),
    "keyctl": call("keyctl", 0, -3 & 2**64 - 1, 0),
    "io_uring_setup": call("io_uring_setup", 1, 0),
    "tiocsti": call("ioctl", side, TIOCSTI, where),
    "tiocsti upper": call("ioctl", side, TIOCSTI | UPPER, where),
    "tiocgwinsz": call("ioctl", side, 0x5413, ctypes.addressof(ctypes.create_string_buffer(8))),
    "personality": call("personality", 0x400000),
    "personality query": call("personality", 0xFFFFFFFF),
    "unknown": call(599),
    "skipped": call(-1),
    "prlimit other": call("prlimit64", os.getppid(), 7, where, 0),
}
print(json.dumps(answers))
"""


def under(
    *argv: str, cwd: Path | None = None, nesting: bool = False, single_user: bool = False, pin_cpus: bool = False
) -> subprocess.CompletedProcess[str]:
    program = seccomp.build(nesting=nesting, single_user=single_user, pin_cpus=pin_cpus)
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", LOADER, program.hex(), *argv],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        timeout=120,
        check=False,
    )


def test_the_kernel_answers_as_the_policy_says() -> None:
    done = under(sys.executable, "-I", "-S", "-c", CALLER, json.dumps(NUMBERS[os.uname().machine]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "vsock": "EAFNOSUPPORT",
        "alg": "EAFNOSUPPORT",
        "raw": "EPROTONOSUPPORT",
        "udplite": "EPROTONOSUPPORT",
        "uevent": "EPROTONOSUPPORT",
        "route": "ok",
        "tcp": "ok",
        "tcp6 nonblocking": "ok",
        "unix": "ok",
        "unshare": "EPERM",
        "setns": "EPERM",
        "mount": "EPERM",
        "clone3": "ENOSYS",
        "clone user": "EPERM",
        "keyctl": "EPERM",
        "io_uring_setup": "EPERM",
        "tiocsti": "EPERM",
        "tiocsti upper": "EPERM",
        "tiocgwinsz": "ok",
        "personality": "EPERM",
        "personality query": "ok",
        "unknown": "ENOSYS",
        "skipped": "ENOSYS",
        "prlimit other": "EPERM",
    }


def test_ownership_is_faked_where_there_is_one_user(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.chown(sys.argv[1], 4242, 4242); os.setgroups([1, 2, 3]); print(os.stat(sys.argv[1]).st_uid)"
    )
    owner = tmp_path.stat().st_uid
    done = under(sys.executable, "-I", "-S", "-c", code, str(tmp_path), single_user=True)
    assert (done.stdout, done.returncode) == (f"{owner}\n", 0), done.stderr


def test_processors_stay_pinned() -> None:
    code = "import os; os.sched_setaffinity(0, os.sched_getaffinity(0))"
    assert under(sys.executable, "-I", "-S", "-c", code).returncode == 0
    pinned = under(sys.executable, "-I", "-S", "-c", code, pin_cpus=True)
    assert "PermissionError" in pinned.stderr


def test_nesting_lets_name_spaces_be_made() -> None:
    """The filter's answer would be EPERM; with nesting it is the kernel's own, here about a flag that does not exist."""
    code = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.unshare(0x10000001), ctypes.get_errno())"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert under(*command).stdout == "-1 1\n"
    assert under(*command, nesting=True).stdout == plain.stdout


PYTHON = """
import asyncio, multiprocessing, os, signal, socket, sqlite3, ssl, subprocess, tempfile, threading

async def echo():
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()
    with tempfile.TemporaryDirectory() as home:
        server = await asyncio.start_unix_server(serve, f"{home}/s")
        reader, writer = await asyncio.open_unix_connection(f"{home}/s")
        writer.write(b"hello\\n")
        assert await reader.readline() == b"hello\\n"
        writer.close()
        server.close()
    child = await asyncio.create_subprocess_exec("true")
    assert await child.wait() == 0

asyncio.run(echo())
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
thread = threading.Thread(target=subprocess.run, args=(["sh", "-c", "exit 0"],))
thread.start()
thread.join()
ssl.create_default_context()
sqlite3.connect(":memory:").execute("select 1")
print("fine")
"""
SOURCE = """\
#include <pthread.h>
#include <stdio.h>
static void *work(void *p) { return p; }
int main(void) { pthread_t t; pthread_create(&t, 0, work, 0); pthread_join(t, 0); puts("fine"); return 0; }
"""
MAKEFILE = "all: a b\n\t@echo fine\na b:\n\t@touch $@\n"

# (what must be installed, script): each prints "fine" last.
PROGRAMS = {
    "python": ((), f"{sys.executable} -I -c '{PYTHON}'"),
    "sh": (("sh",), "echo a b | tr ' ' '\\n' | sort | wc -l >count && (sleep 0 & wait) && echo fine"),
    "git": (
        ("git",),
        (
            "git init -q r && cd r && git -c user.name=a -c user.email=b@c commit -q --allow-empty -m x && git log --oneline "
            ">/dev/null && git gc -q && echo fine"
        ),
    ),
    "gcc": (("gcc",), "gcc -pthread -O1 -o p p.c && ./p"),
    "make": (("make",), "make -s -j2"),
    "node": (("node",), 'node -e \'require("fs").writeFileSync("f", "x"); setTimeout(() => console.log("fine"), 1)\''),
    "strace": (("strace",), "strace -f -o trace sh -c 'true; true' && grep -q execve trace && echo fine"),
    "gdb": (
        ("gdb",),
        "gdb -nx -batch -ex run -ex quit --args sh -c 'exit 0' >out 2>&1; grep -q 'exited normally' out && echo fine",
    ),
    "dpkg": (
        ("dpkg-deb",),
        (
            "mkdir -p d/DEBIAN && printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' "
            ">d/DEBIAN/control && dpkg-deb -b d x.deb >/dev/null && dpkg-deb -x x.deb out && echo fine"
        ),
    ),
    "apt": (("apt-get",), "apt-get --version >/dev/null && apt-config dump >/dev/null && echo fine"),
    "perl": (("perl",), "perl -e 'print qx(echo fine)'"),
    "tar": (
        ("tar", "gzip"),
        "tar czf a.tgz p.c && tar tzf a.tgz >/dev/null && cp -a p.c q.c && ls -l >/dev/null && echo fine",
    ),
    "java": (("java",), "java -version >/dev/null 2>&1 && echo fine"),
    "go": (("go",), "GOFLAGS=-mod=mod GOCACHE=$PWD/c go version >/dev/null && echo fine"),
}
INSTALLED = [name for name, (needs, _script) in PROGRAMS.items() if all(map(shutil.which, needs))]


@pytest.mark.parametrize("name", INSTALLED)
def test_ordinary_programs_do_not_notice(name: str, tmp_path: Path) -> None:
    (tmp_path / "p.c").write_text(SOURCE)
    (tmp_path / "Makefile").write_text(MAKEFILE)
    done = under("sh", "-ec", PROGRAMS[name][1], cwd=tmp_path)
    assert done.stdout.endswith("fine\n"), done.stdout + done.stderr
    assert done.returncode == 0
