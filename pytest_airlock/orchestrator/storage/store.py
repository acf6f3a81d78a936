"""The state directory: one JSON record per sandbox, and the leases that say whose it is (design: store and leases).

    records/NAME.json      identity and intent of a sandbox; *.corrupt = moved aside, never deleted
    leases/NAME.lease      locked for as long as the owner lives
    leases/NAME.owner      who that is
    locks/NAME.lock        held for microseconds, while one of the above is changed
    networks/NAME.lock     held while a network policy is put in force and recorded, or a life begins
    kept/NAME/             the files of a kept sandbox that could not live on (exporting.py)

Whatever is killed at whatever line, the next one to come finds a whole record or none, and a lease that can be taken.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import ValidationError

from pytest_airlock.errors import AlreadyExists, CorruptRecord, InvalidName, SandboxNotFound, StoreError
from pytest_airlock.models import Owner, SandboxRecord
from pytest_airlock.orchestrator.clock import SystemClock
from pytest_airlock.orchestrator.contracts import Clock, Lease
from pytest_airlock.orchestrator.policy.names import check_name
from pytest_airlock.orchestrator.storage.lease import LeaseFiles
from pytest_airlock.orchestrator.storage.locks import NameLocks
from pytest_airlock.orchestrator.storage.process_identity import describe, verdict
from pytest_airlock.orchestrator.storage.state_files import (
    MAX_FILE,
    NEW,
    FileIdentity,
    default_state_dir,
    ensure_private_dir,
    file_identity,
    read_file,
    remove_file,
    remove_tree,
    store_errors,
    write_file,
)

__all__ = ["MACHINE", "FileStore"]

#: `locked(MACHINE)`: the lock under which resources are reserved. No sandbox can have this name.
MACHINE = "@machine"

_VERSION = 1
_POLL = 0.05
#: Nanoseconds in which a kernel's clock for files (CONFIG_HZ is 100 at least) has certainly moved on.
_TICKS = 20_000_000


class FileStore:
    """contracts.Store over files. `warn` is told what was found damaged and moved aside."""

    def __init__(
        self, root: Path | None = None, *, warn: Callable[[str], None] | None = None, clock: Clock | None = None
    ) -> None:
        self.root = default_state_dir() if root is None else root.absolute()
        self._warn = warn or (lambda _: None)
        self._clock = clock or SystemClock()
        ensure_private_dir(self.root, strict=False)
        for part in ("records", "leases", "locks", "networks"):
            ensure_private_dir(self.root / part)
        self._records = self.root / "records"
        self._locks = NameLocks(self.root / "locks", self._has_files)
        self._networks = NameLocks(self.root / "networks", lambda name: os.path.exists(self._path(name)))
        self._leases = LeaseFiles(self.root / "leases", self.locked)
        self._seen: dict[str, tuple[FileIdentity, SandboxRecord]] = {}

    def reserve(self, name: str, owner: Owner, *, wait: float = 0.0) -> Lease:
        """Take `name`, for which there is no record, or raise AlreadyExists; `wait` seconds for it to become free."""
        check_name(name)
        deadline = self._clock.monotonic() + wait
        while True:
            lease, holder = self._try_reserve(name, owner)
            if lease is not None:
                return lease
            if self._clock.monotonic() >= deadline:
                raise self._taken(name, holder)
            self._clock.sleep(_POLL)

    def save(self, record: SandboxRecord) -> None:
        check_name(record.name)
        with self.locked(record.name):
            # Times are as coarse as the kernel's clock tick: of two own writes in one tick the inode alone may not tell.
            self._seen.pop(record.name, None)
            write_file(self._path(record.name), record.model_dump_json().encode())

    def load(self, name: str) -> SandboxRecord:
        """The record; no lock is needed, a record is replaced as a whole."""
        check_name(name)
        path = self._path(name)
        seen, identity = self._seen.get(name), file_identity(path)
        if seen is not None and seen[0] == identity:
            return seen[1]  # the same file: parsing takes longer than all the rest of a reset
        data = read_file(path)
        if data is None:
            self._seen.pop(name, None)
            raise SandboxNotFound(name)
        try:
            record = _parse(name, data)
        except ValueError:
            return self._load_or_move_aside(name)
        # Looked at again: it may have been replaced between the look and the reading. And not remembered while it is so young
        # that another process' next record could have the same inode, size and times.
        if identity is not None and identity == file_identity(path) and time.time_ns() - identity[1] > _TICKS:
            self._seen[name] = identity, record
        return record

    def remove(self, name: str) -> None:
        """Remove the record, and before it what was exported; none there is no error."""
        kept = self.kept_dir(name)
        if kept.parent.is_symlink():
            raise StoreError(str(kept.parent), "it is a link, and nothing outside is removed", hint="move it away")
        remove_tree(kept)
        with self.locked(name):
            self._remove_record(name)
        self._networks.drop(name)

    def kept_dir(self, name: str) -> Path:
        return self.root / "kept" / check_name(name)

    def records(self) -> Sequence[SandboxRecord]:
        found = (self._load_if_whole(name) for name in sorted(self._names("records", ".json")))
        return [record for record in found if record is not None]

    def is_orphan(self, record: SandboxRecord) -> bool:
        """The owner is proved dead. Where its pid tells nothing (another boot or namespace), its free lease does."""
        found = verdict(record.owner)
        return found == "dead" or (found == "unknown" and self._leases.is_free(record.name))

    def adopt(self, name: str, owner: Owner) -> Lease | None:
        check_name(name)
        with self.locked(name):
            try:
                record = self.load(name)
            except SandboxNotFound:
                return None
            if not self.is_orphan(record):
                return None
            lease = self._leases.take(name, owner)
            if lease is None:
                return None
            try:
                # Who dies while cleaning up leaves an orphan again.
                self.save(record.model_copy(update={"owner": owner}))
            except BaseException:
                lease.release()
                raise
            return lease

    def locked(self, name: str) -> AbstractContextManager[None]:
        if name != MACHINE:
            check_name(name)
        return self._locks.hold(name)

    def network_lock(self, name: str) -> AbstractContextManager[None]:
        return self._networks.hold(check_name(name))

    def sweep(self) -> None:
        """Remove what killed processes left of names without a record: free leases, half-written files, locks."""
        leases = self._names("leases", ".lease") | self._names("leases", ".owner")
        for name in sorted(leases | self._names("records", f".json{NEW}")):
            with self.locked(name):
                if not os.path.exists(self._path(name)) and self._is_abandoned(name):
                    self._leases.forget(name)
                    self._remove_record(name)
        for name in sorted(self._names("locks", ".lock")):
            with self.locked(name):
                pass  # leaving it removes a file that nothing needs
        for name in sorted(self._names("networks", ".lock")):
            self._networks.drop(name)

    def _try_reserve(self, name: str, owner: Owner) -> tuple[Lease | None, Owner | None]:
        with self.locked(name):
            try:
                return None, self.load(name).owner
            except SandboxNotFound:
                pass
            lease = self._leases.take(name, owner)
            return lease, None if lease else self._leases.holder(name)

    def _remove_record(self, name: str) -> None:
        self._seen.pop(name, None)
        remove_file(self._path(name))
        remove_file(self._path(name) + NEW)

    def _taken(self, name: str, holder: Owner | None) -> AlreadyExists:
        if holder is None:
            return AlreadyExists(name)
        hint = "choose another name, or wait for it to be destroyed"
        if verdict(holder) == "dead":
            hint = f"its owner is dead: remove it with `airlock destroy {name}`"
        return AlreadyExists(name, owner=describe(holder), hint=hint)

    def _is_abandoned(self, name: str) -> bool:
        holder = self._leases.holder(name)
        return self._leases.is_free(name) or (holder is not None and verdict(holder) == "dead")

    def _load_or_move_aside(self, name: str) -> SandboxRecord:
        path = self._path(name)
        with self.locked(name):
            data = read_file(path)
            if data is None:
                raise SandboxNotFound(name)
            try:
                return _parse(name, data)
            except ValueError as error:
                why = _first_fault(error)
            aside = f"{self._records}/{name}.{time.time_ns()}.corrupt"
            with store_errors(path):
                os.rename(path, aside)
        raise CorruptRecord(path, why, moved_to=aside)

    def _has_files(self, name: str) -> bool:
        return os.path.exists(self._path(name)) or self._leases.exists(name)

    def _load_if_whole(self, name: str) -> SandboxRecord | None:
        try:
            return self.load(name)
        except SandboxNotFound:
            return None  # removed since it was listed
        except CorruptRecord as error:
            self._warn(str(error))
            return None

    def _names(self, part: str, suffix: str) -> set[str]:
        """The sandboxes that have a file with this suffix; files of other making are left alone."""
        directory = self.root / part
        with store_errors(directory):
            names = {entry.removesuffix(suffix) for entry in os.listdir(directory) if entry.endswith(suffix)}
        return {name for name in names if name == MACHINE or _is_name(name)}

    def _path(self, name: str) -> str:
        return f"{self._records}/{name}.json"


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except InvalidName:
        return False
    return True


def _parse(name: str, data: bytes) -> SandboxRecord:
    """ValueError for anything but a whole record of this version and name."""
    if len(data) > MAX_FILE:
        raise ValueError(f"it has more than {MAX_FILE} bytes")
    try:
        record = SandboxRecord.model_validate_json(data)
    except ValidationError:
        version = _version(data)
        if version != _VERSION:
            raise ValueError(f"it has version {version!r}, this airlock reads version {_VERSION}") from None
        raise
    if record.name != name:
        raise ValueError(f"it is the record of {record.name!r}")
    return record


def _version(data: bytes) -> object:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is damaged or truncated ({error})") from None
    return content.get("version") if isinstance(content, dict) else None


def _first_fault(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
