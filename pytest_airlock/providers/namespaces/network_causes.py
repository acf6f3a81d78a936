"""The causes for which a sandbox's network is locked but not known: rows of the table in causes.py."""

from __future__ import annotations

from errno import (
    EAFNOSUPPORT,
    ECONNREFUSED,
    ECONNRESET,
    EINVAL,
    ENOENT,
    ENOPROTOOPT,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    EPROTONOSUPPORT,
)

from pytest_airlock.providers.namespaces.cause import Row, always

__all__ = ["NETWORK_ROWS"]

_ATTEMPTS = "network_attempts"

NETWORK_ROWS = (
    Row(
        "no-packet-sockets",
        "kernel without CONFIG_PACKET, or below a filter that forbids packet sockets",
        ("network sockets",),
        (EPERM, EAFNOSUPPORT, EPROTONOSUPPORT, ENOPROTOOPT, EOPNOTSUPP, ENOSYS),
        "packet and raw sockets cannot be made here, so what is tried over the network is refused but not known",
        "a kernel with CONFIG_PACKET=y and a filter that lets socket(2) make AF_PACKET and SOCK_RAW; every large distribution's and every container engine's does",
        always,
        feature=_ATTEMPTS,
        evidence="simulated",
    ),
    Row(
        "no-routes",
        "below a filter that forbids netlink sockets",
        ("network link up", "network address", "network route", "network everywhere"),
        (EPERM, EAFNOSUPPORT, EOPNOTSUPP, EPROTONOSUPPORT),
        "the routes of a network name space cannot be set here, so what is tried over the network fails but is not known",
        "a filter that lets socket(2) make AF_NETLINK; every container engine's does",
        always,
        feature=_ATTEMPTS,
        evidence="simulated",
    ),
    Row(
        "no-nftables",
        "kernel without CONFIG_NF_TABLES or CONFIG_NFT_TPROXY, or a module that only root of the machine can load",
        ("network divert",),
        (EPERM, EAFNOSUPPORT, EOPNOTSUPP, EPROTONOSUPPORT, ENOPROTOOPT, ENOENT, EINVAL, ENOSYS),
        "nf_tables with tproxy is not to be had here, so only names and addresses that are listed with their ports can be let through",
        '`modprobe -a nf_tables nft_tproxy` as root, or a list: network=["example.com:443"]',
        always,
        feature="network_open",
        evidence="simulated",
    ),
    Row(
        "network-process-gone",
        "somebody ended the network process of a run",
        ("network process",),
        (EPIPE, ECONNRESET, ECONNREFUSED),
        "the network process of this run has ended: sandboxes stay locked, and no new one can be made",
        "run again; if nobody killed it, its last words are in this error, and worth a bug report",
        always,
        evidence="measured",
    ),
)
