"""What one sandbox can leave or hold for another: IPC, shared memory, sockets, keys, locks.

A neighbour and the next generation are the same to the kernel: two lives side by side, for a while, when a spare is built while the old world
still runs. Where the test process is an ordinary user all lives have the same host ids; as root test_generations.py makes them so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attacker import Box
from attacks import By, Fits, attack
from weakenings import NO_FILTER, NO_LANDLOCK, READ_ONLY_BINDS, SHARED_IPC, SHARED_KEYRING, SHARED_NET, SHARED_SHM

from pytest_airlock.providers.base import ResolvedMount

#: Leaves what outlives the process, in every store the kernel has for it.
LEAVE_IPC = """
os.umask(0)
answer["shm"] = libc.shmget(0x4D41524B, 4096, 0o1666) >= 0
answer["sem"] = libc.semget(0x4D41524B, 1, 0o1666) >= 0
answer["msg"] = libc.msgget(0x4D41524B, 0o1666) >= 0
answer["mq"] = libc.syscall(ctypes.c_long(numbers["mq_open"]), b"left", os.O_CREAT | os.O_RDWR, 0o666, None) >= 0
"""
FIND_IPC = """
answer["shm"] = libc.shmget(0x4D41524B, 0, 0) >= 0
answer["sem"] = libc.semget(0x4D41524B, 0, 0) >= 0
answer["msg"] = libc.msgget(0x4D41524B, 0) >= 0
answer["mq"] = libc.syscall(ctypes.c_long(numbers["mq_open"]), b"left", os.O_RDWR, 0, None) >= 0
"""
NONE, ALL = (dict.fromkeys(("shm", "sem", "msg", "mq"), found) for found in (False, True))


@attack(NONE, stops="an IPC name space", controls={(SHARED_IPC, NO_LANDLOCK): ALL})
def leaves_system_v_and_posix_objects(box: Box) -> Any:
    """Shared memory, semaphores and queues: found by a neighbour."""
    other = box.another()
    assert box.attack(LEAVE_IPC) == ALL
    return other.attack(FIND_IPC)


@attack(
    {"names": [], "unlinked": 0},
    stops="a /dev/shm of its own, mounted anew",
    controls={(SHARED_SHM,): {"names": ["left"], "unlinked": 0}},
)
def leaves_shared_memory_files(box: Box) -> Any:
    """A file in /dev/shm, and one that is mapped and unlinked: found by a neighbour while the holder lives."""
    other = box.another()
    process = box.python(
        """
import mmap
open("/dev/shm/left", "w").close()
os.chmod("/dev/shm/left", 0o666)
file = open("/dev/shm/unlinked", "w+b")
file.truncate(4096)
memory = mmap.mmap(file.fileno(), 4096)
os.unlink("/dev/shm/unlinked")
print("ready", flush=True)
signal.pause()
"""
    )
    answer: Any = other.attack(
        """
import glob
answer["names"] = os.listdir("/dev/shm")
maps = [line for name in glob.glob("/proc/[0-9]*/maps") if os.access(name, os.R_OK) and name != "/proc/1/maps" for line in open(name)]
answer["unlinked"] = sum("unlinked" in line for line in maps)
"""
    )
    process.kill_tree()
    box.run("rm -f /dev/shm/left")
    return answer


@attack(
    {"abstract": "ECONNREFUSED", "port": "ECONNREFUSED", "names": 0},
    stops="a network name space",
    controls={(SHARED_NET, NO_LANDLOCK): {"abstract": "ok", "port": "ok", "names": 1}},
)
def connects_to_sockets_of_a_neighbour(box: Box) -> Any:
    """An abstract socket and a port of the loopback device that a neighbour listens on."""
    other = box.another()
    process = other.python(
        f"""
sock = socket.socket(socket.AF_UNIX); sock.bind("\\0airlock-hostile-n{os.getpid()}"); sock.listen()
tcp = socket.create_server(("127.0.0.1", 0))
print("ready", flush=True)
print(tcp.getsockname()[1], flush=True)
signal.pause()
"""
    )
    port = int(process.stdout.readline())
    answer: Any = box.attack(
        f"""
answer["abstract"] = tried(socket.socket(socket.AF_UNIX).connect, "\\0airlock-hostile-n{os.getpid()}")
answer["port"] = tried(socket.create_connection, ("127.0.0.1", {port}), 5)
answer["names"] = min(1, open("/proc/net/unix").read().count("@airlock-hostile-n"))
"""
    )
    process.kill_tree()
    return answer


@attack(
    {"abstract": "ECONNREFUSED", "port": "ECONNREFUSED", "far": "ECONNREFUSED", "links": ["lo"], "routes": 1},
    stops="a network name space",
    controls={
        (SHARED_NET, NO_LANDLOCK): Fits("abstract: ok, port: ok", lambda seen: seen["abstract"] == seen["port"] == "ok")
    },
)
def connects_to_the_host(box: Box) -> Any:
    """The host's loopback, its abstract sockets, and the world."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0airlock-hostile-h{os.getpid()}")
        local.listen()
        # The far address is for documentation (RFC 5737): nobody has it.
        return box.attack(
            f"""
answer["abstract"] = tried(socket.socket(socket.AF_UNIX).connect, "\\0airlock-hostile-h{os.getpid()}")
answer["port"] = tried(socket.create_connection, ("127.0.0.1", {server.getsockname()[1]}), 5)
answer["far"] = tried(socket.create_connection, ("192.0.2.1", 53), 5)
answer["links"] = [name for _, name in socket.if_nameindex()]
answer["routes"] = len(open("/proc/net/route").readlines())
"""
        )


