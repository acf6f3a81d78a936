"""The classic ways out of a sandbox: each tried for real, with the exact answer it gets.

What would harm the machine if it worked (rule 29) is tried with arguments that cannot work anywhere: the filter answers
before the kernel looks at them, and its answer is another one.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
from pathlib import Path

import pytest
from attacker import Box

#: Calls that no argument makes harmless enough where they are allowed, with the arguments that fail everywhere.
REFUSED = {
    "mount": (b"x", b"/mnt", b"tmpfs", 0, 0),
    "umount2": (b"/proc/sys", 2),
    "pivot_root": (b".", b"."),
    "setns": (-1, 0),
    "unshare": (0x00020000,),
    "open_by_handle_at": (-100, 0, 0),
    "keyctl": (0, -3, 0),
    "add_key": (0, 0, 0, 0, 0),
    "request_key": (0, 0, 0, 0),
    "bpf": (-1, 0, 0),
    "perf_event_open": (0, -1, -1, -1, 0),
    "io_uring_setup": (0, 0),
    "io_uring_enter": (-1, 0, 0, 0, 0, 0),
    "userfaultfd": (-1,),
    "kexec_load": (0, 1 << 20, 0, 0),
    "kexec_file_load": (-1, -1, 0, 0, 0),
    "init_module": (0, 0, 0),
    "finit_module": (-1, 0, 0),
    "delete_module": (0, 0),
    "reboot": (0, 0, 0, 0),
    "swapon": (0, 0),
    "swapoff": (0,),
    "acct": (b"/nowhere/x",),
    "quotactl": (0, 0, 0, 0),
    "settimeofday": (0, 0),
    "clock_settime": (99, 0),
    "sethostname": (0, -1),
    "setdomainname": (0, -1),
    "syslog": (10, 0, 0),
    "fanotify_init": (-1, 0),
    "pidfd_getfd": (-1, 0, 0),
    "process_madvise": (-1, 0, 0, 0, 0),
    "kcmp": (1, 1, 0, 0, 0),
    "fsopen": (b"tmpfs", 0),
    "fsmount": (-1, 0, 0),
    "open_tree": (-100, b"/", 1),
    "move_mount": (-1, b"", -1, b"", 0),
    "mount_setattr": (-1, b"", 0, 0, 0),
    "vhangup": (),
    "move_pages": (1, 0, 0, 0, 0, 0),
}


def test_classic_calls_for_the_machine_itself_are_refused(box: Box, users: tuple[str, ...]) -> None:
    for user in users:
        answer = box.attack(f"for name, words in {REFUSED!r}.items(): answer[name] = call(name, *words)", user=user)
        assert answer == dict.fromkeys(REFUSED, "EPERM")


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


def test_classic_settings_of_the_kernel_are_not_written(box: Box, users: tuple[str, ...]) -> None:
    """Every file below /proc/sys and /proc/sysrq-trigger: opened for writing, nothing is written to any."""
    script = """
paths = [os.path.join(top, name) for top, _, names in os.walk("/proc/sys") for name in names]
paths += [f"/proc/{name}" for name in ("sysrq-trigger", "irq/default_smp_affinity", "bus/pci/devices", "kcore", "kmem", "kmsg")]
paths += [f"/proc/{name}" for name in ("timer_list", "latency_stats", "fs/nfsd/unlock_fs", "acpi/wakeup", "scsi/scsi", "mtrr")]
answer["sys"] = sum(path.startswith("/proc/sys/") for path in paths)
answer["open"] = []
for path in paths:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        continue
    # What is masked is the null device.
    if os.fstat(fd).st_rdev != os.makedev(1, 3):
        answer["open"].append(path)
    os.close(fd)
answer["kcore"] = len(open("/proc/kcore", "rb").read(10)) if os.path.exists("/proc/kcore") else 0
answer["kernel log"] = tried(os.open, "/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)
"""
    for user in users:
        answer = box.attack(script, user=user)
        assert answer["sys"] > 300
        assert answer["open"] == []
        assert answer["kcore"] == 0
        assert answer["kernel log"] in ("EPERM", "EACCES")


def test_classic_no_device_node_is_made_and_none_leads_to_hardware(box: Box, users: tuple[str, ...]) -> None:
    script = """
for name, kind, device in (("null", 0o20666, (1, 3)), ("mem", 0o20666, (1, 1)), ("kmsg", 0o20666, (1, 11)), ("disk", 0o60666, (8, 0))):
    answer[name] = tried(os.mknod, f"/tmp/x-{name}", kind, os.makedev(*device))
answer["devices"] = sorted(name for name in os.listdir("/dev"))
"""
    for user in users:
        answer = box.attack(script, user=user)
        assert answer.pop("devices") == [
            *("core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random"),
            *("shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"),
        ]
        assert set(answer.values()) == {"EPERM"}


def test_classic_the_first_process_is_not_touched(box: Box, users: tuple[str, ...]) -> None:
    script = """
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
buffer = ctypes.create_string_buffer(8)
vector = struct.pack("=QQ", ctypes.addressof(buffer), 8)
answer["attach"] = call("ptrace", PTRACE_ATTACH, 1, 0, 0)
answer["seize"] = call("ptrace", PTRACE_SEIZE, 1, 0, 0)
answer["read"] = call("process_vm_readv", 1, vector, 1, vector, 1, 0)
answer["write"] = call("process_vm_writev", 1, vector, 1, vector, 1, 0)
answer["mem"] = tried(os.open, "/proc/1/mem", os.O_RDWR)
answer["limits"] = call("prlimit64", 1, 7, struct.pack("=QQ", 1, 1), 0)
answer["oom"] = wrote("/proc/1/oom_score_adj", b"1000")
answer["name"] = wrote("/proc/1/comm", b"x")
"""
    for user in users:
        answer = box.attack(script, user=user)
        assert set(answer.values()) <= {"EPERM", "EACCES"}, answer
        box.run("kill -STOP 1; kill -KILL 1; kill -TERM 1; kill -SEGV 1", user=user)
        assert box.run("echo alive").out == "alive\n"


def test_classic_a_tracer_of_its_own_children_skips_no_filter(box: Box) -> None:
    """What a tracer makes of a call is filtered again (seccomp(2)): here getpid becomes unshare of a user name space."""
    answer = box.attack(
        """
PTRACE_TRACEME, PTRACE_CONT, PTRACE_SYSCALL, PTRACE_PEEKUSER, PTRACE_POKEUSER = 0, 7, 24, 3, 6
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long] * 4
machine = os.uname().machine
pid = os.fork()
if pid == 0:
    libc.ptrace(PTRACE_TRACEME, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(numbers["getppid"]), ctypes.c_long(0x10000000))
    os._exit(ctypes.get_errno() if result < 0 else 0)
