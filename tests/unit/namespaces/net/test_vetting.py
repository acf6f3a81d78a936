"""What a name may not lead to, wherever it is said to."""

from __future__ import annotations

import errno

import pytest

from pytest_airlock.providers.namespaces.engine.net import vetting
from pytest_airlock.providers.namespaces.engine.net.policy import End


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.100.100.200",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.31.255.255",
        "192.0.0.192",
        "192.168.0.1",
        "198.19.255.255",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2001::1",
        "2002:7f00:1::",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_no_address_of_this_host_of_its_neighbours_or_of_a_cloud_that_hosts_it(address: str) -> None:
    assert vetting.refusal(address, []) == errno.EACCES


@pytest.mark.parametrize("address", ["1.1.1.1", "168.63.129.15", "2606:4700::1111"])
def test_addresses_of_the_outside_world_may_be_dialled(address: str) -> None:
    assert vetting.refusal(address, []) == 0


def test_what_is_listed_as_an_address_may_be_dialled_and_its_neighbour_not() -> None:
    listed = [End("network", "a9fea9fe", 80, 32)]
    assert vetting.refusal("169.254.169.254", listed) == 0
    assert vetting.refusal("169.254.169.253", listed) == errno.EACCES
