"""Things no test should do to the machine it runs on: each done for real, in a sandbox that is gone afterwards."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_airlock import Sandbox

CONNECT = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=60)
except TimeoutError:
    print("no answer in a minute")
except OSError as error:
    print("refused at once:", error.strerror)
"""

LOOK_UP = """
import socket
try:
    print("resolved:", socket.getaddrinfo("example.test", 443))
except socket.gaierror:
    print("no such name")
"""


def test_an_installer_and_all_that_it_changed(airlock_sandbox: Sandbox) -> None:
    done = airlock_sandbox.run(["./install.sh", "--prefix", "/usr/local"], timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "installed greet below /usr/local\n"

    assert airlock_sandbox.run(["greet", "reader"]).stdout == "Hello, reader\n"

    changed = airlock_sandbox.diff()
    assert changed.added == {"/usr/local/bin/greet", "/etc/greet.conf"}
    assert not changed.modified
    assert not changed.deleted


def test_the_next_test_sees_none_of_it(airlock_sandbox: Sandbox) -> None:
    assert not airlock_sandbox.path("/usr/local/bin/greet").exists()
    assert not airlock_sandbox.path("/etc/greet.conf").exists()
    assert not airlock_sandbox.diff().added


def test_and_neither_does_the_host(airlock_sandbox: Sandbox) -> None:
    airlock_sandbox.run(["./install.sh"], check=True)
    assert airlock_sandbox.path("/etc/greet.conf").read_text() == "GREETING=Hello\n"
    assert not Path("/etc/greet.conf").exists()
    assert not Path("/usr/local/bin/greet").exists()


def test_pip_installs_a_local_wheel(airlock_sandbox: Sandbox, wheel: Path) -> None:
    airlock_sandbox.copy_in(wheel, f"/tmp/{wheel.name}")
    before = airlock_sandbox.snapshot()
    airlock_sandbox.run(
        ["python", "-m", "pip", "install", "--no-index", f"/tmp/{wheel.name}"],
        check=True,
        timeout=120,
    )
    assert airlock_sandbox.run(["parcel"]).stdout == "a parcel from a wheel\n"

    added = airlock_sandbox.diff(since=before, ignore=["__pycache__"]).added
    assert f"{sys.prefix}/bin/parcel" in added
    assert all(path.startswith(f"{sys.prefix}/") for path in added)
    # The environment that this very test runs in has no such package:
    assert not Path(sys.prefix, "bin", "parcel").exists()


def test_the_package_is_gone_again(airlock_sandbox: Sandbox) -> None:
    done = airlock_sandbox.run(["python", "-c", "import parcel"])
    assert done.returncode == 1
    assert "No module named 'parcel'" in done.stderr


@pytest.mark.parametrize(
    ("script", "outcome"),
    [(CONNECT, "refused at once: "), (LOOK_UP, "no such name")],
    ids=["connection", "name-lookup"],
)
def test_the_network_is_locked(airlock_sandbox: Sandbox, script: str, outcome: str) -> None:
    done = airlock_sandbox.run(["python", "-c", script], check=True, timeout=120)
    assert done.stdout.startswith(outcome)


@pytest.mark.airlock(cpu=1, env={"LANG": "C"}, timeout=30)
def test_a_marker_asks_for_what_one_test_needs(airlock_sandbox: Sandbox) -> None:
    assert airlock_sandbox.shell("echo $LANG").stdout == "C\n"
