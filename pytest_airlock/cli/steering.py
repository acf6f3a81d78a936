"""`airlock lock NAME`, `airlock unlock NAME`, `airlock allow NAME HOST:PORT …`: the network of a sandbox of a live run."""

from __future__ import annotations

import argparse
import errno
from typing import TYPE_CHECKING

from pytest_airlock.cli.common import Verbs, managing, policy, say, warn

if TYPE_CHECKING:
    from pytest_airlock.models import Network

__all__ = ["add_verbs"]


def add_verbs(verbs: Verbs) -> None:
    lock = verbs.add_parser("lock", help="close the network of a sandbox of a live run, DNS included")
    lock.set_defaults(step=lambda manager, arguments: manager.lock(arguments.name))
    unlock = verbs.add_parser("unlock", help="its network as before it was locked; else open")
    unlock.set_defaults(step=lambda manager, arguments: manager.unlock(arguments.name))
    allow = verbs.add_parser("allow", help="let something through, besides what is reached already")
    allow.set_defaults(step=lambda manager, arguments: manager.allow(arguments.name, *arguments.entries))
    for verb in (lock, unlock, allow):
        verb.add_argument("name", metavar="NAME")
        verb.set_defaults(verb=_steer)
    allow.add_argument(
        "entries",
        metavar="HOST:PORT",
        nargs="+",
        help="example.com:443, *.example.com:443, 192.0.2.7:80, 10.0.0.0/8:5432, [2001:db8::/32]:443; port *: every one",
    )


def _steer(arguments: argparse.Namespace) -> int:
    try:
        with managing(arguments) as manager:
            made: Network = arguments.step(manager, arguments)
    except PermissionError as error:
        if error.errno != errno.EACCES:  # an error of our own, which explains itself
            raise
        warn(f"sandbox {arguments.name!r} cannot be entered: {error.strerror}")
        return 1
    say(f"the network of {arguments.name} is {policy(made)}")
    return 0
