"""Servers of the test behind real names: what `network.route()` and `network.serve()` are made of.

ends.py (what route() and serve() may be given) · served.py (what they return) · received.py (what came in) ·
server.py, handler.py, bodies.py (HTTP) · apps.py, wsgi.py, asgi.py, recorded.py, reply.py (who answers) ·
authority.py (certificates) · trust.py (that programs inside believe them)
"""

from __future__ import annotations

from pytest_airlock.sandbox.fakes.received import Headers, Request
from pytest_airlock.sandbox.fakes.served import OpenRoute, Served

__all__ = ["Headers", "OpenRoute", "Request", "Served"]
