"""A network with a list: to get at something that is not on it."""

from __future__ import annotations

from typing import Any

from attacker import Box
from attacks import AnyOf, By, Fits, attack
from attacks_network import own_addresses
from outer import FIRST, NOBODY, NOBODY_6, PROBES, allowed_by_name, own_name, rule, serving
from weakenings import ALL_CAPABILITIES
from weakenings_network import ANY_END

from pytest_airlock.providers.base import Route

#: A port with a listener that the steps of divert.py lead to, and the two at which it may be had directly.
ENDS = {
    "its port": "(FIRST, port)",
    "another port": "(FIRST, other)",
    "another port, no server": "(FIRST, 1)",
    "the twisted port": "(FIRST, port ^ 0xF000)",
    "the twisted port of the other": "(FIRST, other ^ 0xF000)",
    "the next name's address": "(NEXT, port)",
    "the address before": "('198.18.0.255', port)",
    "an address of nobody": "(NOBODY, port)",
    "the resolver": "('198.18.0.53', port)",
    "its own address": "('198.18.0.1', port)",
    "loopback": "('127.0.0.1', port)",
    "loopback, twisted": "('127.0.0.1', port ^ 0xF000)",
    "loopback, port 1": "('127.0.0.1', 1)",
    "everywhere, twisted": "('0.0.0.0', port ^ 0xF000)",
    "nobody, port 1": "(NOBODY, 1)",
    "nobody, twisted": "(NOBODY, port ^ 0xF000)",
}
_REFUSED = dict.fromkeys(ENDS, "ECONNREFUSED")
#: The address of the server is listed, else it would be refused as this host's; mostly it is that of loopback.
_LISTED = dict.fromkeys(
    ("loopback, twisted", "everywhere, twisted", "the twisted port of the other"), AnyOf("ECONNRESET", "ECONNREFUSED")
)


@attack(
    {**_REFUSED, "its port": "reached", "the twisted port": "ECONNRESET", **_LISTED},
    stops="a listener stands at what the list names and nowhere else; who comes to it another way has no way on",
    controls={
        # What was let through is vetted, and no address but the server's is good.
        (ANY_END,): Fits(
            "another port: reached", lambda seen: (seen["its port"], seen["another port"]) == ("reached", "reached")
        )
    },
    users=("root",),
)
def tries_ports_and_addresses_beside_an_allowed_name(box: Box) -> Any:
    """Other ports of the name's address, addresses beside it, and the ports at which the network process listens."""
    with allowed_by_name(box) as (name, server), serving(server.address) as other:
        ways = [f"{name}:{server.port}", *(f"{server.address}:{each.port}" for each in (server, other))]
        rule(box, *ways)
        tries = ", ".join(f"{what!r}: {end}" for what, end in ENDS.items())
        return box.attack(
            f"""{PROBES}
FIRST, NEXT, NOBODY, port, other = {FIRST!r}, "198.18.1.1", {NOBODY!r}, {server.port}, {other.port}
asked({name!r})
for what, end in {{{tries}}}.items():
    answer[what] = reached(end)
"""
        )


@attack(
    {
        "mapped": "reached",
        "mapped, another port": "ECONNREFUSED",
        "mapped, nobody": "ECONNREFUSED",
        "IPv6": "ECONNREFUSED",
        "IPv6 of the host": [],
        "IPv6 loopback": "ECONNREFUSED",
        "NAT64": "ECONNREFUSED",
        "6to4": "ECONNREFUSED",
    },
    stops="an address in IPv6 that carries one of IPv4 is that one; of IPv6 the list names none",
    controls={
        (ANY_END,): Fits("another port: reached", lambda seen: seen["mapped, another port"] == "reached"),
    },
    users=("root",),
)
def says_an_address_in_another_way(box: Box) -> Any:
    """IPv4-mapped addresses of what is allowed and of what is not, and IPv6."""
    mine = [address for address in own_addresses() if ":" in address and address != "::1"]
    with allowed_by_name(box) as (name, server), serving(server.address) as other:
        rule(box, f"{name}:{server.port}", *(f"{server.address}:{each.port}" for each in (server, other)))
        return box.attack(
            f"""{PROBES}
asked({name!r})
for what, host, port in (
    ("mapped", "::ffff:{FIRST}", {server.port}),
    ("mapped, another port", "::ffff:{FIRST}", {other.port}),
    ("mapped, nobody", "::ffff:{NOBODY}", {server.port}),
    ("IPv6", {NOBODY_6!r}, {server.port}),
    ("IPv6 loopback", "::1", {server.port}),
    ("NAT64", "64:ff9b::7f00:1", {server.port}),
    ("6to4", "2002:7f00:1::", {server.port}),
):
    answer[what] = reached((host, port), family=socket.AF_INET6)
answer["IPv6 of the host"] = [host for host in {mine!r} if reached((host, {server.port}), family=socket.AF_INET6) != "ECONNREFUSED"]
"""
        )


