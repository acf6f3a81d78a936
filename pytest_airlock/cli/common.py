"""What the verbs share: a manager for the block, and texts that nobody's record can turn against the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_airlock.models import Network
    from pytest_airlock.orchestrator import SandboxManager
    from pytest_airlock.orchestrator.providers import ProviderRegistry

__all__ = ["Verbs", "explain", "managing", "managing_providers", "policy", "say", "shown"]

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Verbs = object


@contextmanager
def managing(arguments: argparse.Namespace) -> Iterator[SandboxManager]:
    """A manager over the state directory; its providers are closed at the end, what is kept stays."""
    from pytest_airlock.orchestrator import Setup, default_manager

    manager = default_manager(Setup(state_dir=arguments.state_dir, worker="airlock", say=warn))
    try:
        yield manager
    finally:
        manager.close_providers()


@contextmanager
def managing_providers() -> Iterator[ProviderRegistry]:
    """The providers alone; they are closed at the end."""
    from pytest_airlock.orchestrator.providers import ProviderRegistry

    providers = ProviderRegistry()
    try:
        yield providers
    finally:
        providers.close()


def say(text: str) -> None:
    sys.stdout.write(shown(text) + "\n")


def warn(text: str) -> None:
    sys.stderr.write(f"airlock: {shown(text)}\n")


def policy(network: Network, most: int = 20) -> str:
    """A network policy in words, with `most` entries of its allow-list."""
    if not network.allow:
        return network.mode
    more = len(network.allow) - most
    shown_entries = ", ".join(network.allow[:most]) + (f", … {more:,} more" if more > 0 else "")
    return f"{network.mode}, and {shown_entries}" if network.mode == "open" else f"{network.mode} {shown_entries}"


def explain(error: BaseException) -> str:
    """An error as text: what happened, why, what to do, and what else went wrong."""
    lines = [f"airlock: {error}", *getattr(error, "__notes__", ())]
    return shown("\n".join(lines)) + "\n"


def shown(text: str) -> str:
    """`text` without what steers a terminal: names and test ids come from other people's records."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
