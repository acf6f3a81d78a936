"""Addresses that a name may lead to."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest

from pytest_airlock.providers.namespaces.engine.net import vetting
from pytest_airlock.providers.namespaces.engine.net.policy import End

#: Nobody is there who is asked by this test: the addresses are only judged.
PUBLIC = ("8.8.8.8", "1.1.1.1", "100.63.255.255", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450:4001::1")


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_ones(address: str) -> None:
    assert vetting.refusal(address, []) == 0


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255", "169.254.169.254", "168.63.129.16",
        "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.7", "192.88.99.1", "192.168.1.1", "198.18.1.0", "198.19.255.255",
        "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8",
        "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:20::1", "2001:db8::7",
        "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00::1", "fe80::1", "fec0::1", "ff02::1", "4000::1",
    ],
)  # fmt: skip
def test_no_special_one(address: str) -> None:
    assert vetting.refusal(address, []) == errno.EACCES


def end(address: str, prefix: int) -> End:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return End("network", socket.inet_pton(family, address).hex(), 0, prefix)


@pytest.mark.parametrize(
    ("address", "listed", "code"),
    [
        ("127.0.0.1", end("127.0.0.0", 8), 0),
        ("10.1.2.3", end("10.1.2.3", 32), 0),
        ("10.1.2.4", end("10.1.2.3", 32), errno.EACCES),
        ("::1", end("::1", 128), 0),
        ("fd00::7", end("fd00::", 8), 0),
        ("127.0.0.1", end("::", 0), errno.EACCES),
        ("::ffff:127.0.0.1", end("::", 0), errno.EACCES),
        ("::ffff:127.0.0.1", end("127.0.0.0", 8), errno.EACCES),
        ("::ffff:127.0.0.1", end("::ffff:127.0.0.1", 128), errno.EACCES),
    ],
)
def test_those_that_were_listed_as_such(address: str, listed: End, code: int) -> None:
    assert vetting.refusal(address, [listed]) == code


OWN = """
import sys
from pytest_airlock.providers.namespaces.engine.net import vetting
print(vetting.refusal("8.8.8.8", []), vetting.refusal("8.8.4.4", []), vetting.refusal("2606:4700::1", []))
"""


@pytest.mark.parametrize("nonlocal_bind", ["0", "1"])
def test_not_those_of_this_host(nonlocal_bind: str) -> None:
    """In a network name space of the test's own, which has one of them."""
    script = """
ip link set lo up && ip address add 8.8.8.8/32 dev lo && ip route add default dev lo || exit 77
echo "$1" > /proc/sys/net/ipv4/ip_nonlocal_bind && echo "$1" > /proc/sys/net/ipv6/ip_nonlocal_bind || exit 77
shift; exec "$@"
"""
    user = () if os.getuid() == 0 else ("--user", "--map-root-user")
    words = ["unshare", *user, "--net", "sh", "-c", script, "sh", nonlocal_bind, sys.executable, "-c", OWN]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip(f"no address can be added here: {done.stderr}")
    assert done.stdout.split() == [str(errno.EACCES), "0", "0"], done.stderr
