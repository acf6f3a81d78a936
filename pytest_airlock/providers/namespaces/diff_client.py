"""What changed in a sandbox, read from the process that walks its layers (engine/diff.py)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import IO

from pytest_airlock.providers.base import Change, ChangeKind
from pytest_airlock.providers.namespaces.engine.frames import (
    ADDED,
    CHANGE,
    CHANGES,
    DELETED,
    MODIFIED,
    ChangeRecord,
    FrameError,
    is_plain,
)
from pytest_airlock.providers.namespaces.replies import DEADLINE, Patience, Replies

__all__ = ["read_changes"]

_KINDS: dict[int, ChangeKind] = {ADDED: "added", MODIFIED: "modified", DELETED: "deleted"}


def read_changes(
    stream: IO[bytes],
    *,
    limit: int = 1_000_000,
    died: Callable[[], Exception] | None = None,
    deadline: float = DEADLINE,
) -> Iterator[Change]:
    """The changes that `diff` writes to the other end of `stream`, which stays open.

    Raises OSError (EOVERFLOW: more than the differ's limit), ProviderError for a stream that hangs, lies or has more than
    `limit` changes, and what `died` returns (default: a ProviderError) if it ends early.
    """
    replies = Replies(stream, "list changes", bound=CHANGES, patience=Patience(deadline), died=died)
    for count, (_, payload) in enumerate(replies.frames(CHANGE)):
        if count == limit:
            raise replies.refuse(f"sent more than {limit} changes")
        try:
            record = ChangeRecord.unpack(payload)
        except FrameError as error:
            raise replies.refuse(f"sent {error}") from error
        path = record.path
        if path != b"/" and not (path[:1] == b"/" and is_plain(path[1:])):
            raise replies.refuse(f"sent the path {path[:100]!r}")
        kind = replies.kind(record.mode)
        yield Change(
            _KINDS[record.kind], os.fsdecode(path), kind, record.size, stat.S_IMODE(record.mode), record.mtime_only
        )
