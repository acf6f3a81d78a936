"""The programs and the policies they are run under. "{url}", "{host}" and "{port}" in a command are those of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from answers import HOST
from sources import NODE, NODE_DNS, REQUESTS, SOCKET, URLLIB

#: Documentation addresses (RFC 5737, RFC 3849): nobody's.
V4, V6, RESOLVER = "192.0.2.1", "2001:db8::1", "192.0.2.53"

#: What a command is about: a server by its name and port, a name alone, or an address that no policy has.
About = Literal["https", "http", "name", "address"]
_EVERY: tuple[About, ...] = ("https", "http", "name", "address")
_HOSTS: tuple[About, ...] = ("https", "http", "name")
_SERVERS: tuple[About, ...] = ("https", "http")


@dataclass(frozen=True)
class Policy:
    """One section of the table. `host` is whom programs ask for, `ports` the one of https and of http."""

    name: str
    told: str
    network: object
    served: bool
    host: str
    about: tuple[About, ...]
    ports: tuple[int, int] = (443, 80)


@dataclass(frozen=True)
class Program:
    """`needs` is what is looked for inside, a program or "python: module"; `telling` is the part of what
    it said that is shown; the last line otherwise."""

    name: str
    about: About
    needs: str
    argv: tuple[str, ...]
    telling: str = ""


_LIST = [f"{HOST}:443", f"{HOST}:80"]
POLICIES = (
    Policy("locked", "Nothing is reached. Programs ask for `api.example.com`.", "locked", served=False, host=HOST, about=_EVERY),
    Policy(
        "served",
        "The same, and the test is `https://api.example.com` and `http://api.example.com` (`network.serve`).",
        "locked", served=True, host=HOST, about=_HOSTS,
    ),
    Policy(
        "allow-list: its host",
        "`api.example.com:443` and `:80` are allowed, and led to a server of the test.",
        _LIST, served=True, host=HOST, about=_HOSTS,
    ),
    Policy("allow-list: another name", "Programs ask for `other.example.com`.", _LIST, served=True, host="other.example.com", about=_EVERY),
    Policy(
        "allow-list: another port",
        "Programs ask for `api.example.com:8443`, or `:8080` without TLS.",
        _LIST, served=True, host=HOST, about=_SERVERS, ports=(8443, 8080),
    ),
    Policy("open: a server", "`api.example.com` is led to a server of the test.", "open", served=True, host=HOST, about=_HOSTS),
    Policy(
        "open: an address that is nobody's",
        "192.0.2.1 and the like are refused on an open network, too, as private addresses are.",
        "open", served=False, host=V4, about=(*_SERVERS, "address"),
    ),
)  # fmt: skip

_APT = "deb [trusted=yes] {url}apt ./"
_APT_GET = """
echo "$1" >/tmp/one.list
exec apt-get -qq -o Dir::Etc::SourceList=/tmp/one.list -o Dir::Etc::SourceParts=/dev/null --error-on=any update
"""
PROGRAMS = (
    Program("curl", "https", "curl", ("curl", "-sS", "-o", "/dev/null", "{url}")),
    Program("curl, http", "http", "curl", ("curl", "-sS", "-o", "/dev/null", "{url}")),
    Program("wget", "https", "wget", ("wget", "-nv", "-O", "/dev/null", "{url}"), "wget: .*|failed: .*|Unable.*|URL:.*"),
    Program("busybox wget, http", "http", "busybox", ("busybox", "wget", "-O", "/dev/null", "{url}"), "wget: .*|saved"),
    Program("pip download", "https", "python: pip", ("python", "-m", "pip", "download", "-d", "/tmp/got", "-i", "{url}simple", "parcel"), "Successfully.*"),
    Program("git ls-remote", "https", "git", ("git", "ls-remote", "{url}code.git"), "fatal.*|refs/heads/main"),
    Program("git clone", "https", "git", ("git", "clone", "{url}code.git", "/tmp/clone"), "fatal.*"),
    Program("apt-get update", "https", "apt-get", ("sh", "-c", _APT_GET, "sh", _APT), "^[EW]: Failed.*"),
    Program("apt-get update, http", "http", "apt-get", ("sh", "-c", _APT_GET, "sh", _APT), "^[EW]: Failed.*"),
    Program("npm view", "https", "npm", ("npm", "view", "--registry", "{url}npm/", "parcel", "version"), r"code E.*"),
    Program("cargo search", "https", "cargo", ("cargo", "search", "--index", "sparse+{url}crates/", "parcel"), r"^\[.*|^error:.*"),
    Program("Python urllib", "https", "python", ("python", "-c", URLLIB, "{url}")),
    Program("Python requests", "https", "python: requests", ("python", "-c", REQUESTS, "{url}")),
    Program("node fetch", "https", "node", ("node", "-e", NODE, "{url}")),
    Program("node dns.resolve4", "name", "node", ("node", "-e", NODE_DNS, "{host}")),
    Program("Go, CGO_ENABLED=0", "https", "go-static", ("go-static", "{url}")),
    Program("Go, CGO_ENABLED=1", "https", "go-cgo", ("go-cgo", "{url}")),
    Program("Java", "https", "Fetch.class", ("java", "-cp", "/usr/local/bin", "Fetch", "{url}"), r"^\d+$|^java.*"),
    Program("TCP socket", "http", "python", ("python", "-c", SOCKET, "tcp", "{host}", "{port}")),
    Program("getent ahosts", "name", "getent", ("getent", "ahosts", "{host}")),
    Program("dig", "name", "dig", ("dig", "+noall", "+comments", "{host}"), "status: [A-Z]+"),
    Program("dig +tcp", "name", "dig", ("dig", "+tcp", "+noall", "+comments", "{host}"), "status: [A-Z]+"),
    Program("nslookup", "name", "nslookup", ("nslookup", "{host}"), r"\*\*.*|Name:.*"),
    Program("busybox nslookup", "name", "busybox", ("busybox", "nslookup", "{host}"), r"\*\*.*|Name:.*"),
    Program("ping", "name", "ping", ("ping", "-n", "-c", "1", "-W", "20", "{host}"), "From.*|ping: .*|.*packets.*"),
    Program("ping of an address", "address", "ping", ("ping", "-n", "-c", "1", "-W", "20", V4), "From.*|ping: .*|.*packets.*"),
    Program("ping6 of an address", "address", "ping6", ("ping6", "-n", "-c", "1", "-W", "20", V6), "From.*|ping6?: .*|.*packets.*"),
    Program("curl of an IPv6 address", "address", "curl", ("curl", "-sS", f"https://[{V6}]/")),
    Program("TCP to an address", "address", "python", ("python", "-c", SOCKET, "tcp", V4, "443")),
    Program("TCP to an IPv6 address", "address", "python", ("python", "-c", SOCKET, "tcp", V6, "443")),
    Program("UDP 443, as QUIC", "address", "python", ("python", "-c", SOCKET, "udp", V4, "443")),
    Program("UDP 443 over IPv6, as QUIC", "address", "python", ("python", "-c", SOCKET, "udp", V6, "443")),
    Program("UDP 443, not connected, waits 2 s", "address", "python", ("python", "-c", SOCKET, "udp", V4, "443", "to")),
    Program("dig, a resolver of its own", "address", "dig", ("dig", f"@{RESOLVER}", "+time=5", "+noall", "+comments", HOST), "communications error.*|failed: .*|status: [A-Z]+|timed out"),
    Program("dig +tcp, a resolver of its own", "address", "dig", ("dig", f"@{RESOLVER}", "+tcp", "+time=5", HOST), "communications error.*|failed: .*|status: [A-Z]+|timed out"),
    Program("nslookup, a resolver of its own", "address", "nslookup", ("nslookup", HOST, RESOLVER), "communications error.*|timed out.*"),
    Program("busybox nslookup, a resolver of its own", "address", "busybox", ("busybox", "nslookup", HOST, RESOLVER), "timed out.*|[*]{2}.*"),
)  # fmt: skip
