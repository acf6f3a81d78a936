"""Shared by all tests: pytester, with which the plugin is run as users run it."""

from __future__ import annotations

pytest_plugins = ["pytester"]
