"""Network policies as data: entries in their one form, and a fault that names the entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_airlock.errors import InvalidSpec
from pytest_airlock.models import MAX_ALLOW, Network, SandboxSpec
from pytest_airlock.orchestrator.policy.merge import faults, validate_spec

ENTRIES = st.one_of(
    st.ip_addresses(v=4).map(lambda address: f"{address}:1"),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]:65535"),
    st.from_regex(r"(\*\.)?[a-zA-Z0-9]{1,9}(\.[a-z]{1,8}){1,3}\.?:([1-9][0-9]{0,3}|\*)", fullmatch=True),
)


def test_entries_have_one_form_and_stand_once_in_their_order() -> None:
    network = Network(mode="allow", allow=("Example.COM:443", "10.1.2.3/32:5", "example.com.:443", "[2001:DB8::0]:*"))
    assert network.allow == ("example.com:443", "10.1.2.3:5", "[2001:db8::]:*")


@given(st.lists(ENTRIES, max_size=9))
def test_what_was_recorded_is_read_as_it_was(entries: list[str]) -> None:
    network = Network(mode="allow", allow=tuple(entries))
    assert Network.model_validate_json(network.model_dump_json()) == network


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("example.com", "has no port"),
        ("example.com:http", "is no port"),
        ("a.*.com:443", "is no host name"),
        ("2001:db8::1:443", "stands in brackets"),
        ("localhost:80", "is the sandbox itself"),
        ("x" * 301 + ":1", "it has 303 characters"),
    ],
)
@pytest.mark.parametrize("place", ["a list", "a mapping"])
def test_a_fault_names_the_entry_and_what_is_wrong_with_it(entry: str, why: str, place: str) -> None:
    entries = ["fine.example:1", entry]
    network = entries if place == "a list" else {"mode": "open", "allow": entries}
    with pytest.raises(InvalidSpec) as caught:
        validate_spec({"network": network}, where="marker of a test")
    assert str(caught.value).startswith("marker of a test: network.allow[1]=")
    assert why in str(caught.value)


def test_each_wrong_entry_is_a_fault() -> None:
    found = faults({"network": ["a", "fine:1", "b"]}, where="marker")
    assert [fault.partition("=")[0] for fault in found] == ["marker: network.allow[0]", "marker: network.allow[2]"]


def test_too_many_entries_are_one_fault() -> None:
    most = [f"h{number}:1" for number in range(MAX_ALLOW)]
    assert len(SandboxSpec.model_validate({"network": most}).network.allow) == MAX_ALLOW
    (found,) = faults({"network": [*most, "one.more:1"]}, where="marker")
    assert "it has 1,001 entries, and 1,000 is the most" in found
    with pytest.raises(ValidationError, match="1,001 entries"):
        Network(mode="allow", allow=(*most, "one.more:1"))
