"""The protections that controls take out, one name for each: text of the engine and what stands there instead."""

from __future__ import annotations

from weakened import Redefine, Replace, weaken

MQUEUE = 'syscalls.mount("mqueue", f"{ROOT}/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC)'

# ---------------------------------------------------------------------- what a process may

NO_FILTER = weaken("no system-call filter", Replace("syscalls.seccomp(options.program)", "pass"))
ALL_CAPABILITIES = weaken("capabilities kept", Redefine("KEPT_CAPABILITIES", "KEPT_CAPABILITIES = (1 << 41) - 1"))
GAINS = weaken(
    "no_new_privs not set",
    Replace(
        "syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)\n    syscalls.prctl(syscalls.PR_SET_KEEPCAPS",
        "syscalls.prctl(syscalls.PR_SET_KEEPCAPS",
    ),
)
#: The second wall: where the kernel has it, it stands behind most of the others.
NO_LANDLOCK = weaken("no Landlock", Redefine("confine", "def confine(abi, trees):\n    pass"))
SET_UID = weaken(
    "set-uid bits count",
    Replace('data, flags = "userxattr", MS_NOSUID | MS_NODEV', 'data, flags = "userxattr", MS_NODEV'),
)
DUMPABLE = weaken(
    "PID 1 dumpable",
    Redefine(
        "prctl",
        """
_strict = prctl

def prctl(option, value=0):
    _strict(option, 1 if option == PR_SET_DUMPABLE else value)
""",
    ),
)
NO_SESSION = weaken("no session for each command", Replace("setsid=True,", "setsid=False,"))
CORES = weaken(
    "core dumps not limited",
    Replace(
        "resource.setrlimit(number, (soft, hard))",
        "number == resource.RLIMIT_CORE or resource.setrlimit(number, (soft, hard))",
    ),
)
NESTABLE = weaken(
    "user name spaces not limited",
    Replace(
        """write_proc(f"{proc}/sys/user/max_{kind}_namespaces", b"64" if options.nested else b"0", "sysctl")""",
        "pass",
    ),
)

# ---------------------------------------------------------------------- what a process sees

NO_MASKS = weaken(
    "no masks in /proc",
    Redefine("MASKED_FILES", "MASKED_FILES = ()"),
    Redefine("MASKED_DIRECTORIES", "MASKED_DIRECTORIES = ()"),
)
WRITABLE_PROC = weaken("/proc/sys writable", Redefine("READ_ONLY", "READ_ONLY = ()"))
HOST_PROC = weaken(
    "the host's /proc",
    Replace(
        'syscalls.mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)',
        'syscalls.mount("/host/proc", proc, None, MS_BIND | MS_REC)',
    ),
)
HOST_DEV = weaken(
    "the host's /dev",
    Replace('syscalls.open_tree("/d", recursive=True)', 'syscalls.open_tree("/host/dev", recursive=True)'),
    Replace(MQUEUE, "pass"),
)
OLD_ROOT = weaken(
    "the old root left mounted",
    Redefine(
        "_enter_root",
        """
def _enter_root():
    os.chdir(ROOT)
    syscalls.pivot_root(".", "mnt")
    os.chdir("/")
""",
    ),
)
CHROOT = weaken(
    "chroot instead of pivot_root",
    Redefine(
        "_enter_root",
        """
def _enter_root():
    os.chroot(ROOT)
    os.chdir("/")
""",
    ),
)
#: As runc's CVE-2024-21626 had it: a descriptor of a directory of the host is open in the process that changes to the command's directory.
OPEN_DIRECTORY = weaken(
    "a directory of the host left open",
    Replace(
        "    protocol.close_others({0, 1, 2, *wanted})\n",
        "    os.dup2(os.open('/host', os.O_RDONLY), 30, inheritable=False)\n    protocol.close_others({0, 1, 2, *wanted, 30})\n",
    ),
)
INHERITED = weaken(
    "descriptors not closed",
    Redefine(
        "_keep_only",
        """
def _keep_only(wanted):
    null = os.open("/d/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.set_inheritable(int(fd), True)
        except OSError:
            pass
""",
    ),
)

# ---------------------------------------------------------------------- what is a sandbox's own


def _without(*flags: str) -> Redefine:
    return Redefine("_NAMESPACES", "_NAMESPACES &= ~(" + " | ".join(f"syscalls.CLONE_{flag}" for flag in flags) + ")")


SHARED_IPC = weaken(
    "no IPC name space",
    _without("NEWIPC"),
    # Of a name space that is not its own it may not mount the queues.
    Replace(MQUEUE, "pass"),
)
SHARED_NET = weaken(
    "no network name space",
    _without("NEWNET"),
    Replace('network=None if recipe.spec["shares_network"] else self._stage.network', "network=None"),
)
SHARED_SHM = weaken(
    "one /dev/shm for all",
    Replace(
        'syscalls.pivot_root(".", "host")',
        'os.mkdir("shared"); os.chmod("shared", 0o1777); syscalls.pivot_root(".", "host")',
    ),
    Replace(
        'syscalls.mount(f"{SCRATCH}/shm", f"{ROOT}/dev/shm", None, MS_BIND)',
        'syscalls.mount("/shared", f"{ROOT}/dev/shm", None, MS_BIND)',
    ),
)
SHARED_KEYRING = weaken(
    "one session keyring for all",
    Replace("    syscalls.join_session_keyring()\n", ""),
    # Not the keyring of whoever runs the tests.
    Replace("    who = identity.enter()\n", "    syscalls.join_session_keyring()\n    who = identity.enter()\n"),
)
SHARED_IDS = weaken(
    "one id range for all",
    Replace("if not (self._stage.identity.privileged and self._stage.idmap):", "if True:"),
)
READ_ONLY_BINDS = weaken(
    "ro mounts are binds, not overlay views", Replace('if view.mode == "rw":', 'if view.mode in ("rw", "ro"):')
)
FOLLOWED = weaken(
    "mount points through links", Replace('    os.close(syscalls.open_path(target, "mount point"))', "pass")
)
NOT_CLEANED = weaken("a spare is handed out whatever is in it", Replace("if not following.pristine():", "if False:"))
BY_NAME = weaken(
    "/proc looked up by its name",
    Replace("for name in os.listdir(self.proc):", 'for name in os.listdir("/proc"):'),
    Replace(
        'fd = os.open(f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)',
        'fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)',
    ),
)
