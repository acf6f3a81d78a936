"""The system calls of the network process: sockets that exist or are of the host's loopback, pipes, threads, memory, an end."""

from __future__ import annotations

from .. import seccomp, syscalls

__all__ = ["allow_no_other"]

#: It opens no file, starts no program, and makes IPv4 sockets only to listen on the host's loopback device.
_CALLS = """
    read write close recvfrom recvmsg sendto sendmsg accept4 socket bind listen connect shutdown getsockname getsockopt
    setsockopt splice pipe2 fcntl ioctl epoll_create1 epoll_ctl epoll_wait epoll_pwait
    futex clone clone3 set_robust_list rseq gettid getpid sched_yield sched_getaffinity
    mmap munmap mprotect mremap madvise brk rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack alarm
    clock_gettime gettimeofday getrandom prlimit64 getrlimit exit exit_group restart_syscall"""


def allow_no_other() -> None:
    """For good; needs no_new_privs. Raises StepError, UnknownMachine."""
    syscalls.seccomp(seccomp.only(_CALLS))
