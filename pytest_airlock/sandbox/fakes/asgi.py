"""An ASGI app (version 3, HTTP and lifespan) as who answers: one event loop of its own for all requests."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote

from pytest_airlock.errors import AirlockError
from pytest_airlock.sandbox.fakes.received import Request
from pytest_airlock.sandbox.fakes.reply import Reply, reason_of

__all__ = ["Asgi"]

#: Seconds that an app may take to start up, and to shut down.
STARTUP, SHUTDOWN = 30.0, 5.0
#: Three classes before Python 3.11.
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)

_Message = MutableMapping[str, Any]
_App = Callable[[Any, Any, Any], Awaitable[None]]


class _Lifespan:
    """Its events: an app that knows none of them raises, and is served without."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self._orders: asyncio.Queue[_Message] = asyncio.Queue()
        self._answers: asyncio.Queue[_Message | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._began = False
        self.state: dict[str, Any] = {}

    async def begin(self) -> None:
        self._task = asyncio.create_task(self._run())
        await self._orders.put({"type": "lifespan.startup"})
        answer = await self._answers.get()
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            raise AirlockError("the app did not start up", why=str(answer.get("message", "")), hint="mend the app")
        self._began = answer is not None

    async def end(self) -> None:
        if self._task is not None and not self._task.done():
            await self._orders.put({"type": "lifespan.shutdown"})
            await self._answers.get()
        if self._began and self._task is not None:
            await self._task

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._orders.get, self._answers.put)
        except Exception:
            # Before it has started up this is how an app says that it has no lifespan (ASGI, "Lifespan Protocol").
            if self._began:
                raise
        finally:
            await self._answers.put(None)


class Asgi:
    """`port` is the one of the URL. Raises what the app raises when it starts up; then nothing is left."""

    def __init__(self, app: _App, *, secure: bool, port: int) -> None:
        self._app, self._secure, self._port = app, secure, port
        self._requests: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="airlock-asgi", daemon=True)
        self._thread.start()
        try:
            self._lifespan: _Lifespan = self._wait(self._begin(), STARTUP)
        except _TIMEOUTS:
            self._end()
            why = f"it has not answered lifespan.startup in {STARTUP:g} seconds"
            raise AirlockError("the app did not start up", why=why, hint="mend the app") from None
        except BaseException:
            self._end()
            raise

    async def _begin(self) -> _Lifespan:
        lifespan = _Lifespan(self._app)
        await lifespan.begin()
        return lifespan

    def _wait(self, coroutine: Any, seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, seconds), self._loop).result()

    def answer(self, request: Request, body: bytes, reply: Reply) -> None:
        sent: queue.SimpleQueue[tuple[_Message, asyncio.Future[None]] | None] = queue.SimpleQueue()
        running = asyncio.run_coroutine_threadsafe(self._run(self._scope(request), body, sent), self._loop)
        head: _Message = {}
        while (item := sent.get()) is not None:
            message, done = item
            try:
                head = _put(message, head, reply)
            except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
                self._loop.call_soon_threadsafe(_settle, done, error)
            else:
                self._loop.call_soon_threadsafe(_settle, done, None)
        running.result()

    async def _run(self, scope: _Message, body: bytes, sent: queue.SimpleQueue[Any]) -> None:
        over = asyncio.Event()
        pieces: list[_Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> _Message:
            if pieces:
                return pieces.pop()
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: _Message) -> None:
            done: asyncio.Future[None] = self._loop.create_future()
            sent.put((message, done))
            await done
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                over.set()

        task: asyncio.Task[Any] | None = asyncio.current_task()
        self._requests |= {task} if task is not None else set()
        try:
            await self._app(scope, receive, send)
        finally:
            self._requests -= {task}
            sent.put(None)

    def _scope(self, request: Request) -> _Message:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method.upper(),
            "scheme": "https" if self._secure else "http",
            "path": unquote(request.path),
            "raw_path": request.path.encode("latin-1"),
            "query_string": request.query.encode("latin-1"),
            "root_path": "",
            "headers": [
                (key.lower().encode("latin-1"), text.encode("latin-1")) for key, text in request.headers.fields
            ],
            "client": ("127.0.0.1", 0),
            "server": (request.host, self._port),
            "state": dict(self._lifespan.state),
        }

    def close(self) -> None:
        """Its lifespan ends in SHUTDOWN seconds, and what still runs is cancelled."""
        try:
            self._wait(self._finish(), SHUTDOWN)
        except _TIMEOUTS:
            pass  # cancelled with all else
        self._end()

    async def _finish(self) -> None:
        await _cancel(self._requests)
        await self._lifespan.end()

    def _end(self) -> None:
        cancelled = asyncio.run_coroutine_threadsafe(_cancel(asyncio.all_tasks(self._loop)), self._loop)
        try:
            cancelled.result(SHUTDOWN)
        except _TIMEOUTS:
            pass  # the loop is held up by an app that does not return: the server tells of that
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SHUTDOWN)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel(found: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(found)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _put(message: _Message, head: _Message, reply: Reply) -> _Message:
    """Send it; the head waits for the first piece of the body. Returns the head that waits."""
    if message["type"] == "http.response.start":
        if head or reply.started:
            raise RuntimeError("http.response.start was sent twice")
        return message
    if message["type"] != "http.response.body":
        raise RuntimeError(f"{message['type']!r} is no message of an HTTP response")
    if not reply.started:
        fields = [
            (bytes(key).decode("latin-1"), bytes(text).decode("latin-1")) for key, text in head.get("headers", ())
        ]
        reply.start(head["status"], reason_of(head["status"]), fields)
    reply.write(bytes(message.get("body", b"")))
    if not message.get("more_body", False):
        reply.end()
    return head
