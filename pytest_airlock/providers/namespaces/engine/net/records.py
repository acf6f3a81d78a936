"""What was tried in one life of a sandbox: the first tries in order, and how many more there were."""

from __future__ import annotations

import time
from typing import NamedTuple

from . import dns
from .netlink import RESOLVER
from .recorder import ICMP, ICMP6, TCP, UDP, Heard

__all__ = ["MOST", "Records", "Tried"]

#: Kept of one life. What comes first says most.
MOST = 10_000
_MOST_BYTES = 4 << 20
_PAGE, _FIXED = 48_000, 160  # bytes of a message, and of a record without the texts from inside
_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMP6: "icmp6"}


class Tried(NamedTuple):
    """One try: seconds since the epoch, protocol, name asked for, address, port (-1 = none), question, verdict."""

    time: float
    protocol: str
    host: str
    address: str
    port: int
    question: str
    verdict: str


class Records:
    """Bounded, whatever is tried."""

    def __init__(self) -> None:
        self.kept: list[Tried] = []
        self.lost = 0
        self.size = 0  # bytes, about

    @property
    def full(self) -> bool:
        return len(self.kept) >= MOST or self.size >= _MOST_BYTES

    def __len__(self) -> int:
        return len(self.kept)

    def page(self, start: int) -> list[Tried]:
        """From the `start`-th on what fits a message."""
        room, end = _PAGE, start
        while end < len(self.kept) and room > 0:
            room -= _FIXED + len(self.kept[end].host) + len(self.kept[end].question)
            end += 1
        return self.kept[start:end]

    def hear(self, heard: Heard, asked: dns.Question | None, host: str, *, allowed: bool) -> None:
        """A packet that was sent to `host` ("" = not known), or with a question to a name server."""
        name, question = _NAMES.get(heard.protocol, f"protocol {heard.protocol}"), ""
        if asked is not None:
            name, host, question = "dns", asked.name, f"{asked.kind} {asked.name}"
        self._add(name, host, heard.address, heard.port, question, allowed=allowed)

    def ask(self, asked: dns.Question, *, allowed: bool) -> None:
        """A question by TCP, of which no single packet tells."""
        self._add("dns", asked.name, RESOLVER, dns.PORT, f"{asked.kind} {asked.name}", allowed=allowed)

    def _add(self, protocol: str, host: str, address: str, port: int, question: str, *, allowed: bool) -> None:
        if self.full:
            self.lost += 1
            return
        self.size += _FIXED + len(host) + len(question)
        self.kept.append(
            Tried(time.time(), protocol, host, address, port, question, "allowed" if allowed else "refused")
        )
