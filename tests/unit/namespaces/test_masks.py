"""What a view must not show, each rule both ways: hidden, and not hidden."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.images import masks
from pytest_airlock.providers.namespaces.images.masks import scan

KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def put(top: Path, path: str, content: str | bytes = "secret", mode: int = 0o644) -> Path:
    file = top / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    "path",
    [
        ".git-credentials",
        ".netrc",
        "_netrc",
        ".pypirc",
        ".npmrc",
        "packages/web/.npmrc",
        ".env",
        ".env.local",
        ".env.production",
        ".envrc",
        "deep/down/.env",
        "venv/pip.conf",
        "venv/pip.ini",
        ".aws/credentials",
        ".ssh/known_hosts",
        ".gnupg/x",
        ".kube/config",
        ".config/gh/hosts.yml",
        ".config/gcloud/x",
        ".docker/config.json",
        ".cargo/credentials.toml",
        ".envs/.production/.django",
        "release.p12",
        "app.jks",
    ],
)
def test_credentials_are_hidden_by_name(tmp_path: Path, path: str) -> None:
    put(tmp_path, path)
    hidden = scan(str(tmp_path)).hidden
    assert any(path == found or path.startswith(f"{found}/") for found in hidden)


@pytest.mark.parametrize(
    "path",
    [
        ".env.example",
        ".env.sample",
        ".env.template",
        ".env/bin/python",
        "env",
        "netrc",
        "npmrc",
        "pip.conf.in",
        "aws/credentials",
        ".config/app/settings.ini",
        ".docker/Dockerfile",
        "config.json",
        ".cargo/config.toml",
        ".gitignore",
        "gh/hosts.yml",
        "notes.p12.txt",
    ],
)
def test_names_that_only_look_alike_stay_visible(tmp_path: Path, path: str) -> None:
    put(tmp_path, path)
    assert scan(str(tmp_path)).hidden == ()


@pytest.mark.parametrize("name", ["server.pem", "server.key", "AuthKey.p8", "id_rsa", "id_ed25519_work", "dump.asc"])
def test_key_files_are_hidden_only_if_they_hold_a_private_key(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"a/{name}", CERTIFICATE * 100 + KEY)
    put(tmp_path, f"b/{name}", CERTIFICATE * 100)
    assert scan(str(tmp_path)).hidden == (f"a/{name}",)


def test_a_binary_key_is_recognised_by_its_encoding(tmp_path: Path) -> None:
    put(tmp_path, "der.key", b"\x30\x82\x04\xa4\x02\x01\x00")
    put(tmp_path, "slides.key", b"PK\x03\x04")
    put(tmp_path, "certificate.pem", b"\x30\x82\x04\xa4")
    assert scan(str(tmp_path)).hidden == ("der.key",)


def test_a_key_file_too_big_to_judge_is_hidden(tmp_path: Path) -> None:
    put(tmp_path, "huge.pem", b"-" * ((1 << 20) + 1))
    put(tmp_path, "big.pem", b"-" * (1 << 20))
    assert scan(str(tmp_path)).hidden == ("huge.pem",)


def test_a_public_key_next_to_a_private_one_stays_visible(tmp_path: Path) -> None:
    put(tmp_path, "id_rsa", KEY)
    put(tmp_path, "id_rsa.pub", "ssh-rsa AAAA me@here")
    assert scan(str(tmp_path)).hidden == ("id_rsa",)


@pytest.mark.parametrize("name", [".yarnrc.yml", ".yarnrc"])
def test_yarn_settings_are_hidden_only_with_a_token(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"a/{name}", "npmAuthToken: 0123456789abcdef\n")
    put(tmp_path, f"b/{name}", 'npmAuthToken: "${NPM_TOKEN}"\nyarnPath: .yarn/releases/yarn.cjs\n')
    assert scan(str(tmp_path)).hidden == (f"a/{name}",)


@pytest.mark.parametrize("beside", [(), ("objects/x", "refs/x", "HEAD")])
@pytest.mark.parametrize("directory", [".git", "repo.git"])
def test_the_git_configuration_is_cleaned_once_by_name_or_by_what_lies_beside(
    tmp_path: Path, directory: str, beside: tuple[str, ...]
) -> None:
    put(tmp_path, f"{directory}/config", '[remote "o"]\n\turl = https://u:token@h.example/x\n')
    for path in beside:
        put(tmp_path, f"{directory}/{path}", "ref: x")
    replaced = scan(str(tmp_path)).replaced
    expected = [f"{directory}/config"] if directory == ".git" or beside else []
    assert [path for path, _ in replaced] == expected
    assert "token" not in "".join(text for _, text in replaced)


def test_the_git_configuration_is_replaced_by_one_without_credentials(tmp_path: Path) -> None:
    config = '[remote "origin"]\n\turl = https://me:pw@example.org/x.git\n[http]\n\textraheader = AUTHORIZATION: basic Zm9v\n'
    for place in (".git", ".git/modules/sub", "bare.git"):
        for part in ("objects", "refs"):
            (tmp_path / place / part).mkdir(parents=True)
        put(tmp_path, f"{place}/HEAD", "ref: refs/heads/main\n")
        put(tmp_path, f"{place}/config", config)
    put(tmp_path, ".git/credentials", "https://me:pw@example.org")
    put(tmp_path, "app/config", config)
    found = scan(str(tmp_path))
    clean = '[remote "origin"]\n\turl = https://example.org/x.git\n'
    assert dict(found.replaced) == {
        ".git/config": clean,
        ".git/modules/sub/config": clean,
        "bare.git/config": clean,
    }
    assert found.hidden == (".git/credentials",)


def test_direct_url_is_replaced_only_if_it_holds_credentials(tmp_path: Path) -> None:
    put(tmp_path, "a.dist-info/direct_url.json", '{"url": "https://user:tok3n@example.org/a.whl"}')
    put(tmp_path, "b.dist-info/direct_url.json", '{"url": "file:///work/b", "dir_info": {"editable": true}}')
    found = scan(str(tmp_path))
    assert found.replaced == (("a.dist-info/direct_url.json", '{"url": "https://example.org/a.whl"}'),)
    assert found.hidden == ()


def test_replaced_content_keeps_every_byte(tmp_path: Path) -> None:
    put(tmp_path, "direct_url.json", '{"url": "https://u:p@example.org/Főé.whl"}')
    ((_, text),) = scan(str(tmp_path)).replaced
    assert text.encode("latin-1").decode() == '{"url": "https://example.org/Főé.whl"}'


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside, ".env")
    put(outside, "x.pem", KEY)
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(outside)
    (top / "x.pem").symlink_to(outside / "x.pem")
    (top / "loop").symlink_to(".")
    assert scan(str(top)).hidden == ()


def test_a_link_with_a_credential_name_is_hidden_itself(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("settings/real")
    (tmp_path / ".aws").symlink_to("elsewhere")
    assert scan(str(tmp_path)).hidden == (".aws", ".env")


def test_a_fifo_does_not_stop_the_walk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pem")
    put(tmp_path, "y.pem", KEY)
    assert scan(str(tmp_path)).hidden == ("y.pem",)


@pytest.mark.parametrize("modes", [False, True])
def test_private_files_are_hidden_where_modes_count(tmp_path: Path, modes: bool) -> None:
    put(tmp_path, "etc/token", mode=0o600)
    put(tmp_path, "etc/group-only", mode=0o640)
    put(tmp_path, "etc/public", mode=0o644)
    put(tmp_path, "lib/__pycache__/settings.pyc", mode=0o600)
    put(tmp_path, "vault/data", mode=0o644)
    (tmp_path / "vault").chmod(0o750)
    (tmp_path / "link").symlink_to("etc/public")
    expected = ("etc/group-only", "etc/token", "lib/__pycache__/settings.pyc", "vault")
    assert scan(str(tmp_path), modes=modes).hidden == (expected if modes else ())


def test_expose_lists_exceptions(tmp_path: Path) -> None:
    for path in (".env", "a/.env", "certs/x.pem", "certs/deep/y.pem", ".aws/config", ".aws/credentials"):
        put(tmp_path, path, KEY)
    found = scan(str(tmp_path), expose=[".env", "certs", ".aws/config"])
    assert found.hidden == (".aws/credentials", "a/.env")


def test_expose_of_a_replaced_file_shows_it_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, "direct_url.json", '{"url": "https://u:p@example.org/"}')
    assert scan(str(tmp_path), expose=["direct_url.json"]).replaced == ()


def test_what_another_view_covers_is_neither_walked_nor_hidden(tmp_path: Path) -> None:
    put(tmp_path, ".venv/pip.conf")
    put(tmp_path, ".config/gh/hosts.yml")
    put(tmp_path, ".config/gh/shown/x")
    put(tmp_path, ".env")
    found = scan(str(tmp_path), skip=[".venv", ".config/gh/shown"])
    assert found.hidden == (".config/gh/hosts.yml", ".env")


def test_only_the_start_is_walked_but_paths_are_of_the_top(tmp_path: Path) -> None:
    put(tmp_path, "local/share/.env")
    put(tmp_path, "lib/.env")
    assert scan(str(tmp_path), start="local").hidden == ("local/share/.env",)


def test_what_is_too_deep_is_hidden(tmp_path: Path) -> None:
    put(tmp_path, "1/2/3/4/file")
    found = scan(str(tmp_path), max_depth=2)
    assert found.hidden == found.unseen == ("1/2/3",)


def test_what_is_beyond_the_count_is_hidden(tmp_path: Path) -> None:
    for number in range(10):
        put(tmp_path, f"d{number}/file")
    found = scan(str(tmp_path), max_entries=5)
    assert found.hidden == found.unseen == tuple(f"d{number}" for number in range(10))


def test_what_may_not_be_read_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "closed/file")
    put(tmp_path, "x.pem", CERTIFICATE)
    put(tmp_path, "open/file")
    really_open = os.open

    def refusing(path: str, *args: int) -> int:
        if os.path.basename(path) in ("closed", "x.pem"):
            raise PermissionError(13, "Permission denied", path)
        return really_open(path, *args)

    monkeypatch.setattr(masks.os, "open", refusing)
    assert scan(str(tmp_path)).hidden == ("closed", "x.pem")


def test_a_missing_directory_has_no_masks(tmp_path: Path) -> None:
    assert scan(str(tmp_path / "nowhere")) == masks.Masks()


@given(st.lists(st.sampled_from([".env", "a", ".aws", "b.pem", "src", ".git"]), min_size=1, max_size=4))
def test_every_path_below_a_credential_name_is_covered(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    top = tmp_path_factory.mktemp("tree")
    path = "/".join(parts)
    put(top, path, KEY)
    secret = ".aws" in parts or parts[-1] in (".env", "b.pem")
    hidden = scan(str(top)).hidden
    assert any(path == found or path.startswith(f"{found}/") for found in hidden) == secret
