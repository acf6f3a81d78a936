"""Names of sandboxes: DNS-style labels, never a path (r45).

A name becomes a file name, a hostname and part of a socket path, so only `[a-z0-9]([a-z0-9-]*[a-z0-9])?` in ASCII passes.
"""

from __future__ import annotations

import hashlib
import re

from pytest_airlock.errors import InvalidName

__all__ = ["MAX_NAME", "check_name", "generated_name", "marker_name"]

#: A DNS label (RFC 1035 2.3.4). Providers with a tighter limit (a socket path, say) pass their own.
MAX_NAME = 63

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
_OTHERS = re.compile(r"[^a-z0-9]+", re.ASCII)
_DIGEST = 8


def check_name(name: object, limit: int = MAX_NAME) -> str:
    """`name` itself if it is a label of at most `limit` characters, else InvalidName saying which rule it breaks."""
    if not isinstance(name, str):
        raise InvalidName("name", name, f"a name is a text, not {type(name).__name__}")
    if not name:
        raise InvalidName("name", name, "it is empty", hint="leave name= out to have one made")
    if len(name) > limit:
        raise InvalidName("name", name, f"it has {len(name)} characters, at most {limit} are allowed")
    if not _LABEL.fullmatch(name):
        nearest = _slug(name)[:limit].rstrip("-")
        # What looks like a letter of a-z need not be one.
        odd = next((f"; it has {char!a}" for char in name if not (char.isascii() and char.isprintable())), "")
        raise InvalidName(
            "name",
            name,
            f"a name is made of a-z, 0-9 and '-', and neither starts nor ends with '-'{odd}",
            hint=f"for example {nearest!r}" if nearest else "",
        )
    return name


def generated_name(test_id: str, *, run_id: str, worker: str = "main", number: int = 0, limit: int = MAX_NAME) -> str:
    """A name for a sandbox that was given none: the test's own words, then a digest of all that tells it apart.

    Equal arguments give equal names; another run, worker or number gives another name.
    """
    digest = _digest(run_id, worker, str(number), test_id)
    words = _slug(test_id.rpartition("::")[2]) or "sandbox"
    return _fitted(words, f"-{digest}", limit)


def marker_name(name: str, worker: str, number: int, limit: int = MAX_NAME) -> str:
    """`name-<worker>-<number>`: a marker may apply to several tests and workers, a name belongs to one sandbox.

    Where that is longer than `limit`, `name` is shortened and a digest of the whole keeps it unique.
    """
    check_name(name)
    suffix = f"-{_slug(worker) or 'main'}-{number}"
    if len(name) + len(suffix) <= limit:
        return name + suffix
    return _fitted(name, f"-{_digest(name, worker, str(number))}{suffix}", limit)


def _fitted(words: str, suffix: str, limit: int) -> str:
    room = limit - len(suffix)
    if room >= 1:
        return words[:room].rstrip("-") + suffix
    # Too tight even for the suffix: the digest alone still tells one name from another.
    return _digest(words, suffix)[: max(limit, 1)]


def _slug(text: str) -> str:
    return _OTHERS.sub("-", text.lower()).strip("-")


def _digest(*parts: str) -> str:
    # Lengths are part of what is hashed, so that ("a", "bc") and ("ab", "c") differ.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