@attack(
    {
        "by UDP": [3, ""],
        "by TCP": [3, ""],
        "a resolver of its own": ["ECONNREFUSED", ""],
        "a resolver of its own, TCP": ["ECONNREFUSED", ""],
        "over HTTPS": "ECONNREFUSED",
        "over TLS": "ECONNREFUSED",
        "QUIC": "ECONNREFUSED",
    },
    stops="the resolver knows the names of the list; no other is reached, and with a list no UDP",
    controls={
        (ANY_END,): Fits("the name is known", lambda seen: seen["by UDP"][0] == seen["by TCP"][0] == 0),
    },
    users=("root",),
)
def asks_elsewhere_for_names(box: Box) -> Any:
    """A name that is not on the list, of the sandbox's resolver and of one of its own: by UDP, TCP, TLS, HTTPS, QUIC."""
    with allowed_by_name(box) as (name, server):
        # So that it would be good, were it known.
        rule(box, f"{name}:{server.port}", "127.0.0.0/8:9")
        return box.attack(
            f"""{PROBES}
answer["by UDP"] = asked("localhost")
answer["by TCP"] = asked("localhost", tcp=True)
answer["a resolver of its own"] = asked("localhost", {NOBODY!r})
answer["a resolver of its own, TCP"] = asked("localhost", {NOBODY!r}, tcp=True)
answer["over HTTPS"] = reached(({NOBODY!r}, 443))
answer["over TLS"] = reached(({NOBODY!r}, 853))
asked({name!r})
answer["QUIC"] = reached(({FIRST!r}, {server.port}), kind=socket.SOCK_DGRAM)
"""
        )


@attack(
    {"transparent": "EPERM", "transparent 6": "EPERM", "mark": "EPERM", "source route": "EPERM", "lo": "reached"},
    stops="no CAP_NET_RAW, no CAP_NET_ADMIN: sockets of its own are led to by no step, and all ways lead to lo",
    controls={
        (ALL_CAPABILITIES,): {
            "transparent": "ok",
            "transparent 6": "ok",
            "mark": "ok",
            "source route": "no answer",
            "lo": "reached",
        }
    },
)
def sets_options_of_its_sockets(box: Box) -> Any:
    """IP_TRANSPARENT, to be led to; SO_MARK and a source route (RFC 791), to be led elsewhere; a device to be bound to."""
    with allowed_by_name(box) as (name, server):
        return box.attack(
            f"""{PROBES}
asked({name!r})
for what, family, level, option in (("transparent", 2, 0, 19), ("transparent 6", 10, 41, 75), ("mark", 2, 1, 36)):
    with socket.socket(family) as sock:
        answer[what] = tried(sock.setsockopt, level, option, 1)
for what, level, option, value in (
    ("source route", 0, 4, b"\\x83\\x07\\x04" + socket.inet_aton({NOBODY!r}) + b"\\0"),
    ("lo", 1, 25, b"lo"),
):
    with socket.socket() as sock:
        sock.settimeout(5)
        try:
            sock.setsockopt(level, option, value)
            sock.connect(({FIRST!r}, {server.port}))
            sock.send(b"x")
            answer[what] = "reached" if sock.recv(1) else "ended"
        except TimeoutError:
            answer[what] = "no answer"
        except OSError as error:
            answer[what] = errno.errorcode[error.errno]
"""
        )


#: Binds and listens where the network process does; then another program of the sandbox connects, many times.
STEAL = """
taken = []
for target in ((FIRST, port ^ 0xF000), ("0.0.0.0", port ^ 0xF000), ("127.0.0.1", 1), (FIRST, port)):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.append(tried(sock.bind, target))
    if taken[-1] == "ok":
        sock.listen(100)
    keep.append(sock)
"""


