"""A server of the test process: a thread that accepts, one for each connection, and an end of them all."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from pytest_airlock.errors import AirlockError
from pytest_airlock.sandbox.fakes.bodies import Room
from pytest_airlock.sandbox.fakes.handler import Responder
from pytest_airlock.sandbox.fakes.received import Received

__all__ = ["Server"]

#: Connections at the same time, each with a thread; more wait to be accepted.
CONNECTIONS = 128
#: Seconds that close() waits for an app that is at work.
PATIENCE = 5.0
#: Seconds that a client may be silent.
SILENCE = 60.0
#: Seconds before it is tried again to accept, where this process has no more descriptors.
_PAUSE = 0.1


class Server:
    """HTTP at a port of 127.0.0.1, with TLS if there is a `context`, from when it is made until close().

    A connection is handled by a `handler`, an http.server class with Recording before it.
    """

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        *,
        responder: Responder | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.responder = responder
        self.received = Received()
        self.room = Room()
        self.closing = False
        self._handler = handler
        self._context = context
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(CONNECTIONS)
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS)
        self._listener.setblocking(False)
        self._wake, self._waker = socket.socketpair()
        self.server_address: tuple[str, int] = self._listener.getsockname()
        # What a class of http.server looks up in its server.
        self.server_name, self.server_port = self.server_address
        self._acceptor = threading.Thread(target=self._accept_all, name="airlock-serve", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """No thread and no socket is left, but of an app that does not return: that is one of the errors. Twice is fine."""
        with self._lock:
            if self.closing:
                return
            self.closing = True
        deadline = time.monotonic() + PATIENCE
        self._waker.close()
        self._slots.release()
        self._acceptor.join()
        self._listener.close()
        self._wake.close()
        with self._lock:
            connections = dict(self._connections)
            for sock in connections:
                _hang_up(sock)
        if self.responder is not None:
            try:
                self.responder.close()
            except Exception as error:  # noqa: BLE001 - of the app's own end, and kept with its other errors
                self.received.failed(error)
        for thread in connections.values():
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        working = [
            thread for thread in connections.values() if thread.is_alive() and thread is not threading.current_thread()
        ]
        if working:
            self.received.failed(
                AirlockError(
                    f"the app still works on {len(working)} requests",
                    why=f"it has not returned {PATIENCE:g} seconds after its server was closed",
                    hint="its threads end with the process: let the app return",
                )
            )

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                self._slots.acquire()
                selector.select()
                if self.closing:
                    return
                if not self._accept():
                    self._slots.release()
                    self._pause()

    def _accept(self) -> bool:
        """Whether a connection is handled now."""
        try:
            sock, address = self._listener.accept()
        except OSError as error:
            self.received.broke(f"could not be accepted: {error}")
            return False
        try:
            sock.settimeout(SILENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                # No handshake yet: whoever connects and is silent holds up nobody but himself.
                sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=self._serve, args=(sock, address), name="airlock-served", daemon=True)
            with self._lock:
                self._connections[sock] = thread
            thread.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: this process can have no more threads
            self.received.broke(f"could not be served: {error}")
            with self._lock:
                self._connections.pop(sock, None)
            sock.close()
            return False
        return True

    def _pause(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            selector.select(_PAUSE)

    def _serve(self, sock: socket.socket, address: Any) -> None:
        stage = "TLS handshake"
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            stage = "connection"
            self._handler(sock, address, self)  # type: ignore[arg-type]  # it needs no more of a server than this one has
        except OSError as error:
            if not self.closing:
                self.received.broke(f"{stage} failed: {error}")
        except BaseException as error:  # noqa: BLE001 - raised by the app's own class outside of an answer; nobody else sees it
            self.received.failed(error)
        finally:
            with self._lock:
                del self._connections[sock]
                _hang_up(sock)
                sock.close()
            self._slots.release()


def _hang_up(sock: socket.socket) -> None:
    """End what waits for it, in whichever thread. Not SSLSocket.shutdown, which changes the object under its thread's feet."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # the client was faster
