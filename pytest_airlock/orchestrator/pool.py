"""Pristine sandboxes between tests: handed out, taken back reset and proved clean, never dirty."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from pytest_airlock.orchestrator.contracts import Plan
from pytest_airlock.orchestrator.manager import SandboxManager

__all__ = ["Pool"]

#: Idle sandboxes kept by one process; the one that waits longest goes first.
MAX_IDLE = 4


class Pool:
    """Idle sandboxes by spec key. A sandbox is here only between its proof and its next hand-out.

    `say` is told of what could not be proved clean, or died while it waited.
    """

    def __init__(
        self, manager: SandboxManager, *, max_idle: int = MAX_IDLE, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._manager = manager
        self._max_idle = max_idle
        self._say = say
        self._idle: OrderedDict[str, str] = OrderedDict()  # name -> key, longest idle first
        self._lock = threading.Lock()
        manager.reservations.make_room = self.make_room

    def take(self, key: str) -> str | None:
        """The name of a pristine sandbox of this key, which is the caller's from now on; None if there is none."""
        while (name := self._pop(key)) is not None:
            if not self._manager.is_running(name):
                self._say(f"sandbox {name!r} died while it waited for its next test; it is destroyed and another made")
                self._manager.destroy(name, missing_ok=True)
            elif not self._manager.visited(name) or self._renewed(name):
                return name
        return None

    def give_back(self, name: str, plan: Plan) -> Exception | None:
        """Reset, prove and keep it; or destroy it and return why it could not be proved clean.

        Raises what destroying raises: then something is left over.
        """
        try:
            self._manager.recycle(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sandbox is not proved clean
            self._manager.destroy(name, missing_ok=True)
            return error
        except BaseException:
            # Interrupted: not proved either, and it must not wait for the end of the run.
            self._manager.destroy(name, missing_ok=True)
            raise
        self._keep(name, plan.key)
        return None

    def _renewed(self, name: str) -> bool:
        """Reset once more what somebody entered while it waited; False if it could not be, and was destroyed."""
        try:
            self._manager.recycle(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sandbox is not proved clean
            self._say(f"sandbox {name!r} was visited, could not be reset and is destroyed: {error}")
            self._manager.destroy(name, missing_ok=True)
            return False
        return True

    def make_room(self) -> bool:
        """Give up the sandbox that is idle longest; False if there is none."""
        with self._lock:
            if not self._idle:
                return False
            name, _ = self._idle.popitem(last=False)
        self._manager.destroy(name, missing_ok=True)
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
            self._manager.destroy(victim, missing_ok=True)

    def _victim(self, key: str) -> str:
        """The oldest of another key: what was just used is most likely to be asked for again."""
        return next((name for name, other in self._idle.items() if other != key), next(iter(self._idle)))
