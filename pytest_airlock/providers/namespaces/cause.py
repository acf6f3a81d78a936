"""One cause for which an engine cannot work somewhere, and the conditions that recognise it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pytest_airlock.providers.namespaces.host_facts import HostFacts

__all__ = ["CGROUP", "Row", "always", "filtered", "older", "sysctl"]

CGROUP = "cgroup"

Evidence = Literal["measured", "simulated", "unmeasured"]


@dataclass(frozen=True, slots=True)
class Row:
    """`steps` (none = any) and `errnos` that may show it, `fits(host, path)` on the facts; a step also matches its longer forms.

    `feature` is what is missing ("cgroup" = the controller in the step), "" if nothing works. `evidence`: measured on
    such a host, simulated on another kernel, or unmeasured (from documentation).
    """

    name: str
    where: str
    steps: tuple[str, ...]
    errnos: tuple[int, ...]
    cause: str
    fix: str
    fits: Callable[[HostFacts, str], bool]
    feature: str = ""
    evidence: Evidence = "unmeasured"

    def matches(self, step: str, number: int, path: str, host: HostFacts) -> bool:
        named = not self.steps or any(step == word or step.startswith(f"{word} ") for word in self.steps)
        return named and number in self.errnos and self.fits(host, path)


def always(_host: HostFacts, _path: str) -> bool:
    return True


def sysctl(name: str, value: str) -> Callable[[HostFacts, str], bool]:
    return lambda host, _path: host.sysctl.get(name) == value


def older(major: int, minor: int) -> Callable[[HostFacts, str], bool]:
    return lambda host, _path: (0, 0) < host.kernel < (major, minor)


def filtered(container: str, *, privileged: bool = False) -> Callable[[HostFacts, str], bool]:
    """A container's system-call filter: it is there, and so are (or not) the powers it would follow."""
    return lambda host, _path: host.seccomp and host.privileged is privileged and host.container == container
