"""Every exception pytest-airlock raises. Text is always: what happened, why, what to do.

The first split matters most: *the sandbox failed* is never confused with *the command failed*.

    AirlockError
    ├─ InvalidSpec (ValueError)          a setting has a bad value; nothing was made
    │  ├─ InvalidName                    a sandbox name is not a DNS-style label
    │  ├─ MountForbidden                 a host path may not be mounted
    │  ├─ ProvisionForbidden             provisioning text outside the allow-list
    │  └─ UnknownName (LookupError)      an unknown profile, provider, runtime, key: lists the known ones
    ├─ ConfigError (ValueError)          a configuration file is wrong: file, line, key
    ├─ ProfileForbids (PermissionError)  the profile's limits exclude what was asked
    ├─ UnsupportedFeature                this provider cannot enforce it on this host
    ├─ ProviderUnavailable               the provider cannot work on this host at all
    ├─ InsufficientResources             the machine has less than was asked for
    ├─ MissingExtra (ImportError)        an optional dependency is not installed
    ├─ ServedAppFailed                   an app that served the sandbox raised an error
    ├─ AlreadyExists                     the name is held by somebody
    ├─ HeldElsewhere (PermissionError)   another live run owns it; only its owner acts on it
    ├─ SandboxNotFound (LookupError)     no sandbox of that name
    ├─ SnapshotNotFound (LookupError)    no such snapshot; reset without one
    ├─ InvalidTransition                 not possible in the state the sandbox is in
    ├─ StaleSandbox                      used after it was handed back
    ├─ SandboxBusy                       processes run that would have to be stopped first
    ├─ SandboxDied                       the sandbox ended by itself (not: the command failed)
    ├─ ResetFailed                       a reset could not be proved clean
    ├─ ProviderError                     the provider failed at an operation
    ├─ StoreError                        the state directory cannot be used
    │  └─ CorruptRecord                  a record cannot be read; it was moved aside
    └─ CommandError                      a command in a sandbox ended in a way run() reports by raising
       ├─ CommandFailed (subprocess.CalledProcessError)   check=True and a status other than 0
       ├─ CommandTimeout (subprocess.TimeoutExpired)      killed at its time-out, with all descendants
       └─ OutputLimitExceeded (subprocess.SubprocessError)  killed, it wrote more than max_output

*Not* an AirlockError, because the standard library has a word for it: a program that is missing
(FileNotFoundError) or not executable (PermissionError), and a path that is not there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "AirlockError",
    "AlreadyExists",
    "CommandError",
    "CommandFailed",
    "CommandTimeout",
    "ConfigError",
    "CorruptRecord",
    "HeldElsewhere",
    "InsufficientResources",
    "InvalidName",
    "InvalidSpec",
    "InvalidTransition",
    "MissingExtra",
    "MountForbidden",
    "OutputLimitExceeded",
    "ProfileForbids",
    "ProviderError",
    "ProviderUnavailable",
    "ProvisionForbidden",
    "ResetFailed",
    "SandboxBusy",
    "SandboxDied",
    "SandboxNotFound",
    "ServedAppFailed",
    "SnapshotNotFound",
    "StaleSandbox",
    "StoreError",
    "UnknownName",
    "UnsupportedFeature",
]

#: Characters of a command's output that its error shows; the rest is in its `result`.
_HEAD, _TAIL = 2_048, 6_144


def _rebuild(
    cls: type[AirlockError], args: tuple[Any, ...], state: dict[str, Any], notes: Sequence[str]
) -> AirlockError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    for note in notes:
        error.add_note(note)
    return error


class AirlockError(Exception):
    """Base of all. `what` happened, `why`, and a `hint` that says what to do; crosses pickling whole."""

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        # Not super(): the builtin parents of the children want other arguments.
        Exception.__init__(self, what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f": {self.why}"
        text += self._details()
        if self.hint:
            text += f"\n  hint: {self.hint}"
        # Names of files and processes, and what a command wrote, may come from inside a sandbox.
        return _visible(text)

    def _details(self) -> str:
        """Lines between the reason and the hint."""
        return ""

    def add_note(self, note: str) -> None:
        """PEP 678 on Python 3.10 too, where BaseException has no add_note."""
        if not isinstance(note, str):
            raise TypeError(f"note must be a str, not {type(note).__name__}")
        notes: list[str] = self.__dict__.setdefault("__notes__", [])
        notes.append(note)

    def __reduce__(self) -> tuple[Any, ...]:
        # The builtin parents rebuild from positional args, which would drop the keyword fields
        # when an error crosses xdist or Ray.
        state = {key: value for key, value in self.__dict__.items() if key != "__notes__"}
        return _rebuild, (type(self), self.args, state, list(self.__dict__.get("__notes__", ())))


class InvalidSpec(AirlockError, ValueError):
    """A setting has a bad value. `field` names it, `value` is what was given."""

    def __init__(self, field: str, value: object, why: str, *, hint: str = "") -> None:
        shown = repr(value)
        if len(shown) > 200:
            shown = shown[:200] + "…"
        super().__init__(f"{field}={shown} is not valid", why=why, hint=hint)
        self.field = field
        self.value = value


class InvalidName(InvalidSpec):
    """A sandbox name that is not `[a-z0-9]([a-z0-9-]*[a-z0-9])?` within the provider's length limit."""


