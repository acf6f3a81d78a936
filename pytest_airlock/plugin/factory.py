"""What airlock_factory and airlock_session_factory hand out, and how it is cleaned up whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from os import PathLike

    from typing_extensions import Unpack

    from pytest_airlock.models import Mount, Network
    from pytest_airlock.sandbox import Sandbox

__all__ = ["SandboxFactory", "SpecWords"]


class SpecWords(TypedDict, total=False):
    """The words of a sandbox, as of models.SandboxSpec; None = back to the default."""

    name: str | None
    profile: str | None
    provider: str | None
    image: str | PathLike[str] | None
    runtime: str | None
    user: str | None
    cpu: int | None
    memory: int | str | None
    disk: int | str | None
    address_space: int | str | None
    nesting: bool | None
    env: Mapping[str, str] | None
    mounts: Sequence[str | PathLike[str] | Mapping[str, str] | Mount] | None
    source: str | PathLike[str] | bool | None
    expose: Sequence[str] | None
    provision: Sequence[str | Sequence[str]] | None
    network: str | Sequence[str] | Network | None
    network_attempts: str | None
    ports: Sequence[int] | None
    timeout: float | None
    keep: bool | None


class SandboxFactory:
    """Call it for a new sandbox: `factory(name="db", memory="1G")`. Thread-safe, as far as `make` is.

    Raises what making a sandbox raises: InvalidSpec, AlreadyExists, ProfileForbids, UnsupportedFeature and so on.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, object]], Sandbox],
        end: Callable[[Sandbox], None],
        ready: Callable[[Sandbox], None] = lambda _: None,
    ) -> None:
        self._make = make
        self._end = end
        self._ready = ready
        self._made: list[Sandbox] = []
        self._closed = False

    def __call__(self, **words: Unpack[SpecWords]) -> Sandbox:
        self._refuse_if_closed()
        sandbox = self._make(words)
        self._made.append(sandbox)
        if self._closed:  # by another thread, meanwhile
            self.close()
        self._refuse_if_closed()
        self._ready(sandbox)
        return sandbox

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the test of this airlock factory is over: what it makes now would be in nobody's hands")

    def close(self) -> None:
        """End all it made, the youngest first. The first error is raised at the end, the others are its notes."""
        self._closed = True
        errors: list[Exception] = []
        while self._made:
            try:
                self._end(self._made.pop())
            except Exception as error:  # noqa: BLE001 - raised below; one that fails must not keep the others alive
                errors.append(error)
        if errors:
            first, *others = errors
            for other in others:
                add_note(first, f"and {type(other).__name__}: {other}")
            raise first


def add_note(error: BaseException, note: str) -> None:
    """BaseException.add_note, which Python 3.10 lacks; pytest shows `__notes__` there too."""
    notes: list[str] = error.__dict__.setdefault("__notes__", [])
    notes.append(note)
