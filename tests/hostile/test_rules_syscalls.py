"""Rules 21 and 22: which system calls there are, terminals, core dumps."""

from __future__ import annotations

import signal
from collections.abc import Callable

from attacker import Box

CLONE_FLAGS = {
    "NEWTIME by unshare": ("unshare", 0x80),
    "NEWNS": ("clone", 0x00020000),
    "NEWCGROUP": ("clone", 0x02000000),
    "NEWUTS": ("clone", 0x04000000),
    "NEWIPC": ("clone", 0x08000000),
    "NEWUSER": ("clone", 0x10000000),
    "NEWPID": ("clone", 0x20000000),
    "NEWNET": ("clone", 0x40000000),
}

# ---------------------------------------------------------------------- 21: the filter


def test_rule21_every_process_is_filtered_and_cannot_gain_power(box: Box, users: tuple[str, ...]) -> None:
    kept = 0
    for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18):
        kept |= 1 << number
    for user in users:
        status = dict(line.split(":\t", 1) for line in box.run("cat /proc/self/status", user=user).out.splitlines())
        assert status["Seccomp"] == "2"
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapBnd"], 16) == kept
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == (kept if user == "root" else 0)
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0


def test_rule21_sockets_are_of_the_families_that_name_spaces_hold(box: Box, users: tuple[str, ...]) -> None:
    script = """
def of(family, kind, protocol=0):
    return tried(lambda: socket.socket(family, kind, protocol).close())
STREAM, DGRAM, RAW, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET
answer["families"] = {family: of(family, kind) for family in range(64) for kind in (STREAM, DGRAM, RAW, SEQPACKET)
                      if family not in (1, 2, 10, 16)}
answer["netlink"] = {protocol: of(16, RAW, protocol) for protocol in range(32)}
answer["pairs"] = tried(socket.socketpair, 40, STREAM)
answer["inet"] = {f"{kind} {protocol}": of(2, kind, protocol)
                  for kind, protocol in ((STREAM, 0), (STREAM, 6), (DGRAM, 17), (STREAM, 132), (STREAM, 262),
                                         (DGRAM, 136), (DGRAM, 33), (RAW, 1), (RAW, 255), (SEQPACKET, 132))}
answer["inet6"] = {protocol: of(10, RAW, protocol) for protocol in (58, 255)}
"""
    for user in users:
        answer = box.attack(script, user=user)
        # AF_VSOCK is 40: it never comes to a connect().
        assert answer["families"].pop("40") == "EAFNOSUPPORT"
        assert set(answer["families"].values()) == {"EAFNOSUPPORT"}
        assert answer["pairs"] == "EAFNOSUPPORT"
        assert answer["netlink"].pop("0") == "ok"
        assert set(answer["netlink"].values()) == {"EPROTONOSUPPORT"}
        inet = answer["inet"]
        assert [inet.pop(name) for name in ("1 0", "1 6", "2 17")] == ["ok"] * 3
        assert set(inet.values()) == {"EPROTONOSUPPORT"}
        assert set(answer["inet6"].values()) == {"EPROTONOSUPPORT"}


def test_rule21_no_name_space_is_made_inside(box: Box, users: tuple[str, ...]) -> None:
    script = f"""
flags = {CLONE_FLAGS!r}
answer.update({{name: call(which, flag | (17 if which == "clone" else 0), 0, 0, 0, 0) for name, (which, flag) in flags.items()}})
answer["upper half"] = call("clone", 0x10000000 | 17 | 1 << 40, 0, 0, 0, 0)
answer["clone3"] = call("clone3", struct.pack("=11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
answer["limit"] = open("/proc/sys/user/max_user_namespaces").read().strip()
answer["raise"] = wrote("/proc/sys/user/max_user_namespaces", b"100")
"""
    for user in users:
        answer = box.attack(script, user=user)
        assert answer.pop("clone3") == "ENOSYS"
        assert answer.pop("limit") == "0"
        assert answer.pop("raise") in ("EROFS", "EACCES")
        assert set(answer.values()) == {"EPERM"}


def test_rule21_nesting_is_for_who_asks_for_it_and_gives_no_power(make_box: Callable[..., Box]) -> None:
    box = make_box(nested=True, user="airlock")
    answer = box.attack(
        """
read, write = os.pipe()
if os.fork() == 0:
    uid, gid = os.getuid(), os.getgid()
    first = call("unshare", 0x10000000 | 0x00020000 | 0x40000000)
    if first == "ok":
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            wrote("/proc/self/" + name, text.encode())
    MS_BIND, MS_REMOUNT = 4096, 32
    result = {
        "unshare": first,
        "tmpfs": call("mount", b"x", b"/mnt", b"tmpfs", 0, 0),
        "read-only /proc/sys": call("mount", b"x", b"/proc/sys", b"", MS_BIND | MS_REMOUNT, 0),
        "umount of a mask": call("umount2", b"/proc/keys", 0),
        "writable /dev": call("mount", b"x", b"/dev", b"", MS_BIND | MS_REMOUNT, 0),
        "device": tried(os.mknod, "/mnt/kmsg", 0o20666, os.makedev(1, 11)),
        "overlay of devices": call("mount", b"x", b"/mnt", b"devtmpfs", 0, 0),
        "uevents": tried(lambda: socket.socket(16, socket.SOCK_RAW, 15)),
        "vsock": tried(lambda: socket.socket(40, socket.SOCK_STREAM)),
        "bpf": call("bpf", 0, 0, 0),
        "handles": call("open_by_handle_at", -100, 0, 0),
    }
    os.write(write, json.dumps(result).encode())
    os._exit(0)
os.wait()
answer = json.loads(os.read(read, 10000))
"""
    )
    assert answer == {
        "unshare": "ok",
        "tmpfs": "ok",
        "read-only /proc/sys": "EPERM",
        "umount of a mask": "EINVAL",
        "writable /dev": "EPERM",
        "device": "EPERM",
        "overlay of devices": "EPERM",
        "uevents": "EPROTONOSUPPORT",
        "vsock": "EAFNOSUPPORT",
        "bpf": "EPERM",
        "handles": "EPERM",
    }


def test_rule21_calls_that_nobody_knows_do_not_exist(box: Box) -> None:
    answer = box.attack("for number in (600, 1000, 4095): numbers['x'] = number; answer[number] = call('x')")
    assert set(answer.values()) == {"ENOSYS"}


# ---------------------------------------------------------------------- 22: terminals and core dumps


def test_rule22_no_core_dump_starts_a_program_of_the_host(box: Box, users: tuple[str, ...]) -> None:
    for user in users:
        answer = box.attack(
            "import resource\n"
            "answer['limits'] = resource.getrlimit(resource.RLIMIT_CORE)\n"
            "answer['raise'] = 'ok'\n"
            "try: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\n"
            "except (OSError, ValueError) as error: answer['raise'] = 'refused'\n"
            "answer['pattern'] = wrote('/proc/sys/kernel/core_pattern', b'|/tmp/x')",
            user=user,
        )
        assert answer["limits"] == [1, 1]
        assert answer["raise"] == "refused"
        assert answer["pattern"] in ("EROFS", "EACCES")
    assert box.run("mkdir /tmp/dumps && cd /tmp/dumps && kill -ABRT $$").returncode == -signal.SIGABRT
    assert box.run("ls -A /tmp/dumps").out == ""
