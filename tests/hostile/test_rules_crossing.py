"""Rules 6-8 and 10-13: what crosses the wall, in either direction."""

from __future__ import annotations

import _socket
import array
import errno
import grp
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacker import CANARY, Box

from pytest_airlock.errors import SandboxDied
from pytest_airlock.providers.base import Command, ResolvedMount
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.protocol import Reply
from pytest_airlock.providers.namespaces.process import Life, spawn


def cow(source: Path, mode: str = "cow", *, project: bool = False) -> tuple[ResolvedMount, ...]:
    return (ResolvedMount(str(source), str(source), mode, project=project),)  # type: ignore[arg-type]


@pytest.fixture
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host with a name short enough for a socket."""
    path = tmp_path_factory.mktemp("s")
    path.chmod(0o755)
    return path


# ---------------------------------------------------------------------- 6: descriptors


def test_rule06_streams_are_pipes_or_the_null_device_inside(box: Box, users: tuple[str, ...]) -> None:
    for user in users:
        null = box.run("readlink /proc/self/fd/0", user=user).out
        assert null == "/dev/null\n"
        answer = box.attack("for fd in range(3): answer[fd] = os.readlink(f'/proc/self/fd/{fd}')", user=user, stdin=b"")
        assert {link.split(":")[0] for link in answer.values()} == {"pipe"}


def test_rule06_a_piped_input_reopened_read_write_is_that_pipe(box: Box) -> None:
    answer = box.attack(
        """
fd = os.open("/proc/self/fd/0", os.O_RDWR)
answer["kind"] = os.readlink(f"/proc/self/fd/{fd}").split(":")[0]
answer["data"] = os.read(0, 100).decode()
os.write(fd, b"back")
answer["back"] = os.read(0, 100).decode()
answer["truncate"] = tried(os.ftruncate, fd, 0)
""",
        stdin=b"from the host",
    )
    assert answer == {"kind": "pipe", "data": "from the host", "back": "back", "truncate": "EINVAL"}


def test_rule06_the_streams_can_be_opened_by_their_names(box: Box, users: tuple[str, ...]) -> None:
    for user in users:
        result = box.run("cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr", user=user, stdin=b"in\n")
        assert result == (0, "in\nout\n", "err\n")


def test_rule06_the_null_device_of_a_command_is_not_writable_as_a_file(box: Box) -> None:
    before = os.stat("/dev/null")
    box.run("chmod 0 /dev/null; chown 1 /dev/null; rm -f /dev/null; mv /dev/null /tmp/; ln -sf /tmp/x /dev/null")
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_uid, after.st_rdev) == (before.st_mode, before.st_uid, before.st_rdev)
    assert box.run("test -c /dev/null").returncode == 0


# ---------------------------------------------------------------------- 7: environment


def test_rule07_nothing_of_the_hosts_environment_is_inside(box: Box, provider: NamespacesProvider) -> None:
    assert os.environ["AIRLOCK_HOSTILE_CANARY"] == CANARY, "the test process has it"
    process = box.spawn(["/bin/sleep", "1000"])
    answer = box.attack(
        """
for name in os.listdir("/proc"):
    if name.isdigit():
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                answer[name] = sorted(pair.decode() for pair in file.read().split(b"\\0") if pair)
        except OSError as error:
            answer[name] = errno.errorcode[error.errno]
