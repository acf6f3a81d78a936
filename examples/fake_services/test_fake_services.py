"""Programs that know nothing of a test talk to https://api.example.com, and a function of this file is who answers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from pytest_airlock import Sandbox, Served

pytest.importorskip("trustme", reason="https needs pip install 'pytest-airlock[tls]'")

API = "https://api.example.com"

WITH_REQUESTS = """
import requests
answer = requests.post("https://api.example.com/v1/orders", json={"item": "tea"})
print(answer.status_code, answer.json()["path"])
"""

WITH_NODE = """
fetch("https://api.example.com/v1/orders", {method: "POST", body: "tea"})
    .then(async (answer) => console.log(answer.status, (await answer.json()).path))
    .catch((error) => { console.error(error); process.exit(1); });
"""


def api(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A WSGI app, as any web framework makes them."""
    start_response("201 Created", [("Content-Type", "application/json")])
    return [json.dumps({"path": environ["PATH_INFO"]}).encode()]


@pytest.fixture
def served(airlock_sandbox: Sandbox) -> Iterator[Served]:
    with airlock_sandbox.network.serve(API, api) as served:
        yield served


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(airlock_sandbox: Sandbox, served: Served) -> None:
    done = airlock_sandbox.run(["curl", "-sS", "-d", "tea", f"{API}/v1/orders?dry=1"], timeout=60)
    assert done.returncode == 0, f"{done.stderr}\n{served.broken}"
    assert json.loads(done.stdout) == {"path": "/v1/orders"}
    [seen] = served.requests
    assert (seen.method, seen.path, seen.query, seen.body) == ("POST", "/v1/orders", "dry=1", b"tea")
    assert seen.host == "api.example.com"
    assert seen.headers["User-Agent"].startswith("curl/")


def test_requests(airlock_sandbox: Sandbox, served: Served) -> None:
    pytest.importorskip("requests")
    done = airlock_sandbox.run(["python", "-c", WITH_REQUESTS], timeout=60)
    assert done.stdout == "201 /v1/orders\n", f"{done.stderr}\n{served.broken}"
    assert [seen.json() for seen in served.requests] == [{"item": "tea"}]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node(airlock_sandbox: Sandbox, served: Served) -> None:
    done = airlock_sandbox.run(["node", "-e", WITH_NODE], timeout=60)
    assert done.stdout == "201 /v1/orders\n", f"{done.stderr}\n{served.broken}"
    assert [seen.body for seen in served.requests] == [b"tea"]


def test_pip_installs_from_an_index_of_recorded_responses(airlock_sandbox: Sandbox) -> None:
    name, content = wheel()
    digest = hashlib.sha256(content).hexdigest()
    page = f'<!DOCTYPE html><a href="/files/{name}#sha256={digest}">{name}</a>'
    index = {"/simple/parcel/": (200, {"Content-Type": "text/html"}, page), f"/files/{name}": content}
    with airlock_sandbox.network.serve("https://pypi.example.com", index) as served:
        install = ["python", "-m", "pip", "install", "--index-url", "https://pypi.example.com/simple", "parcel"]
        done = airlock_sandbox.run(install, timeout=120)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{served.broken}"
    assert airlock_sandbox.run(["python", "-c", "import parcel; print(parcel.WHAT)"]).stdout == "a parcel\n"
    assert [seen.path for seen in served.requests] == ["/simple/parcel/", f"/files/{name}"]


def test_no_other_name_is_there(airlock_sandbox: Sandbox, served: Served) -> None:
    look_up = "import socket; socket.getaddrinfo('www.example.com', 443)"
    assert "gaierror" in airlock_sandbox.run(["python", "-c", look_up], timeout=60).stderr
    assert served.requests == ()


def wheel() -> tuple[str, bytes]:
    """Name and content of the smallest wheel (binary distribution format, packaging.python.org)."""
    files = {
        "parcel.py": b'WHAT = "a parcel"\n',
        "parcel-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n",
        "parcel-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    files["parcel-1.0.dist-info/RECORD"] = f"{record}parcel-1.0.dist-info/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return "parcel-1.0-py3-none-any.whl", packed.getvalue()
