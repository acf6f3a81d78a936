"""/etc of the host image: what is copied, what is left out, what is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.engine.world import Entry
from pytest_airlock.providers.namespaces.images import HostView
from pytest_airlock.providers.namespaces.images.accounts import host_accounts, image_accounts
from pytest_airlock.providers.namespaces.images.etc import add_etc
from pytest_airlock.providers.namespaces.images.tree import Tree

PASSWD = """\
root:x:0:0:root:/root:/bin/zsh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
messagebus:x:100:106:D-Bus,,,:/nonexistent:/usr/sbin/nologin
airlock:x:101:107::/srv:/bin/sh
oldschool:x:500:500:A Person:/home/oldschool:/bin/bash
alice:hash:1000:1000:Alice Cooper:/home/alice:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
+::::::
"""
GROUP = "root:x:0:alice\nmessagebus:x:106:\ndocker:x:999:alice,bob\nalice:x:1000:\nnogroup:x:65534:\n"


def put(etc: Path, path: str, content: str = "x", mode: int = 0o644) -> None:
    file = etc / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(mode)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    put(tmp_path / "etc", "passwd", PASSWD)
    put(tmp_path / "etc", "group", GROUP)
    return tmp_path / "etc"


def plan(etc: Path) -> dict[str, Entry]:
    tree = Tree()
    add_etc(tree, HostView(root=str(etc.parent)))
    return {entry.path: entry for entry in tree.entries()}


# fmt: off
COPIED = [
    "ld.so.conf", "ld.so.cache", "ld.so.conf.d/x.conf", "ssl/openssl.cnf", "ssl/certs/ca.pem", "pki/tls/certs/x.crt",
    "ca-certificates.conf", "alternatives/README", "apt/sources.list", "dpkg/dpkg.cfg", "os-release", "services",
    "debian_version", "redhat-release", "alpine-release", "python3.11/sitecustomize.py", "skel/.bashrc", "default/locale",
    "terminfo/x", "profile", "login.defs", "fonts/fonts.conf", "java-17/security", "apk/repositories", "pam.d/su",
]
# fmt: on


@pytest.mark.parametrize("path", COPIED)
def test_what_programs_need_is_copied(etc: Path, path: str) -> None:
    put(etc, path)
    assert plan(etc)[f"/etc/{path}"] == Entry("copy", f"/etc/{path}", 0o644, 0, f"{etc}/{path}")


# fmt: off
LEFT_OUT = [
    "gitconfig", "sudoers", "fstab.bak", "ssh/ssh_host_rsa_key", "krb5.keytab", "wpa_supplicant.conf", "pip.conf", "npmrc",
    "apt/auth.conf", "apt/auth.conf.d/x.conf", "ssl/private/key.pem", "pki/tls/private/x.key", "pki/entitlement/1.pem",
    "environment", "default/docker", "openvpn/client.conf", "cron.d/backup", "profile.d/tokens.sh", "wgetrc",
]
# fmt: on


@pytest.mark.parametrize("path", LEFT_OUT)
def test_what_may_hold_secrets_is_not(etc: Path, path: str) -> None:
    put(etc, path)
    assert f"/etc/{path}" not in plan(etc)


def test_only_what_everybody_may_read_is_copied(etc: Path) -> None:
    put(etc, "apt/a.conf", mode=0o640)
    put(etc, "ssl/deep/b.cnf")
    (etc / "ssl/deep").chmod(0o710)
    made = plan(etc)
    assert "/etc/apt/a.conf" not in made
    assert not any(path.startswith("/etc/ssl/deep") for path in made)


def test_certificates_are_copied_private_keys_are_not(etc: Path) -> None:
    put(etc, "ssl/certs/a.pem", "-----BEGIN CERTIFICATE-----")
    put(etc, "ssl/certs/b.pem", "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----")
    made = plan(etc)
    assert "/etc/ssl/certs/a.pem" in made
    assert "/etc/ssl/certs/b.pem" not in made


def test_links_keep_their_text_whatever_its_letters(etc: Path) -> None:
    (etc / "ssl/certs").mkdir(parents=True)
    (etc / "ssl/certs/0.0").symlink_to("Főtanúsítvány.pem")
    assert plan(etc)["/etc/ssl/certs/0.0"].data == "Főtanúsítvány.pem"


def test_package_sources_lose_their_log_ins(etc: Path) -> None:
    put(etc, "apt/sources.list", "deb https://me:s3cret@deb.example.org/ stable main\n")
    put(etc, "yum.repos.d/x.repo", "[x]\nbaseurl=https://h/\npassword=s3cret\n")
    made = plan(etc)
    assert made["/etc/apt/sources.list"].data == "deb https://deb.example.org/ stable main\n"
    assert made["/etc/yum.repos.d/x.repo"].data == "[x]\nbaseurl=https://h/\n"


def test_modes_lose_set_id_bits_and_gain_nothing_to_write(etc: Path) -> None:
    put(etc, "alternatives/tool", mode=0o4777)
    assert plan(etc)["/etc/alternatives/tool"].mode == 0o755


def test_special_files_are_left_out(etc: Path) -> None:
    (etc / "ssl").mkdir()
    os.mkfifo(etc / "ssl/fifo")
    assert "/etc/ssl/fifo" not in plan(etc)


def test_the_sandbox_has_an_identity_of_its_own(etc: Path) -> None:
    for name in ("hostname", "hosts", "resolv.conf", "machine-id", "nsswitch.conf", "timezone", "localtime", "mtab"):
        put(etc, name, "of the host")
    made = plan(etc)
    assert made["/etc/hostname"].data == "airlock\n"
    assert "localhost airlock" in made["/etc/hosts"].data
    assert made["/etc/resolv.conf"].data == "nameserver 198.18.0.53\noptions timeout:1 attempts:1\n"
    assert len(made["/etc/machine-id"].data.strip()) == 32
    assert "hosts:      files dns\n" in made["/etc/nsswitch.conf"].data
    assert made["/etc/localtime"] == Entry("link", "/etc/localtime", 0o777, 0, "/usr/share/zoneinfo/Etc/UTC")
    assert not any("of the host" in entry.data for entry in made.values())


def test_directories_for_installers_exist_empty_where_the_host_has_them(etc: Path) -> None:
    put(etc, "cron.d/job")
    made = plan(etc)
    assert made["/etc/cron.d"].kind == "dir"
    assert "/etc/cron.d/job" not in made
    assert "/etc/sudoers.d" not in made


def test_system_accounts_stay_people_do_not() -> None:
    made = host_accounts(PASSWD, GROUP, shell="/bin/bash")
    assert made.passwd == (
        "root:x:0:0:root:/root:/bin/bash\n"
        "daemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n"
        "messagebus:x:100:106::/nonexistent:/usr/sbin/nologin\n"
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
        "airlock:x:1000:1000::/home/airlock:/bin/bash\n"
    )
    assert made.group == "root:x:0:\nmessagebus:x:106:\ndocker:x:999:\nnogroup:x:65534:\nairlock:x:1000:\n"


def test_every_account_has_a_shadow_entry_that_no_password_fits() -> None:
    made = host_accounts(PASSWD, GROUP, shell="/bin/sh")
    names = [line.split(":")[0] for line in made.passwd.splitlines()]
    assert [line.split(":")[:2] for line in made.shadow.splitlines()] == [[name, "*"] for name in names]


def test_a_host_without_account_files_still_gives_the_three_users() -> None:
    made = host_accounts("", "", shell="/bin/sh")
    assert [line.split(":")[0] for line in made.passwd.splitlines()] == ["root", "airlock", "nobody"]
    assert [line.split(":")[0] for line in made.group.splitlines()] == ["root", "airlock", "nogroup"]


@given(st.text(max_size=200))
def test_no_account_file_can_bring_in_another_root_or_a_password(text: str) -> None:
    made = host_accounts(text, text, shell="/bin/sh")
    fields = [line.split(":") for line in made.passwd.splitlines()]
    assert all(len(record) == 7 and record[1] == "x" for record in fields)
    assert [record[0] for record in fields if int(record[2]) == 0] == ["root"]


def test_in_an_image_uid_1000_is_called_airlock() -> None:
    made = image_accounts(
        "root:x:0:0::/root:/bin/ash\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n", "root:x:0:\n", shell="/bin/sh"
    )
    lines = made.passwd.splitlines()
    assert lines[1] == "airlock:x:1000:1000::/home/airlock:/bin/sh"
    assert [line.split(":")[0] for line in lines] == ["root", "airlock", "ubuntu"]
    assert "airlock:x:1000:\n" in made.group
