"""The pytest plugin `airlock`: options, ini values, registration, and delegation to the modules beside it.

Loaded in every pytest run of the environment, used or not. So nothing here, nor in what is imported here, imports more
than pytest and the standard library; run.py imports the rest when a sandbox is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_airlock.plugin import hooks
from pytest_airlock.plugin.fixtures import (
    airlock_factory,
    airlock_sandbox,
    airlock_session_factory,
    airlock_session_sandbox,
    airlock_spec,
)
from pytest_airlock.plugin.run import RUN, Run
from pytest_airlock.plugin.settings import add_options, read_settings

if TYPE_CHECKING:
    from pytest_airlock.plugin.factory import SandboxFactory as SandboxFactory

__all__ = [
    "airlock_factory",
    "airlock_sandbox",
    "airlock_session_factory",
    "airlock_session_sandbox",
    "airlock_spec",
]

_MARKER = (
    "airlock(profile, cpu, memory, disk, image, provider, user, env, mounts, provision, network, network_attempts, source, runtime, ports, "
    "address_space, nesting, name, timeout): what the sandbox of this test shall be; keywords only, the closest marker goes first, None means "
    "back to the default."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.stash[RUN] = run = Run(config, read_settings(config))
    if run.settings.get("keep") == "failed":
        run.watch()


def pytest_report_header(config: pytest.Config) -> str:
    return config.stash[RUN].settings.header()


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.pluginmanager.hasplugin("dsession"):
        from pytest_airlock.plugin.xdist import Controller

        session.config.pluginmanager.register(Controller(session.config.stash[RUN]), "airlock-xdist")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Last, so that what -k, -m and other plugins deselect is not looked at.
    run = config.stash[RUN]
    faults = run.check(items)
    if faults and run.is_worker:
        items.clear()  # the controller fails the run (xdist.py), and no test may start before
    elif faults:
        raise pytest.UsageError("\n".join(faults))


def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash[RUN]
    run.close()
    # The controller of xdist, too: its workers said so before (xdist.py).
    if run.failed and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if run.is_worker:
        from pytest_airlock.plugin.xdist import send

        send(session.config, run)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    messages = config.stash[RUN].messages
    if messages:
        terminalreporter.section("airlock")
        for message in messages:
            terminalreporter.line(message)


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is not None:
        run.close()  # again: a run that ends before its session was made has no pytest_sessionfinish
