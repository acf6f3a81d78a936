"""pytest-airlock: a pristine, hardened machine for every test, at the price of a subprocess.

Map:  plugin/ (pytest) · cli/ → orchestrator/ (SandboxManager, store, pool) → providers/ (namespaces, …)
      sandbox/ (what a test holds) · models.py config.py errors.py · conformance/ testing/ (for providers)

Importing this package costs nothing: names are loaded at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_airlock.errors import AirlockError as AirlockError
    from pytest_airlock.models import Mount as Mount
    from pytest_airlock.models import Profile as Profile
    from pytest_airlock.models import SandboxInfo as SandboxInfo
    from pytest_airlock.models import SandboxSpec as SandboxSpec
    from pytest_airlock.orchestrator import SandboxManager as SandboxManager
    from pytest_airlock.orchestrator import create_sandbox as create_sandbox
    from pytest_airlock.sandbox import CompletedProcess as CompletedProcess
    from pytest_airlock.sandbox import Request as Request
    from pytest_airlock.sandbox import Sandbox as Sandbox
    from pytest_airlock.sandbox import Served as Served

_HOMES = {
    "AirlockError": "errors",
    "CompletedProcess": "sandbox",
    "Mount": "models",
    "Profile": "models",
    "Request": "sandbox",
    "Sandbox": "sandbox",
    "SandboxInfo": "models",
    "SandboxManager": "orchestrator",
    "SandboxSpec": "models",
    "Served": "sandbox",
    "create_sandbox": "orchestrator",
}

__all__ = sorted([*_HOMES])  # noqa: PLE0605 - the table is the single list of public names


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
