"""Programs inside trust served names: which files and variables say so, and what the diff shows of it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess

import pytest
from serving import ask, request, threads

from pytest_airlock.sandbox.fakes import trust
from pytest_airlock.sandbox.fakes.authority import STORE_PASSWORD, authority

URL = "https://api.example.com"
BUNDLE, FEDORA, OPENSSL = trust.BUNDLES
OWN = "-----BEGIN CERTIFICATE-----\nof the system\n-----END CERTIFICATE-----\n"


@pytest.fixture(autouse=True)
def _all_closed(backend):
    yield
    backend.end()
    assert not threads()


@pytest.fixture
def prepare(box, backend):
    """Files that were there before: they are part of the clean snapshot."""

    def prepare(**files):
        for path, text in files.items():
            box.path(path).parent.mkdir(parents=True, exist_ok=True)
            box.path(path).write_text(text)
        backend.clean = backend.snapshot()

    return prepare


def pem():
    return authority().pem.decode()


def test_http_needs_no_trust(box):
    box.network.serve("http://api.example.com", {})
    assert not box.path(trust.ALONE).exists()
    assert "SSL_CERT_FILE" not in box.environ
    box.network.serve(URL, ("127.0.0.1", 1))
    assert "SSL_CERT_FILE" not in box.environ


def test_the_bundle_of_the_system_has_the_authority_behind_its_own(box, prepare):
    prepare(**{BUNDLE: OWN.rstrip("\n")})
    box.network.serve(URL, {})
    assert box.path(BUNDLE).read_text() == OWN + pem()
    assert box.path(trust.ALONE).read_text() == pem()
    for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
                 "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE"):  # fmt: skip
        assert box.environ[name] == BUNDLE
    assert box.environ["NODE_EXTRA_CA_CERTS"] == trust.ALONE
    assert "JAVA_TOOL_OPTIONS" not in box.environ
    box.network.serve("https://other.example.com", {})
    assert box.path(BUNDLE).read_text() == OWN + pem()


def test_a_variable_of_the_user_stays(box):
    box.environ["SSL_CERT_FILE"] = "/mine"
    box.network.serve(URL, {})
    assert box.environ["SSL_CERT_FILE"] == "/mine"
    assert box.environ["PIP_CERT"] == BUNDLE


def test_the_layout_of_fedora(box, prepare, provider):
    real = "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
    box.path("/etc/pki/tls/certs").mkdir(parents=True)
    box.path("/etc/ssl").mkdir()
    box.path("/etc/ssl/certs").symlink_to("../pki/tls/certs")
    box.path(FEDORA).symlink_to(real)
    box.path(OPENSSL).symlink_to(real)
    prepare(**{real: OWN})
    box.network.serve(URL, {})
    assert box.path(FEDORA).is_symlink()
    assert box.path(OPENSSL).read_text() == box.path(real).read_text() == OWN + pem()
    assert box.environ["SSL_CERT_FILE"] == real
    assert box.path(f"/etc/pki/tls/certs/{authority().subject_hash()}.0").read_text() == pem()
    assert not box.diff()


def test_a_link_in_circles_is_no_bundle(box, prepare):
    box.path("/etc/ssl").mkdir()
    box.path(OPENSSL).symlink_to("cert.pem")
    prepare()
    box.network.serve(URL, {})
    assert box.environ["SSL_CERT_FILE"] == BUNDLE


@pytest.mark.parametrize("kind", ["large", "directory"])
def test_a_bundle_that_is_none_is_an_error_and_nothing_is_served(box, provider, prepare, monkeypatch, kind):
    monkeypatch.setattr(trust, "BUNDLE_LIMIT", 10)
    if kind == "large":
        prepare(**{BUNDLE: OWN})
    else:
        box.path(BUNDLE).mkdir(parents=True)
    with pytest.raises(OSError, match="ca-certificates"):
        box.network.serve(URL, {})
    assert provider.rule("box").routes == ()
    assert not threads()


# -- diff ---------------------------------------------------------------------------------------------------------


def test_what_was_written_is_no_change_of_the_sandbox(box, prepare):
    prepare(**{BUNDLE: OWN})
    before = box.snapshot()
    box.network.serve(URL, {})
    assert not box.diff()
    assert not box.diff(since=before)
    box.shell("echo x > /usr/local/share/mine")
    assert box.diff().added == {"/usr/local/share/mine"}


def test_what_the_sandbox_does_to_it_is_one(box, prepare):
    prepare(**{BUNDLE: OWN})
    box.network.serve(URL, {})
    box.shell(f"echo x >> {BUNDLE}; chmod 600 {trust.ALONE}")
    diff = box.diff()
    assert diff.modified == {BUNDLE}
    assert diff.added == {trust.ALONE}
    box.path(BUNDLE).unlink()
    assert box.diff().deleted == {BUNDLE}


def test_the_same_size_is_not_the_same_content(box, prepare):
    prepare(**{BUNDLE: OWN})
    box.network.serve(URL, {})
    text = box.path(BUNDLE).read_text()
    box.path(BUNDLE).write_text("X" + text[1:])
    assert box.diff().modified == {BUNDLE}


def test_a_bundle_that_the_sandbox_had_changed_before_is_shown(box, prepare):
    prepare(**{BUNDLE: OWN})
    box.shell(f"echo x >> {BUNDLE}")
    box.network.serve(URL, {})
    assert box.diff().modified == {BUNDLE}


# -- lives --------------------------------------------------------------------------------------------------------


def test_after_a_reset_it_is_gone_and_comes_with_the_next(box, prepare):
    prepare(**{BUNDLE: OWN})
    box.network.serve(URL, {})
    box.reset()
    assert box.path(BUNDLE).read_text() == OWN
    assert "SSL_CERT_FILE" not in box.environ
    box.network.serve(URL, {})
    assert box.path(BUNDLE).read_text() == OWN + pem()
    assert box.environ["SSL_CERT_FILE"] == BUNDLE


def test_a_restore_keeps_what_is_served_and_trusted(box, prepare, provider):
    prepare(**{BUNDLE: OWN})
    before = box.snapshot()
    served = box.network.serve(URL, {"/": "x"})
    box.restore(before)
    assert box.path(BUNDLE).read_text() == OWN + pem()
    assert [route.end for route in provider.rule("box").routes] == ["api.example.com:443"]
    assert ask(served, request(), name="api.example.com").endswith(b"x")
    assert not box.diff()
    served.close()
    box.restore(before)
    assert box.path(BUNDLE).read_text() == OWN


# -- what programs make of it -------------------------------------------------------------------------------------


def test_openssl_finds_the_authority_in_a_directory(box, tmp_path):
    """By its name alone, which is what a directory of certificates is."""
    served = box.network.serve(URL, {"/": "x"})
    hashed = f"{authority().subject_hash()}.0"
    (tmp_path / hashed).write_bytes(box.path(f"{trust.HASHED}/{hashed}").read_bytes())
    context = ssl.create_default_context(capath=str(tmp_path))
    with (
        socket.create_connection(served.to, 60) as sock,
        context.wrap_socket(sock, server_hostname="api.example.com") as secure,
    ):
        assert secure.version()
    (tmp_path / hashed).rename(tmp_path / "00000000.0")
    with socket.create_connection(served.to, 60) as sock, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context(capath=str(tmp_path)).wrap_socket(sock, server_hostname="api.example.com")


def test_java_has_a_store_of_its_own_where_it_is_there(box):
    box.path("/usr/bin/java").write_text("")
    box.network.serve(URL, {})
    assert box.environ["JAVA_TOOL_OPTIONS"].startswith(f"-Djavax.net.ssl.trustStore={trust.JAVA} ")
    assert box.path(trust.JAVA).read_bytes() == box.path(trust.JAVA).read_bytes()
    assert box.path(trust.JAVA).exists()


def test_java_reads_the_store(tmp_path):
    keytool = shutil.which("keytool")
    if keytool is None:
        pytest.skip("keytool is not installed")
    store = tmp_path / "store.p12"
    store.write_bytes(authority().java_store())
    listed = subprocess.run(
        [keytool, "-list", "-keystore", str(store), "-storepass", STORE_PASSWORD],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "trustedCertEntry" in listed.stdout


def test_the_key_of_the_authority_is_in_no_file_of_the_sandbox(box, provider):
    box.network.serve(URL, {})
    for path in (trust.ALONE, BUNDLE):
        assert "PRIVATE" not in box.path(path).read_text()


def test_one_authority_in_a_process():
    assert authority() is authority()
