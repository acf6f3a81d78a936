"""What of one life's network leads anywhere: the names that have an address, listeners at what may be reached, connections.

A name gets an address that is nobody's, of a range of its own, when it is asked for; a listener stands at each address and
port that the policy names, so that the kernel refuses all others by itself. A new policy opens and closes listeners.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import sys
from collections.abc import Callable
from typing import NamedTuple

from . import divert, dns, pings, vetting
from .datagrams import Datagrams
from .hopper import Maker
from .loop import Loop
from .netlink import RESOLVER
from .outside import Lane, Outside
from .passage import Passage
from .policy import ANY_PORT, EVERYWHERE, LOCKED, NO_FAULT, Fault, Policy
from .recorder import TCP, UDP, Heard
from .relay import reset

__all__ = ["Gate"]

#: Of one life: names with an address, listeners, connections at a time, questions that wait for their answer.
_MOST_NAMES, _MOST_LISTENERS, _MOST_PASSAGES, _MOST_QUESTIONS = 1024, 4096, 256, 256
_BACKLOG = 1024  # who finds it full tries again a second later
_FIRST = int.from_bytes(_socket.inet_aton("198.18.1.0"), "big")
_ODD = frozenset("\\*")

Tell = Callable[[int, str], None]
"""Is called with a response code and an address, "" = none."""


class _Place(NamedTuple):
    family: int
    address: str
    port: int


class Gate:
    """Closed until a policy is set. `maker` makes sockets in this network."""

    def __init__(self, loop: Loop, outside: Outside, maker: Maker) -> None:
        self._loop, self._outside, self._maker = loop, Lane(outside), maker
        self.policy = LOCKED
        self._twist = False
        self._addresses: dict[str, str] = {}
        self._hosts: dict[str, str] = {}
        self._listeners: dict[_Place, tuple[_socket.socket, bool]] = {}
        self._passages: set[Passage] = set()
        self._paused: set[_socket.socket] = set()
        self._datagrams: list[Datagrams] = []
        self._questions = 0

    # ------------------------------------------------------------------ policies

    def set(self, policy: Policy, *, diverted: bool) -> None:
        """In force when this returns: what it forbids is reset. `diverted`: the steps of divert.py stand in this network.

        Raises OSError if listeners cannot be opened; then it is locked.
        """
        self.policy, self._twist = policy, diverted
        for passage in list(self._passages):
            passage.review(policy)
        try:
            self._sync()
            self._sync_datagrams()
        except OSError:
            self.close()
            raise

    def verdict(self, heard: Heard, asked: dns.Question | None) -> tuple[str, bool]:
        """The name that a packet is for, if it was asked for, and whether the policy lets it through."""
        if self.policy.closed:
            return "", False
        if asked is not None and heard.address == RESOLVER:
            return "", self.policy.knows(self._name(asked))
        name = self._hosts.get(heard.address, "")
        if heard.protocol == TCP:
            way = self.policy.way(name, heard.address, heard.port)
            if way is None or way.fault.connect == "refuse":
                return name, False
            return name, way.trusted or self._is_dialled(name, heard)
        return name, heard.protocol == UDP and self.carries_datagrams and self._is_dialled(name, heard)

    @property
    def carries_datagrams(self) -> bool:
        """Whether they come here: then the sandbox's own kernel refuses none."""
        return self.policy.mode == "open" and self._twist

    def _is_dialled(self, name: str, heard: Heard) -> bool:
        """Whether the dialler would try. What is an address of this very host is known to nobody but the dialler."""
        packed = _socket.inet_pton(_socket.AF_INET6 if ":" in heard.address else _socket.AF_INET, heard.address)
        listed = any(end.holds(packed) for end in self.policy.listed(heard.port))
        return bool(name) or listed or not vetting.is_special(heard.address)

    def _name(self, asked: dns.Question) -> str:
        """Whom a question is about: a service's name, of which no policy says anything, is about its host."""
        return asked.name if self.policy.knows(asked.name) else asked.host

    # ------------------------------------------------------------------ names

    def ask(self, asked: dns.Question, tell: Tell) -> bool:
        """Answer a question, now or later or, if that is the fault of the way, never. False if the name leads nowhere."""
        policy, name = self.policy, self._name(asked)
        if not policy.knows(name) or not _ODD.isdisjoint(name):
            tell(dns.NO_SUCH_NAME, "")
            return False
        route = policy.route(name)
        fault = route.fault if route is not None else NO_FAULT
        if fault.dns == "silent":
            return True
        if self._questions >= _MOST_QUESTIONS:
            tell(dns.SERVER_FAILURE, "")
            return True
        self._questions += 1

        def answered(code: int, address: str) -> None:
            self._questions -= 1
            tell(code, address)

        look_up = route is None or not route.alone
        if fault.dns_delay:
            self._loop.later(fault.dns_delay, lambda: self._answer(asked, fault, answered, look_up=look_up))
        else:
            self._answer(asked, fault, answered, look_up=look_up)
        return True

    def _answer(self, asked: dns.Question, fault: Fault, tell: Tell, *, look_up: bool) -> None:
        if fault.dns != "answer":
            tell(dns.NO_SUCH_NAME if fault.dns == "nxdomain" else dns.SERVER_FAILURE, "")
        elif asked.kind != "A":
            tell(dns.NO_ERROR, "")  # there is the name, and nothing of that kind
        elif look_up and asked.name not in self._addresses:
            self._outside.look_up(asked.name, self.policy.listed(), lambda code: self._found(asked, code, tell))
        else:
            self._found(asked, 0, tell)

    def _found(self, asked: dns.Question, code: int, tell: Tell) -> None:
        if not self.policy.knows(asked.name):
            tell(dns.NO_SUCH_NAME, "")  # there is another policy by now, or the life is over
            return
        if code:
            tell(dns.NO_SUCH_NAME if code in (errno.ENXIO, errno.EACCES, errno.EINVAL) else dns.SERVER_FAILURE, "")
            return
        try:
            address = self._address(asked.name)
        except OSError:
            sys.excepthook(*sys.exc_info())
            tell(dns.SERVER_FAILURE, "")
        else:
            tell(dns.NO_ERROR, address)

    def _address(self, name: str) -> str:
        """Of a name inside, the same for as long as this life lasts. Raises OSError where there are too many."""
        if name in self._addresses:
            return self._addresses[name]
        if len(self._addresses) >= _MOST_NAMES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        address = _socket.inet_ntoa((_FIRST + len(self._addresses)).to_bytes(4, "big"))
        self._open(self._places({name: address}))
        self._addresses[name], self._hosts[address] = address, name
        return address

    # ------------------------------------------------------------------ listeners

    def _places(self, names: dict[str, str]) -> dict[_Place, Fault]:
        """All that the policy names, of names these; of more than one for a place the first counts."""
        wanted: dict[_Place, Fault] = {}
        for end, fault in self.policy.ends():
            port = self._port(end.port)
            if end.kind == "network":
                if not (end.single and pings.is_inside(end.single)):
                    wanted.setdefault(_Place(end.family, end.single or EVERYWHERE[end.family], port), fault)
                continue
            for name, address in names.items():
                if end.names(name):
                    wanted.setdefault(_Place(_socket.AF_INET, address, port), fault)
        if self.policy.mode == "open":
            for family, address in EVERYWHERE.items():
                wanted.setdefault(_Place(family, address, divert.EVERY), NO_FAULT)
        return {place: fault for place, fault in wanted.items() if fault.connect != "refuse"}

    def _port(self, port: int) -> int:
        if port == ANY_PORT:
            return divert.EVERY
        return divert.twisted(port) if self._twist else port

    def _sync(self) -> None:
        wanted = self._places(self._addresses)
        for place, (listener, hole) in list(self._listeners.items()):
            if place not in wanted or hole != (wanted[place].connect == "black_hole"):
                del self._listeners[place]
                self._shut(listener)
        self._open(wanted)

    def _open(self, wanted: dict[_Place, Fault]) -> None:
        """Listen there, too. Raises OSError."""
        new = [place for place in wanted if place not in self._listeners]
        if len(self._listeners) + len(new) > _MOST_LISTENERS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for place in new:
            try:
                self._listen(place, hole=wanted[place].connect == "black_hole")
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise  # else a kernel without IPv6, in which no program sends it either

    def _sync_datagrams(self) -> None:
        """Those of an open network pass; a new policy ends what passed under the old one."""
        for each in self._datagrams:
            each.close()
        self._datagrams.clear()
        if self.carries_datagrams:
            for family in EVERYWHERE:
                try:
                    made = Datagrams(
                        self._loop, self._outside, self._maker, lambda address: self._hosts.get(address, ""), family
                    )
                except OSError as error:
                    if error.errno != errno.EAFNOSUPPORT:
                        raise
                else:
                    made.policy = self.policy
                    self._datagrams.append(made)

    def _listen(self, place: _Place, *, hole: bool) -> None:
        listener = self._maker.listener(place.family, _socket.SOCK_STREAM, transparent=self._twist, deaf=hole)
        try:
            listener.bind((place.address, place.port))
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        self._listeners[place] = listener, hole
        self._loop.add(listener, lambda: self._accept(listener))

    def _shut(self, listener: _socket.socket) -> None:
        self._paused.discard(listener)
        self._loop.close(listener)

    # ------------------------------------------------------------------ connections

    def _accept(self, listener: _socket.socket) -> None:
        if len(self._passages) >= _MOST_PASSAGES:
            # Whoever else comes waits in the kernel's queue.
            self._loop.change(listener, 0)
            self._paused.add(listener)
            return
        inner = self._loop.accept(listener)
        if inner is None:
            return
        address, port = inner.getsockname()[:2]
        if pings.is_inside(address):
            reset(inner)  # where nothing is diverted a listener at every address is at those, too
            return
        passage = Passage(self._loop, self._outside, inner, (self._hosts.get(address, ""), address, port), self._over)
        self._passages.add(passage)
        passage.begin(self.policy)

    def _over(self, passage: Passage) -> None:
        self._passages.discard(passage)
        for listener in self._paused:
            self._loop.change(listener, select.EPOLLIN)
        self._paused.clear()

    def close(self) -> None:
        """Nothing leads anywhere any more, and what is connected sees a reset."""
        self.policy = LOCKED
        self._outside.close()
        for listener, _ in self._listeners.values():
            self._shut(listener)
        self._listeners.clear()
        for passage in list(self._passages):
            passage.abort()
        for each in self._datagrams:
            each.close()
        self._datagrams.clear()
