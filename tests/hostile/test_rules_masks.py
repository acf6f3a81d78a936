"""Rule 9: credentials that lie in a project are not seen inside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from attacker import Box

from pytest_airlock.providers.base import ResolvedMount
from pytest_airlock.providers.namespaces import NamespacesProvider

SECRET = "hunter2-very-secret"


def cow(source: Path, mode: str = "cow", *, project: bool = False) -> tuple[ResolvedMount, ...]:
    return (ResolvedMount(str(source), str(source), mode, project=project),)  # type: ignore[arg-type]


@pytest.fixture
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host with a name short enough for a socket."""
    path = tmp_path_factory.mktemp("s")
    path.chmod(0o755)
    return path


@pytest.fixture
def project(share: Path) -> Path:
    for name in (".git/objects", ".git/refs", ".aws", "src"):
        (share / name).mkdir(parents=True)
    texts = {
        ".git/HEAD": "ref: refs/heads/main\n",
        ".git/config": f"""[core]
\tbare = false
[remote "origin"]
\turl = https://me:{SECRET}@example.org/x.git
[http "https://example.org/"]
\textraheader = AUTHORIZATION: basic {SECRET}
""",
        ".env": f"TOKEN={SECRET}\n",
        ".env.local": f"TOKEN={SECRET}\n",
        ".netrc": f"machine x login y password {SECRET}\n",
        ".pypirc": f"password = {SECRET}\n",
        ".npmrc": f"//registry/:_authToken={SECRET}\n",
        ".aws/credentials": f"aws_secret_access_key = {SECRET}\n",
        "src/server.pem": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
        "src/id_rsa": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----\n",
        "src/app.py": "print('seen')\n",
    }
    for name, text in texts.items():
        (share / name).write_text(text)
    return share


@pytest.mark.parametrize("how", ["ro", "cow", "rw"])
def test_rule09_credentials_in_the_project_are_not_seen(
    make_box: Callable[..., Box], project: Path, how: str, users: tuple[str, ...]
) -> None:
    box = make_box(mounts=cow(project, how, project=True))
    for user in users:
        found = box.run(f"grep -raF {SECRET} {project}; python3 {project}/src/app.py", user=user)
        assert found.out == "seen\n"
    assert "bare" in box.run(f"cat {project}/.git/config").out, "the rest of the file is there"
    # Not by the name of another thing, or after a copy-up of what is above it.
    again = box.run(f"mv {project}/src {project}/s2; cp -r {project} /tmp/copy; grep -raF {SECRET} /tmp/copy {project}")
    assert again.out == ""
    if how == "rw":
        os.rename(project / "s2", project / "src") if (project / "s2").exists() else None
    assert SECRET in (project / ".env").read_text()
    assert SECRET in (project / ".git/config").read_text()


def test_rule09_expose_lists_exceptions(make_box: Callable[..., Box], project: Path) -> None:
    box = make_box(mounts=cow(project, project=True), expose=(".env",))
    assert box.run(f"grep -rlaF {SECRET} {project}").out == f"{project}/.env\n"


@pytest.mark.parametrize("how", ["ro", "cow"])
def test_rule09_credentials_that_come_later_are_masked_in_the_next_sandbox(
    make_box: Callable[..., Box], project: Path, how: str
) -> None:
    make_box(mounts=cow(project, how, project=True))
    (project / "src/.env.production").write_text(f"TOKEN={SECRET}\n")
    # Rewritten in place: neither the directory nor its name tells.
    with open(project / "src/app.py", "a") as file:
        file.write(f"# {SECRET}\n")
    with open(project / "src/ca.pem", "w") as file:
        file.write("-----BEGIN CERTIFICATE-----\n")
    box = make_box(mounts=cow(project, how, project=True))
    assert box.run(f"grep -rlaF {SECRET} {project}").out == f"{project}/src/app.py\n"


@pytest.mark.parametrize("how", ["ro", "cow"])
def test_rule09_a_token_written_into_a_file_in_place_is_masked_in_the_next_sandbox(
    make_box: Callable[..., Box], project: Path, how: str
) -> None:
    config = project / ".git/config"
    config.write_text("[core]\n\tbare = false\n")
    make_box(mounts=cow(project, how, project=True))
    with open(config, "a") as file:
        file.write(f'[remote "origin"]\n\turl = https://me:{SECRET}@example.org/x.git\n')
    box = make_box(mounts=cow(project, how, project=True))
    assert box.run(f"grep -rlaF {SECRET} {project}").out == ""


@pytest.mark.parametrize("how", ["ro", "cow"])
def test_rule09_credentials_that_come_later_are_masked_after_a_reset(
    make_box: Callable[..., Box], provider: NamespacesProvider, project: Path, how: str
) -> None:
    box = make_box(mounts=cow(project, how, project=True))
    snapshot = provider.snapshot(box.handle)
    (project / "src/.env.production").write_text(f"TOKEN={SECRET}\n")
    provider.reset(box.handle, snapshot)
    assert box.run(f"grep -rlaF {SECRET} {project}").out == ""
