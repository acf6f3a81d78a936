"""The embedded engine: fork server, sandbox child and PID 1 agent. PYTEST_DONT_REWRITE.

Runs in a process of its own, started as `python -I -S` with nothing of the host's environment, where this package is
imported as the top-level package `engine`: standard library and relative imports only. The client side imports the
few modules that both sides share (world, protocol, frames, seccomp, cgroups).

    client ── request, JSON ──> server ── clone3 ──> child ── pivot, lock down ──> agent (PID 1)
       └────────────── exec and file requests, one reply channel each ──────────────┘
"""
