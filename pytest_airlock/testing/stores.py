"""Snapshots of a FakeProvider as JSON, so that they can be kept in a file and come back in another process."""

from __future__ import annotations

import base64
import errno
import json
import os
from typing import IO, Any

from pytest_airlock.testing.files import Node

__all__ = ["load", "save"]


def save(root: Node, file: IO[bytes], limit: int) -> None:
    """Raises OSError(EFBIG) for more than `limit` bytes of content."""
    if _size(root) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    file.write(json.dumps(_plain(root)).encode())


def load(file: IO[bytes]) -> Node:
    """Raises ValueError for what is no such file. Set-id bits are dropped."""
    try:
        return _node(json.loads(file.read()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _size(node: Node) -> int:
    return node.size + sum(map(_size, node.entries.values()))


def _plain(node: Node) -> dict[str, Any]:
    entries = {name: _plain(entry) for name, entry in node.entries.items()}
    data = base64.b64encode(node.data).decode()
    return {
        "kind": node.kind,
        "mode": node.mode,
        "mtime_ns": node.mtime_ns,
        "data": data,
        "size": node.size,
        "target": node.target,
        "mount": node.mount,
        "entries": entries,
    }


def _node(plain: dict[str, Any]) -> Node:
    entries = {name: _node(entry) for name, entry in plain["entries"].items()}
    words = {word: plain[word] for word in ("kind", "mtime_ns", "size", "target", "mount")}
    return Node(mode=plain["mode"] & 0o1777, data=base64.b64decode(plain["data"]), entries=entries, **words)
