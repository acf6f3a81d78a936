"""passwd, group, shadow of a sandbox: `root`, `airlock` (uid 1000), and the image's system accounts, people left out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["HOMES", "USER_ID", "Accounts", "host_accounts", "image_accounts"]

USER_ID = 1000
HOMES = {"root": "/root", "airlock": "/home/airlock"}
_NOBODY = 65_534
_FIRST_PERSON = 1000  # login.defs(5): SYS_UID_MAX is 999
_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,31}\$?", re.ASCII)
_PATH = re.compile(r"/[A-Za-z0-9/._+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Accounts:
    """Contents of the files of that name below /etc."""

    passwd: str
    group: str
    shadow: str
    gshadow: str


def host_accounts(passwd: str, group: str, *, shell: str) -> Accounts:
    """From the host's files: packages refer to system accounts by name (dpkg refuses to work without), so these stay.

    Comments, passwords and group members are dropped; accounts from 1000 up, and those that live in a home, too.
    """
    users = [f"root:x:0:0:root:/root:{shell}"]
    groups = ["root:x:0:"]
    for name, _, uid, gid, _, home, program in _records(passwd, 7):
        if _is_system(name, uid) and _PATH.fullmatch(home) and not home.startswith(("/home/", "/root/")):
            safe = program if _PATH.fullmatch(program) else "/usr/sbin/nologin"
            users.append(f"{name}:x:{uid}:{gid}::{home}:{safe}")
    groups += [f"{name}:x:{gid}:" for name, _, gid, _ in _records(group, 4) if _is_system(name, gid)]
    users.append(_airlock(shell))
    groups.append(f"airlock:x:{USER_ID}:")
    if not any(line.startswith("nobody:") for line in users):
        users.append(f"nobody:x:{_NOBODY}:{_NOBODY}::/nonexistent:/usr/sbin/nologin")
    if not any(line.split(":")[2] == str(_NOBODY) for line in groups):
        groups.append(f"nogroup:x:{_NOBODY}:")
    return _accounts(users, groups)


def image_accounts(passwd: str, group: str, *, shell: str) -> Accounts:
    """From an image's own files, with `airlock` first among those of uid 1000, so that the id has that name."""
    users = [line for line in passwd.splitlines() if _field(line, 0) not in ("", "airlock")]
    groups = [line for line in group.splitlines() if _field(line, 0) not in ("", "airlock")]
    if not any(_field(line, 0) == "root" for line in users):
        users.insert(0, f"root:x:0:0:root:/root:{shell}")
    if not any(_field(line, 0) == "root" for line in groups):
        groups.insert(0, "root:x:0:")
    users.insert(_place(users), _airlock(shell))
    groups.insert(_place(groups), f"airlock:x:{USER_ID}:")
    return _accounts(users, groups)


def _accounts(users: list[str], groups: list[str]) -> Accounts:
    # No password fits "*"; the day is fixed, so that two sandboxes do not differ.
    return Accounts(
        passwd=_lines(users),
        group=_lines(groups),
        shadow=_lines(f"{_field(line, 0)}:*:20000:0:99999:7:::" for line in users),
        gshadow=_lines(f"{_field(line, 0)}:*::" for line in groups),
    )


def _place(lines: list[str]) -> int:
    """Before the first of uid 1000, else at the end."""
    return next((index for index, line in enumerate(lines) if _field(line, 2) == str(USER_ID)), len(lines))


def _airlock(shell: str) -> str:
    return f"airlock:x:{USER_ID}:{USER_ID}::{HOMES['airlock']}:{shell}"


def _field(line: str, index: int) -> str:
    fields = line.split(":")
    return fields[index] if index < len(fields) else ""


def _records(text: str, width: int) -> Iterable[list[str]]:
    return (fields for line in text.splitlines() if len(fields := line.split(":")) == width)


def _is_system(name: str, number: str) -> bool:
    if name in ("root", "airlock") or not _NAME.fullmatch(name) or not (number.isascii() and number.isdigit()):
        return False
    return 0 < int(number) < _FIRST_PERSON or int(number) == _NOBODY


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
