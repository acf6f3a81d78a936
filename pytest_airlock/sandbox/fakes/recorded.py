"""Recorded responses: a dict of paths, answered as they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pytest_airlock.sandbox.fakes.received import Request
from pytest_airlock.sandbox.fakes.reply import Reply

__all__ = ["Recorded"]

_Answer = tuple[int, tuple[tuple[str, str], ...], bytes]
_KEY = "'/path' or 'GET /path'"


class Recorded:
    """`{"/path" | "GET /path": str | bytes | JSON | (status, headers, body)}`; everything else is 404.

    A key with a "?" is that very query; one without is every query. Raises ValueError for what is none of these.
    """

    def __init__(self, responses: Mapping[str, Any]) -> None:
        self._answers = {_key(key): _answer(key, value) for key, value in responses.items()}

    def close(self) -> None: ...

    def answer(self, request: Request, body: bytes, reply: Reply) -> None:
        target = f"{request.path}?{request.query}"
        method = "GET" if request.method == "HEAD" else request.method
        for key in ((method, target), ("", target), (method, request.path), ("", request.path)):
            if key in self._answers:
                reply.whole(*self._answers[key])
                return
        reply.whole(404, (("Content-Type", "text/plain; charset=utf-8"),), b"no response is recorded for this path\n")


def _key(key: object) -> tuple[str, str]:
    method, _, path = key.rpartition(" ") if isinstance(key, str) else ("", "", "")
    if not path.startswith("/") or (method and not method.isalpha()):
        raise ValueError(f"{key!r} is no path of a recorded response: write {_KEY}")
    return method.upper(), path


def _answer(key: str, value: object) -> _Answer:
    if isinstance(value, tuple):
        if len(value) != 3 or isinstance(value[0], bool) or not isinstance(value[0], int):
            raise ValueError(f"{key!r}: a response as a tuple is (status, headers, body)")
        status, headers, body = value
        fields = tuple((str(name), str(text)) for name, text in dict(headers).items())
        kind, content = _body(key, body)
        named = any(name.lower() == "content-type" for name, _ in fields)
        return status, fields if named else (*fields, ("Content-Type", kind)), content
    kind, content = _body(key, value)
    return 200, (("Content-Type", kind),), content


def _body(key: str, value: object) -> tuple[str, bytes]:
    if isinstance(value, bytes):
        return "application/octet-stream", value
    if isinstance(value, str):
        return "text/plain; charset=utf-8", value.encode()
    try:
        return "application/json", json.dumps(value).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key!r}: {type(value).__name__} is neither text, bytes nor JSON: {error}") from None
