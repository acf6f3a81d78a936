"""Files of the host that hold its people's secrets. The other classic ways out are in attacks_*.py, each with its control."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from attacker import Box


def test_classic_no_file_of_the_host_is_seen(box: Box, tmp_path: Path, users: tuple[str, ...]) -> None:
    """Its home, its temporary files, its password hashes, its logs, its sockets."""
    (tmp_path / "canary").write_text("x")
    home = os.path.expanduser("~")
    mine = os.path.join(home, f".airlock-hostile-{os.getpid()}")
    Path(mine).write_text("x")
    try:
        paths = [
            str(tmp_path / "canary"),
            mine,
            "/var/log",
            "/boot/vmlinuz",
            "/run/docker.sock",
            "/etc/sudoers",
            "/etc/ssh",
        ]
        for user in users:
            result = box.run(["/bin/ls", "-d", *paths], user=user)
            assert result.out in ("", "/var/log\n"), "a directory of its own, empty"
    finally:
        os.unlink(mine)


def test_classic_password_hashes_of_the_host_are_not_there(box: Box) -> None:
    text = box.run("cat /etc/shadow /etc/shadow- /etc/gshadow /etc/passwd- 2>/dev/null").out
    hashes = [
        line for line in text.splitlines() if line.split(":")[1:2] not in ([], ["*"], ["!"], ["!*"], ["x"], ["!!"])
    ]
    assert hashes == []
    names = {line.split(":")[0] for line in box.run("cat /etc/passwd").out.splitlines()}
    assert {"root", "airlock"} <= names
    people = {entry.pw_name for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60_000}
    assert not (names - {"airlock"}) & people
