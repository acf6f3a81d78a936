"""Programs that every machine has, under each network policy, and what of their tries is refused. Real engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pytest_airlock import Sandbox, create_sandbox

HOST, OTHER = "api.example.com", "other.example.com"
ALLOWED = [f"{HOST}:443"]
URLLIB = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).status)"
ANSWERS = {
    "/": "hello\n",
    "/simple/parcel/": (200, {"Content-Type": "text/html"}, '<a href="/parcel-1.0.tar.gz">parcel-1.0.tar.gz</a>'),
    "/code.git/info/refs": f"{'1' * 40}\trefs/heads/main\n",
    "/code.git/HEAD": "ref: refs/heads/main\n",
}
PROGRAMS = {
    "python": ["python", "-c", URLLIB, "{url}"],
    "curl": ["curl", "-sS", "{url}"],
    "git": ["git", "ls-remote", "{url}code.git"],
    "pip": ["python", "-m", "pip", "index", "versions", "--index-url", "{url}simple", "parcel"],
}
#: A question to the resolver by TCP or UDP; prints the response code and how many answers there are.
ASK = """
import socket, struct, sys
how, kind, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b".")) + b"\\0"
query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack(">HH", kind, 1)
if how == "tcp":
    sock = socket.create_connection(("198.18.0.53", 53), 30)
    sock.send(struct.pack(">H", len(query)) + query)
    answer = sock.makefile("rb").read(struct.unpack(">H", sock.recv(2, socket.MSG_WAITALL))[0])
else:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(30)
    sock.connect(("198.18.0.53", 53))
    sock.send(query)
    answer = sock.recv(500)
print(answer[3] & 15, struct.unpack(">H", answer[6:8])[0])
"""
UDP = """
import errno, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(30)
sock.connect((host, port))
sock.send(bytes.fromhex("000101000001000000000000") + b"\\3own\\7example\\0" + bytes.fromhex("00100001"))
try:
    sock.recv(1)
except OSError as error:
    print(errno.errorcode.get(error.errno))
"""
A, SRV = 1, 33

Make = Callable[[object], AbstractContextManager[Sandbox]]


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without pytester, which has modules imported again: those of cryptography cannot be."""
    state = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(state))
    return state


@pytest.fixture
def make() -> Make:
    return lambda network: create_sandbox(profile="dev", network=network, source=False, timeout=120)


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> list[str]:
    argv = PROGRAMS[request.param]
    if shutil.which(argv[0]) is None and argv[0] != "python":
        pytest.skip(f"{argv[0]} is not installed")
    return argv


def run(box: Sandbox, argv: list[str], host: str = HOST, port: int = 443) -> int:
    url = f"https://{host}:{port}/"
    return box.run([word.replace("{url}", url) for word in argv]).returncode


def tried(box: Sandbox) -> set[tuple[str, str, int | None, str]]:
    found = box.network.attempts
    return {(each.protocol, each.host or each.address, each.port, each.verdict) for each in found}


def test_locked_it_fails_and_its_question_is_known(make: Make, program: list[str]) -> None:
    with make("locked") as box:
        assert run(box, program) != 0
        assert tried(box) == {("dns", HOST, 53, "refused")}


@pytest.mark.parametrize("network", ["locked", ALLOWED, "open"], ids=["locked", "allow", "open"])
def test_served_it_succeeds_and_nothing_is_refused(make: Make, program: list[str], network: object) -> None:
    with make(network) as box, box.network.serve(f"https://{HOST}", ANSWERS) as served:
        assert run(box, program) == 0, f"{box.transcript}\n{served.broken}"
        assert tried(box) == {("dns", HOST, 53, "allowed"), ("tcp", HOST, 443, "allowed")}
        assert served.requests


def test_of_an_allow_list_other_names_and_ports_are_refused(make: Make, program: list[str]) -> None:
    with make(ALLOWED) as box, box.network.serve(f"https://{HOST}", ANSWERS) as served:
        assert run(box, program, OTHER) != 0
        assert run(box, program, HOST, 8443) != 0
        assert tried(box) == {
            ("dns", OTHER, 53, "refused"),
            ("dns", HOST, 53, "allowed"),
            ("tcp", HOST, 8443, "refused"),
        }
        assert served.requests == ()


@pytest.mark.parametrize("how", ["tcp", "udp"])
def test_a_question_has_the_verdict_of_its_name_however_it_is_asked(make: Make, how: str) -> None:
    with make("locked") as box, box.network.route(f"{HOST}:443", to=("127.0.0.1", 9)):
        assert box.run(["python", "-c", ASK, how, str(A), HOST], check=True).stdout == "0 1\n"
        assert box.run(["python", "-c", ASK, how, str(A), OTHER], check=True).stdout == "3 0\n"
        assert tried(box) == {("dns", HOST, 53, "allowed"), ("dns", OTHER, 53, "refused")}


@pytest.mark.parametrize(
    ("kind", "name", "code", "verdict"),
    [
        (SRV, f"_https._tcp.{HOST}", 0, "allowed"),  # as apt asks
        (SRV, f"_https._tcp.{OTHER}", 3, "refused"),
        (SRV, f"data._tcp.{HOST}", 3, "refused"),
        (A, f"_data.{HOST}", 3, "refused"),  # which would have to be looked up outside
    ],
)
def test_a_question_for_a_service_is_about_its_host(make: Make, kind: int, name: str, code: int, verdict: str) -> None:
    with make(ALLOWED) as box:
        assert box.run(["python", "-c", ASK, "udp", str(kind), name], check=True).stdout == f"{code} 0\n"
        assert tried(box) == {("dns", name, 53, verdict)}


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "169.254.169.254", "10.0.0.1"])
def test_an_open_network_refuses_addresses_that_are_nobodys_and_says_so(make: Make, address: str) -> None:
    reset = "import socket, sys; socket.create_connection((sys.argv[1], 443), 30).recv(1)"
    with make("open") as box:
        assert "ConnectionResetError" in box.run(["python", "-c", reset, address]).stderr
        assert box.run(["python", "-c", UDP, address, "443"]).stdout in ("EHOSTUNREACH\n", "EACCES\n")
        assert box.run(["python", "-c", UDP, address, "53"]).stdout in ("EHOSTUNREACH\n", "EACCES\n")
        assert tried(box) == {
            ("tcp", address, 443, "refused"),
            ("udp", address, 443, "refused"),
            ("dns", "own.example", 53, "refused"),
        }
