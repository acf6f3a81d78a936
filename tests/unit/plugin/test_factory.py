"""SandboxFactory: all it made is ended, whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pytest_airlock.errors import ProviderError
from pytest_airlock.models import SandboxSpec
from pytest_airlock.plugin.factory import SandboxFactory, SpecWords


class Book:
    """Stands for whoever makes and ends sandboxes."""

    def __init__(self, *stubborn: str) -> None:
        self.stubborn = stubborn
        self.ended: list[str] = []

    def make(self, words: Mapping[str, object]) -> Any:
        return words["name"]

    def end(self, sandbox: Any) -> None:
        self.ended.append(sandbox)
        if sandbox in self.stubborn:
            raise ProviderError("fake", "delete", f"{sandbox} stays")


def test_the_youngest_goes_first() -> None:
    book = Book()
    factory = SandboxFactory(book.make, book.end)
    for name in "abc":
        factory(name=name)
    factory.close()
    assert book.ended == ["c", "b", "a"]


def test_closing_twice_ends_nothing_twice() -> None:
    book = Book()
    factory = SandboxFactory(book.make, book.end)
    factory(name="a")
    factory.close()
    factory.close()
    assert book.ended == ["a"]


def test_errors_are_kept_until_all_are_ended() -> None:
    book = Book("a", "c")
    factory = SandboxFactory(book.make, book.end)
    for name in "abc":
        factory(name=name)
    with pytest.raises(ProviderError, match="c stays") as caught:
        factory.close()
    assert book.ended == ["c", "b", "a"]
    assert "a stays" in vars(caught.value)["__notes__"][0]


def test_what_is_made_while_it_closes_is_ended_too() -> None:
    book = Book()

    def make(words: Mapping[str, object]) -> Any:
        factory.close()  # as another thread would
        return words["name"]

    factory = SandboxFactory(make, book.end)
    with pytest.raises(RuntimeError, match="in nobody's hands"):
        factory(name="late")
    assert book.ended == ["late"]


def test_what_nobody_was_told_of_is_ended_too() -> None:
    book = Book()

    def ready(sandbox: Any) -> None:
        raise ValueError(sandbox)

    factory = SandboxFactory(book.make, book.end, ready)
    with pytest.raises(ValueError, match="a"):
        factory(name="a")
    factory.close()
    assert book.ended == ["a"]


def test_a_closed_factory_makes_nothing() -> None:
    book = Book()
    factory = SandboxFactory(book.make, book.end)
    factory.close()
    with pytest.raises(RuntimeError, match="in nobody's hands"):
        factory(name="a")


def test_its_words_are_those_of_a_spec() -> None:
    assert SpecWords.__annotations__.keys() == SandboxSpec.model_fields.keys()
