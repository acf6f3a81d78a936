"""The certificate authority of a run: made when it is first needed, its key in this process' memory alone."""

from __future__ import annotations

import functools
import hashlib
import os
import ssl
import threading
from typing import TYPE_CHECKING, Any

from pytest_airlock.errors import MissingExtra

if TYPE_CHECKING:
    import trustme

__all__ = ["STORE_PASSWORD", "Authority", "authority"]

#: Of a file with nothing secret in it; it is what Java tries by itself.
STORE_PASSWORD = "changeit"  # noqa: S105
#: Names below a served wildcard that have a certificate at the same time.
NAMES = 64
_LABELS = 64
_lock = threading.Lock()


def authority() -> Authority:
    """The one of this process. Raises MissingExtra."""
    with _lock:
        return _made()


@functools.cache
def _made() -> Authority:
    return Authority()


class Authority:
    """`pem` is its certificate."""

    def __init__(self) -> None:
        try:
            import trustme
            from cryptography import x509
        except ImportError as error:
            raise MissingExtra("https:// cannot be served", "tls", f"certificates need {error.name}") from error
        self._ca = trustme.CA(organization_name="pytest-airlock", organization_unit_name="test authority")
        self.pem: bytes = self._ca.cert_pem.bytes()
        self._certificate = x509.load_pem_x509_certificate(self.pem)

    def context(self, host: str) -> ssl.SSLContext:
        """For a server that is `host`: a name, an address, or "*.name", which is every name below."""
        context = _context(self._ca.issue_cert(host))
        if host.startswith("*."):
            make = functools.lru_cache(NAMES)(lambda name: _context(self._ca.issue_cert(name)))
            context.sni_callback = functools.partial(_choose, host[1:], make)
        return context

    def subject_hash(self) -> str:
        """What OpenSSL names its file in a directory of certificates (X509_NAME_hash): 8 hexadecimal digits."""
        digest = hashlib.sha1(_canonical(self._certificate.subject), usedforsecurity=False).digest()
        return f"{int.from_bytes(digest[:4], 'little'):08x}"

    def java_store(self) -> bytes:
        """A PKCS #12 trust store, for STORE_PASSWORD."""
        from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

        entry = pkcs12.PKCS12Certificate(self._certificate, b"pytest-airlock")
        return pkcs12.serialize_java_truststore([entry], BestAvailableEncryption(STORE_PASSWORD.encode()))


def _choose(below: str, make: Any, sock: Any, asked: str | None, _: ssl.SSLContext) -> None:
    """sni_callback: a wildcard stands for one label (RFC 9525, 6.3), a route for any number of them."""
    name = (asked or "").lower()
    if name.endswith(below) and name.removesuffix(below).count(".") in range(1, _LABELS):
        try:
            sock.context = make(name)
        except ValueError:
            pass  # no name that there can be a certificate for: the client finds the one for the wildcard


def _context(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    # The standard library loads keys from files only, and this one has no place on a disk.
    descriptor = os.memfd_create("airlock-certificate")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(leaf.private_key_and_cert_chain_pem.bytes())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def _canonical(subject: Any) -> bytes:
    """RFC 5280 names as OpenSSL compares them (x509_name_canon): UTF-8, lower case, single spaces; no outer SEQUENCE."""
    parts = []
    for rdn in subject.rdns:
        for attribute in rdn:
            oid = attribute.oid.dotted_string
            text = " ".join(str(attribute.value).split()).lower().encode()
            parts.append(_der(0x31, _der(0x30, _der_oid(oid) + _der(0x0C, text))))
    return b"".join(parts)


def _der(tag: int, content: bytes) -> bytes:
    """Short lengths only: no part of our subject is longer than 127 bytes."""
    if len(content) > 127:
        raise ValueError("too long a name")
    return bytes((tag, len(content))) + content


def _der_oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    if any(number > 127 for number in rest):
        raise ValueError("no attribute of ours")
    return _der(0x06, bytes((40 * first + second, *rest)))
