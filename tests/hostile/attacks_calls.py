"""System calls: what the filter refuses, and who else would."""

from __future__ import annotations

from typing import Any

from attacker import Box
from attacks import attack
from weakenings import ALL_CAPABILITIES, NO_FILTER


@attack(
    "EPERM",
    stops="system-call filter, then capabilities",
    controls={(NO_FILTER,): "EPERM", (NO_FILTER, ALL_CAPABILITIES): "ok"},
)
def mounts_a_file_system(box: Box) -> Any:
    """Mount a tmpfs over /mnt."""
    return box.attack("answer = call('mount', b'x', b'/mnt', b'tmpfs', 0, 0)")
