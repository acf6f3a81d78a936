"""What every provider can do on this host, found by trying; for `airlock doctor`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from pytest_airlock.errors import AirlockError, ProviderError
from pytest_airlock.orchestrator.contracts import Providers
from pytest_airlock.orchestrator.providers import AUTO, in_order
from pytest_airlock.providers.base import Command, Examines, Features, Finding, Provider, ProviderSpec

__all__ = ["Directory", "Examination", "Examined", "examine", "measure"]

_PATIENCE = 60.0  # seconds for a command that does nothing
_MOST_ENTRIES = 200_000


@dataclass(frozen=True, slots=True)
class Examined:
    """One provider. `seconds` is what making a sandbox, one command in it and destroying it took, None if it failed."""

    name: str
    seconds: float | None = None
    why: str = ""
    fix: str = ""
    features: Features | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def works(self) -> bool:
        return self.seconds is not None


@dataclass(frozen=True, slots=True)
class Examination:
    """All of them in the order of `auto`. `default` is the one a run uses, whether it works or not; "" = there is none."""

    default: str
    providers: tuple[Examined, ...]

    @property
    def works(self) -> bool:
        return any(provider.works for provider in self.providers if provider.name == self.default)


@dataclass(frozen=True, slots=True)
class Directory:
    """`bytes` of files in `entries` files and directories below `path`; `complete` = all were counted."""

    path: str
    bytes: int = 0
    entries: int = 0
    complete: bool = True


def examine(providers: Providers, asked: str = AUTO) -> Examination:
    """Try every provider. `asked` is the name a run is configured with; raises UnknownName if there is none such."""
    if asked != AUTO and asked not in providers.names():
        providers.get(asked)
    found = tuple(_examined(name, providers) for name in in_order(providers.names()))
    first = next((provider for provider in found if provider.works), *found[:1]) if found else None
    return Examination(asked if asked != AUTO else first.name if first else "", found)


def _examined(name: str, providers: Providers) -> Examined:
    try:
        provider = providers.get(name)
    except AirlockError as error:
        return Examined(name, why=error.why or error.what, fix=error.hint)
    try:
        features = provider.probe()
        seconds = _try(provider)
    except AirlockError as error:
        return Examined(name, why=error.why or error.what, fix=error.hint, findings=_findings(provider))
    except Exception as error:  # noqa: BLE001 - whatever a provider raises is what is the matter with it
        return Examined(name, why=f"{type(error).__name__}: {error}", findings=_findings(provider))
    return Examined(name, seconds, features=features, findings=_findings(provider))


def _try(provider: Provider) -> float:
    """Make a sandbox, run one command in it, destroy it; the seconds it took."""
    began = time.monotonic()
    handle = provider.create(ProviderSpec(f"airlock-doctor-{os.getpid()}"))
    try:
        provider.start(handle)
        environ = tuple(provider.environ(handle).items())
        process = provider.spawn(handle, Command(("true",), environ, cwd="/", stdout="null", stderr="null"))
        try:
            status = process.wait(_PATIENCE).returncode
        finally:
            process.close()
    finally:
        provider.delete(handle)
    if status:
        raise ProviderError(provider.name, "run `true` in a sandbox", f"it returned {status}")
    return time.monotonic() - began


def _findings(provider: Provider) -> tuple[Finding, ...]:
    if not isinstance(provider, Examines):
        return ()
    try:
        return tuple(provider.examine())
    except Exception as error:  # noqa: BLE001 - the rest of the picture counts all the more
        return (Finding("examination", "failed", False, f"{type(error).__name__}: {error}"),)


def measure(path: Path) -> Directory:
    """What lies below a directory; nothing if it does not exist. Links are not followed, 200,000 entries are enough."""
    size = entries = 0
    stack = [os.fspath(path)]
    while stack:
        try:
            inside = list(os.scandir(stack.pop()))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # gone meanwhile, or not ours
        for entry in inside:
            entries += 1
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
            else:
                size += _blocks(entry)
        if entries >= _MOST_ENTRIES:
            return Directory(str(path), size, entries, complete=False)
    return Directory(str(path), size, entries)


def _blocks(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512  # what it takes, stat(2): holes take nothing
    except FileNotFoundError:
        return 0
