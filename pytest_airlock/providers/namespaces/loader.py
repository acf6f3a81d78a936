"""How the interpreter is started, so that nothing inside can reach its file on the host.

A command that PID 1 starts can be a planted link to /proc/self/exe, or a script with that as its interpreter: it then *is* the
fork server's executable, on the host's mount. Where that file belongs to the user (uv, pyenv, a venv of copies) and root
inside has the user's id, it could be made set-uid or unusable for all. Started through the dynamic loader (ld.so(8)) the
executable of the process is the loader, which belongs to the system. Where that, too, has an owner inside (root of a rootless
container), the process runs a sealed copy of it in memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct

__all__ = ["interpreter"]

_PT_INTERP = 3  # elf(5)
_MFD_EXEC = 0x10  # linux/memfd.h, from Linux 6.3
_EVERY_ID = 4_294_967_295


def interpreter(executable: str) -> tuple[list[str], list[int]]:
    """The words that start `executable`, and the descriptors to pass with them: itself, or where its owner has an id
    inside, the dynamic loader with it.
    """
    if os.stat(executable).st_uid != os.getuid() or _is_root_of_the_machine():
        return [executable], []
    loader = _loader(executable)
    if loader and os.stat(loader).st_uid != os.getuid():
        return [loader, executable], []
    copy = _sealed(loader or executable)
    return [f"/proc/self/fd/{copy}", *([executable] if loader else [])], [copy]


def _sealed(path: str) -> int:
    """A copy of a program in memory that nobody can change (memfd_create(2), F_ADD_SEALS of fcntl(2))."""
    copy = _memory()
    try:
        with open(path, "rb") as source, os.fdopen(copy, "wb", closefd=False) as target:
            shutil.copyfileobj(source, target)
        fcntl.fcntl(
            copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        )
    except BaseException:
        os.close(copy)
        raise
    return copy


def _memory() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("airlock-python", flags | _MFD_EXEC)  # vm.memfd_noexec may forbid it by default
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("airlock-python", flags)


def _is_root_of_the_machine() -> bool:
    """Root with all ids: its sandboxes have ids of their own, and none of them is root's."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        inside, _, count = file.readline().split()
    return os.getuid() == 0 and int(inside) == 0 and int(count) == _EVERY_ID


def _loader(executable: str) -> str | None:
    """The path in PT_INTERP of a 64-bit ELF file of this machine's byte order; None for anything else, a static one too."""
    with open(executable, "rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:5] != b"\x7fELF\x02":
            return None
        offset, size, count = struct.unpack_from("=Q", header, 32)[0], *struct.unpack_from("=HH", header, 54)
        for index in range(count):
            file.seek(offset + index * size)
            kind, _, start, _, _, length = struct.unpack("=IIQQQQ", file.read(40))
            if kind == _PT_INTERP and length <= 4096:
                file.seek(start)
                return os.fsdecode(file.read(length).rstrip(b"\0"))
    return None
