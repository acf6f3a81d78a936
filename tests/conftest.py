"""Shared by all tests: pytester, with which the plugin is run as users run it."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # What a test starts is not measured: coverage itself would be among its imports and its costs.
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

pytest_plugins = ["pytester"]
