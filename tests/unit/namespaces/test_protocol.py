"""Messages of the engine: what is packed comes out again, what is not a reply is refused, nothing leaks."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.protocol import Reply, Request, channel
from pytest_airlock.providers.namespaces.process import Life

words = st.binary(max_size=50).filter(lambda word: b"\0" not in word)


@given(
    argv=st.lists(words, min_size=1, max_size=8),
    env=st.lists(words.filter(bool), max_size=8),
    cwd=words,
    payload=st.binary(max_size=100),
    value=st.integers(-(2**63), 2**63 - 1),
    stdio=st.integers(0, 63),
)
def test_a_request_keeps_every_boundary(argv, env, cwd, payload, value, stdio):
    request = Request(protocol.EXEC, value, 7, 1000, 1000, tuple(argv), tuple(env), cwd, payload, stdio)
    assert Request.unpack(request.pack()) == request


@given(st.binary(max_size=100))
def test_only_a_whole_reply_is_a_reply(data):
    size = len(Reply(protocol.DONE).pack())
    if len(data) == size:
        assert isinstance(Reply.unpack(data), Reply)
    else:
        with pytest.raises(ValueError, match="a reply of"):
            Reply.unpack(data)


@pytest.mark.parametrize("size", [0, 1, protocol.MESSAGE_LIMIT, protocol.MESSAGE_LIMIT + 1, 3_000_000])
def test_messages_of_any_size_arrive_whole_with_their_descriptors(size):
    near, far = protocol.channel()
    read, write = os.pipe()
    try:
        protocol.send(near, b"x" * size, (write,))
        data, fds = protocol.receive(far)
        assert data == b"x" * size
        assert len(fds) == 1
        os.write(fds[0], b"through")
        assert os.read(read, 100) == b"through"
        os.close(fds[0])
    finally:
        for fd in (read, write):
            os.close(fd)
        near.close()
        far.close()


def test_more_than_a_payload_may_be_is_e2big():
    near, far = protocol.channel()
    try:
        with pytest.raises(OSError, match="too long"):
            protocol.send(near, bytes(protocol.PAYLOAD_LIMIT + 1))
    finally:
        near.close()
        far.close()


def test_too_many_descriptors_are_refused_and_closed():
    near, far = protocol.channel()
    pipes = [os.pipe() for _ in range(6)]
    before = len(os.listdir("/proc/self/fd"))
    try:
        protocol.send(near, b"x", tuple(fd for pair in pipes for fd in pair))
        with pytest.raises(OSError, match="Message too long"):
            protocol.receive(far)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        for pair in pipes:
            for fd in pair:
                os.close(fd)
        near.close()
        far.close()


def test_end_of_file_is_told_apart_from_an_empty_message():
    near, far = protocol.channel()
    protocol.send(near, b"")
    assert protocol.receive(far) == (b"", [])
    near.close()
    assert protocol.receive(far) == (None, [])
    far.close()


def test_a_limit_of_file_sizes_is_an_error_that_says_so() -> None:
    """What is too long for a packet goes through a memfd, which counts as a file."""
    near, far = channel()
    life = Life("box", near, -1, lambda: 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ProviderError, match="RLIMIT_FSIZE") as caught:
            life.ask(Request(protocol.EXEC, argv=(b"true", bytes([65]) * 200_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        life.close()
        far.close()
    assert "ulimit -f" in str(caught.value)


@pytest.mark.parametrize("data", [b"x" * 100_000, b"x", Reply(protocol.DONE).pack() + b"x"])
def test_a_reply_of_another_size_is_refused(data: bytes) -> None:
    near, far = channel()
    life = Life("box", near, -1, lambda: 0)
    mine, theirs = channel()
    theirs.send(data)
    try:
        with pytest.raises(ProviderError, match="a reply of"):
            life.receive(mine)
    finally:
        for sock in (mine, theirs, far):
            sock.close()
        life.close()


def test_a_list_without_end_is_cut_off() -> None:
    near, far = channel()
    life = Life("box", near, -1, lambda: 0)

    def answer() -> None:
        _, (fd,) = protocol.receive(far)
        with socket.socket(fileno=fd) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                sock.send(Reply(protocol.PROCESS, 7).pack())

    thread = threading.Thread(target=answer)
    thread.start()
    assert len(life.call(Request(protocol.LIST))) <= 1001
    thread.join()
    far.close()
    life.close()
