"""The process that makes connections to the outside world for the network process, which cannot: it has no name to look up.

It is started with the first policy that lets anything out. It reads no byte that comes from a sandbox but names, bounded; a name
is looked up once, and exactly the address that was found good is dialled (no rebinding). What it may read of the files of this
host is what resolvers need; it may write none, and start nothing.

    network process                       dialler
      │ {"number", "host", "port", …} ───────> │ look up, judge, connect, in a thread of its own
      │ <── {"number", "error"} and the socket │
"""

from __future__ import annotations

import _socket
import _thread
import errno
import os
import signal
import sys
from _queue import SimpleQueue
from typing import Any

from .. import landlock, protocol, seccomp, syscalls
from . import powers, vetting
from .policy import End

__all__ = ["main"]

#: Connections that are being made at one time, some of each sandbox (outside.py); more wait.
_MOST = 256
_CONNECT_TIMEOUT = 30.0
_STACK = 1 << 20
_MEMORY = 1 << 30
_CALLS = """
    read write readv writev close recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg socket socketpair connect bind listen getsockname getpeername
    getsockopt setsockopt shutdown fcntl ioctl poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait
    open openat access faccessat faccessat2 stat fstat lstat newfstatat statx lseek pread64 readlink readlinkat getdents64 getcwd uname
    futex clone clone3 set_robust_list rseq gettid getpid getppid getuid geteuid getgid getegid sched_yield sched_getaffinity
    pipe2 eventfd2 mmap munmap mprotect mremap madvise brk rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
    clock_gettime clock_nanosleep nanosleep gettimeofday getrandom prlimit64 getrlimit sysinfo exit exit_group restart_syscall"""
#: Below them are the files of resolvers: resolv.conf, hosts, nsswitch.conf, their libraries and their sockets.
_TREES = ("/etc", "/usr", "/lib", "/lib64", "/run", "/var", "/nix/store", "/gnu/store")


class Dialler:
    """Answers each request when its connection is made, or cannot be."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._sending = _thread.allocate_lock()
        self._waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._threads = 0

    def serve(self) -> None:
        """Until the network process is gone."""
        while True:
            request, fds = protocol.receive_json(self._sock)
            for fd in fds:
                os.close(fd)
            if request is None:
                return
            self._waiting.put(request)
            if self._threads < _MOST:
                self._begin_thread()

    def _begin_thread(self) -> None:
        try:
            _thread.start_new_thread(self._work, ())
        except RuntimeError:
            if not self._threads:
                raise
            # This user has too many: the ones there are do it.
        else:
            self._threads += 1

    def _work(self) -> None:
        while True:
            self._answer(self._waiting.get())

    def _answer(self, request: dict[str, Any]) -> None:
        made = None
        try:
            made = answer(request)
            code = 0
        except OSError as error:
            code = _code(error)
        except Exception:  # noqa: BLE001 - somebody waits for the answer
            sys.excepthook(*sys.exc_info())
            code = errno.EIO
        try:
            with self._sending:
                reply = {"number": request["number"], "error": code}
                protocol.send_json(self._sock, reply, () if made is None else (made.fileno(),))
        except OSError:
            os._exit(1)  # nobody is there to be told
        finally:
            if made is not None:
                made.close()


def _code(error: OSError) -> int:
    """An errno: EAI numbers of getaddrinfo(3) are negative. ENXIO = no such name, EAGAIN = no resolver answered."""
    if isinstance(error, _socket.gaierror):
        return errno.EAGAIN if error.errno == _socket.EAI_AGAIN else errno.ENXIO
    return error.errno or errno.EIO


def answer(request: dict[str, Any]) -> _socket.socket | None:
    """The connection; None where only the name was to be looked up. Raises OSError."""
    host, port = request["host"], request["port"]
    if request["trusted"]:
        return _connect([host], port, request["kind"])
    listed = [End(*end) for end in request["listed"]]
    addresses = [host] if request["exact"] else _look_up(host)
    codes = {address: vetting.refusal(address, listed) for address in addresses}
    good = [address for address, code in codes.items() if not code]
    if not good:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return None if request["kind"] == "name" else _connect(good, port, request["kind"])


def _look_up(name: str) -> list[str]:
    """Its addresses, in the order in which they are to be tried (RFC 6724)."""
    found = _socket.getaddrinfo(name.encode("ascii"), None, 0, _socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _connect(addresses: list[str], port: int, kind: str) -> _socket.socket:
    """To the first that answers. Raises what the last of them said."""
    last: OSError = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    flavour = _socket.SOCK_DGRAM if kind == "udp" else _socket.SOCK_STREAM
    for address in addresses:
        family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
        sock = _socket.socket(family, flavour | _socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(_CONNECT_TIMEOUT)
            sock.connect((address, port))
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            last = error if error.errno else OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        else:
            return sock
    raise last


def _trees() -> list[str]:
    """That exist; and where a link leads to the file with the resolvers."""
    return [tree for tree in (*_TREES, os.path.dirname(os.path.realpath("/etc/resolv.conf"))) if os.path.isdir(tree)]


def main(fd: int) -> None:
    """Entry point of the process; `fd` is the channel to the network process, at whose end it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = _socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    protocol.close_others({0, 1, 2, fd})
    powers.give_up(_MEMORY)
    landlock.confine(landlock.version(), _trees(), reading=True)
    syscalls.seccomp(seccomp.only(_CALLS))
    _thread.stack_size(_STACK)
    Dialler(sock).serve()
