"""Which kind of app it is, and the server for it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

from pytest_airlock.sandbox.fakes.ends import ServedUrl
from pytest_airlock.sandbox.fakes.handler import AppHandler, Recording, Responder
from pytest_airlock.sandbox.fakes.recorded import Recorded
from pytest_airlock.sandbox.fakes.server import Server

__all__ = ["serve"]

_KINDS = (
    "a WSGI or ASGI app, a class of http.server, a dict of responses, a listening socket or (host, port)"
)  # fmt: skip


def serve(app: Any, url: ServedUrl) -> Server:
    """A running server of this process. Raises TypeError for what is no app, ValueError, and what an app raises at its start;
    MissingExtra for https without the extra `tls`.
    """
    context = None
    if url.secure:
        from pytest_airlock.sandbox.fakes.authority import authority

        context = authority().context(url.host)
    if isinstance(app, type) and issubclass(app, BaseHTTPRequestHandler):
        return Server(type(app.__name__, (Recording, app), {}), context=context)
    responder = _responder(app, url)
    try:
        return Server(AppHandler, responder=responder, context=context)
    except BaseException:
        responder.close()
        raise


def _responder(app: Any, url: ServedUrl) -> Responder:
    if isinstance(app, Mapping):
        return Recorded(app)
    if not callable(app):
        raise TypeError(f"{type(app).__name__} is no app: serve() takes {_KINDS}")
    if _is_asgi(app):
        from pytest_airlock.sandbox.fakes.asgi import Asgi

        return Asgi(app, secure=url.secure, port=url.end.port)
    if not _takes(app, 2):
        raise TypeError(f"{app!r} takes neither the 2 arguments of WSGI nor the 3 of ASGI: serve() takes {_KINDS}")
    from pytest_airlock.sandbox.fakes.wsgi import Wsgi

    return Wsgi(app, secure=url.secure, port=url.end.port)


def _is_asgi(app: Any) -> bool:
    if inspect.isclass(app):
        return False
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__):
        return _takes(app, 3)
    return not _takes(app, 2) and _takes(app, 3)


def _takes(app: Any, count: int) -> bool:
    try:
        inspect.signature(app).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True  # of a built-in callable nothing is known
    return True
