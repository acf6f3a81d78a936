"""/etc of the host image: an allow-list of the host's files, copied, and what a sandbox is told about itself, made.

Copied is only what everybody may read, never through a link, never what holds a private key; configurations of
package managers lose their log-ins.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat

from pytest_airlock.errors import ProviderUnavailable
from pytest_airlock.providers.namespaces.engine.net.netlink import RESOLVER

from . import credentials
from .accounts import Accounts, host_accounts
from .hostview import HostView
from .tree import Tree

__all__ = ["HOSTNAME", "MACHINE_ID", "add_accounts", "add_etc", "add_identity", "shell_of"]

HOSTNAME = "airlock"
MACHINE_ID = "a1710c4a1710c4a1710c4a1710c4a171"

# fmt: off
_COPIED = (
    # run-time linker, libraries, languages
    "ld.so.*", "ld-musl-*", "alternatives", "python3*", "perl", "java*", "ssl", "pki", "ca-certificates*", "crypto-policies",
    "fonts", "magic*", "mime.types", "mailcap*", "ImageMagick-*", "OpenCL", "glvnd", "vulkan", "R", "sgml", "xml", "groff",
    # packages
    "apt", "dpkg", "apk", "dnf", "yum*", "rpm", "pacman*", "zypp", "debconf.conf", "ucf.conf", "adduser.conf", "deluser.conf",
    # names, numbers, places
    "services", "protocols", "rpc", "ethertypes", "networks", "host.conf", "gai.conf", "netconfig", "shells", "login.defs",
    "os-release", "lsb-release", "*_version", "*-release", "system-release-cpe", "locale.alias", "locale.gen", "locale.conf",
    # shells and terminals
    "profile", "bash.bashrc", "bashrc", "inputrc", "terminfo", "skel", "manpath.config", "pam.conf", "pam.d", "security",
)
_DEFAULTS = ("locale", "useradd", "nss", "keyboard", "console-setup")
#: Left out wherever they are below what is copied.
_NEVER = frozenset(("private", "entitlement", "auth.conf", "auth.conf.d", "machine-id", ".git"))
_REPOSITORIES = re.compile(r"/etc/(apt|apk|dnf|yum[^/]*|pacman[^/]*|zypp)(/|$)")
#: Installers put files there; they exist, empty, where the host has them.
_EMPTY = (
    "cron.d", "cron.hourly", "cron.daily", "cron.weekly", "cron.monthly", "init.d", "profile.d", "sudoers.d",
    "logrotate.d", "sysctl.d", "tmpfiles.d", "sysusers.d", "modprobe.d", "modules-load.d", "bash_completion.d",
    "systemd/system", "systemd/user", "udev/rules.d", "dbus-1/system.d", "xdg/autostart", "apparmor.d", "opt",
)
# fmt: on
_MAX_SIZE, _MAX_FILES, _MAX_DEPTH = 16 << 20, 20_000, 12
_NSSWITCH = "".join(
    f"{database + ':':<12}{sources}\n"
    for database, sources in {
        **dict.fromkeys(("passwd", "group", "shadow", "gshadow"), "files"),
        "hosts": "files dns",
        **dict.fromkeys(("networks", "protocols", "services", "ethers", "rpc"), "files"),
    }.items()
)
_APT = """\
// The sandbox is what confines apt: its own drop to _apt needs ids that not every host can map.
APT::Sandbox::User "root";
Acquire::Retries "0";
"""


def add_etc(tree: Tree, host: HostView) -> None:
    """Plan /etc. Raises ProviderUnavailable if the host's /etc cannot be read or is beyond all bounds."""
    add_identity(tree)
    tree.text("/etc/machine-id", f"{MACHINE_ID}\n", 0o444)
    tree.text("/etc/nsswitch.conf", _NSSWITCH)
    tree.text("/etc/timezone", "Etc/UTC\n")
    tree.link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
    tree.link("/etc/mtab", "/proc/self/mounts")
    tree.text("/etc/fstab", "")
    tree.text("/etc/subuid", "")
    tree.text("/etc/subgid", "")
    add_accounts(tree, host_accounts(_text(host, "/etc/passwd"), _text(host, "/etc/group"), shell=shell_of(host)))
    if os.path.isdir(host.at("/etc/apt")):
        tree.text("/etc/apt/apt.conf.d/99airlock", _APT)
    copier = _Copier(tree, host)
    try:
        for name in sorted(os.listdir(host.at("/etc"))):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in _COPIED):
                copier.add(f"/etc/{name}")
        for name in _DEFAULTS:
            copier.add(f"/etc/default/{name}")
    except OSError as error:
        why = f"/etc cannot be copied: {error.strerror} ({error.filename})"
        raise ProviderUnavailable(
            "namespaces", why, hint="give a root file system of your own: image=DIRECTORY"
        ) from error
    for name in (*_EMPTY, *(f"rc{level}.d" for level in "0123456S")):
        if os.path.isdir(host.at(f"/etc/{name}")):
            tree.directory(f"/etc/{name}")


