"""Host paths that no sandbox may see, whoever asks (r41). Data; mounts.py has the rules."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

__all__ = ["FIRST_USER_ID", "HOME_PARENTS", "HOME_SECRETS", "SYSTEM", "account_homes", "runtime_paths"]

#: Refused with all that is below them, and so is every directory that contains one of them.
SYSTEM = (
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var/run",
    "/boot",
    # Container engines: whoever reaches one of their sockets or stores is root of the host.
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/rancher",
    "/var/lib/kubelet",
    "/var/lib/lxd",
    "/var/lib/incus",
    "/var/snap/docker",
    "/var/snap/lxd",
    # Jobs, mail and logs of others.
    "/var/spool",
    "/var/mail",
    "/var/log",
    "/var/lib/sudo",
    # macOS: /etc and /var are links to these.
    "/private/etc",
    "/private/var/db",
    "/private/var/run",
    "/Library/Keychains",
    "/System",
)

#: Directories whose children are homes, whether or not an account is known for them.
HOME_PARENTS = ("/home", "/Users", "/var/home", "/export/home")

#: The same, relative to every home.
HOME_SECRETS = (
    # Keys and credentials.
    ".ssh",
    ".aws",
    ".azure",
    ".boto",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".cert",
    ".config/1Password",
    ".config/age",
    ".config/containers/auth.json",
    ".config/gcloud",
    ".config/gh",
    ".config/git/credentials",
    ".config/glab-cli",
    ".config/hub",
    ".config/op",
    ".config/pip",
    ".config/pypoetry/auth.toml",
    ".config/rclone",
    ".config/sops",
    ".docker",
    ".gem/credentials",
    ".git-credentials",
    ".gnupg",
    ".gradle/gradle.properties",
    ".kube",
    ".m2/settings.xml",
    ".minikube",
    ".netrc",
    ".npmrc",
    ".oci",
    ".password-store",
    ".pip",
    ".pki",
    ".pypirc",
    ".s3cfg",
    ".terraform.d",
    ".vault-token",
    # Container engines and virtual machines of the user.
    ".colima",
    ".lima",
    ".local/share/containers",
    ".local/share/docker",
    ".orbstack",
    ".rd",
    # Keyrings.
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".kde/share/apps/kwallet",
    "Library/Keychains",
    # Browsers and mail.
    ".config/BraveSoftware",
    ".config/chromium",
    ".config/google-chrome",
    ".config/microsoft-edge",
    ".config/opera",
    ".config/vivaldi",
    ".mozilla",
    ".thunderbird",
    ".var/app",
    "snap/chromium",
    "snap/firefox",
    "Library/Application Support/BraveSoftware",
    "Library/Application Support/Firefox",
    "Library/Application Support/Google",
    "Library/Application Support/Microsoft Edge",
    "Library/Cookies",
    "Library/Mail",
    "Library/Messages",
    "Library/Safari",
    # Histories of shells and of clients that are typed passwords into.
    ".ash_history",
    ".bash_history",
    ".histfile",
    ".lesshst",
    ".local/share/fish",
    ".local/state/bash",
    ".mysql_history",
    ".node_repl_history",
    ".psql_history",
    ".python_history",
    ".rediscli_history",
    ".sh_history",
    ".sqlite_history",
    ".viminfo",
    ".zhistory",
    ".zsh_history",
    ".zsh_sessions",
)

#: Accounts below it are those of services, with homes such as /usr/sbin; root is the exception (login.defs, UID_MIN).
FIRST_USER_ID = 1000
_NOBODY = 65_534


def account_homes() -> frozenset[str]:
    """The homes of root and of every user account of this machine."""
    people = (entry for entry in pwd.getpwall() if entry.pw_uid == 0 or entry.pw_uid >= FIRST_USER_ID)
    return frozenset(entry.pw_dir for entry in people if entry.pw_uid != _NOBODY and os.path.isabs(entry.pw_dir))


def runtime_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Sockets and run-time directories that the environment names: agents, display, container engines."""
    found = [environ.get(name, "") for name in ("SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "XAUTHORITY")]
    engines = ("DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS")
    found += [environ.get(name, "").removeprefix("unix://") for name in engines]
    return tuple(path for path in found if os.path.isabs(path))
