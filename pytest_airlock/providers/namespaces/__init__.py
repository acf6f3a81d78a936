"""The embedded Linux engine as a provider: a fork server, one clone3 per sandbox, nothing to install.

Map:  provider.py → client.py, process.py, worker.py (talk to) → engine/ (fork server, child, PID 1 agent)
      images/ (what the file system is made of) · features.py limits.py diagnosis.py (what works here, and why not)
"""

from __future__ import annotations

from pytest_airlock.providers.namespaces.provider import NamespacesProvider

__all__ = ["NamespacesProvider"]
