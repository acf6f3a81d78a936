"""Runs inside a sandbox: `look` for what others left, `make` the same mess, `alive` says whether the daemon is there.

Each prints one JSON list: what it found.
"""

import json
import os
import socket
import sys
from pathlib import Path

PLACES = ("/usr/local/bin", "/etc", "/tmp", str(Path.home()), "/usr/local/lib")
PORT = 45_678
MARK = "airlock-dirt"


def listening() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def strangers() -> "list[str]":
    """Every process but PID 1 and this one's own line of descent."""
    own, pid = {1}, os.getpid()
    while pid > 1:
        own.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    found = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    return [f"process {pid}" for pid in sorted(found - own)]


def look() -> "list[str]":
    files = [str(path) for place in PLACES for path in Path(place).glob(f"{MARK}*")]
    files += [str(path) for path in Path().glob(f"{MARK}*")]
    if not Path("/etc/passwd").read_text().startswith("root:"):
        files.append("/etc/passwd changed")
    return files + strangers() + ([f"port {PORT}"] if listening() else [])


def make(name: str) -> "list[str]":
    for place in (*PLACES, "."):
        Path(place, f"{MARK}-{name}").write_text(name)
    Path("/etc/passwd").write_text("overwritten\n")
    # Bound before the fork: when this returns the port is taken, without waiting for anybody.
    server = socket.create_server(("127.0.0.1", PORT))
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            while True:
                server.accept()[0].close()
        os._exit(0)
    os.wait()
    return [name]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["look"]:
            print(json.dumps(look()))
        case ["make", name]:
            print(json.dumps(make(name)))
        case ["alive"]:
            print(json.dumps([listening()]))
