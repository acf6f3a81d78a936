"""The protections that controls take out, one name for each: text of the engine and what stands there instead."""

from __future__ import annotations

from weakened import Redefine, Replace, weaken

NO_FILTER = weaken("no system-call filter", Replace("syscalls.seccomp(options.program)", "pass"))
ALL_CAPABILITIES = weaken("capabilities kept", Redefine("KEPT_CAPABILITIES", "KEPT_CAPABILITIES = (1 << 41) - 1"))
