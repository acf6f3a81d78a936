"""What the files of a fresh fake sandbox are: merged /usr, a few files in /etc, the programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_airlock.testing.files import FakeFiles
from pytest_airlock.testing.process import MAGIC, Program

__all__ = ["HOMES", "PATH", "build"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOMES = {"root": "/root", "airlock": "/home/airlock"}

_DIRECTORIES = (
    "/dev", "/etc", "/home", "/home/airlock", "/opt", "/proc", "/root", "/run", "/sys", "/usr", "/usr/bin", "/usr/lib",
    "/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/sbin", "/var", "/var/lib",
)  # fmt: skip
_FILES = {
    "/etc/hostname": "airlock\n",
    "/etc/hosts": "127.0.0.1 localhost airlock\n",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nairlock:x:1000:1000::/home/airlock:/bin/sh\n",
}


def build(files: FakeFiles, programs: Mapping[str, Program], mounts: Iterable[str]) -> None:
    for path in _DIRECTORIES:
        files.mkdir(path, 0o700 if path == "/root" else 0o755)
    for path in ("/tmp", "/var/tmp"):
        files.mkdir(path, 0o1777)
    for path in ("/bin", "/sbin", "/lib"):
        files.symlink(path, "usr" + path)
    for path in ("/dev/null", "/dev/zero"):
        files.special(path, "char", 0o666)
    for path, text in _FILES.items():
        files.write(path, text.encode())
    for name in programs:
        files.write(name if name.startswith("/") else f"/usr/bin/{name}", MAGIC + name.encode(), mode=0o755)
    for target in mounts:
        _mount(files, target)


def _mount(files: FakeFiles, target: str) -> None:
    parents = target.strip("/").split("/")
    for depth in range(1, len(parents) + 1):
        path = "/" + "/".join(parents[:depth])
        if files.resolve(path).node is None:
            files.mkdir(path)
    files.node(target).mount = True