os.waitpid(pid, 0)
ORIG_RAX = 15 * 8
swapped = 0
while True:
    libc.ptrace(PTRACE_SYSCALL, pid, 0, 0)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        answer["code"] = errno.errorcode.get(os.WEXITSTATUS(status), "ok")
        break
    if machine == "x86_64" and not swapped and libc.ptrace(PTRACE_PEEKUSER, pid, ORIG_RAX, 0) == numbers["getppid"]:
        libc.ptrace(PTRACE_POKEUSER, pid, ORIG_RAX, numbers["unshare"])
        swapped = 1
answer["swapped"] = swapped
"""
    )
    assert answer == (
        {"code": "EPERM", "swapped": 1} if os.uname().machine == "x86_64" else {"code": "ok", "swapped": 0}
    )


def test_classic_chroot_leads_nowhere(box: Box) -> None:
    """An open directory, a chroot below it, and so many steps up: the root of the mount name space is the sandbox's."""
    answer = box.attack(
        """
os.mkdir("/tmp/cell")
before = os.stat("/")
directory = os.open("/", os.O_RDONLY)
answer["chroot"] = tried(os.chroot, "/tmp/cell")
os.fchdir(directory)
for _ in range(100):
    os.chdir("..")
os.chroot(".")
after = os.stat("/")
answer["same"] = (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
answer["host"] = sorted({"host", "b", "l", "p", "r", "s"} & set(os.listdir("/")))
"""
    )
    assert answer == {"chroot": "ok", "same": True, "host": []}


def test_classic_proc_shows_nobody_else_and_no_root_but_its_own(box: Box) -> None:
    answer = box.attack(
        """
answer["pids"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
answer["me"] = os.getpid()
answer["root"] = tried(os.listdir, "/proc/1/root")
answer["own root"] = os.path.samefile("/proc/self/root", "/")
answer["mounts"] = sorted({line.split()[3] for line in open("/proc/self/mountinfo")})
"""
    )
    assert answer["pids"] == [1, answer["me"]]
    assert answer["root"] == "EACCES"
    assert answer["own root"]


def test_classic_set_uid_programs_give_nothing(box: Box, users: tuple[str, ...]) -> None:
    """no_new_privs and nosuid: the copy of a shell that root marked stays what its caller is."""
    box.run("cp /bin/sh /tmp/sh; chmod 6755 /tmp/sh")
    for user in users:
        uid = "0" if user == "root" else "1000"
        assert box.run(["/tmp/sh", "-p", "-c", "id -u"], user=user).out == f"{uid}\n"


def test_classic_the_network_is_locked(box: Box, users: tuple[str, ...]) -> None:
    """No route leaves, the host's own loopback is not this one, and nobody makes an interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"""
for name, address in (("host", ("127.0.0.1", {port})), ("far", ("192.0.2.1", 80)), ("metadata", ("169.254.169.254", 80))):
    sock = socket.socket()
    sock.settimeout(5)
    answer[name] = tried(sock.connect, address)
answer["links"] = [name for _, name in socket.if_nameindex()]
answer["datagram"] = tried(socket.socket(type=socket.SOCK_DGRAM).sendto, b"x", ("192.0.2.1", 53))
answer["route"] = len(open("/proc/net/route").readlines())
"""
        for user in users:
            answer = box.attack(script, user=user)
            assert answer == {
                "host": "ECONNREFUSED",
                "far": "ENETUNREACH",
                "metadata": "ENETUNREACH",
                "links": ["lo"],
                "datagram": "ENETUNREACH",
                "route": 1,
            }


def test_classic_32_bit_calls_kill_the_caller(box: Box) -> None:
    """int 0x80 on x86-64 numbers calls in another way, which would pass the filter."""
    code = """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
"""
    expected = -signal.SIGSYS if os.uname().machine == "x86_64" else -signal.SIGILL
    assert box.run([sys.executable, "-I", "-c", code]).returncode == expected


@pytest.mark.parametrize("family", ["shm", "sem", "msg"])
def test_classic_system_v_objects_of_the_host_are_not_there(box: Box, family: str) -> None:
    assert len(box.run(f"cat /proc/sysvipc/{family}").out.splitlines()) == 1
