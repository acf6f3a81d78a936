"""What programs of this machine make of the authority of served names, in a sandbox. Real engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from pytest_airlock import Sandbox, create_sandbox
from pytest_airlock.sandbox.fakes.authority import authority
from pytest_airlock.sandbox.fakes.trust import ALONE, HASHED

TRUSTED = """
import ssl, sys
context = ssl.create_default_context()
wanted = ssl.PEM_cert_to_DER_cert(open(sys.argv[1]).read())
print(wanted in context.get_ca_certs(binary_form=True), len(context.get_ca_certs()))
"""


@pytest.fixture
def box(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path_factory.mktemp("state")))
    with create_sandbox(provider="namespaces", source=False) as box:
        yield box


def trusted(box: Sandbox) -> tuple[str, int]:
    word, count = box.run(["python3", "-c", TRUSTED, ALONE], check=True).stdout.split()
    return word, int(count)


def test_python_trusts_it_besides_those_of_the_system(box: Sandbox) -> None:
    box._trust.establish()
    word, count = trusted(box)
    assert word == "True"
    bundle = box.path(box.environ["SSL_CERT_FILE"]).read_bytes()
    assert bundle.count(b"BEGIN CERTIFICATE") >= count
    assert bundle.endswith(authority().pem)
    assert not box.diff()


def test_it_is_gone_after_a_reset(box: Sandbox) -> None:
    before = dict(box.environ)
    box._trust.establish()
    box.reset()
    assert box.environ == before
    assert not box.path(ALONE).exists()
    box._trust.establish()
    assert trusted(box)[0] == "True"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_finds_it_by_its_name_in_the_directory(box: Sandbox) -> None:
    box._trust.establish()
    found = box.run(["openssl", "x509", "-in", ALONE, "-noout", "-subject_hash"], check=True)
    assert found.stdout.strip() == authority().subject_hash()
    verify = ["openssl", "verify", "-no-CAfile", "-CApath", HASHED, ALONE]
    assert box.run(verify).stdout == f"{ALONE}: OK\n"
    box.path(f"{HASHED}/{authority().subject_hash()}.0").unlink()
    assert box.run(verify).returncode


def test_an_ordinary_user_reads_it(box: Sandbox) -> None:
    box._trust.establish()
    if "many_users" in box.info.enforced:
        assert box.run(["cat", ALONE], user="airlock", check=True).stdout.encode() == authority().pem


@pytest.mark.skipif(shutil.which("keytool") is None, reason="keytool is not installed")
def test_java_is_told_of_a_store_that_it_can_read(box: Sandbox) -> None:
    box._trust.establish()
    store = box.environ["JAVA_TOOL_OPTIONS"].split()[0].partition("=")[2]
    command = ["keytool", "-list", "-keystore", store, "-storepass", "changeit"]
    assert "trustedCertEntry" in box.run(command, check=True, timeout=120).stdout
