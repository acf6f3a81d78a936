"""What the served host has to say: a page, an index of packages for each installer, a repository for git, one for apt."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import zipfile
from pathlib import Path

#: The name that is served; every program asks for it.
HOST = "api.example.com"


def answers(directory: Path) -> dict[str, object]:
    """Recorded responses. `directory` is for the making of the repository, which there is if git is installed."""
    wheel, content = _wheel()
    return {
        "/": "hello\n",
        "/simple/parcel/": (200, {"Content-Type": "text/html"}, f'<a href="/files/{wheel}">{wheel}</a>'),
        f"/files/{wheel}": content,
        "/npm/parcel": {"name": "parcel", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": _npm()}},
        "/crates/config.json": {"dl": f"https://{HOST}/crates/dl", "api": f"https://{HOST}/crates"},
        "/crates/api/v1/crates": {"crates": [], "meta": {"total": 0}},
        "/apt/./Packages": "",
        **_repository(directory),
    }


def _npm() -> dict[str, object]:
    tarball = f"https://{HOST}/npm/parcel-1.0.0.tgz"
    return {"name": "parcel", "version": "1.0.0", "dist": {"tarball": tarball, "shasum": "0" * 40}}


def _wheel() -> tuple[str, bytes]:
    files = {
        "parcel.py": b"",
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


def _repository(directory: Path) -> dict[str, bytes]:
    """The files of a bare repository, as a server without git has them (the "dumb" protocol)."""
    if shutil.which("git") is None:
        return {}
    bare, work = directory / "code.git", directory / "work"
    who = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    for words in (
        ("init", "--quiet", "--initial-branch=main", str(work)),
        ("-C", str(work), *who, "commit", "--quiet", "--allow-empty", "--message=first"),
        ("clone", "--quiet", "--bare", str(work), str(bare)),
        ("-C", str(bare), "update-server-info"),
    ):
        subprocess.run(["git", *words], check=True, capture_output=True)
    files = (path for path in bare.rglob("*") if path.is_file())
    return {f"/code.git/{path.relative_to(bare).as_posix()}": path.read_bytes() for path in files}
