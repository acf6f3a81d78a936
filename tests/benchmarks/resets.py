"""What is left over after many resets: nothing may be."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from measure import Samples
from process_tree import descendants, is_init, mounts, open_files, unique_set_size
from sandboxes import dirty
from subject import SPEC, session

from pytest_airlock.orchestrator import AirlockSession
from pytest_airlock.orchestrator.storage.store import FileStore

LEFT = "left over after resets"
#: What resets may leave none of.
COUNTED = ("processes", "mounts", "descriptors", "files")


@dataclass(frozen=True)
class LeftOver:
    """`more` is what there is more of after `resets` than before them; memory in bytes, None where we may not look."""

    resets: int
    more: Mapping[str, int]
    memory: int | None

    @property
    def samples(self) -> Samples:
        return Samples(LEFT, {0: sum(max(0, self.more[kind]) for kind in COUNTED)})


def left_over(resets: int) -> LeftOver:
    """Counted here and in all processes below, after a tenth of the resets to fill caches, and after all of them."""
    with session() as airlock:
        store = airlock.manager.store
        assert isinstance(store, FileStore)
        _reset(airlock, max(10, resets // 10))
        before, held = steady(store.root), memory()
        _reset(airlock, resets)
        after = steady(store.root)
        grown = None if held is None else (memory() or held) - held
    return LeftOver(resets, {kind: after[kind] - before[kind] for kind in COUNTED}, grown)


def _reset(airlock: AirlockSession, times: int) -> None:
    for _ in range(times):
        box = airlock.acquire(SPEC)
        dirty(box)
        airlock.release(box)


def steady(state: Path, looks: int = 10, seconds: float = 5.0) -> dict[str, int]:
    """The counts, once so many looks in a row were the same, or after `seconds`: spares are made, and die, beside us."""
    deadline = time.monotonic() + seconds
    now, same = count(state), 1
    while same < looks and time.monotonic() < deadline:
        time.sleep(0.02)
        before, now = now, count(state)
        same = same + 1 if now == before else 1
    return now


def count(state: Path) -> dict[str, int]:
    servers = _servers()
    return {
        "processes": len(list(descendants(os.getpid()))),
        "mounts": mounts(servers),
        "descriptors": sum(map(open_files, servers)),
        "files": sum(1 for _ in state.rglob("*")),
    }


def memory() -> int | None:
    """Bytes of this process and those that serve it; None where we may not look at them."""
    try:
        return sum(map(unique_set_size, _servers()))
    except PermissionError:
        return None


def _servers() -> list[int]:
    """This process and those below it that a reset does not replace."""
    return [os.getpid(), *(pid for pid in descendants(os.getpid()) if not is_init(pid))]
