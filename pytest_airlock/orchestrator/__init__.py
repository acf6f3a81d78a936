"""What makes, resets and removes sandboxes, for any provider.

manager.py (SandboxManager) with creation, preparation, destruction, probing, handout, keeping, exporting ·
pool.py, session.py (tests) · waiting.py, states.py, orphans.py, providers.py · contracts.py, assembly.py (how it is put together)
policy/ (what may be made, and of what) · storage/ (records and leases, across processes)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_airlock.orchestrator.assembly import Setup as Setup
    from pytest_airlock.orchestrator.assembly import default_manager as default_manager
    from pytest_airlock.orchestrator.manager import SandboxManager as SandboxManager
    from pytest_airlock.orchestrator.session import AirlockSession as AirlockSession
    from pytest_airlock.orchestrator.session import create_sandbox as create_sandbox

# Loaded at first use: an importer of one small module must not pay for pydantic and the store.
_HOMES = {
    "AirlockSession": "session",
    "SandboxManager": "manager",
    "Setup": "assembly",
    "create_sandbox": "session",
    "default_manager": "assembly",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the table is the single list of public names


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
