"""How the interpreter is started, so that nothing inside can reach its file on the host.

A command that PID 1 starts can be a planted link to /proc/self/exe, or a script with that as its interpreter: it then *is* the
fork server's executable, on the host's mount. Where that file belongs to the user (uv, pyenv, a venv of copies) and root
inside has the user's id, it could be made set-uid or unusable for all. Started through the dynamic loader (ld.so(8)) the
executable of the process is the loader, which belongs to the system.
"""

from __future__ import annotations

import os
import struct

__all__ = ["interpreter"]

_PT_INTERP = 3  # elf(5)
_EVERY_ID = 4_294_967_295


def interpreter(executable: str) -> list[str]:
    """The words that start `executable`: itself, or the dynamic loader with it where its owner has an id inside."""
    if os.stat(executable).st_uid != os.getuid() or _is_root_of_the_machine():
        return [executable]
    loader = _loader(executable)
    return [loader, executable] if loader and os.stat(loader).st_uid != os.getuid() else [executable]


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
