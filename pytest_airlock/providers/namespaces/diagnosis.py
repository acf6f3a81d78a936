"""From a failed step of the engine to an error with cause and fix, by the table in causes.py."""

from __future__ import annotations

import os

from pytest_airlock.errors import ProviderError, ProviderUnavailable, UnsupportedFeature
from pytest_airlock.providers.base import FEATURES
from pytest_airlock.providers.namespaces.cause import CGROUP
from pytest_airlock.providers.namespaces.causes import ROWS
from pytest_airlock.providers.namespaces.host_facts import HostFacts

__all__ = ["HostFacts", "explain"]

_PROVIDER = "namespaces"


def explain(
    step: str, errno: int, path: str, host: HostFacts
) -> ProviderUnavailable | UnsupportedFeature | ProviderError:
    """The error to raise for a step that failed with `errno` at `path` ("" if it has none)."""
    what = f"{step} failed with {os.strerror(errno)}" + (f" ({path})" if path else "")
    for row in ROWS:
        if not row.matches(step, errno, path, host):
            continue
        why = f"{row.cause} [{what}]"
        if not row.feature:
            return ProviderUnavailable(_PROVIDER, why, hint=row.fix)
        feature = step.rpartition(" ")[2] if row.feature == CGROUP else row.feature
        return UnsupportedFeature(feature if feature in FEATURES else "memory", _PROVIDER, why, hint=row.fix)
    return ProviderError(
        _PROVIDER, f"carry out {step}", what, hint=f"this is none of the causes known; the host: {host.describe()}"
    )
