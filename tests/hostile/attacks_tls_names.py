"""TLS to a server whose name is allowed: to speak to another one behind it. What a list cannot do is shown, too."""

from __future__ import annotations

import os
from typing import Any

from attacker import Box
from attacks import Fits, attack
from outer import FIRST, PROBES, allowed_by_name
from weakenings_network import ENDS_NOT_SEEN, HANDSHAKES_ONLY, NO_TLS_CHECK

#: RFC 8446, 4.1.2 and 5.1; RFC 6066, 3; RFC 5246, E.2.
HELLO = f"""{PROBES}
def block(size, body):
    return len(body).to_bytes(size, "big") + body

def extension(kind, body):
    return kind.to_bytes(2, "big") + block(2, body)

def names(*hosts):
    return extension(0, block(2, b"".join(b"\\0" + block(2, host) for host in hosts)))

def message(*extensions):
    body = b"\\3\\3" + bytes(32) + b"\\0" + block(2, b"\\x13\\1") + block(1, b"\\0") + block(2, b"".join(extensions))
    return b"\\1" + block(3, body)

def records(data, size=1 << 14):
    return b"".join(b"\\x16\\3\\1" + block(2, data[at : at + size]) for at in range(0, len(data), size))

ssl_2 = b"\\1\\3\\3" + struct.pack(">HHH", 3, 0, 16) + b"\\0\\0\\x2f" + bytes(16)
ssl_2 = (0x8000 | len(ssl_2)).to_bytes(2, "big") + ssl_2
"""
OTHER = "elsewhere.example.org"
TRIES = {
    "another": f"records(message(names(b'{OTHER}')))",
    "none": "records(message())",
    "an empty one": "records(message(names(b'')))",
    "two": f"records(message(names(mine, b'{OTHER}')))",
    "two extensions": f"records(message(names(mine), names(b'{OTHER}')))",
    "below it": "records(message(names(b'x.' + mine)))",
    "with a NUL": "records(message(names(mine + b'\\0')))",
    "with a dot": "records(message(names(mine + b'.')))",
    "in records of one byte": f"records(message(names(b'{OTHER}')), 1)",
    "after an empty record": f"records(b'') + b'\\x16\\3\\1\\0\\0' + records(message(names(b'{OTHER}')))",
    "too long": f"records(message(extension(21, bytes(20_000)), names(b'{OTHER}')))",
    "SSL 2": "ssl_2",
    "after an alert": f"b'\\x15\\3\\1\\0\\2\\1\\x5a' + records(message(names(b'{OTHER}')))",
    "after a change of ciphers": f"b'\\x14\\3\\3\\0\\1\\1' + records(message(names(b'{OTHER}')))",
    "after data": f"b'\\x17\\3\\3\\0\\0' + records(message(names(b'{OTHER}')))",
}
#: Which a mere look at the first byte would let through.
ODD_STARTS = ("SSL 2", "after an alert", "after a change of ciphers", "after data")
SENT_OTHERWISE = (
    "another, byte by byte",
    "another after an urgent byte",
    "its own with an urgent byte in it",
    "SSL 2, byte by byte",
)


def outcomes(odd: str, other: str) -> dict[str, str]:
    names = dict.fromkeys((*TRIES, *SENT_OTHERWISE), other)
    return {
        **names,
        **dict.fromkeys((*ODD_STARTS, SENT_OTHERWISE[-1]), odd),
        "its own": "reached",
        "its own, cut up": "reached",
    }


@attack(
    outcomes("ECONNRESET", "ECONNRESET"),
    stops="the first bytes are looked at before one is carried: TLS, of any form, goes on only with that name",
    controls={
        (HANDSHAKES_ONLY,): outcomes("reached", "ECONNRESET"),
        (NO_TLS_CHECK,): outcomes("reached", "reached"),
    },
    users=("root",),
)
def asks_in_tls_for_another_server(box: Box) -> Any:
    """A ClientHello to an allowed name with another name, none, two, in pieces, and in forms that have no name."""
    with allowed_by_name(box) as (name, server):
        tries = ", ".join(f"{what!r}: {data}" for what, data in TRIES.items())
        return box.attack(
            f"""{HELLO}
mine, target = {name.encode()!r}, ({FIRST!r}, {server.port})
asked({name!r})
for what, data in {{{tries}}}.items():
    answer[what] = reached(target, data)
answer["another, byte by byte"] = reached(target, records(message(names(b"{OTHER}"))), pieces=1)
answer["another after an urgent byte"] = reached(target, records(message(names(b"{OTHER}"))), urgent=b"!")
# Without the low byte of its length the first extension is empty, and what it holds are the next two.
inside = b"\\0" + names(mine) + (0xFAFB).to_bytes(2, "big") + (len(names(b"{OTHER}")) + 1).to_bytes(2, "big")
data = records(message(extension(0xFAFA, inside), names(b"{OTHER}"))) + b"\\x14"
at = data.index(b"\\xfa\\xfa") + 4
answer["its own with an urgent byte in it"] = reached(target, data[at:], urgent=data[:at])
answer["SSL 2, byte by byte"] = reached(target, ssl_2, pieces=1)
answer["its own"] = reached(target, records(message(names(mine))))
answer["its own, cut up"] = reached(target, records(message(names(mine)), 10), pieces=1)
"""
        )


def processor_time(pid: int) -> float:
    """Seconds that a process has run (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        words = file.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@attack(
    Fits("under a second of processor time", lambda seen: seen < 1),
    stops="a program that ends within its ClientHello is reset at once",
    controls={(ENDS_NOT_SEEN,): Fits("all of a processor, for as long as a handshake may last", lambda seen: seen > 3)},
    users=("root",),
)
def keeps_the_network_process_awake_by_half_a_handshake(box: Box) -> Any:
    """Begin a ClientHello, and end: what waits for the rest would be told of that end without end."""
    assert box.provider._engine is not None
    pid = box.provider._engine.found["network_process"]
    with allowed_by_name(box) as (name, server):
        before = processor_time(pid)
        box.attack(
            f"""{PROBES}
asked({name!r})
with socket.create_connection(({FIRST!r}, {server.port}), 60) as sock:
    sock.send(b"\\x16\\3\\1\\1\\0\\1")
    sock.shutdown(socket.SHUT_WR)
    tried(sock.recv, 1)
"""
        )
        return processor_time(pid) - before
