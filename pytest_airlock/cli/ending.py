"""`airlock stop NAME`, `airlock destroy NAME` and `airlock gc`: what dead runs left, and what was kept."""

from __future__ import annotations

import argparse

from pytest_airlock.cli.common import Verbs, managing, say, warn

__all__ = ["add_verbs"]


def add_verbs(verbs: Verbs) -> None:
    stop = verbs.add_parser("stop", help="stop a sandbox that no live run holds; its files stay")
    stop.add_argument("name", metavar="NAME")
    stop.set_defaults(verb=_stop)
    destroy = verbs.add_parser("destroy", help="remove a sandbox that no live run holds")
    destroy.add_argument("name", metavar="NAME")
    destroy.add_argument("--missing-ok", action="store_true", help="none of that name is no error")
    destroy.set_defaults(verb=_destroy)
    gc = verbs.add_parser("gc", help="remove everything that dead runs left")
    gc.add_argument("--kept", action="store_true", help="also what was kept on purpose")
    gc.set_defaults(verb=_gc)


def _stop(arguments: argparse.Namespace) -> int:
    with managing(arguments) as manager:
        manager.stop(arguments.name)
    say(f"stopped {arguments.name}")
    return 0


def _destroy(arguments: argparse.Namespace) -> int:
    with managing(arguments) as manager:
        manager.destroy(arguments.name, missing_ok=arguments.missing_ok)
    say(f"destroyed {arguments.name}")
    return 0


def _gc(arguments: argparse.Namespace) -> int:
    with managing(arguments) as manager:
        collected = manager.orphans.collect_all(kept=arguments.kept)
        left = manager.store.records()
    for one in collected:
        (warn if one.error else say)(one.text)
    kept = [record.name for record in left if record.kept]
    live = [record.name for record in left if not record.kept and not manager.store.is_orphan(record)]
    if live:
        say(f"left alone, held by live runs: {', '.join(live)}")
    if kept:
        say(f"kept on purpose (`airlock gc --kept` removes what no live run holds): {', '.join(kept)}")
    if not (collected or live or kept):
        say("nothing to collect")
    return 1 if any(one.error for one in collected) else 0
