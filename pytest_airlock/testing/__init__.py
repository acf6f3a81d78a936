"""Fakes for tests of this package, of plugins on top of it, and of other providers.

FakeProvider (a provider in memory) · FaultScript (what fails, what is held) · FakeClock (time on request)
"""

from __future__ import annotations

from pytest_airlock.testing.clock import FakeClock
from pytest_airlock.testing.faults import FaultScript, Hold
from pytest_airlock.testing.files import FakeFiles
from pytest_airlock.testing.handle import FakeProcess
from pytest_airlock.testing.process import Context, Program
from pytest_airlock.testing.provider import FakeProvider

__all__ = ["Context", "FakeClock", "FakeFiles", "FakeProcess", "FakeProvider", "FaultScript", "Hold", "Program"]