def add_identity(tree: Tree) -> None:
    """Host name, hosts and the resolver, which the network process is (engine/net): it answers at once."""
    tree.text("/etc/hostname", f"{HOSTNAME}\n")
    tree.text("/etc/hosts", f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    tree.text("/etc/resolv.conf", f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")


def add_accounts(tree: Tree, accounts: Accounts) -> None:
    """The account files, with the modes they have everywhere."""
    tree.text("/etc/passwd", accounts.passwd)
    tree.text("/etc/group", accounts.group)
    tree.text("/etc/shadow", accounts.shadow, 0o640)
    tree.text("/etc/gshadow", accounts.gshadow, 0o640)


def shell_of(host: HostView) -> str:
    """The log-in shell of the image: bash if it has one."""
    return "/bin/bash" if os.path.exists(host.at(host.trace("/bin/bash").real)) else "/bin/sh"


def _text(host: HostView, path: str) -> str:
    try:
        with open(host.at(path), encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_SIZE)
    except FileNotFoundError:
        return ""


class _Copier:
    """Plans copies of host files; counts them, because /etc of a stranger may be anything."""

    def __init__(self, tree: Tree, host: HostView) -> None:
        self.tree, self.host, self.count = tree, host, 0

    def add(self, path: str, depth: int = 0) -> None:
        if os.path.basename(path) in _NEVER:
            return
        try:
            info = os.lstat(self.host.at(path))
        except FileNotFoundError:
            return
        self.count += 1
        if self.count > _MAX_FILES or depth > _MAX_DEPTH:
            raise ProviderUnavailable("namespaces", f"/etc of this host is too big to copy ({path})")
        if stat.S_ISLNK(info.st_mode):
            self.tree.link(path, os.readlink(self.host.at(path)))
        elif stat.S_ISDIR(info.st_mode):
            self._directory(path, info.st_mode, depth)
        elif stat.S_ISREG(info.st_mode):
            self._file(path, info)

    def _directory(self, path: str, mode: int, depth: int) -> None:
        if mode & 0o005 != 0o005:
            return
        self.tree.directory(path)
        for name in sorted(os.listdir(self.host.at(path))):
            self.add(f"{path}/{name}", depth + 1)

    def _file(self, path: str, info: os.stat_result) -> None:
        if not info.st_mode & stat.S_IROTH or info.st_size > _MAX_SIZE:
            return
        mode = (info.st_mode & 0o755) | 0o444
        repository = bool(_REPOSITORIES.match(path))
        if not repository and not path.endswith((".pem", ".key", ".p12", ".pfx", ".p8")):
            self.tree.copy(path, self.host.at(path), mode)
            return
        with open(self.host.at(path), "rb") as file:
            data = file.read(_MAX_SIZE)
        clean = credentials.clean_repository(data) if repository and b"\0" not in data else data
        if path.endswith((".p12", ".pfx")) or credentials.holds_private_key(data, der=path.endswith((".key", ".p8"))):
            return
        if clean == data:
            self.tree.copy(path, self.host.at(path), mode)
        else:
            self.tree.content(path, clean, mode)
