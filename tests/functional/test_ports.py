"""Ways into a sandbox, as a test uses them. Real engine."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from pytest_airlock import Sandbox, create_sandbox
from pytest_airlock.errors import SandboxDied, StaleSandbox

SERVER = "python3 -m http.server --bind {host} {port} >/dev/null 2>&1 & echo $!"
#: Takes one connection and does nothing with it.
DEAF = """
import signal, socket
server = socket.create_server(("127.0.0.1", 9000))
client, _ = server.accept()
signal.pause()
"""


@pytest.fixture
def box(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path_factory.mktemp("state")))
    with create_sandbox(provider="namespaces", source=False, ports=[8080]) as box:
        yield box


def serve(box: Sandbox, port: int = 8080, host: str = "127.0.0.1") -> None:
    box.shell(SERVER.format(host=host, port=port), check=True, cwd="/etc")
    box.wait_for_port(port, timeout=60)


def get(address: tuple[str, int], path: str = "/hostname") -> bytes:
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}{path}", timeout=60) as answer:
        return bytes(answer.read())


def test_connect_is_an_ordinary_socket(box: Sandbox) -> None:
    serve(box)
    with box.connect(8080) as sock:
        assert sock.gettimeout() == 10
        sock.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
        assert sock.makefile("rb").read().endswith(b"\r\n\r\nairlock\n")
    assert not box.network.attempts


def test_ipv6_too(box: Sandbox) -> None:
    serve(box, 8081, "::1")
    with box.connect(8081, host="::1") as sock:
        assert sock.family == socket.AF_INET6


def test_nobody_there(box: Sandbox) -> None:
    with pytest.raises(ConnectionRefusedError):
        box.connect(8080)
    with pytest.raises(TimeoutError, match="port 8080"):
        box.wait_for_port(8080, timeout=0.05)


def test_the_ports_of_the_marker_are_open_on_this_host(box: Sandbox) -> None:
    serve(box)
    assert list(box.ports) == [8080]
    assert get(box.ports[8080]) == b"airlock\n"
    assert box.ports[8080] == box.ports[8080]
    with pytest.raises(KeyError):
        _ = box.ports[1]


def test_a_forward_ends_with_its_block(box: Sandbox) -> None:
    serve(box)
    with box.forward(8080) as forward:
        assert get(forward.address) == b"airlock\n"
        assert forward.host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(forward.address, 60)


def test_after_a_reset_all_is_new(box: Sandbox) -> None:
    serve(box)
    old = box.ports[8080]
    assert get(old) == b"airlock\n"
    box.reset()
    with pytest.raises(ConnectionRefusedError):
        box.connect(8080)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(old, 60)
    serve(box)
    assert get(box.ports[8080]) == b"airlock\n"


@pytest.mark.parametrize("later", ["restore", "stop"])
def test_after_another_life_the_ports_lead_into_it(box: Sandbox, later: str) -> None:
    kept = box.snapshot()
    serve(box)
    old = box.ports[8080]
    if later == "restore":
        box.restore(kept)
    else:
        box.snapshot(stop=True)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(old, 60)
    serve(box)
    assert get(box.ports[8080]) == b"airlock\n"


@pytest.mark.parametrize("call", ["connect", "forward"])
def test_only_addresses_and_ports(box: Sandbox, call: str) -> None:
    for port, host in ((8080, "no.example.org"), (0, "127.0.0.1"), (70_000, "127.0.0.1")):
        with pytest.raises(ValueError):
            getattr(box, call)(port, host=host)
    with pytest.raises(ConnectionRefusedError):
        box.connect(8080, host="localhost")


def test_a_sandbox_dies_though_its_network_process_is_gone(box: Sandbox) -> None:
    box.forward(8080)
    provider = box._backend._provider  # type: ignore[attr-defined]
    handle = box._backend._handle  # type: ignore[attr-defined]
    pidfd = os.pidfd_open(provider._engine.found["network_process"])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
    provider.delete(handle)
    assert not provider.is_running(handle)


def test_over_is_over(box: Sandbox) -> None:
    forward = box.forward(8080)
    box._backend.end()  # type: ignore[attr-defined]
    with pytest.raises(StaleSandbox):
        box.connect(8080)
    with pytest.raises(StaleSandbox):
        box.wait_for_port(8080)
    forward.close()


def test_many_at_once_and_large_answers(box: Sandbox) -> None:
    box.run(["sh", "-c", "head -c 20000000 /dev/urandom > /tmp/large"], check=True)
    box.shell(SERVER.format(host="127.0.0.1", port=8080), check=True, cwd="/tmp")
    box.wait_for_port(8080, timeout=60)
    expected = box.path("/tmp/large").read_bytes()
    found: list[bool] = []
    address = box.ports[8080]
    threads = [threading.Thread(target=lambda: found.append(get(address, "/large") == expected)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def rss(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_nobody_reads_waits_with_the_sender(box: Sandbox) -> None:
    process = box.popen(["python3", "-c", DEAF])
    box.wait_for_port(9000, timeout=60)
    provider = box._backend._provider  # type: ignore[attr-defined]
    network = provider._engine.found["network_process"]
    with box.forward(9000) as forward, socket.create_connection(forward.address, 60) as sock:
        before = rss(network)
        sock.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while sent < 1 << 30:
                sent += sock.send(bytes(1 << 16))
        assert get_refused(box)
        assert rss(network) - before < 4 << 20
    process.kill()
    process.wait()


def get_refused(box: Sandbox) -> bool:
    """It still serves others."""
    with pytest.raises(ConnectionRefusedError):
        box.connect(1)
    return True


def test_a_sandbox_that_died_is_told(box: Sandbox) -> None:
    provider = box._backend._provider  # type: ignore[attr-defined]
    handle = box._backend._handle  # type: ignore[attr-defined]
    provider.stop(handle, grace=0.1)
    with pytest.raises(SandboxDied):
        box.connect(8080)
