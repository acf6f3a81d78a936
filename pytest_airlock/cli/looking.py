"""`airlock list` and `airlock status NAME`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from pytest_airlock.cli.common import Verbs, managing, policy, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_airlock.models import SandboxInfo

__all__ = ["add_verbs"]


def add_verbs(verbs: Verbs) -> None:
    listing = verbs.add_parser("list", help="every sandbox that is recorded, of all runs")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(verb=_list)
    status = verbs.add_parser("status", help="all that is known of one sandbox")
    status.add_argument("name", metavar="NAME")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(verb=_status)


def _list(arguments: argparse.Namespace) -> int:
    with managing(arguments) as manager:
        found = manager.list()
    if arguments.json:
        say(json.dumps([info.model_dump(mode="json") for info in found], indent=2))
    elif found:
        exports = any(info.export for info in found)  # a column only where there is something to say
        rows = [("NAME", "STATE", "PROVIDER", "PROFILE", "NETWORK", "OWNER", "KEPT AS FILES"), *map(_row, found)]
        for row in _aligned(rows if exports else [row[:-1] for row in rows]):
            say(row)
    else:
        say("no sandboxes")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    with managing(arguments) as manager:
        info = manager.status(arguments.name)
    if arguments.json:
        say(info.model_dump_json(indent=2))
        return 0
    facts = {
        "name": info.name,
        "state": f"{info.state}{', kept' if info.kept else ''}",
        "provider": info.provider,
        "profile": info.profile,
        "image": info.image or "the provider's own",
        "user": info.user,
        "network": policy(info.network),
        "before lock": policy(info.before_lock) if info.before_lock else "",
        "owner": _owner(info),
        "enforced": ", ".join(info.enforced),
        "mounts": ", ".join(f"{mount['source']} at {mount['target']} ({mount['mode']})" for mount in info.mounts),
        "snapshots": ", ".join(info.snapshots),
        "export": _export(info),
        "error": info.error,
        "remains": info.remains,
    }
    for row in _aligned([(word, fact) for word, fact in facts.items() if fact]):
        say(row)
    return 0


def _row(info: SandboxInfo) -> tuple[str, ...]:
    state = f"{info.state}{'*' if info.error else ''}"
    network = policy(info.network, most=2)
    if info.before_lock:
        network += f" (before: {policy(info.before_lock, most=2)})"
    return info.name, state, info.provider, info.profile, network, _owner(info), _export(info)


def _export(info: SandboxInfo) -> str:
    from pytest_airlock.orchestrator.policy.resources import format_size

    export = info.export
    if export is None:
        return ""
    left_out = f", {export.left_out:,} left out: see its changes.json" if export.left_out else ""
    files = "1 file" if export.files == 1 else f"{export.files:,} files"
    return f"{export.path} ({files}, {format_size(export.bytes)}{left_out})"


def _owner(info: SandboxInfo) -> str:
    owner = info.owner
    words = ["kept, left by" if info.kept else "", f"pid {owner.pid}", owner.worker, owner.test]
    return " ".join(word for word in words if word)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