#: KEYCTL_SEARCH = 10, KEY_SPEC_SESSION_KEYRING = -3
KEYS = {
    "add": "answer['add'] = call('add_key', b'user', b'airlock-left', b'x', 1, -3)",
    "find": "answer['find'] = call('keyctl', 10, -3, b'user', b'airlock-left', 0)",
}


@attack(
    {"add": "EPERM", "find": "EPERM"},
    stops="system-call filter, a session keyring of its own",
    controls={
        (NO_FILTER,): {"add": "ok", "find": "ENOKEY"},
        (NO_FILTER, SHARED_KEYRING): By({"add": "ok", "find": "ok"}, root={"add": "ok", "find": "ok"}),
    },
    users=("root",),
)
def leaves_a_key_in_the_session_keyring(box: Box) -> Any:
    """A key in the session keyring: found by a neighbour."""
    other = box.another()
    return {**box.attack(KEYS["add"]), **other.attack(KEYS["find"])}


@contextlib.contextmanager
def shared_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="airlock-hostile-", dir="/var/tmp"))
    path.chmod(0o755)
    (path / "file").write_text("host\n")
    (path / "file").chmod(0o644)
    try:
        yield path
    finally:
        shutil.rmtree(path)


LOCK = """
import fcntl
path = {path!r} + "/file"
held = os.open(path, os.O_RDONLY)
answer["flock"] = tried(fcntl.flock, held, fcntl.LOCK_EX | fcntl.LOCK_NB)
answer["record"] = tried(fcntl.fcntl, os.open(path, os.O_RDONLY), 37, struct.pack("=hhqqi4x", 0, 0, 0, 0, 0))
"""


@attack(
    {"flock": "ok", "events": 0, "seen by the host": "ok"},
    stops="an overlay view has inodes of its own",
    controls={(READ_ONLY_BINDS,): {"flock": "EAGAIN", "events": 1, "seen by the host": "EAGAIN"}},
)
def holds_locks_and_watches_on_files_of_all(box: Box) -> Any:
    """flock and inotify on a file of the host that two sandboxes are shown read-only: felt by the other and the host."""
    import fcntl

    with shared_directory() as path:
        mounts = (ResolvedMount(str(path), str(path), "ro"),)
        holder, other = box.another(mounts=mounts), box.another(mounts=mounts)
        holder.user = other.user = box.user
        process = holder.python(
            f"""
{LOCK.format(path=str(path))}
watch = libc.inotify_init1(os.O_NONBLOCK)
libc.inotify_add_watch(watch, path.encode(), 0x20)
print("ready", flush=True)
sys.stdin.read()
try:
    print(min(1, len(os.read(watch, 4096))), flush=True)
except BlockingIOError:
    print(0, flush=True)
""",
            stdin="pipe",
        )
        seen = other.attack(LOCK.format(path=str(path)))
        with open(path / "file") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                host = "ok"
            except BlockingIOError:
                host = "EAGAIN"
        process.stdin.close()
        events = int(process.stdout.readline())
        process.wait(10)
        return {"flock": seen["flock"], "events": events, "seen by the host": host}


@attack(
    {"spliced": "host\n", "mapped": "host\n", "forced": "host\n"},
    stops="the kernel: what is written goes to a copy (overlay), a private page or a new pipe buffer",
    not_shown="it takes a fault of the kernel (Dirty COW, Dirty Pipe)",
)
def writes_into_the_page_cache_of_the_host(box: Box) -> Any:
    """A lower file through splice, through a mapping, and through /proc/self/mem."""
    with shared_directory() as path:
        mounts = (ResolvedMount(str(path), str(path), "cow"),)
        other, after = box.another(mounts=mounts), {}
        scripts = {
            "spliced": """
read, write = os.pipe()
fd = os.open(path, os.O_RDONLY)
os.write(write, bytes(4096)); os.read(read, 4096)
offset = struct.pack("=q", 0)
libc.splice(fd, ctypes.c_char_p(offset), write, None, ctypes.c_size_t(1), 0)
os.write(write, b"XXXX")
""",
            "mapped": """
import mmap
os.chmod(path, 0o666) if os.getuid() == 0 else None
try:
    memory = mmap.mmap(os.open(path, os.O_RDWR), 5)
    memory[:] = b"XXXX\\n"
except OSError:
    pass
""",
            "forced": """
import mmap
memory = mmap.mmap(os.open(path, os.O_RDONLY), 5, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
for line in open("/proc/self/maps"):
    if path in line:
        os.pwrite(os.open("/proc/self/mem", os.O_RDWR), b"XXXX", int(line.split("-")[0], 16))
""",
        }
        for name, script in scripts.items():
            other.attack(f"path = {str(path / 'file')!r}\n{script}")
            after[name] = (path / "file").read_text()
        return after
