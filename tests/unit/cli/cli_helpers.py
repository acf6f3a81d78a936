"""What the tests of the command share."""

from __future__ import annotations

import os
import signal

from pytest_airlock import cli
from pytest_airlock.models import Owner, SandboxRecord, SandboxSpec, State
from pytest_airlock.orchestrator.storage.process_identity import current_owner
from pytest_airlock.providers.base import Handle


def owner_in_another_process(*, alive: bool) -> tuple[Owner, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, current_owner(worker="gw1", test="test_x.py::test_y").model_dump_json().encode())
        os.close(writer)
        if alive:
            signal.pause()
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        owner = Owner.model_validate_json(file.read())
    if not alive:
        os.waitpid(pid, 0)
    return owner, pid


def record(name: str, owner: Owner, **fields: object) -> SandboxRecord:
    values = {
        "provider": "fake",
        "state": State.RUNNING,
        "spec": SandboxSpec(),
        "profile": "cautious",
        "created": 1.0,
        "handle": Handle("fake", name, {}, ("network_locked",)).to_json(),
        **fields,
    }
    return SandboxRecord.model_validate({"name": name, "owner": owner, **values})


def run(*argv: str) -> int:
    return cli.main(argv)
