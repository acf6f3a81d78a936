"""Questions and answers of the resolver."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.engine.net import dns


def query(name: bytes, kind: int = 1, *, flags: int = 0x0100, questions: int = 1) -> bytes:
    return struct.pack(">HHHHHH", 7, flags, questions, 0, 0, 0) + name + struct.pack(">HH", kind, 1)


def name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def test_a_question_is_read() -> None:
    asked = dns.question(query(name(b"API", b"Example", b"org"), 28))
    assert asked == ("api.example.org", "AAAA", name(b"API", b"Example", b"org") + b"\0\x1c\0\1")


@pytest.mark.parametrize(("kind", "word"), [(1, "A"), (65, "HTTPS"), (16, "TXT"), (999, "TYPE999")])
def test_the_type_is_a_word(kind: int, word: str) -> None:
    assert dns.question(query(name(b"a"), kind)).kind == word


def test_the_root_is_a_dot() -> None:
    assert dns.question(query(b"\0")).name == "."


@pytest.mark.parametrize(
    ("label", "shown"), [(b"a.b", r"a\046b"), (b"\x1b[2J", r"\027\0912j"), (b"\xff", r"\255"), (b"\\", r"\092")]
)
def test_what_is_not_plain_is_shown_as_numbers(label: bytes, shown: str) -> None:
    assert dns.question(query(name(label))).name == shown


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0" * 11,
        query(name(b"a"), flags=0x8000),
        query(name(b"a"), flags=0x2000),
        query(name(b"a"), questions=0),
        query(name(b"a"), questions=2),
        query(b"\xc0\x0c"),
        query(b"\x3f" + b"a" * 20)[:-4],
        query(name(*[b"a" * 63] * 4)),
        query(name(b"a"))[:-1],
        query(name(b"a"))[:-5],
    ],
    ids=[
        "empty",
        "no header",
        "an answer",
        "an update",
        "none",
        "two",
        "compressed",
        "cut",
        "too long",
        "no class",
        "no end",
    ],
)
def test_anything_else_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):
        dns.question(message)


@given(st.binary(max_size=600))
def test_no_bytes_do_harm(message: bytes) -> None:
    try:
        asked = dns.question(message)
    except ValueError:
        return
    assert asked.name.isascii()
    assert asked.name.isprintable()
    assert len(asked.name) <= 4 * 255
    assert len(dns.answer(message, asked, dns.NO_SUCH_NAME)) <= len(message)


def test_the_answer_repeats_the_question_and_says_there_is_no_such_name() -> None:
    asked = query(name(b"a"))
    made = dns.answer(asked, dns.question(asked), dns.NO_SUCH_NAME)
    assert made[:2] == asked[:2]
    flags, questions, answers = struct.unpack_from(">HHH", made, 2)
    assert flags & 0x8000, "it is no answer"
    assert flags & 0x0100, "that recursion was wished is not repeated"
    assert flags & 0xF == 3
    assert (questions, answers) == (1, 0)
    assert made[12:] == asked[12:]


def test_an_answer_has_the_address_for_as_long_as_it_takes_to_read_it() -> None:
    asked = query(name(b"a", b"test"))
    made = dns.answer(asked, dns.question(asked), dns.NO_ERROR, "198.18.1.0")
    assert struct.unpack_from(">HHHHHH", made) == (7, 0x8580, 1, 1, 0, 0)
    assert made[12 : len(asked)] == asked[12:]
    assert made[len(asked) :] == bytes.fromhex("c00c 0001 0001 00000000 0004 c6120100")


def test_that_there_is_nothing_of_a_kind_is_no_error() -> None:
    asked = query(name(b"a"), 28)
    made = dns.answer(asked, dns.question(asked), dns.NO_ERROR)
    assert struct.unpack_from(">HHHHHH", made) == (7, 0x8580, 1, 0, 0, 0)
