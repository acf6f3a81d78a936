"""Cleaning texts: what is taken out, and what must survive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.images import credentials

GIT = b"""\
# token=s3cret in a comment
[core]
\trepositoryformatversion = 0
\tbare = false
\tsshCommand = ssh -i /home/me/s3cret
[remote "origin"]
\turl = https://x-access-token:s3cret@example.org/me/x.git ; s3cret
\tfetch = +refs/heads/*:refs/remotes/origin/*
\tproxy = me:s3cret@proxy
[remote "ssh"]
\turl = ssh://git@example.org/x.git
[http "https://example.org/"]
\textraheader = AUTHORIZATION: basic \\
s3cret
[credential]
\thelper = "!echo password=s3cret"
[url "https://s3cret@example.org/"]
\tinsteadOf = https://example.org/
[includeIf "gitdir:/x/"]
\tpath = /s3cret
[branch "main"] remote = origin
\tmerge = refs/heads/main
"""


def test_a_git_configuration_keeps_what_a_repository_needs() -> None:
    clean = credentials.clean_git_config(GIT).decode()
    assert "s3cret" not in clean
    assert clean == (
        "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"
        '[remote "origin"]\n\turl = https://example.org/me/x.git\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
        '[remote "ssh"]\n\turl = ssh://git@example.org/x.git\n'
        '[branch "main"]\n\tremote = origin\n\tmerge = refs/heads/main\n'
    )


@given(st.binary(max_size=300))
def test_no_unknown_section_survives_whatever_the_bytes(noise: bytes) -> None:
    clean = credentials.clean_git_config(noise + b"\n[credential]\n\thelper = s3cret\n[http]\n\textraheader = s3cret\n")
    assert b"s3cret" not in clean


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:pw@h/x", "https://h/x"),
        ("https://token@h/x", "https://h/x"),
        ("http://a:b@c@h/x", "http://h/x"),
        ("git+https://u:p@h/x@v1", "git+https://h/x@v1"),
        ("ssh://git@h/x", "ssh://git@h/x"),
        ("ssh://git:pw@h/x", "ssh://git@h/x"),
        ("https://h/a@b", "https://h/a@b"),
        ("https://h/?q=me@x", "https://h/?q=me@x"),
        ("https://h/x?private_token=abc&x=1", "https://h/x"),
        ("https://h/x?page=2", "https://h/x?page=2"),
        ("git@h:x/y", "git@h:x/y"),
    ],
)
def test_user_information_is_taken_out_of_urls(url: str, clean: str) -> None:
    assert credentials.without_userinfo(f'a = "{url}" b'.encode()) == f'a = "{clean}" b'.encode()


def test_a_direct_url_that_would_be_broken_becomes_empty() -> None:
    assert credentials.clean_direct_url(b'{"url": "https://a:b@h/') == b"{}"


def test_log_ins_are_taken_out_of_repository_settings() -> None:
    text = b"[x]\nbaseurl=https://u:p@h/r\nusername=me\npassword = s3cret\nuser_agent = x\nenabled=1\n"
    assert credentials.clean_repository(text) == b"[x]\nbaseurl=https://h/r\nuser_agent = x\nenabled=1\n"


@pytest.mark.parametrize(
    "kind", ["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK"]
)
def test_private_keys_of_all_kinds_are_recognised(kind: str) -> None:
    assert credentials.holds_private_key(f"-----BEGIN {kind}-----".encode())
    assert not credentials.holds_private_key(f"-----BEGIN {kind.replace('PRIVATE', 'PUBLIC')}-----".encode())
