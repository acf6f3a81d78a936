"""Pristine sandboxes between tests: handed out, taken back reset and proved clean, never dirty."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from pytest_airlock.errors import SnapshotNotFound
from pytest_airlock.orchestrator.contracts import Plan
from pytest_airlock.orchestrator.manager import SandboxManager

__all__ = ["Listener", "Nobody", "Pool"]

#: Idle sandboxes kept by one process; the one that waits longest goes first.
MAX_IDLE = 4


class Listener(Protocol):
    """Is told what becomes of sandboxes."""

    def reset(self, name: str) -> None:
        """It was reset and proved clean."""
        ...

    def failed(self, name: str, error: Exception) -> None:
        """It could not be made, or not be proved clean."""
        ...

    def destroyed(self, name: str) -> None:
        """It is gone."""
        ...


class Nobody:
    """A Listener that nothing comes of."""

    def reset(self, name: str) -> None: ...
    def failed(self, name: str, error: Exception) -> None: ...
    def destroyed(self, name: str) -> None: ...


class Pool:
    """Idle sandboxes by spec key. None is handed out before it was proved clean.

    Where the provider can, a sandbox that comes back only begins to die: it is reset, which proves the death, when the next
    one asks for it. `say` is told of what could not be proved clean, or died while it waited.
    """

    def __init__(
        self,
        manager: SandboxManager,
        *,
        max_idle: int = MAX_IDLE,
        say: Callable[[str], None] = lambda _: None,
        listener: Listener | None = None,
    ) -> None:
        self._manager = manager
        self._max_idle = max_idle
        self._say = say
        self._listener: Listener = Nobody() if listener is None else listener
        self._idle: OrderedDict[str, str] = OrderedDict()  # name -> key, longest idle first
        self._retired: set[str] = set()  # those of them that have to be reset first
        self._lock = threading.Lock()
        manager.reservations.make_room = self.make_room

    def take(self, key: str) -> str | None:
        """The name of a pristine sandbox of this key, which is the caller's from now on; None if there is none."""
        while (name := self._pop(key)) is not None:
            if name in self._retired:
                self._retired.discard(name)
                if self._reset(name):
                    return name
            elif self._manager.is_running(name):
                if not self._manager.visited(name) or self._reset(name):
                    return name
            else:
                self._say(f"sandbox {name!r} died while it waited for its next test; it is destroyed and another made")
                self._destroy(name)
        return None

    def give_back(self, name: str, plan: Plan) -> None:
        """Keep it for the next one; or destroy it, if it is reset at once and could not be proved clean.

        Raises what destroying raises: then something is left over.
        """
        if self._retire(name):
            self._retired.add(name)
        elif not self._reset(name):
            return
        self._keep(name, plan.key)

    def _retire(self, name: str) -> bool:
        try:
            return self._manager.retire(name)
        except Exception:  # noqa: BLE001 - whatever ails it, a reset meets it again, and destroys what it cannot prove clean
            return False

    def _reset(self, name: str) -> bool:
        """Reset and prove it; False if that failed: then it is destroyed."""
        try:
            self._manager.recycle(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sandbox is not proved clean
            self._manager.destroy(name, missing_ok=True)
            # A provider without snapshots has nothing to go back to: a new sandbox each time is its way, not a failure.
            if not isinstance(error, SnapshotNotFound):
                self._say(f"sandbox {name!r} could not be proved clean and was destroyed: {error}")
                self._listener.failed(name, error)
            self._listener.destroyed(name)
            return False
        except BaseException:
            # Interrupted: not proved either, and it must not wait for the end of the run.
            self._manager.destroy(name, missing_ok=True)
            raise
        self._listener.reset(name)
        return True

    def _destroy(self, name: str) -> None:
        self._retired.discard(name)
        self._manager.destroy(name, missing_ok=True)

    def make_room(self) -> bool:
        """Give up the sandbox that is idle longest; False if there is none."""
        with self._lock:
            if not self._idle:
                return False
            name, _ = self._idle.popitem(last=False)
        self._destroy(name)
        return True

    def idle(self) -> list[str]:
        with self._lock:
            return list(self._idle)

    def _pop(self, key: str) -> str | None:
        with self._lock:
            for name in reversed(self._idle):  # the one used last is warm
                if self._idle[name] == key:
                    del self._idle[name]
                    return name
        return None

    def _keep(self, name: str, key: str) -> None:
        with self._lock:
            self._idle[name] = key
            victim = self._victim(key) if len(self._idle) > self._max_idle else None
            if victim is not None:
                del self._idle[victim]
        if victim is not None:
            self._destroy(victim)

    def _victim(self, key: str) -> str:
        """The oldest of another key: what was just used is most likely to be asked for again."""
        return next((name for name, other in self._idle.items() if other != key), next(iter(self._idle)))