"""
    )
    process.kill_tree()
    process.close()
    given = sorted(f"{name}={value}" for name, value in provider.environ(box.handle).items())
    assert answer.pop("1") == "EACCES"
    assert len(answer) == 2, "the sleeping command and this one"
    assert all(environ == given for environ in answer.values())
    assert CANARY not in str(given)


def test_rule07_the_fork_server_starts_with_an_empty_environment(provider: NamespacesProvider, mode: str) -> None:
    assert provider._engine is not None
    environ = Path(f"/proc/{provider._engine.found['pid']}/environ")
    if mode == "root":
        assert environ.read_bytes() == b""
    else:
        # It has changed its ids and is not dumpable any more: not even its owner may look.
        try:
            assert environ.read_bytes() == b""
        except PermissionError:
            pass


# ---------------------------------------------------------------------- 8: sockets and FIFOs of the host

CONNECT = """
path = {path!r}
sock = socket.socket(socket.AF_UNIX)
answer["socket"] = tried(sock.connect, path + "/socket")
answer["fifo"] = tried(os.open, path + "/fifo", os.O_WRONLY | os.O_NONBLOCK)
"""


@pytest.fixture
def listener(share: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(share / "socket"))
        (share / "socket").chmod(0o777)
        sock.listen()
        sock.setblocking(False)
        os.mkfifo(share / "fifo")
        (share / "fifo").chmod(0o666)
        reader = os.open(share / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        yield sock
        os.close(reader)


@pytest.mark.parametrize("how", ["ro", "cow"])
def test_rule08_sockets_and_fifos_below_a_view_are_nobodys(
    make_box: Callable[..., Box], share: Path, listener: socket.socket, how: str, users: tuple[str, ...]
) -> None:
    box = make_box(mounts=cow(share, how))
    for user in users:
        answer = box.attack(CONNECT.format(path=str(share)), user=user)
        # ENXIO: a FIFO without a reader, although the host reads its own.
        assert answer == {"socket": "ECONNREFUSED", "fifo": "ENXIO"}
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_rule08_control_a_shared_directory_keeps_the_channel(
    make_box: Callable[..., Box], share: Path, listener: socket.socket
) -> None:
    box = make_box(mounts=cow(share, "rw"))
    assert box.attack(CONNECT.format(path=str(share))) == {"socket": "ok", "fifo": "ok"}
    listener.accept()[0].close()


def test_rule08_abstract_sockets_of_the_host_are_not_there(box: Box) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(b"\0airlock-hostile-%d" % os.getpid())
        sock.listen()
        answer = box.attack(
            f"answer['connect'] = tried(socket.socket(socket.AF_UNIX).connect, '\\0airlock-hostile-{os.getpid()}')\n"
            "answer['names'] = open('/proc/net/unix').read().count('@airlock')"
        )
    assert answer == {"connect": "ECONNREFUSED", "names": 0}


@pytest.mark.parametrize("how", ["ro", "cow"])
def test_rule08_a_view_does_not_let_the_hosts_files_be_changed(
    make_box: Callable[..., Box], share: Path, how: str
) -> None:
    file = share / "file"
    file.write_text("host\n")
    os.utime(file, ns=(1, 1))
    box = make_box(mounts=cow(share, how))
    result = box.run(f"cd {share}; cat file; echo x > file; chmod 777 file .; touch new; rm file; mv file f2; ls -A; :")
    assert result.out.startswith("host\n")
    info = file.stat()
    assert file.read_text() == "host\n"
    assert info.st_mtime_ns == 1
    assert (info.st_mode & 0o777, share.stat().st_mode & 0o777) == (0o644, 0o755)
    assert os.listdir(share) == ["file"]
    assert (result.out == "host\nfile\n") == (how == "ro")


# ---------------------------------------------------------------------- 10: groups


def test_rule10_no_group_of_the_hosts_user_is_kept_where_it_can_be_dropped(
    box: Box, provider: NamespacesProvider, mode: str, users: tuple[str, ...]
) -> None:
    for user in users:
        groups = box.attack("answer['groups'] = os.getgroups()", user=user)["groups"]
        if mode == "single":
            # setgroups(2) is denied with a map of one's own making, so they stay, and are told.
            kept = set(os.getgroups()) - {os.getgid()}
            assert len(set(groups) - {0}) <= 1, "all those that have no name inside are one"
            assert bool(set(groups) - {0}) == bool(kept)
            names = {grp.getgrgid(group).gr_name for group in kept}
            (note,) = [note for note in provider.probe().notes if "supplementary groups" in note] or [""]
            assert all(name in note for name in names)
            powerful = names & {"docker", "disk", "kvm", "lxd", "sudo"}
            assert ("groups_dropped" in provider.probe()) == (not powerful)
        else:
            assert groups == ([1000] if user == "airlock" else [])
            assert "groups_dropped" in provider.probe()


# ---------------------------------------------------------------------- 11: what comes out


def fake_agent(kind: Reply, descriptor: int) -> tuple[Life, _socket.socket]:
    """A control socket whose other end answers the first request with `kind` and a descriptor that nobody asked for."""
    near, far = protocol.channel()
    life = Life("fake", near, -1, lambda: 0)
    real_ask = life.ask

    def ask(*words: object, **named: object) -> _socket.socket:
        channel = real_ask(*words, **named)  # type: ignore[arg-type]
        _, (reply, *streams) = protocol.receive(far)
        with socket.socket(fileno=reply) as sock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            sock.sendmsg([kind.pack()], rights)
        for fd in streams:
            os.close(fd)
        return channel

    life.ask = ask  # type: ignore[method-assign,assignment]
    return life, far


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_rule11_a_descriptor_that_comes_with_a_reply_is_not_taken(tmp_path: Path) -> None:
    read, write = os.pipe()
    life, far = fake_agent(Reply(protocol.STARTED, 7), write)
    try:
        before = open_descriptors()
        process = spawn(life, Command(("x",), stdin="null", stdout="null", stderr="null"), protocol.Request(1))
        os.close(write)
        assert process.pid == 7
        # Every copy of the writing end is closed: nobody but the kernel had it in between.
        assert os.read(read, 1) == b""
        with pytest.raises(SandboxDied):
            process.wait(1)
        process.close()
        assert open_descriptors() == before - 1, "the end that was closed above"
    finally:
        os.close(read)
        far.close()
        life.close()


def test_rule11_control_a_descriptor_does_come_with_a_reply(tmp_path: Path, row: Callable[..., None]) -> None:
    """To who reads with recvmsg(2): what keeps it out is that nobody does."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far, open(tmp_path / "file", "w") as file:
        socket.send_fds(far, [Reply(protocol.STARTED, 7).pack()], [file.fileno()])
        _, (taken,), _, _ = socket.recv_fds(near, 1000, 1)
        assert os.path.sameopenfile(taken, file.fileno())
        os.close(taken)
    what = {"attack": "A descriptor that comes with a reply of a forged PID 1.", "group": "wall"}
    row(**what, stops="replies are read by recv(2)", expected="closed by the kernel", seen="closed by the kernel")
    row(**what, off="read by recvmsg(2)", without="it is there")


