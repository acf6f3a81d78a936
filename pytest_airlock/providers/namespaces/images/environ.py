"""The base environment of a command. Nothing of the host's own environment is inherited."""

from __future__ import annotations

import os

from pytest_airlock.errors import InvalidSpec

from .accounts import HOMES
from .etc import shell_of
from .hostview import HostView

__all__ = ["STANDARD_PATH", "base_environ"]

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_environ(user: str, host: HostView | None) -> dict[str, str]:
    """Environment of `user` ("root" or "airlock"); `host` is None where the host's interpreter is not visible.

    Raises InvalidSpec for another user.
    """
    if user not in HOMES:
        raise InvalidSpec("user", user, "there is no such user in a sandbox", hint=f"known: {', '.join(sorted(HOMES))}")
    environ = {
        "HOME": HOMES[user],
        "USER": user,
        "LOGNAME": user,
        "PATH": STANDARD_PATH,
        "SHELL": shell_of(host) if host is not None else "/bin/sh",
        "TZ": "UTC",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        # What is refused is refused at once; these would still wait between tries: pip 7 s in all, cargo 10, npm 70.
        "PIP_RETRIES": "0",
        "CARGO_NET_RETRY": "0",
        "npm_config_fetch_retries": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    if host is not None:
        programs = os.path.dirname(host.executable)
        if programs not in STANDARD_PATH.split(":"):
            environ["PATH"] = f"{programs}:{STANDARD_PATH}"
        if host.prefix != host.base_prefix:
            environ["VIRTUAL_ENV"] = host.prefix
    return environ
