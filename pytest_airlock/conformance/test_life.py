"""Contract 1-6, 9, 14-17: from create to delete."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_airlock.conformance.machine import Machine, all_dead, ended, line, within
from pytest_airlock.errors import AlreadyExists, SandboxDied, UnsupportedFeature
from pytest_airlock.providers.base import FEATURES, Command, Features, Handle, Provider, ProviderSpec

NONSENSE = "conformance_no_such_feature"


def test_c01_probe_tells_what_can_be_enforced_and_why_the_rest_cannot(features: Features) -> None:
    assert features.present <= FEATURES.keys()
    for feature in FEATURES.keys() - features.present:
        assert features.absent[feature].why, f"no reason is given for the absence of {feature}"


def test_c01_a_second_probe_answers_from_memory(provider: Provider, features: Features) -> None:
    assert provider.probe() == features


def test_c02_a_new_sandbox_is_not_running(provider: Provider, names: Iterator[str]) -> None:
    name = next(names)
    handle = provider.create(ProviderSpec(name))
    assert (handle.provider, handle.name) == (provider.name, name)
    assert provider.is_running(handle) is False
    provider.delete(handle)


def test_c02_a_handle_survives_json(provider: Provider, names: Iterator[str]) -> None:
    made = provider.create(ProviderSpec(next(names)))
    handle = Handle.from_json(json.loads(json.dumps(made.to_json())))
    assert handle == made
    provider.start(handle)
    assert Machine(provider, handle).run("true").returncode == 0
    provider.delete(handle)
    assert not provider.is_running(made)


def test_c03_what_cannot_be_enforced_is_refused_and_leaves_nothing(
    provider: Provider, features: Features, names: Iterator[str]
) -> None:
    for feature in [NONSENSE, *sorted(FEATURES.keys() - features.present)]:
        name = next(names)
        with pytest.raises(UnsupportedFeature) as caught:
            provider.create(ProviderSpec(name, required=frozenset({feature})))
        assert (caught.value.feature, caught.value.provider) == (feature, provider.name)
        assert caught.value.why
        provider.delete(provider.create(ProviderSpec(name)))


def test_c03_enforced_lists_what_is_required_and_nothing_that_is_not_there(
    provider: Provider, features: Features, names: Iterator[str]
) -> None:
    required = frozenset({"network_locked", "user_root", "private_proc"}) & features.present
    handle = provider.create(ProviderSpec(next(names), required=required))
    assert required <= set(handle.enforced) <= features.present
    provider.delete(handle)


def test_c04_a_name_that_is_taken_is_refused_and_nothing_touched(box: Machine, provider: Provider) -> None:
    box.write("/tmp/kept", b"1")
    with pytest.raises(AlreadyExists) as caught:
        provider.create(ProviderSpec(box.handle.name))
    assert caught.value.name == box.handle.name
    assert provider.is_running(box.handle)
    assert box.read("/tmp/kept") == b"1"


def test_c05_spawn_works_when_start_returns(provider: Provider, names: Iterator[str]) -> None:
    handle = provider.create(ProviderSpec(next(names)))
    provider.start(handle)
    assert Machine(provider, handle).run("echo", "ready") == (0, b"ready\n", b"")
    provider.delete(handle)


def test_c05_start_does_nothing_on_a_running_sandbox(box: Machine, provider: Provider) -> None:
    with box.process("cat", stdin="pipe") as process:
        provider.start(box.handle)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.write(b"alive\n")
        assert line(process) == b"alive\n"


def test_c06_is_running_follows_start_and_stop(box: Machine, provider: Provider) -> None:
    assert provider.is_running(box.handle) is True
    provider.stop(box.handle, grace=0.1)
    assert provider.is_running(box.handle) is False
    provider.start(box.handle)
    assert provider.is_running(box.handle) is True


def test_c06_a_sandbox_that_died_by_itself_is_not_running(box: Machine, provider: Any) -> None:
    if not hasattr(provider, "die"):
        pytest.skip(f"provider {provider.name!r} has no die(name) with which a test could end a sandbox from outside")
    with box.process("sleep", "1000") as process:
        provider.die(box.handle.name)
        assert provider.is_running(box.handle) is False
        with pytest.raises(SandboxDied):
            ended(process)
        assert all_dead(process)


@pytest.mark.parametrize("state", ["created", "stopped", "deleted"])
def test_c09_spawn_needs_a_running_sandbox(provider: Provider, names: Iterator[str], state: str) -> None:
    handle = provider.create(ProviderSpec(next(names)))
    if state != "created":
        provider.start(handle)
        provider.stop(handle, grace=0.1)
    if state == "deleted":
        provider.delete(handle)
    with pytest.raises(SandboxDied):
        provider.spawn(handle, Command(("true",), (("PATH", "/usr/bin:/bin"),)))
    provider.delete(handle)


def test_c14_stop_asks_first_and_files_stay(box: Machine, provider: Provider) -> None:
    # A SIGTERM between fork and exec of the child finds the shell's handler and is lost: so it ends by itself, too.
    with box.process("sh", "-c", "trap 'echo bye > /opt/bye; exit 0' TERM; sleep 5 & echo ready; wait") as process:
        assert line(process) == b"ready\n"
        provider.stop(box.handle, grace=30)
        assert all_dead(process)
    provider.start(box.handle)
    assert box.read("/opt/bye") == b"bye\n"


def test_c14_stop_kills_what_does_not_listen(box: Machine, provider: Provider) -> None:
    with box.process("sh", "-c", "trap '' TERM; echo ready; sleep 1000 & wait") as process:
        assert line(process) == b"ready\n"
        within(lambda: provider.stop(box.handle, grace=0.2))
        assert all_dead(process)


def test_c14_stop_does_nothing_on_a_stopped_sandbox(box: Machine, provider: Provider) -> None:
    box.write("/opt/kept", b"1")
    provider.stop(box.handle, grace=0.1)
    provider.stop(box.handle, grace=0.1)
    provider.start(box.handle)
    assert box.read("/opt/kept") == b"1"


def test_c15_delete_ends_everything_and_frees_the_name(box: Machine, provider: Provider) -> None:
    box.write("/opt/mine", b"1")
    with box.process("sh", "-c", "trap '' TERM; echo ready; sleep 1000 & wait") as process:
        assert line(process) == b"ready\n"
        within(lambda: provider.delete(box.handle))
        assert all_dead(process)
    assert provider.is_running(box.handle) is False
    again = Machine(provider, provider.create(ProviderSpec(box.handle.name)))
    provider.start(again.handle)
    assert not again.exists("/opt/mine")
    provider.delete(again.handle)


def test_c15_delete_twice_of_an_unknown_handle_and_by_a_stranger_does_nothing(
    box: Machine, provider: Provider, new_provider: Callable[[], Provider]
) -> None:
    provider.delete(Handle(provider.name, "conformance-never-made", dict(box.handle.data)))
    assert box.run("true").returncode == 0
    provider.delete(box.handle)
    provider.delete(box.handle)
    new_provider().delete(Handle.from_json(json.loads(json.dumps(box.handle.to_json()))))


def test_c16_different_sandboxes_at_the_same_time(provider: Provider, names: Iterator[str]) -> None:
    failures: list[BaseException] = []

    def life(name: str) -> None:
        try:
            box = Machine(provider, provider.create(ProviderSpec(name)))
            provider.start(box.handle)
            box.write("/tmp/me", name.encode())
            assert box.run("cat", "/tmp/me").out == name.encode()
            provider.stop(box.handle, grace=0.1)
            provider.delete(box.handle)
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=life, args=(next(names),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_c16_commands_and_files_of_one_sandbox_at_the_same_time(box: Machine) -> None:
    results: dict[int, bytes] = {}

    def work(number: int) -> None:
        box.write(f"/tmp/{number}", str(number).encode())
        results[number] = box.run("cat", f"/tmp/{number}").out + box.read(f"/tmp/{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}{number}".encode() for number in range(12)}


def test_c17_close_deletes_everything_and_twice_is_fine(new_provider: Callable[[], Provider]) -> None:
    provider = new_provider()
    box = Machine(provider, provider.create(ProviderSpec("conformance-closed")))
    provider.start(box.handle)
    with box.process("sh", "-c", "echo ready; sleep 1000 & wait") as process:
        assert line(process) == b"ready\n"
        provider.close()
        assert all_dead(process)
    provider.close()
