"""Name spaces inside the sandbox's own, for profiles that allow them: what they open to root inside."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

from attacker import Box
from attacks import Fits, attack
from attacks_generations import shared
from weakenings import BY_NAME, FOLLOWED, NO_MASKS, WRITABLE_PROC

from pytest_airlock.errors import AirlockError
from pytest_airlock.providers.base import ResolvedMount

#: A user name space of its own, with mounts of its own.
NEST = """
uid, gid = os.getuid(), os.getgid()
MS_BIND, MS_REC = 4096, 16384
assert call("unshare", 0x10000000 | 0x00020000) == "ok"
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    wrote("/proc/self/" + name, text.encode())
"""
#: In a tree that was detached no name space has a mount point: rmdir(2) works, and unmounts in every name space.
DETACH = f"""{NEST}
root = os.open("/", os.O_RDONLY)
call("mount", b"x", b"/mnt", b"tmpfs", 0, 0)
os.mkdir("/mnt/new")
call("mount", b"/mnt/new", b"/mnt/new", b"", MS_BIND, 0)
os.mkdir("/mnt/new/old")
call("pivot_root", b"/mnt/new", b"/mnt/new/old")
os.chdir("/")
answer["detach"] = call("umount2", b"/old", 2)
os.fchdir(root)
"""


@attack(
    {"detach": "ok", "killed": True, "alive": []},
    stops="PID 1 holds its /proc by a descriptor",
    controls={(BY_NAME,): {"detach": "ok", "killed": False, "alive": [True]}},
    users=("root",),
    nested=True,
)
def takes_proc_away_before_a_time_out(box: Box) -> Any:
    """/proc is unmounted for the whole sandbox and an empty directory put there: a time-out must find its processes all the same."""
    sleeper = box.spawn([*("/bin/sh", "-c", "echo x; (trap '' HUP TERM; exec setsid sleep 1000) & sleep 1000")])
    sleeper.stdout.readline()
    answer = box.attack(f"{DETACH}\nos.rmdir('proc'); os.mkdir('proc')")
    with contextlib.suppress(AirlockError, OSError):
        sleeper.kill_tree()
    # /proc is gone, so whoever lives is found by a signal.
    found = box.attack(
        "answer['alive'] = [True] * any(tried(os.kill, pid, 0) == 'ok' for pid in range(2, os.getpid()))"
    )
    killed = not found["alive"] and sleeper.wait(10).returncode == -signal.SIGKILL
    return {"detach": answer["detach"], "killed": killed, **found}


@attack(
    "refused",
    stops="no mount point is looked up through a link",
    controls={(FOLLOWED,): Fits("it goes on with them", lambda answer: answer != "refused")},
    users=("root",),
    nested=True,
)
def plants_links_at_proc_and_dev(box: Box) -> Any:
    """/proc and /dev are unmounted, links into the fork server's own tree put there, and kept in a snapshot."""
    box.attack(f"{DETACH}\nfor name in ('proc', 'dev'): os.rmdir(name); os.symlink('/host/mnt', name)")
    try:
        box.provider.reset(box.handle, box.provider.snapshot(box.handle))
    except AirlockError as error:
        return "refused" if "mount point" in str(error) else "another step fails"
    return "mounted"


@attack(
    {"proc": "EPERM", "proc, pid": "EPERM", "sysfs": "EPERM", "cgroup2": "EPERM"},
    stops="the kernel: a new /proc shows no more than the one that is masked",
    controls={(NO_MASKS, WRITABLE_PROC): Fits("proc: ok", lambda answer: answer["proc, pid"] == "ok")},
    nested=True,
)
def mounts_a_proc_without_masks(box: Box) -> Any:
    """proc, sysfs and cgroup2 mounted anew in a nested user name space, with a pid name space of its own."""
    return box.attack(
        f"""{NEST}
for kind in ("proc", "sysfs", "cgroup2"):
    answer[kind] = call("mount", b"x", b"/mnt", kind.encode(), 0, 0)
call("unshare", 0x20000000)
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, call("mount", b"x", b"/mnt", b"proc", 0, 0).encode())
    os._exit(0)
os.wait()
answer["proc, pid"] = os.read(read, 100).decode()
"""
    )