class MountForbidden(InvalidSpec):
    """A host path that is sensitive, missing, or outside what the profile lets be mounted."""


class ProvisionForbidden(InvalidSpec):
    """Provisioning given as shell text has characters outside the allow-list (use an argv list)."""


class UnknownName(InvalidSpec, LookupError):
    """A word that names nothing. `kind` is what it should name, `known` are the words there are."""

    def __init__(self, kind: str, value: object, known: Iterable[str], *, nearest: str | None = None) -> None:
        self.known = tuple(sorted(known))
        self.kind = kind
        self.nearest = nearest
        hint = f"did you mean {nearest!r}? " if nearest else ""
        super().__init__(kind, value, f"there is no such {kind}", hint=f"{hint}known: {', '.join(self.known)}")


class ConfigError(AirlockError, ValueError):
    """A configuration file, ini value or environment variable is wrong. `source` names it; `line` from 1, or None."""

    def __init__(self, source: str, why: str, *, key: str = "", line: int | None = None, hint: str = "") -> None:
        place = source if line is None else f"{source}:{line}"
        super().__init__(f"{place}: {key}" if key else place, why=why, hint=hint)
        self.source = source
        self.key = key
        self.line = line


class ProfileForbids(AirlockError, PermissionError):
    """The profile's limits bind every layer of settings, hooks included."""

    def __init__(self, profile: str, asked: str, *, hint: str = "") -> None:
        super().__init__(f"profile {profile!r} forbids {asked}", hint=hint)
        self.profile = profile
        self.asked = asked


class UnsupportedFeature(AirlockError):
    """The spec requires what the provider cannot enforce here and now; never a silently weaker sandbox."""

    def __init__(self, feature: str, provider: str, why: str, *, hint: str = "") -> None:
        super().__init__(f"provider {provider!r} cannot provide {feature!r} on this host", why=why, hint=hint)
        self.feature = feature
        self.provider = provider


class ProviderUnavailable(AirlockError):
    """The provider does not work on this host. `why` is the cause found by trying, `hint` the exact fix."""

    def __init__(self, provider: str, why: str, *, hint: str = "") -> None:
        super().__init__(f"provider {provider!r} does not work on this host", why=why, hint=hint)
        self.provider = provider


class InsufficientResources(AirlockError):
    """`need` and `have` in the unit of `resource` (cpu: processors; memory, disk: bytes).

    `can_ever_fit` is False when no waiting would help on this machine.
    """

    def __init__(
        self, resource: str, need: int, have: int, *, can_ever_fit: bool, why: str = "", hint: str = ""
    ) -> None:
        super().__init__(f"{resource}: need {need}, have {have}", why=why, hint=hint)
        self.resource = resource
        self.need = need
        self.have = have
        self.can_ever_fit = can_ever_fit


