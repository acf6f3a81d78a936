"""Shared by the unit tests."""

from __future__ import annotations

try:
    from hypothesis import settings
except ModuleNotFoundError:
    pass  # `tox -e bench` runs those that do without it
else:
    # No example fails because a busy machine was slow with it.
    settings.register_profile("airlock", deadline=None)
    settings.load_profile("airlock")

try:
    # What an inner run of pytester imports is forgotten after it; and of cryptography there can be only one in a process.
    import cryptography.hazmat.primitives.serialization.pkcs12  # noqa: F401
    import trustme  # noqa: F401
except ModuleNotFoundError:
    pass
