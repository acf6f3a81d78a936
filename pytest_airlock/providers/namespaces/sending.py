"""Why a message could not be sent, in words that lead to a remedy."""

from __future__ import annotations

import errno
import resource

from pytest_airlock.errors import ProviderError

__all__ = ["explain_send"]


def explain_send(error: OSError, operation: str) -> Exception:
    """The error to raise. A long message goes through a memfd, to which the test process' own limit of file sizes applies."""
    if error.errno != errno.EFBIG:
        return error
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return ProviderError(
        "namespaces",
        operation,
        f"this process may write no file larger than {soft} bytes (RLIMIT_FSIZE), and the message is larger",
        hint="raise the limit (ulimit -f), or pass less by arguments and environment",
    )
