"""A sandbox that shares the host's network, as its test asked for: what it must not get with it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from attacker import Box
from attacks import AnyOf, attack
from attacks_network import NETLINK
from weakenings import NO_FILTER, NO_LANDLOCK

SETTINGS = ("net/ipv4/ip_forward", "net/core/somaxconn", "net/ipv4/ip_unprivileged_port_start")


def has_scopes() -> bool:
    """Whether this kernel's Landlock ends abstract sockets at the sandbox (ABI 6, Linux 6.12)."""
    from pytest_airlock.providers.namespaces.engine import landlock

    return landlock.version() >= 6


@attack(
    {"stream": "EPERM", "datagram": "EPERM"} if has_scopes() else {"stream": "ok", "datagram": "ok"},
    stops="Landlock ends abstract sockets at the sandbox; the network name space, which did, is the host's",
    controls={(NO_LANDLOCK,): {"stream": "ok", "datagram": "ok"}},
    not_shown="" if has_scopes() else "this kernel's Landlock knows no scopes, which the features say",
    shares_network=True,
)
def connects_to_abstract_sockets_of_the_host(box: Box) -> Any:
    """Abstract sockets of the host, which are of its network."""
    name = f"\0airlock-hostile-net-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        stream.bind(name)
        stream.listen()
        datagram.bind(name + "d")
        return box.attack(
            f"""
answer["stream"] = tried(socket.socket(socket.AF_UNIX).connect, {name!r})
answer["datagram"] = tried(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect, {name + "d"!r})
"""
        )


@attack(
    dict.fromkeys(SETTINGS, AnyOf("EACCES", "EROFS")),
    stops="/proc/sys is read-only, and they are another user's",
    not_shown="it would change the settings of this machine",
    users=("root",),
    shares_network=True,
)
def sets_how_the_network_of_the_host_works(box: Box) -> Any:
    """Open settings below /proc/sys/net for writing."""
    return box.attack(
        f"""
for name in {SETTINGS!r}:
    answer[name] = tried(open, "/proc/sys/" + name, "r+")
"""
    )


@attack(
    {"route": "EPERM", "address": "EPERM", "link": "EPERM", "lo": True},
    stops="capabilities count in the sandbox's own user name space, whose network this is not",
    not_shown="without that it would be this machine's network that is down",
    shares_network=True,
)
def takes_the_network_of_the_host_down(box: Box) -> Any:
    """Give lo another address, set it down, delete a route that nobody has."""
    answer = box.attack(
        f"""{NETLINK}
far = socket.inet_aton("203.0.113.99")
answer["address"] = asked(20, struct.pack("=BBBBi", 2, 24, 0, 0, 1) + struct.pack("=HH", 8, 2) + far)
answer["route"] = asked(25, struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, 1, 0) + struct.pack("=HH", 8, 1) + far)
answer["link"] = asked(16, struct.pack("=BxHiII", 0, 0, 1, 0, 1))
"""
    )
    answer["lo"] = bool(int(Path("/sys/class/net/lo/flags").read_text(), 16) & 1)
    return answer


@attack(
    {"raw": "EPROTONOSUPPORT", "packet": "EAFNOSUPPORT", "vsock": "EAFNOSUPPORT", "netfilter": "EPROTONOSUPPORT"},
    stops="system-call filter, and no capability in that network",
    controls={(NO_FILTER,): {"raw": "EPERM", "packet": "EPERM", "vsock": "not tried", "netfilter": "not tried"}},
    users=("root",),
    shares_network=True,
)
def listens_to_the_network_of_the_host(box: Box) -> Any:
    """Raw and packet sockets, and what hears of the host's connections and rules."""
    return box.attack(
        """
answer["raw"] = tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close())
answer["packet"] = tried(lambda: socket.socket(17, socket.SOCK_RAW, 0x300).close())
# A family that the hypervisor answers is never tried where nothing stops it.
held = answer["raw"] == "EPROTONOSUPPORT"
answer["vsock"] = tried(lambda: socket.socket(40, socket.SOCK_STREAM).close()) if held else "not tried"
answer["netfilter"] = tried(lambda: socket.socket(16, socket.SOCK_RAW, 12).close()) if held else "not tried"
"""
    )
