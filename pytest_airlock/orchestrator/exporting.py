"""What is left of a kept sandbox that could not live on: the files it changed, on the host (r12, r44).

    kept/NAME/changes.json   every change since the clean snapshot; `left_out` says why the content of one is not here
    kept/NAME/files/PATH     what was added or modified

All of it is hostile. It is made by Landing, as what copy_out brings: modes masked to 0755, no link followed, none
made that leads out, no special file made.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_airlock.errors import ProviderError, UnsupportedFeature
from pytest_airlock.models import Export
from pytest_airlock.orchestrator.storage.state_files import ensure_private_dir, remove_tree, store_errors, write_file
from pytest_airlock.orchestrator.undo import Undo
from pytest_airlock.providers.base import Change, Diffs, Handle, Provider, TreeEntry
from pytest_airlock.sandbox.copying import Copied, Landing

__all__ = ["EXPORT_LIMIT", "export"]

#: Bytes of content in all.
EXPORT_LIMIT = 2 * 1024**3
MAX_CHANGES = 100_000
#: Characters of all paths together, and of all texts of links.
MAX_TEXT = 16 * 1024**2


def export(provider: Provider, handle: Handle, since: str, target: Path, *, limit: int = EXPORT_LIMIT) -> Export:
    """Write what changed since a snapshot to `target`, made anew. The sandbox must be running, and quiet.

    Content that is beyond `limit` (the largest files go first) or cannot be had is left out, and said; that is no error.
    Raises StoreError for the host's side and what the provider raises of its own; then nothing is left of `target`.
    """
    if not isinstance(provider, Diffs):
        raise UnsupportedFeature("diff", provider.name, "it cannot tell what changed")
    remove_tree(target)  # of an export whose process was killed
    ensure_private_dir(target.parent)
    ensure_private_dir(target)
    try:
        changes, incomplete = _listed(provider.diff(handle, since))
        copied = Copied()
        with store_errors(target), Landing(target / "files", limit, copied) as landing:
            landing.make(TreeEntry("", "dir", 0o700))
            carrier = _Carrier(provider, handle, landing, copied)
            carrier.carry(changes, limit)
        described = [carrier.described(change) for change in changes]
        document = {
            "version": 1,
            "sandbox": handle.name,
            "files": copied.files,
            "bytes": copied.bytes,
            "incomplete": incomplete,
            "changes": described,
        }
        write_file(str(target / "changes.json"), json.dumps(document, indent=1).encode() + b"\n")
    except BaseException as error:
        undo = Undo()
        undo.add("what was exported until then", lambda: remove_tree(target))
        undo.run(error)
        raise
    left_out = len(carrier.left_out) + bool(incomplete)
    return Export(path=str(target), files=copied.files, bytes=copied.bytes, changes=len(changes), left_out=left_out)


def _listed(changes: Iterable[Change]) -> tuple[list[Change], str]:
    """The changes, parents first, and why there are more of them."""
    listed: list[Change] = []
    text = 0
    incomplete = ""
    try:
        for number, change in enumerate(changes):
            text += len(change.path)
            if number == MAX_CHANGES or text > MAX_TEXT:
                incomplete = f"more than {number:,} changes: the others are neither listed nor here"
                break
            if not change.mtime_only:
                listed.append(change)
    except OSError as error:
        incomplete = f"the list breaks off: {_why(error)}"
    return sorted(listed, key=lambda change: change.path.split("/")), incomplete


class _Carrier:
    """Carries the content of changes to a landing; `left_out` is why the content of a path did not arrive."""

    def __init__(self, provider: Provider, handle: Handle, landing: Landing, copied: Copied) -> None:
        self._provider = provider
        self._handle = handle
        self._landing = landing
        self._copied = copied
        self._wanted: dict[str, str] = {}
        self._partial: set[str] = set()
        self._landed: set[str] = set()
        self._targets: dict[str, str] = {}
        self._text = 0
        self.left_out: dict[str, str] = {}

    def carry(self, changes: list[Change], limit: int) -> None:
        present = [change for change in changes if change.kind != "deleted"]
        self._weigh(present, limit)
        self._wanted = {change.path: change.file for change in present if change.path not in self.left_out}
        tree = None
        for change in present:
            if change.path in self.left_out or (tree is not None and change.path.startswith(tree)):
                continue
            whole = change.file == "dir" and change.kind == "added" and change.path not in self._partial
            if whole:
                tree = f"{change.path}/"
            try:
                for entry in self._entries(change, whole=whole):
                    self._make(entry)
            except (OSError, ProviderError) as error:
                self.left_out[change.path] = _why(error)
        for path in self._wanted.keys() - self._landed:
            self.left_out.setdefault(path, "the sandbox did not hand it out")

    def described(self, change: Change) -> dict[str, object]:
        told: dict[str, object] = {
            "kind": change.kind,
            "path": change.path,
            "type": change.file,
            "size": change.size,
            "mode": f"{change.mode:04o}",
        }
        if change.kind != "deleted":
            for word, known in (("target", self._targets), ("left_out", self.left_out)):
                if change.path in known:
                    told[word] = known[change.path]
        return told

    def _weigh(self, changes: Iterable[Change], limit: int) -> None:
        """Leave out the largest files, so that of what tells most, many small files, all is there."""
        left = limit
        for change in sorted((change for change in changes if change.file == "file"), key=lambda change: change.size):
            left -= change.size
            if left < 0:
                self.left_out[change.path] = f"beyond the limit of {limit:,} bytes in all"
                self._partial.update(_ancestors(change.path))

    def _entries(self, change: Change, *, whole: bool) -> Iterator[TreeEntry]:
        """A directory that is new comes as one tree, which is one call instead of one for each of its files."""
        base = change.path[1:]
        if whole or change.file == "file":
            for entry in self._provider.export_tree(self._handle, change.path, limit=self._landing.left):
                path = f"{base}/{entry.path}" if entry.path else base
                yield dataclasses.replace(entry, path=path)
        elif change.file == "symlink":
            target = self._provider.stat(self._handle, change.path, follow_symlinks=False).target
            yield TreeEntry(base, "symlink", target=target)
        else:
            yield TreeEntry(base, change.file, change.mode)

    def _make(self, entry: TreeEntry) -> None:
        path = f"/{entry.path}"
        if self._wanted.get(path) != entry.kind:
            return  # not what was listed, so not weighed either
        if entry.target is not None and (text := self._text + len(entry.target)) <= MAX_TEXT:
            self._text = text
            self._targets[path] = entry.target
        before = self._copied.files, self._copied.bytes
        try:
            self._landing.make(entry, parents=True)
        except (OSError, ProviderError) as error:
            self._landing.discard(entry.path)
            self._copied.files, self._copied.bytes = before
            self.left_out[path] = _why(error)
            return
        self._landed.add(path)
        while self._copied.skipped:
            self.left_out[path] = self._copied.skipped.pop()[1]


def _ancestors(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _why(error: OSError | ProviderError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
