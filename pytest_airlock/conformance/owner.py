"""A process that holds a sandbox until it is killed: python -m pytest_airlock.conformance.owner PROVIDER SECONDS."""

from __future__ import annotations

import json
import os
import sys
import threading

from pytest_airlock.conformance.machine import Machine, line
from pytest_airlock.orchestrator.providers import ProviderRegistry
from pytest_airlock.providers.base import ProviderSpec


def main(name: str, seconds: str) -> None:
    """Print the handle once `sleep SECONDS` runs inside."""
    provider = ProviderRegistry().get(name)
    box = Machine(provider, provider.create(ProviderSpec(f"conformance-owned-{os.getpid()}")))
    provider.start(box.handle)
    with box.process("sh", "-c", f"trap '' TERM HUP; setsid sleep {seconds} & echo ready; sleep {seconds}") as process:
        line(process)
        sys.stdout.write(json.dumps(box.handle.to_json()) + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