def test_rule11_no_connection_of_the_engine_is_within_reach_of_a_command(box: Box, users: tuple[str, ...]) -> None:
    """To send a descriptor out one has to have a socket that leads out."""
    for user in users:
        answer = box.attack(
            "answer['own'] = [os.readlink(f'/proc/self/fd/{fd}').split(':')[0] for fd in range(3)]\n"
            "answer['fds of 1'] = tried(os.listdir, '/proc/1/fd')\n"
            "answer['open'] = [tried(os.open, f'/proc/1/fd/{fd}', os.O_RDWR) for fd in range(64)]\n"
            "answer['getfd'] = [call('pidfd_getfd', os.pidfd_open(1), fd, 0) for fd in range(64)]",
            user=user,
        )
        assert "socket" not in answer["own"]
        assert answer["fds of 1"] in ("EACCES", "EPERM")
        assert set(answer["open"]) == {"EACCES"}
        assert set(answer["getfd"]) == {"EPERM"}


# ---------------------------------------------------------------------- 12: links of /proc


def test_rule12_no_link_of_the_first_process_leads_anywhere(box: Box, users: tuple[str, ...]) -> None:
    script = """
for name in ("exe", "cwd", "root", "fd/0", "map_files", "task/1/exe", "ns/mnt", "mem", "environ", "maps"):
    how = os.listdir if name == "map_files" else lambda path: os.close(os.open(path, os.O_RDONLY))
    answer[name] = tried(how, f"/proc/1/{name}")
    answer["read " + name] = tried(os.readlink, f"/proc/1/{name}")
"""
    for user in users:
        answer = box.attack(script, user=user)
        not_links = {"read map_files", "read mem", "read environ", "read maps"}
        assert {answer[name] for name in not_links} <= {"EINVAL", "EACCES", "EPERM"}
        assert {code for name, code in answer.items() if name not in not_links} <= {"EACCES", "EPERM"}, answer


