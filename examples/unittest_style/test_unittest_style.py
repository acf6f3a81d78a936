"""Sandboxes in unittest.TestCase classes, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import unittest

import pytest

from pytest_airlock import Sandbox


class RemovingEverything(unittest.TestCase):
    box: Sandbox

    @pytest.fixture(autouse=True)
    def _sandbox(self, airlock_sandbox: Sandbox) -> None:
        self.box = airlock_sandbox

    def test_the_passwords_file_goes(self) -> None:
        self.box.run(["rm", "/etc/passwd"], check=True)
        self.assertEqual(self.box.diff().deleted, {"/etc/passwd"})

    def test_the_passwords_file_is_back(self) -> None:
        self.assertIn("airlock:x:1000:", self.box.path("/etc/passwd").read_text())


@pytest.mark.airlock(user="airlock")
class AsOrdinaryUser(unittest.IsolatedAsyncioTestCase):
    box: Sandbox

    @pytest.fixture(autouse=True)
    def _sandbox(self, airlock_sandbox: Sandbox) -> None:
        self.box = airlock_sandbox

    async def test_commands_side_by_side(self) -> None:
        # A sandbox is safe to use from several threads; that is how asynchronous code runs a command in it.
        names, ids = await asyncio.gather(
            asyncio.to_thread(self.box.run, ["whoami"], check=True),
            asyncio.to_thread(self.box.run, ["id", "-u"], check=True),
        )
        self.assertEqual((names.stdout, ids.stdout), ("airlock\n", "1000\n"))
