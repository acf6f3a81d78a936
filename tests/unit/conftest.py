"""Shared by the unit tests."""

from __future__ import annotations

from hypothesis import settings

# No example fails because a busy machine was slow with it.
settings.register_profile("airlock", deadline=None)
settings.load_profile("airlock")
