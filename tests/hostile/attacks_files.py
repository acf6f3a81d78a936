"""Files of the host and of other sandboxes, by any path."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attacker import Box
from attacks import AnyOf, Fits, attack
from weakenings import (
    ALL_CAPABILITIES,
    CHROOT,
    DUMPABLE,
    GAINS,
    HOST_DEV,
    HOST_PROC,
    INHERITED,
    NO_FILTER,
    NO_LANDLOCK,
    OLD_ROOT,
    OPEN_DIRECTORY,
    SET_UID,
)

from pytest_airlock.errors import AirlockError
from pytest_airlock.providers.base import Command

SECRET = "secret-0c55b1"


@contextlib.contextmanager
def host_file() -> Iterator[Path]:
    """A file of the host that everybody may read and write, in no directory that a sandbox is shown."""
    directory = Path(tempfile.mkdtemp(prefix="airlock-hostile-", dir="/var/tmp"))
    directory.chmod(0o777)
    path = directory / "file"
    path.write_text(SECRET)
    path.chmod(0o666)
    try:
        yield path
        assert path.read_text() == SECRET, "the host's file was changed"
        assert os.listdir(directory) == ["file"], "a file was made on the host"
    finally:
        shutil.rmtree(directory)


@attack(
    [],
    stops="the root is pivoted away and unmounted; PID 1 is not dumpable",
    controls={(OLD_ROOT,): ["/mnt/host", "/proc/self/root/mnt/host"]},
)
def reads_a_file_of_the_host_by_any_path(box: Box) -> Any:
    """A file of the host by its name, .., /proc/*/root, cwd and fd, links, hard links."""
    with host_file() as path:
        return box.attack(
            f"""
import glob
path = {str(path)!r}
os.symlink("/../../.." + path, "/tmp/link")
os.symlink("/proc/1/root", "/tmp/root-link")
hard = tried(os.link, path, "/tmp/hard")
tops = ["", "/..", "/../../../..", "/tmp/../..", "/host", "/oldroot", "/.oldroot", "/mnt/host", "/proc/self/root", "/proc/self/cwd",
        "/proc/self/root/mnt/host", "/proc/thread-self/root", "/proc/1/root", "/proc/1/cwd", "/tmp/root-link", "/dev/fd/..", "/dev/shm/.."]
tops += glob.glob("/proc/[0-9]*/root") + glob.glob("/proc/[0-9]*/cwd") + glob.glob("/proc/[0-9]*/task/*/root")
tops += [f"/proc/{{pid}}/fd/{{fd}}" for pid in (1, "self") for fd in range(64)]
found = [top for top in tops if os.path.exists(top + path) and open(top + path).read() == {SECRET!r}]
found += [name for name in ("/tmp/link", "/tmp/hard") if os.path.exists(name)]
answer = found
"""
        )


@attack(
    {"same": True, "host": []},
    stops="pivot_root: the root of the mount name space is the sandbox's",
    controls={(CHROOT, NO_LANDLOCK): Fits("the fork server's root", lambda answer: "host" in answer["host"])},
    users=("root",),
)
def leaves_by_chroot(box: Box) -> Any:
    """An open directory, a chroot below it, and many steps up."""
    return box.attack(
        """
os.mkdir("/tmp/cell")
before = os.stat("/")
directory = os.open("/", os.O_RDONLY)
os.chroot("/tmp/cell")
os.fchdir(directory)
for _ in range(100):
    os.chdir("..")
os.chroot(".")
after = os.stat("/")
answer["same"] = (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
answer["host"] = sorted({"host", "b", "l", "p", "r", "s"} & set(os.listdir("/")))
"""
    )


@attack(
    [],
    stops="no descriptor of a directory is open in PID 1",
    controls={
        # With Landlock it is open and leads to nothing.
        (OPEN_DIRECTORY,): AnyOf(["", ""], [SECRET, SECRET]),
        (OPEN_DIRECTORY, NO_LANDLOCK): [SECRET, SECRET],
    },
    users=("root",),
)
def starts_in_a_directory_of_the_host(box: Box) -> Any:
    """The class of CVE-2024-21626: a working directory of /proc/self/fd/N, which is PID 1's when it changes to it."""
    found = []
    with host_file() as path:
        for fd in range(3, 48):
            for below in (str(path.parent), "/../.." + str(path.parent)):
                try:
                    command = Command(("/bin/cat", "file"), cwd=f"/proc/self/fd/{fd}{below}")
                    process = box.provider.spawn(box.handle, command)
                except (OSError, AirlockError):
                    continue
                with process.stdout, process.stderr:
                    found.append(process.stdout.read().decode())
                process.close()
    return found


@attack(
    {"inherited": [], "own": ["0", "1", "2"]},
    stops="all descriptors are closed first, and are close-on-exec",
    controls={(INHERITED,): Fits("sockets of the fork server", lambda answer: "socket" in answer["inherited"])},
)
def finds_descriptors_that_were_left_open(box: Box) -> Any:
    """What a command inherits besides its three streams."""
    return box.attack(
        """
links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}
answer["own"] = sorted(fd for fd in links if int(fd) < 3)
answer["inherited"] = sorted({link.split(":")[0] for fd, link in links.items() if int(fd) > 2})
"""
    )


@attack(
    Fits("EACCES or EPERM throughout", lambda answer: set(answer.values()) <= {"EACCES", "EPERM"}),
    stops="PID 1 is not dumpable",
    controls={
        (DUMPABLE, NO_LANDLOCK): Fits(
            "it leads there", lambda answer: answer["exe"] == answer["root"] == answer["cwd"] == "ok"
        )
    },
)
def follows_the_links_of_pid_1(box: Box) -> Any:
    """The class of CVE-2019-5736: /proc/1/exe, root, cwd, fd, map_files, ns."""
    return box.attack(
        """
for name in ("exe", "cwd", "root", "fd/0", "task/1/exe", "task/1/root", "ns/mnt", "ns/user", "maps", "environ", "auxv"):
    answer[name] = tried(lambda: os.close(os.open(f"/proc/1/{name}", os.O_RDONLY)))
for name in ("fd", "map_files", "fdinfo"):
    answer[name] = tried(os.listdir, f"/proc/1/{name}")
"""
    )


@attack(
    {"pids": "own", "names": "own"},
    stops="a /proc of its own pid name space",
    controls={(HOST_PROC,): {"pids": "more", "names": "more"}},
)
def sees_processes_of_the_host(box: Box) -> Any:
    """Any process but PID 1 and its own in /proc."""
    return box.attack(
        """
pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
names = {open(f"/proc/{pid}/comm").read() for pid in pids if os.path.exists(f"/proc/{pid}/comm")}
answer["pids"] = "own" if sorted(pids) == [1, os.getpid()] else "more"
answer["names"] = "own" if len(names) <= 2 else "more"
"""
    )


@attack(
    {"euid": True, "as root": False},
    stops="nosuid mounts, no_new_privs",
    controls={
        (NO_FILTER, NO_LANDLOCK, GAINS): {"euid": True, "as root": False},
        (NO_FILTER, NO_LANDLOCK, GAINS, SET_UID): {"euid": False, "as root": True},
    },
    not_shown={"single": "there is one id"},
    users=("airlock",),
    control_user="airlock",
)
def runs_a_set_uid_program(box: Box) -> Any:
    """A copy of a shell that root inside marked set-uid, run by the ordinary user."""
    many = box.mode != "single"
    box.run("cp /bin/sh /tmp/sh; chown 0:0 /tmp/sh; chmod 6755 /tmp/sh", user="root" if many else None)
    own = box.run("id -u").out
    seen = box.run(["/tmp/sh", "-p", "-c", "id -u"]).out
    return {"euid": seen == own, "as root": many and seen == "0\n"}


DEVICES = {
    "null": (0o20666, 1, 3),
    "mem": (0o20666, 1, 1),
    "kmsg": (0o20666, 1, 11),
    "disk": (0o60666, 8, 0),
    "loop": (0o60666, 7, 0),
    "fuse": (0o20666, 10, 229),
    "kvm": (0o20666, 10, 232),
}


@attack(
    dict.fromkeys(DEVICES, "EPERM"),
    stops="the kernel: nodes are made in the first user name space only",
    not_shown="every user name space has it; with all capabilities and no filter it is EPERM as well",
)
def makes_device_nodes(box: Box) -> Any:
    """mknod of memory, disks, loop, fuse and kvm."""
    return box.attack(
        f"for name, (kind, *device) in {DEVICES!r}.items(): answer[name] = tried(os.mknod, f'/tmp/x-{{name}}', kind, os.makedev(*device))"
    )


NODES = (
    *("mem", "kmem", "port", "kmsg", "kvm", "loop-control", "loop0", "fuse", "net/tun", "uinput", "console", "tty1"),
    *(
        "sda",
        "vda",
        "nvme0n1",
        "mapper/control",
        "vhost-vsock",
        "userfaultfd",
        "cuse",
        "input/event0",
        "dri/card0",
        "snd/seq",
    ),
)


@attack(
    dict.fromkeys(NODES, "ENOENT"),
    stops="a /dev with six harmless nodes",
    controls={(HOST_DEV, NO_LANDLOCK): Fits("some are there", lambda answer: set(answer.values()) != {"ENOENT"})},
)
def opens_devices_of_the_host(box: Box) -> Any:
    """Memory, kernel log, disks, kvm, loop, fuse, tun, terminals."""
    return box.attack(
        f"for name in {NODES!r}: answer[name] = tried(lambda: os.close(os.open('/dev/' + name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)))"
    )


KINDS = (
    *(
        "tmpfs",
        "proc",
        "sysfs",
        "cgroup",
        "cgroup2",
        "devtmpfs",
        "binfmt_misc",
        "debugfs",
        "tracefs",
        "securityfs",
        "bpf",
    ),
    *("fuse", "overlay", "ext4", "nfs", "9p", "configfs", "efivarfs", "hugetlbfs", "fusectl"),
)


@attack(
    dict.fromkeys(KINDS, "EPERM"),
    stops="system-call filter, capabilities; the kernel for what no user name space may mount",
    controls={
        (NO_FILTER,): dict.fromkeys(KINDS, "EPERM"),
        (NO_FILTER, ALL_CAPABILITIES, NO_LANDLOCK): Fits(
            "tmpfs: ok; no sysfs, devtmpfs or debugfs",
            lambda answer: (
                answer["tmpfs"] == "ok"
                and "ok" not in [answer[kind] for kind in ("sysfs", "devtmpfs", "debugfs", "ext4")]
            ),
        ),
    },
)
def mounts_what_rules_the_host(box: Box) -> Any:
    """sysfs (uevent_helper), cgroup (release_agent), binfmt_misc, debugfs, devtmpfs, fuse, disks."""
    return box.attack(f"for kind in {KINDS!r}: answer[kind] = call('mount', b'x', b'/mnt', kind.encode(), 0, 0)")


@attack(
    {"inside": "EPERM", "host": False, "neighbour": False},
    stops="system-call filter, capabilities; mounts of another user name space are slaves",
    controls={(NO_FILTER, ALL_CAPABILITIES, NO_LANDLOCK): {"inside": "ok", "host": False, "neighbour": False}},
)
def mounts_where_the_host_sees_it(box: Box) -> Any:
    """A bind mount made shared, to be seen by the host or a neighbour."""
    other = box.another()
    code = "call('mount', b'x', b'/', b'', 0x4000 | 1 << 20, 0); answer = call('mount', b'/etc', b'/mnt', b'', 4096, 0)"
    inside = box.attack(code)
    process = box.python(code + "\nprint('ready', flush=True)\nsignal.pause()")
    host = any(line.split()[4] == "/mnt" for line in Path("/proc/self/mountinfo").read_text().splitlines())
    neighbour = bool(other.run("ls -A /mnt").out)
    process.kill_tree()
    return {"inside": inside, "host": host, "neighbour": neighbour}


LISTED = [
    *("core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random"),
    *("shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"),
]


@attack(
    {"more": 0, "missing": 0},
    stops="a /dev of the engine's own",
    controls={(HOST_DEV, NO_LANDLOCK): Fits("more", lambda answer: answer["more"] > 0)},
)
def finds_more_devices(box: Box) -> Any:
    """How much is in /dev besides six harmless devices and links."""
    return box.attack(
        f"names = set(os.listdir('/dev')); own = set({LISTED!r}); answer.update(more=len(names - own), missing=len(own - names))"
    )