@attack(
    By(
        Fits("some went astray within the sandbox", lambda seen: seen["beside"][0] == "ok"),
        root={"beside": ["EADDRINUSE", "EADDRINUSE", "ok", "ok"], "all went well": True},
    ),
    stops="another user made those sockets; where it is the same one, a sandbox is one domain of trust: who is robbed is itself",
    not_shown="what is taken is a program's of the same sandbox, and goes to no server but the allowed one",
    users=("root",),
)
def takes_the_place_of_an_allowed_server(box: Box) -> Any:
    """Bind the address and port of an allowed name, and of the network process' listener (SO_REUSEPORT)."""
    with allowed_by_name(box) as (name, server):
        answer: Any = box.attack(
            f"""{PROBES}
FIRST, port, keep = {FIRST!r}, {server.port}, []
asked({name!r})
{STEAL}
answer["beside"] = taken
found = [reached((FIRST, port)) for _ in range(40)] if "ok" not in taken[:1] else []
answer["all went well"] = set(found) == {{"reached"}}
"""
        )
    return answer


@attack(
    {"mode": "locked", "told": True, "reached": "ECONNREFUSED"},
    stops="a policy whose listeners cannot be opened is none: it is locked, and the test is told",
    not_shown="a list that is half in force would be no list",
    users=("root",),
)
def occupies_the_ports_of_a_policy_to_come(box: Box) -> Any:
    """Bind the ports at which the network process will listen, before it does."""
    with serving() as server:
        holder = box.python(
            f"""
sock = socket.socket()
sock.bind(("0.0.0.0", {server.port} ^ 0xF000))
sock.listen()
print("ready", flush=True)
signal.pause()
"""
        )
        told = False
        try:
            rule(box, "10.0.0.0/8:" + str(server.port))
        except OSError:
            told = True
        except Exception as error:  # noqa: BLE001 - what it is, is the answer
            told = "Address already in use" in str(error)
        answer = box.attack(f"{PROBES}\nanswer['reached'] = reached(('10.0.0.1', {server.port}))")
        holder.kill_tree()
        mode = box.provider._of(box.handle, box.provider._boxes[box.handle.name]).policy()["mode"]
        return {"mode": mode, "told": told, **answer}


@attack(
    {
        "its own port": "reached",
        "another port": "ECONNREFUSED",
        "another name": [3, ""],
        "another address": "ECONNREFUSED",
    },
    stops="a route leads to one port of one server",
    controls={
        (ANY_END,): Fits("the name is known", lambda seen: seen["another name"][0] == 0),
    },
    users=("root",),
)
def takes_a_route_to_a_fake_for_another_way(box: Box) -> Any:
    """From a name that is led to a server of the test: to another port of this host's loopback device, and another address."""
    with serving() as server, serving() as other:
        name, _ = own_name()
        rule(box, f"{name}:9", "127.0.0.0/8:9", routes=(Route("fake.example.com:80", ("127.0.0.1", server.port)),))
        return box.attack(
            f"""{PROBES}
asked("fake.example.com")
answer["its own port"] = reached(({FIRST!r}, 80))
answer["another port"] = reached(({FIRST!r}, {other.port}))
answer["another name"] = asked("localhost")
answer["another address"] = reached(("127.0.0.1", {other.port}))
"""
        )


@attack(
    {"the port": "reached", "another": "ECONNRESET"},
    stops="the policy is asked for each connection, whichever listener it came to",
    controls={(ANY_END,): {"the port": "reached", "another": "reached"}},
    users=("root",),
)
def has_a_port_whose_twist_is_that_of_every_port(box: Box) -> Any:
    """An allowed port that is listened for at the port which catches all others."""
    name, address = own_name()
    with serving(address) as server, serving(address) as other:
        addresses = [f"{address}:{each.port}" for each in (server, other)]
        rule(box, *addresses, routes=(Route(f"{name}:61441", (address, server.port)),))
        return box.attack(
            f"""{PROBES}
asked({name!r})
answer["the port"] = reached(({FIRST!r}, 61441))
answer["another"] = reached(({FIRST!r}, {other.port}))
"""
        )
