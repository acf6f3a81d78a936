"""An open network, and a list: names and addresses that lead back to this host, to its neighbours and to who hosts it."""

from __future__ import annotations

from typing import Any

from attacker import Box
from attacks import Fits, attack
from attacks_network import own_addresses
from outer import FIRST, PROBES, own_name, rule, serving
from weakenings_network import NOT_VETTED

#: As inet_aton(3) and resolvers read them.
NAMES = (
    *("localhost", "localhost.localdomain", "127.0.0.1", "127.1", "127.0.1", "0x7f000001", "0x7f.1", "0177.0.0.1"),
    *("2130706433", "017700000001", "0", "0.0.0.0", "0x0", "255.255.255.255", "ip6-localhost"),
)
#: Which no name is.
ODD_NAMES = {
    "::1": [b"::1"],
    "a NUL at its end": [b"localhost\0"],
    "a NUL in it": [b"127.0.0.1\0", b"example", b"org"],
    "a dot in a label": [b"127.0.0.1"],
    "a space": [b"localhost "],
    "a scope": [b"fe80::1%lo"],
    "the root": [],
    "a star": [b"*"],
}


def none(value: Any) -> dict[str, Any]:
    return {**{what: [3, ""] for what in (*NAMES, "its name", *ODD_NAMES)}, "its addresses": value}


@attack(
    none([]),
    stops="a name is looked up once, and only an address of the outside world is dialled, and no other than that",
    controls={
        (NOT_VETTED,): Fits(
            "this host is reached by name and by address",
            lambda seen: (
                seen["127.1"][0] == seen["2130706433"][0] == seen["its name"][0] == 0 and seen["its addresses"]
            ),
        )
    },
    users=("root",),
)
def leads_an_open_network_back_to_this_host(box: Box) -> Any:
    """Names of this host, numbers that resolvers take for addresses, names that end early for who reads C; its addresses."""
    name, _ = own_name()
    mine = own_addresses()
    with serving("0.0.0.0") as server:
        rule(box, mode="open")
        answer: Any = box.attack(
            f"""{PROBES}
for name in {NAMES!r}:
    answer[name] = asked(name)
answer["its name"] = asked({name!r})
for what, labels in {ODD_NAMES!r}.items():
    answer[what] = asked(labels)
targets = [({FIRST!r}, {server.port}), *((host, {server.port}) for host in {mine!r} if not host.startswith("127.") and host != "::1")]
answer["its addresses"] = [
    host for host, port in targets if reached((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) == "reached"
]
"""
        )
    return answer


@attack(
    {"its name": [3, ""], "another's": [3, ""]},
    stops="an address of this host that a name leads to must be listed as an address",
    controls={
        (NOT_VETTED,): Fits("the name is known", lambda seen: seen["its name"][0] == 0 and seen["reached"] == "reached")
    },
    users=("root",),
)
def allows_a_name_that_leads_to_this_host(box: Box) -> Any:
    """A name on the list whose address is one of this host, as who owns a name may give it at any time (rebinding)."""
    name, address = own_name()
    with serving(address) as server:
        rule(box, f"{name}:{server.port}")
        return box.attack(
            f"""{PROBES}
answer["its name"] = asked({name!r})
answer["another's"] = asked("localhost")
if answer["its name"][0] == 0:
    answer["reached"] = reached(({FIRST!r}, {server.port}))
"""
        )


@attack(
    dict.fromkeys(("AWS", "GCE", "Azure", "Alibaba", "Oracle", "AWS, IPv6", "a neighbour", "carrier"), "ECONNRESET"),
    stops="addresses that are nobody's in the outside world are dialled only if they are listed",
    not_shown="without it these addresses would be tried in earnest",
    users=("root",),
)
def asks_the_cloud_that_hosts_the_machine_for_secrets(box: Box) -> Any:
    """The metadata services of clouds, and networks that are private."""
    rule(box, mode="open")
    return box.attack(
        f"""{PROBES}
for what, host in {{
    "AWS": "169.254.169.254", "GCE": "169.254.169.253", "Azure": "168.63.129.16", "Alibaba": "100.100.100.200",
    "Oracle": "192.0.0.192", "AWS, IPv6": "fd00:ec2::254", "a neighbour": "192.168.0.1", "carrier": "100.64.0.1",
}}.items():
    answer[what] = reached((host, 80), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
"""
    )
