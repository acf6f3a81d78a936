"""Entries of an allow-list and ends of routes: which names or addresses, at which TCP port.

- `example.com:443`: that name; `*.example.com:443`: every name below it
- `192.0.2.7:80`, `[2001:db8::7]:80`: one address; `10.0.0.0/8:5432`, `[2001:db8::/32]:443`: the addresses of a network
- `example.com:*`: at every port
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

__all__ = ["ANY_PORT", "Endpoint", "parse"]

ANY_PORT = 0
_LONGEST = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class Endpoint(NamedTuple):
    """`host` is a name in lower case (ASCII), or an address or network in its canonical form; `port` 0 = every one.

    `kind`: "name", "below" (every name below `host`) or "network" (one address is a network of that size).
    """

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        port = "*" if self.port == ANY_PORT else str(self.port)
        if self.kind != "network":
            return f"{'*.' if self.kind == 'below' else ''}{self.host}:{port}"
        network = ipaddress.ip_network(self.host)
        text = str(network.network_address) if network.num_addresses == 1 else self.host
        return f"[{text}]:{port}" if network.version == 6 else f"{text}:{port}"


def parse(text: str) -> Endpoint:
    """Raises ValueError saying what is wrong with it."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} has no port: write {text.strip(':') or 'example.com'}:443, or :* for every port")
    return Endpoint(*_host(host, text), _port(port, text))


def _port(text: str, entry: str) -> int:
    if text == "*":
        return ANY_PORT
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65_536):
        raise ValueError(f"{entry!r}: {text!r} is no port: they are 1 to 65535, and * is every one")
    return int(text)


def _host(text: str, entry: str) -> tuple[str, str]:
    bracketed = text.startswith("[") and text.endswith("]")
    address = text[1:-1] if bracketed else text
    try:
        network = ipaddress.ip_network(address)
    except ValueError as error:
        if bracketed or "/" in text or ":" in text or text.replace(".", "").isdecimal():
            raise ValueError(f"{entry!r}: {error}") from None
        return _name(text, entry)
    if "%" in address:
        raise ValueError(f"{entry!r}: an interface means nothing inside")
    if (network.version == 6) != bracketed:
        raise ValueError(f"{entry!r}: an IPv6 address stands in brackets, [2001:db8::1]:443, and no other does")
    return "network", str(network)


def _name(text: str, entry: str) -> tuple[str, str]:
    kind = "below" if text.startswith("*.") else "name"
    name = text.removeprefix("*.").removesuffix(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"{entry!r}: {error}") from None
    if not name or len(name) > _LONGEST or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{entry!r}: {text!r} is no host name; a * stands for whole labels at the front only")
    if name == "localhost" or name.endswith(".localhost"):
        raise ValueError(
            f"{entry!r}: {name} is the sandbox itself; to lead it to a server of the test: network.route('db.test:5432', to=…)"
        )
    return kind, name
