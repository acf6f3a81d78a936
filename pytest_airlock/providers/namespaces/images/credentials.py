"""Recognise credentials in the text of files, and write copies without them. Bytes in, bytes out; nothing is opened."""

from __future__ import annotations

import json
import re

__all__ = [
    "clean_direct_url",
    "clean_git_config",
    "clean_repository",
    "holds_private_key",
    "holds_token",
    "without_userinfo",
]

_KEY_MARKS = (b"PRIVATE KEY", b"PuTTY-User-Key-File", b"AGE-SECRET-KEY-")
_DER_SEQUENCE = b"\x30"
_TOKEN = re.compile(rb"(?i)auth(?:token|ident)?[\"']?[ \t]*[:= \t][ \t]*[\"']?(?![$\"'\s])[^\s\"']{6,}")

_USERINFO = re.compile(rb"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<info>[^/?#\s\"'<>]*)@")
_SECRET_QUERY = re.compile(
    rb"(?i)(://[^\s?\"'<>]*)\?[^\s\"'<>]*?(?:token|key|secret|passw|sig|auth|credential)[^\s=&\"'<>]*=[^\s\"'<>]*"
)

_GIT_SECTION = re.compile(r'\[\s*([A-Za-z0-9-]+)(?:\.[^\]"]*|\s+"(?:[^"\\]|\\.)*")?\s*\]')
_GIT_VALUE = re.compile(r"([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*(.*))?")
#: What a repository needs to work; http, credential, url, include and whatever else is not here may hold secrets.
_GIT_SECTIONS = frozenset(
    ("core", "extensions", "remote", "branch", "submodule", "user", "init", "worktree", "index", "feature")
    + ("pull", "push", "fetch", "merge", "rebase", "diff", "status", "log", "color", "gc", "pack", "i18n", "format")
)
_GIT_DROPPED = frozenset(("askpass", "sshcommand", "gitproxy", "proxy", "proxyauthmethod", "extraheader"))

_REPOSITORY_LOGIN = re.compile(rb"(?im)^[ \t]*(?:proxy_)?(?:user(?:name)?|password|sslclientkey)[ \t]*=.*\n?")


def holds_private_key(data: bytes, *, der: bool = False) -> bool:
    """True for PEM, OpenSSH, PGP, PuTTY and age private keys; with `der`, for anything that starts as ASN.1 does."""
    return any(mark in data for mark in _KEY_MARKS) or (der and data.startswith(_DER_SEQUENCE))


def holds_token(data: bytes) -> bool:
    """True if a registry token is written out (`npmAuthToken: abc…`), False if it only names a variable (`${TOKEN}`)."""
    return bool(_TOKEN.search(data)) or without_userinfo(data) != data


def without_userinfo(text: bytes) -> bytes:
    """`text` with user and password taken out of every URL, and queries that look like tokens.

    ssh keeps the user name (it is an account such as `git`); of https it may be a token, so nothing is kept.
    """

    def clean(match: re.Match[bytes]) -> bytes:
        scheme, info = match["scheme"], match["info"]
        user = info.partition(b":")[0] if scheme.lower().rpartition(b"+")[2] in (b"ssh", b"sftp") else b""
        return scheme + b"://" + user + (b"@" if user else b"")

    return _SECRET_QUERY.sub(rb"\1", _USERINFO.sub(clean, text))


def clean_direct_url(data: bytes) -> bytes | None:
    """A PEP 610 direct_url.json without credentials; None if it has none. What is no JSON becomes `{}`."""
    clean = without_userinfo(data)
    if clean == data:
        return None
    try:
        json.loads(clean)
    except ValueError:
        return b"{}"
    return clean


def clean_repository(data: bytes) -> bytes:
    """A package manager's configuration (apt, dnf, apk, pacman) without log-ins."""
    return without_userinfo(_REPOSITORY_LOGIN.sub(b"", data))


def clean_git_config(data: bytes) -> bytes:
    """A git configuration reduced to known sections, without credentials, helpers, headers and comments (git-config(1))."""
    text = re.sub(r"\\\r?\n", "", data.decode("utf-8", "surrogateescape"))
    lines: list[str] = []
    kept = False
    for raw in text.splitlines():
        line = raw.strip()
        section = _GIT_SECTION.match(line)
        if section:
            kept = section[1].lower() in _GIT_SECTIONS
            if kept:
                lines.append(section[0])
            line = line[section.end() :].strip()
        value = _GIT_VALUE.fullmatch(_without_comment(line))
        if kept and value and value[1].lower() not in _GIT_DROPPED:
            lines.append(f"\t{value[1]}" if value[2] is None else f"\t{value[1]} = {value[2]}")
    return without_userinfo("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


def _without_comment(line: str) -> str:
    quoted = escaped = False
    for place, char in enumerate(line):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char in "#;" and not quoted:
            return line[:place].rstrip()
    return line