class MissingExtra(AirlockError, ImportError):
    """`what` needs the optional dependencies `extra`."""

    def __init__(self, what: str, extra: str, why: str) -> None:
        super().__init__(what, why=why, hint=f"pip install 'pytest-airlock[{extra}]'")
        self.extra = extra


class ServedAppFailed(AirlockError):
    """An app given to `network.serve()` raised `count` errors, which its clients saw as status 500; the first is the cause."""

    def __init__(self, url: str, why: str, count: int) -> None:
        more = f", the first of {count:,} errors" if count > 1 else ""
        super().__init__(
            f"the app served at {url} failed{more}",
            why=why,
            hint="the sandbox was answered with status 500: mend the app",
        )
        self.url = url
        self.count = count


class AlreadyExists(AirlockError):
    """The name is held. `owner` says by whom: pid, worker, test."""

    def __init__(self, name: str, *, owner: Mapping[str, object] | None = None, hint: str = "") -> None:
        self.owner = dict(owner or {})
        held = ", ".join(f"{key} {value}" for key, value in self.owner.items() if value not in (None, ""))
        super().__init__(f"sandbox {name!r} already exists", why=f"held by {held}" if held else "", hint=hint)
        self.name = name


class HeldElsewhere(AirlockError, PermissionError):
    """Another live run holds the sandbox. `owner` says which: pid, worker, test."""

    def __init__(self, name: str, *, owner: Mapping[str, object]) -> None:
        self.owner = dict(owner)
        held = ", ".join(f"{key} {value}" for key, value in self.owner.items() if value not in (None, ""))
        super().__init__(
            f"sandbox {name!r} belongs to another run",
            why=f"it is held by {held}, and only its owner acts on it",
            hint="end that run first; what it leaves behind is collected by the next run, or by `airlock gc`",
        )
        self.name = name


class SandboxNotFound(AirlockError, LookupError):
    """No sandbox of that name is recorded. (A record without a live sandbox is not this error.)"""

    def __init__(self, name: str, *, hint: str = "") -> None:
        super().__init__(f"there is no sandbox {name!r}", hint=hint)
        self.name = name


class SnapshotNotFound(AirlockError, LookupError):
    """The sandbox has no such snapshot; raised before anything is touched."""

    def __init__(self, name: str, snapshot: str, *, hint: str = "") -> None:
        super().__init__(f"sandbox {name!r} has no snapshot {snapshot!r}", hint=hint)
        self.name = name
        self.snapshot = snapshot


class InvalidTransition(AirlockError):
    """The state table has no such step. `allowed` are the states that may follow."""

    def __init__(self, name: str, old: str, new: str, allowed: Iterable[str], *, hint: str = "") -> None:
        self.allowed = tuple(sorted(allowed))
        super().__init__(
            f"sandbox {name!r} cannot go from {old} to {new}",
            why=f"from {old} it may become: {', '.join(self.allowed) or 'nothing'}",
            hint=f"destroy it: `airlock destroy {name}`" if old == "errored" else hint,
        )
        self.name = name
        self.old = old
        self.new = new


