"""Names to providers: entry points, hooks, and `auto`. A provider is imported and made at its first use."""

from __future__ import annotations

import difflib
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import EntryPoint, entry_points

from pytest_airlock.errors import AirlockError, InvalidSpec, ProviderUnavailable, UnknownName
from pytest_airlock.orchestrator.undo import add_note
from pytest_airlock.providers.base import Provider

__all__ = ["AUTO", "GROUP", "ProviderRegistry", "auto_order", "in_order"]

GROUP = "pytest_airlock.providers"
AUTO = "auto"


def auto_order(platform: str = sys.platform) -> tuple[str, ...]:
    """What `auto` tries, the cheapest first; namespaces exist on Linux only."""
    return ("lima", "podman", "docker") if platform == "darwin" else ("namespaces", "podman", "docker", "lima")


def in_order(names: Collection[str], platform: str = sys.platform) -> list[str]:
    """Names of providers as `auto` tries them: those of auto_order(), then the others by name."""
    known = [name for name in auto_order(platform) if name in names]
    return known + sorted(set(names) - set(known))


class ProviderRegistry:
    """contracts.Providers. Thread-safe; each provider is made once and closed by close()."""

    def __init__(self, *, discover: Callable[[], Collection[EntryPoint]] | None = None) -> None:
        self._discover = discover or (lambda: entry_points(group=GROUP))
        self._factories: dict[str, Callable[[], Provider]] = {}
        self._made: dict[str, Provider] = {}
        self._auto: str | None = None
        self._found = False
        self._lock = threading.RLock()

    def register(self, name: str, factory: Callable[[], Provider]) -> None:
        """Add one, or replace one that is not in use yet. Raises InvalidSpec for `auto` and for one in use."""
        with self._lock:
            self._find()
            if name == AUTO or not name:
                raise InvalidSpec("provider", name, "it is not free as the name of a provider")
            if name in self._made:
                raise InvalidSpec("provider", name, "it is in use already", hint="register it before the first sandbox")
            self._factories[name] = factory

    def names(self) -> Sequence[str]:
        with self._lock:
            self._find()
            return sorted(self._factories)

    def get(self, name: str) -> Provider:
        """`auto` is the first of auto_order(), then of the others, that exists and works here."""
        with self._lock:
            self._find()
            return self._first_that_works() if name == AUTO else self._get(name)

    def close(self, *, keep: Collection[str] = ()) -> None:
        """Close all that were made, but those in `keep`; all are tried, then the first error is raised."""
        with self._lock:
            errors = []
            for name in [name for name in self._made if name not in keep]:
                try:
                    self._made.pop(name).close()
                except Exception as error:  # noqa: BLE001 - the first is raised below, the others are its notes
                    errors.append(error)
            self._auto = None
        if errors:
            for other in errors[1:]:
                add_note(errors[0], f"another provider could not be closed either: {other}")
            raise errors[0]

    def _get(self, name: str) -> Provider:
        if name not in self._made:
            if name not in self._factories:
                nearest = difflib.get_close_matches(name, self._factories, 1)
                raise UnknownName("provider", name, [AUTO, *self._factories], nearest=nearest[0] if nearest else None)
            self._made[name] = self._factories[name]()
        return self._made[name]

    def _first_that_works(self) -> Provider:
        if self._auto is not None:
            return self._get(self._auto)
        failures: list[str] = []
        for name in in_order(self._factories):
            try:
                provider = self._get(name)
                provider.probe()
            except ProviderUnavailable as error:
                failures.append(f"{name}: {error.why}" + (f" ({error.hint})" if error.hint else ""))
            else:
                self._auto = name
                return provider
        raise ProviderUnavailable(
            AUTO,
            "; ".join(failures) or "no provider is installed",
            hint="mend one of these, or name another with --airlock-provider",
        )

    def _find(self) -> None:
        if self._found:
            return
        self._found = True
        for point in self._discover():
            # What was registered by hand goes before what happens to be installed.
            self._factories.setdefault(point.name, _loader(point))


def _loader(point: EntryPoint) -> Callable[[], Provider]:
    def make() -> Provider:
        try:
            provider = point.load()()
        except AirlockError:
            raise
        except Exception as error:
            raise ProviderUnavailable(point.name, f"{point.value} cannot be loaded: {error}") from error
        if not isinstance(provider, Provider):
            raise ProviderUnavailable(point.name, f"{point.value} does not satisfy the Provider contract")
        return provider

    return make
