"""The network: to get out, to go unseen, to speak for the resolver."""

from __future__ import annotations

import socket
import subprocess
import threading
from typing import Any

from attacker import Box
from attacks import Fits, attack
from weakened import Replace, weaken
from weakenings import ALL_CAPABILITIES, NO_LANDLOCK, SHARED_NET

RESOLVER_ELSEWHERE = weaken(
    "the resolver's sockets elsewhere",
    Replace("made[-1].bind((netlink.RESOLVER, dns.PORT))", "made[-1].bind(('198.18.0.54', dns.PORT))"),
)

#: rtnetlink(7): RTM_NEWLINK with IFF_UP cleared, RTM_DELROUTE of the local default route; what the kernel answers.
NETLINK = """
import struct
def asked(kind, body):
    sock = socket.socket(16, socket.SOCK_RAW, 0)
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 1, 0) + body)
    number = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    return errno.errorcode[number] if number else "ok"
"""


@attack(
    {"route": "EPERM", "address": "EPERM", "link": "EPERM", "recorded": 1},
    stops="no CAP_NET_ADMIN, whatever root inside does",
    controls={(ALL_CAPABILITIES,): {"route": "ok", "address": "ok", "link": "ok", "recorded": 0}},
)
def takes_its_network_down_to_go_unseen(box: Box) -> Any:
    """Give lo another address, delete the route to everywhere, set lo down; then try to connect."""
    answer = box.attack(
        f"""{NETLINK}
far = socket.inet_aton("203.0.113.99")
answer["address"] = asked(20, struct.pack("=BBBBi", 2, 24, 0, 0, 1) + struct.pack("=HH", 8, 2) + far)
answer["route"] = asked(25, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 255, 0, 255, 0, 0))
answer["link"] = asked(16, struct.pack("=BxHiII", 0, 0, 1, 0, 1))
tried(socket.create_connection, ("192.0.2.1", 80), 5)
"""
    )
    answer["recorded"] = len(box.provider.attempts(box.handle))
    return answer


@attack(
    {"udp": "EADDRINUSE", "udp shared": "EADDRINUSE", "udp everywhere": "EADDRINUSE", "tcp": "EADDRINUSE"},
    stops="the network process holds that address",
    controls={(RESOLVER_ELSEWHERE,): {"udp": "ok", "udp shared": "ok", "udp everywhere": "EADDRINUSE", "tcp": "ok"}},
)
def takes_the_place_of_its_resolver(box: Box) -> Any:
    """Bind the address of the name server, to answer other programs in its place and hide what they ask."""
    return box.attack(
        """
def bound(kind, host, shared=False):
    with socket.socket(socket.AF_INET, kind) as sock:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return tried(sock.bind, (host, 53))
answer["udp"] = bound(socket.SOCK_DGRAM, "198.18.0.53")
answer["udp shared"] = bound(socket.SOCK_DGRAM, "198.18.0.53", shared=True)
answer["udp everywhere"] = bound(socket.SOCK_DGRAM, "0.0.0.0")
answer["tcp"] = bound(socket.SOCK_STREAM, "198.18.0.53")
"""
    )


def own_addresses() -> list[str]:
    """Of all interfaces of this host."""
    listed = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    return sorted({"127.0.0.1", "::1", *listed})


@attack(
    Fits("nobody comes, nothing connects", lambda seen: seen == {"came": [], "connected": []}),
    stops="a network name space that leads to itself",
    controls={(SHARED_NET, NO_LANDLOCK): Fits("connected", lambda seen: bool(seen["came"] and seen["connected"]))},
)
def reaches_the_host_by_any_of_its_addresses(box: Box) -> Any:
    """Each address of the host, also as IPv6-mapped, the unspecified ones, and a link-local one."""
    came: list[str] = []
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:

        def accept() -> None:
            while True:
                try:
                    visitor, address = server.accept()
                except OSError:
                    return
                came.append(address[0])
                visitor.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        targets = own_addresses()
        targets += [f"::ffff:{each}" for each in targets if ":" not in each] + ["0.0.0.0", "::", "fe80::1%lo"]
        answer: Any = box.attack(
            f"""
answer["connected"] = [host for host in {targets!r} if tried(socket.create_connection, (host, {server.getsockname()[1]}), 5) == "ok"]
"""
        )
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    return {"came": came[:3], "connected": answer["connected"][:3]}