class StaleSandbox(AirlockError, RuntimeError):
    """Used after its test handed it back; the sandbox may serve another test by now."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"sandbox {name!r} was handed back",
            why="it, its processes, paths and snapshots belong to the test that asked for it",
            hint="ask for airlock_session_sandbox if several tests shall share one",
        )
        self.name = name


class SandboxBusy(AirlockError):
    """Processes are alive that a snapshot would have to end. `processes` are (pid inside, name)."""

    def __init__(self, name: str, processes: Sequence[tuple[int, str]]) -> None:
        shown = ", ".join(f"{pid} ({comm})" for pid, comm in processes[:10])
        super().__init__(
            f"sandbox {name!r} has running processes",
            why=shown,
            hint="a snapshot holds files, not processes: end them, or pass stop=True to have them killed",
        )
        self.name = name
        self.processes = tuple(processes)


class SandboxDied(AirlockError):
    """The sandbox ended by itself: killed, out of memory, or its engine is gone. Commands in it are lost."""

    def __init__(self, name: str, why: str = "", *, hint: str = "") -> None:
        super().__init__(f"sandbox {name!r} died", why=why, hint=hint)
        self.name = name


class ResetFailed(AirlockError):
    """The old world could not be proved gone; the sandbox is destroyed, never handed out."""

    def __init__(self, name: str, why: str, *, hint: str = "") -> None:
        super().__init__(f"sandbox {name!r} could not be reset", why=why, hint=hint)
        self.name = name


class ProviderError(AirlockError):
    """The provider failed at an `operation`: an infrastructure fault, never the outcome of a command."""

    def __init__(self, provider: str, operation: str, why: str, *, hint: str = "") -> None:
        super().__init__(f"provider {provider!r} failed to {operation}", why=why, hint=hint)
        self.provider = provider
        self.operation = operation


class StoreError(AirlockError):
    """The state directory cannot be read or written. `path` names it."""

    def __init__(self, path: str, why: str, *, hint: str = "") -> None:
        super().__init__(f"state in {path} cannot be used", why=why, hint=hint)
        self.path = path


class CorruptRecord(StoreError):
    """A record is damaged or of another version. It was moved to `moved_to`, never deleted."""

    def __init__(self, path: str, why: str, *, moved_to: str) -> None:
        super().__init__(path, why, hint=f"it was kept as {moved_to}")
        self.moved_to = moved_to


class CommandError(AirlockError):
    """Base of what run() raises about a command; `result` is all that was captured. The text shows what it wrote."""

    result: object = None
    output: Any = None
    stderr: Any = None

    def _details(self) -> str:
        # Why a command failed is mostly what it said itself, and a report of a test shows nothing but this text.
        streams = (("stdout", _shown(self.output)), ("stderr", _shown(self.stderr)))
        return "".join(f"\n--- {name} ---\n{text}" for name, text in streams if text)


def _visible(text: str) -> str:
    """Control characters in a form that a terminal does not obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _shown(captured: object) -> str:
    """Head and tail of what a command wrote."""
    text = captured.decode("utf-8", "backslashreplace") if isinstance(captured, bytes) else str(captured or "")
    text = text.rstrip()
    left_out = len(text) - _HEAD - _TAIL
    if left_out > 0:
        text = f"{text[:_HEAD]}\n… {left_out:,} characters left out …\n{text[-_TAIL:]}"
    return text


class CommandFailed(CommandError, subprocess.CalledProcessError):
    """check=True and the command's status was not 0."""

    def __init__(self, returncode: int, cmd: object, output: Any, stderr: Any, result: object) -> None:
        super().__init__(f"command {cmd!r} returned {returncode}")
        self.returncode = returncode
        self.cmd = cmd
        self.output = output
        self.stderr = stderr
        self.result = result


class CommandTimeout(CommandError, subprocess.TimeoutExpired):
    """The time-out (seconds) passed. The command, its descendants and orphans born since are dead."""

    def __init__(self, cmd: object, timeout: float, output: Any, stderr: Any) -> None:
        super().__init__(f"command {cmd!r} timed out after {timeout:g} seconds")
        self.cmd = cmd
        self.timeout = timeout
        self.output = output
        self.stderr = stderr


class OutputLimitExceeded(CommandError, subprocess.SubprocessError):
    """The command wrote more than `limit` bytes to a stream and was killed; what came is kept."""

    def __init__(self, cmd: object, limit: int, output: Any, stderr: Any) -> None:
        super().__init__(
            f"command {cmd!r} wrote more than {limit} bytes",
            hint="raise max_output=, or redirect the output to a file inside the sandbox",
        )
        self.cmd = cmd
        self.limit = limit
        self.output = output
        self.stderr = stderr

    @property
    def stdout(self) -> Any:
        """The same as `output`, as in the standard library's errors."""
        return self.output