def test_rule12_the_interpreter_cannot_be_written_through_any_link(
    box: Box, make_box: Callable[..., Box], users: tuple[str, ...]
) -> None:
    real = os.path.realpath(sys.executable)
    before = os.stat(real)
    with open(real, "rb") as file:
        content = file.read()
    script = """
import glob, re
paths = [path for name in ("exe", "map_files/*", "fd/*") for path in glob.glob(f"/proc/[0-9]*/{name}")]
paths += ["/proc/self/exe", os.path.realpath(sys.executable)]
answer["tried"] = len(paths)
for path in paths:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND):
        try:
            fd = os.open(path, flags | os.O_NONBLOCK)
        except OSError:
            continue
        if os.path.isfile(path):
            tried(os.pwrite, fd, b"#!/bin/sh", 0)
            tried(os.write, fd, b"x")
        os.close(fd)
tried(os.utime, "/proc/1/exe")
tried(os.utime, "/proc/self/exe")
tried(os.chmod, "/proc/self/exe", 0o777)
"""
    for user in users:
        assert box.attack(script, user=user)["tried"] >= 2
    after = os.stat(real)
    with open(real, "rb") as file:
        assert file.read() == content
    assert (after.st_mtime_ns, after.st_mode, after.st_size) == (before.st_mtime_ns, before.st_mode, before.st_size)
    assert make_box().run([sys.executable, "-I", "-c", "print('well')"]).out == "well\n"


def test_rule12_no_file_call_changes_anything_through_a_link_of_proc(box: Box, provider: NamespacesProvider) -> None:
    """A worker of file calls runs the host's interpreter, which is the user's own where uv or pyenv brought it."""
    before = os.stat(os.path.realpath(sys.executable)).st_mode
    box.run("ln -s /proc/self/exe /tmp/report; ln -s /tmp/real /tmp/plain; touch /tmp/real")
    with pytest.raises(OSError, match="symbolic links") as caught:
        provider.change(box.handle, "chmod", "/tmp/report", mode=before & 0o7777)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="symbolic links") as caught:
        provider.write(box.handle, "/tmp/report", b"x")
    assert caught.value.errno == errno.ELOOP
    provider.write(box.handle, "/tmp/plain", b"x", mode=0o600)
    provider.change(box.handle, "chmod", "/tmp/plain", mode=0o640)
    assert provider.stat(box.handle, "/tmp/real").mode == 0o640
    assert provider.read(box.handle, "/tmp/real", limit=10) == b"x"


def test_rule12_no_descriptor_of_a_directory_leaks_in(box: Box, provider: NamespacesProvider) -> None:
    """PID 1 has one of the sandbox's own /proc."""
    found = set()
    for fd in range(3, 40):
        try:
            process = provider.spawn(box.handle, Command(("/bin/pwd", "-P"), cwd=f"/proc/self/fd/{fd}"))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        found.add(process.stdout.read())
        process.close()
    assert found == {b"/proc\n"}


# ---------------------------------------------------------------------- 13: looking in from the host


def test_rule13_not_even_the_same_user_of_the_host_looks_through_proc(box: Box, mode: str) -> None:
    box.run("echo x > /root/secret")
    root = Path(f"/proc/{box.init}/root")
    if mode == "root":
        # Root of the machine may: that is who it is. The name leads to the sandbox's own file, not to a host's.
        assert stat.S_ISDIR(os.stat(root).st_mode)
        return
    for name in ("root", "cwd", "exe", "fd", "ns/mnt", "environ"):
        with pytest.raises(PermissionError):
            os.close(os.open(f"/proc/{box.init}/{name}", os.O_RDONLY))
