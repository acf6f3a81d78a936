"""The base environment: its own, complete, with nothing of the host's."""

from __future__ import annotations

import pytest

from pytest_airlock.errors import InvalidSpec
from pytest_airlock.providers.namespaces.images import HostView, base_environ

VENV = HostView(root="/nonexistent", prefix="/work/.venv", base_prefix="/usr", executable="/work/.venv/bin/python")


@pytest.mark.parametrize(("user", "home"), [("root", "/root"), ("airlock", "/home/airlock")])
def test_each_user_has_a_home(user: str, home: str) -> None:
    environ = base_environ(user, VENV)
    assert (environ["HOME"], environ["USER"], environ["LOGNAME"]) == (home, user, user)


def test_the_fixed_values_are_those_of_a_pristine_machine() -> None:
    environ = base_environ("root", None)
    wanted = {"TZ": "UTC", "LANG": "C.UTF-8", "TERM": "dumb", "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    assert wanted.items() <= environ.items()
    for name in ("PIP_RETRIES", "CARGO_NET_RETRY", "npm_config_fetch_retries"):
        assert environ[name] == "0"


def test_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base_environ("root", VENV)
    for name in ("AWS_SECRET_ACCESS_KEY", "PATH", "HOME", "LANG", "VIRTUAL_ENV", "PYTHONPATH"):
        monkeypatch.setenv(name, "of the host")
    assert base_environ("root", VENV) == before
    assert "of the host" not in before.values()


def test_programs_of_the_venv_come_first() -> None:
    environ = base_environ("root", VENV)
    assert environ["PATH"] == "/work/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert environ["VIRTUAL_ENV"] == "/work/.venv"


def test_a_system_interpreter_adds_nothing_to_the_path() -> None:
    environ = base_environ("root", HostView(root="/nonexistent"))
    assert environ["PATH"] == base_environ("root", None)["PATH"]
    assert "VIRTUAL_ENV" not in environ


def test_an_interpreter_elsewhere_is_found_without_being_a_venv() -> None:
    prefix = "/root/.pyenv/versions/3.12"
    environ = base_environ("root", HostView("/nonexistent", prefix, prefix, f"{prefix}/bin/python3.12"))
    assert environ["PATH"].startswith(f"{prefix}/bin:")
    assert "VIRTUAL_ENV" not in environ


def test_an_unknown_user_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(InvalidSpec, match="known: airlock, root"):
        base_environ("alice", None)
