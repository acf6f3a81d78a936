"""That programs inside believe the certificates of served names: files and variables, new in each life of the sandbox."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from pytest_airlock.errors import UnsupportedFeature
from pytest_airlock.providers.base import FileStat
from pytest_airlock.sandbox.backend import Backend
from pytest_airlock.sandbox.diff import ChangedPath, Diff

__all__ = ["Trust"]

#: Where systems keep all authorities in one file: Debian and Alpine, Fedora, and what OpenSSL itself calls its own.
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
#: The authority alone; `update-ca-certificates` inside takes it from here.
ALONE = "/usr/local/share/ca-certificates/airlock-test.crt"
HASHED = "/etc/ssl/certs"
JAVA = "/etc/ssl/airlock-test.p12"
#: A bundle is bytes of the sandbox: they are copied within it, and no more of them than this.
BUNDLE_LIMIT = 16 * 1024**2
#: Links followed to a bundle, as many as the kernel follows.
_LINKS = 40
_MODE = 0o644

_OF_BUNDLE = (
    "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE",
)  # fmt: skip
_OF_ALONE = ("NODE_EXTRA_CA_CERTS",)  # in addition to those Node brings along


class _Written(NamedTuple):
    size: int
    digest: bytes


class Trust:
    """Of one sandbox. `environ` is its base environment, in which a variable that is set stays as it is."""

    def __init__(self, backend: Backend, environ: Callable[[], dict[str, str]]) -> None:
        self._backend = backend
        self._environ = environ
        self._lock = threading.Lock()
        self._established = False
        self._files: dict[str, _Written] = {}
        self._directories: set[str] = set()

    def establish(self) -> None:
        """Once in each life. Raises MissingExtra; OSError for a bundle that is no regular file or larger than 16 MB."""
        with self._lock:
            if not self._established:
                self._establish()
                self._established = True

    def forget(self) -> None:
        """Another life begins, whose files are not those of this one."""
        with self._lock:
            self._established = False
            self._files.clear()
            self._directories.clear()

    def without_own(self, diff: Diff) -> Diff:
        """What is as it was written here is no change of the sandbox."""
        own = self._files.keys() | self._directories
        if not own or not any(own & paths for paths in (diff.added, diff.modified)):
            return diff
        return Diff(frozenset(self._foreign(diff.added)), frozenset(self._foreign(diff.modified)), diff.deleted)

    def _foreign(self, paths: Iterable[str]) -> Iterator[str]:
        return (path for path in paths if not self._is_own(path))

    def _is_own(self, path: str) -> bool:
        if not isinstance(path, ChangedPath):
            return False
        if path in self._directories:
            return path.type == "dir" and path.mode == 0o755
        written = self._files.get(path)
        if written is None or (path.type, path.mode, path.size) != ("file", _MODE, written.size):
            return False
        try:
            return hashlib.sha256(self._backend.read(path, limit=written.size)).digest() == written.digest
        except OSError:
            return False  # changed while it was looked at

    def _establish(self) -> None:
        from pytest_airlock.sandbox.fakes.authority import STORE_PASSWORD, authority

        made = authority()
        bundles = self._bundles()
        # What the sandbox made of a bundle before this is a change of its own, which the diff has to go on showing.
        changed = self._changed(set(bundles))
        for bundle in bundles:
            self._append(bundle, made.pem, own=bundle not in changed)
        self._write(ALONE, made.pem)
        self._write(f"{HASHED}/{made.subject_hash()}.0", made.pem)
        environ = self._environ()
        for name in _OF_BUNDLE:
            environ.setdefault(name, bundles[0])
        for name in _OF_ALONE:
            environ.setdefault(name, ALONE)
        if self._has_java(environ.get("PATH", "")):
            self._write(JAVA, made.java_store())
            options = f"-Djavax.net.ssl.trustStore={JAVA} -Djavax.net.ssl.trustStoreType=PKCS12"
            environ.setdefault("JAVA_TOOL_OPTIONS", f"{options} -Djavax.net.ssl.trustStorePassword={STORE_PASSWORD}")

    def _bundles(self) -> list[str]:
        """The files that there are, behind their links; else where the first of them would be."""
        found = [path for path in map(self._resolved, BUNDLES) if path is not None]
        return list(dict.fromkeys(found)) or [BUNDLES[0]]

    def _resolved(self, path: str) -> str | None:
        for _ in range(_LINKS):
            found = self._stat(path, follow_symlinks=False)
            if found is None or found.kind != "symlink":
                return None if found is None else self._placed(path)
            parent = self._placed(path).rpartition("/")[0]
            path = _normal(f"{parent}/{found.target}" if not str(found.target).startswith("/") else str(found.target))
        return None

    def _placed(self, path: str) -> str:
        """Its own name behind links of its directory, as a diff has it, where the directory is a link itself."""
        parent, _, name = path.rpartition("/")
        found = self._stat(parent, follow_symlinks=False) if parent else None
        if found is None or found.kind != "symlink" or not found.target:
            return path
        above = parent.rpartition("/")[0]
        return _normal(f"{found.target if found.target.startswith('/') else f'{above}/{found.target}'}/{name}")

    def _stat(self, path: str, *, follow_symlinks: bool) -> FileStat | None:
        try:
            return self._backend.stat(path, follow_symlinks=follow_symlinks)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _changed(self, paths: set[str]) -> set[str]:
        try:
            return paths & {change.path for change in self._backend.diff()}
        except UnsupportedFeature:
            return set()

    def _append(self, path: str, pem: bytes, *, own: bool) -> None:
        try:
            content = self._backend.read(path, limit=BUNDLE_LIMIT)
        except FileNotFoundError:
            content = b""
        if pem in content:
            return
        gap = b"" if not content or content.endswith(b"\n") else b"\n"
        self._write(path, content + gap + pem)
        if not own:
            del self._files[path]

    def _write(self, path: str, data: bytes) -> None:
        path = self._placed(path)
        self._make(PurePosixPath(path).parent)
        self._backend.write(path, data, mode=_MODE)
        self._files[path] = _Written(len(data), hashlib.sha256(data).digest())

    def _make(self, directory: PurePosixPath) -> None:
        if self._stat(str(directory), follow_symlinks=True) is None:
            self._make(directory.parent)
            self._backend.change("mkdir", str(directory), mode=0o755)
            self._directories.add(str(directory))

    def _has_java(self, path: str) -> bool:
        return any(
            self._stat(f"{directory}/java", follow_symlinks=True) is not None
            for directory in path.split(":")
            if directory.startswith("/")
        )


def _normal(path: str) -> str:
    """Without "." and ".."; as text, which is right where no directory on the way is a link."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