@attack(
    {"overlay": "EINVAL", "bind": "EINVAL", "clone": "EINVAL", "umount": "EINVAL", "read": []},
    stops="the kernel: mounts of a less powerful name space are locked together",
    not_shown="the kernel's own rule",
    users=("root",),
    nested=True,
)
def uncovers_what_a_mount_hides(box: Box) -> Any:
    """A covered .env of a shared project: overlay, bind and clone without what covers it, and renaming it in a detached tree."""
    with shared() as path:
        (path / "place").chmod(0o777)
        path.chmod(0o777)
        (path / ".env").write_text("SECRET\n")
        (path / ".env").chmod(0o644)
        other = box.another(nested=True, mounts=(ResolvedMount(str(path), str(path), "rw", project=True),))
        answer: Any = other.attack(
            f"""
path = {str(path)!r}.encode()
read, write = os.pipe()
if os.fork() == 0:
    {"".join(line + chr(10) + "    " for line in NEST.strip().splitlines())}
    call("mount", b"x", b"/mnt", b"tmpfs", 0, 0)
    for name in ("a", "u", "w"):
        os.mkdir("/mnt/" + name)
    answer["overlay"] = call("mount", b"overlay", b"/mnt/a", b"overlay", 0, b"lowerdir=" + path + b",upperdir=/mnt/u,workdir=/mnt/w")
    answer["bind"] = call("mount", path, b"/mnt/a", b"", 4096, 0)
    answer["clone"] = call("open_tree", -100, path, 1)
    answer["umount"] = call("umount2", path + b"/.env", 2)
    os.write(write, json.dumps(answer).encode())
    os._exit(0)
os.close(write)
os.wait()
answer = json.loads(os.read(read, 10000))
"""
        )
        moved = other.attack(
            f"""{DETACH}
os.chdir({str(path)!r}.lstrip("/"))
tried(os.rename, ".env", "place/env")
answer["read"] = [name for name in (".env", "place/env") if os.path.exists(name) and "SECRET" in open(name).read()]
"""
        )
        after = other.run(f"grep -rl SECRET {path}").out.split()
        for name in ("place/env", ".env"):
            Path(path / name).unlink(missing_ok=True)
        return {**answer, "read": moved["read"] + after}


@attack(
    {"detached": "ok", "masked": 0, "written": []},
    stops="the kernel: what is unmounted with its mount point stays together",
    not_shown="the kernel's own rule (UMOUNT_CONNECTED)",
    users=("root",),
    nested=True,
)
def sheds_the_masks_of_proc(box: Box) -> Any:
    """A descriptor of /proc outlives its being unmounted: what it shows then is masked and read-only as before."""
    return box.attack(
        f"""
proc = os.open("/proc", os.O_RDONLY)
pid = os.fork()
if pid == 0:
    {"".join(line + chr(10) + "    " for line in DETACH.strip().splitlines())}
    os.rmdir("proc")
    os._exit(0)
os.waitpid(pid, 0)
answer["detached"] = "ok" if not os.path.exists("/proc/1") else "no"
def size(name):
    try:
        fd = os.open(name, os.O_RDONLY, dir_fd=proc)
    except OSError:
        return 0
    return len(os.read(fd, 100))
answer["masked"] = sum(map(size, ("keys", "interrupts", "timer_list", "sched_debug")))
answer["written"] = [name for name in ("sys/user/max_user_namespaces", "sys/net/ipv4/ip_default_ttl", "sysrq-trigger")
                     if tried(os.open, name, os.O_WRONLY, dir_fd=proc) == "ok"]
"""
    )
