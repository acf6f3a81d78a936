"""Which host paths may be seen inside, and which sandbox has which."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_airlock.errors import MountForbidden, ProfileForbids
from pytest_airlock.models import Mount
from pytest_airlock.orchestrator.contracts import MountRules
from pytest_airlock.orchestrator.policy.mounts import HostMountRules, MountRegistry, check_target
from pytest_airlock.orchestrator.policy.profiles import BUILT_IN
from pytest_airlock.orchestrator.policy.sensitive import HOME_SECRETS
from pytest_airlock.providers.base import ResolvedMount

DEV, CAUTIOUS, STRICT = BUILT_IN["dev"], BUILT_IN["cautious"], BUILT_IN["strict"]


@pytest.fixture
def machine(tmp_path):
    """Two homes below a directory of homes, one elsewhere, a place for airlock's own state, and some data."""
    root = Path(os.path.realpath(tmp_path))
    for name in ("home/ann/project/src", "home/bob", "srv/eve/work", "state/records", "data/sets"):
        (root / name).mkdir(parents=True)
    return root


@pytest.fixture
def rules(machine):
    return HostMountRules(
        private=[machine / "state"],
        homes=[machine / "home/ann", machine / "srv/eve"],
        home_parents=[machine / "home"],
        environ={},
    )


def resolve(rules, source, profile=DEV, **fields):
    return rules.resolve(Mount(source=str(source), **fields), profile)


def refused(rules, source):
    with pytest.raises(MountForbidden) as caught:
        resolve(rules, source)
    return str(caught.value)


def test_r08_the_rules_are_what_the_contract_says(rules):
    assert isinstance(rules, MountRules)


SYSTEM = [
    "/etc",
    "/etc/passwd",
    "/proc",
    "/proc/self",
    "/sys",
    "/dev",
    "/dev/null",
    "/run",
    "/var/run",
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib",
    "/var",
    "/",
    "/root",
    "/root/.ssh",
    "/root/.ssh/id_ed25519",
    "/home",
]
SPELLINGS = ["{}", "/{}", "{}/", "{}//.", "/usr/..{}", "/usr/share/../../{}", "/proc/self/root{}"]


@pytest.mark.parametrize("path", SYSTEM)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_r41_system_paths_are_refused_however_they_are_spelled(path, spelling):
    rules = HostMountRules()
    given = spelling.format(path)
    with pytest.raises(MountForbidden):
        resolve(rules, given)
    with pytest.raises(MountForbidden):
        rules.check_image(given)


@pytest.mark.parametrize("path", SYSTEM)
def test_r41_a_link_to_a_system_path_is_refused(path, tmp_path):
    link = tmp_path / "innocent"
    link.symlink_to(path)
    refused(HostMountRules(), link)


@pytest.mark.parametrize("secret", HOME_SECRETS)
def test_r41_secrets_of_a_home_are_refused_with_all_below_and_all_that_contains_them(rules, machine, secret):
    path = machine / "home/ann" / secret
    (path / "below").mkdir(parents=True)
    for place in (path, path / "below", *path.parents[: len(Path(secret).parts) - 1]):
        assert "sensitive" in refused(rules, place), place


@pytest.mark.parametrize("secret", [".ssh", ".config/gh"])
def test_r41_secrets_of_every_home_are_refused_known_account_or_not(rules, machine, secret):
    for home in ("home/bob", "srv/eve"):
        (machine / home / secret).mkdir(parents=True)
        assert "sensitive" in refused(rules, machine / home / secret)


def test_r41_a_directory_that_could_contain_a_secret_is_refused_before_the_secret_is_there(rules, machine):
    (machine / "home/ann/.config").mkdir()
    assert "contains" in refused(rules, machine / "home/ann/.config")


def test_r41_a_project_below_a_home_is_fine_the_home_is_not(rules, machine):
    for home, project in (("home/ann", "project"), ("srv/eve", "work")):
        assert resolve(rules, machine / home / project).source == str(machine / home / project)
        assert "a home" in refused(rules, machine / home)


def test_r41_roots_projects_are_fine_where_roots_home_is_not(machine):
    rules = HostMountRules(homes=[machine / "srv/eve"], home_parents=[], environ={})
    assert resolve(rules, machine / "srv/eve/work").source == str(machine / "srv/eve/work")
    refused(rules, machine / "srv/eve")


def test_r41_an_unlisted_home_below_a_directory_of_homes_is_a_home(rules, machine):
    assert "it is a home" in refused(rules, machine / "home/bob")


def test_r41_what_contains_homes_is_refused(rules, machine):
    assert "where the homes are" in refused(rules, machine / "home")
    assert "contains" in refused(rules, machine / "srv")
    refused(rules, machine)


def test_r41_data_elsewhere_is_fine(rules, machine):
    assert resolve(rules, machine / "data").source == str(machine / "data")
    assert resolve(rules, machine / "data/sets/../sets//").source == str(machine / "data/sets")


def test_r41_the_state_directory_is_refused_and_the_error_names_the_way_out(rules, machine):
    refused(rules, machine / "state/records")
    assert "AIRLOCK_STATE_DIR" in refused(
        HostMountRules(private=[machine / "data/sets/state"], homes=[], environ={}), machine / "data/sets"
    )


def test_r41_links_are_followed_to_the_end(rules, machine):
    (machine / "home/ann/.ssh").mkdir()
    (machine / "data/two").symlink_to(machine / "data/one")
    (machine / "data/one").symlink_to("../home/ann/.ssh")
    text = refused(rules, machine / "data/two")
    assert f"it leads to {machine}/home/ann/.ssh" in text


def test_r41_a_link_on_the_way_is_followed(rules, machine):
    (machine / "home/ann/.ssh").mkdir()
    (machine / "data/link").symlink_to(machine / "home")
    refused(rules, machine / "data/link/ann/.ssh")
    assert resolve(rules, machine / "data/link/ann/project").source == str(machine / "home/ann/project")


def test_r41_dots_after_a_link_are_those_of_its_target(rules, machine):
    (machine / "data/link").symlink_to(machine / "home/ann/project/src")
    refused(rules, machine / "data/link/../..")


def test_r41_where_a_secret_is_a_link_its_target_is_sensitive_too(rules, machine):
    (machine / "data/keys").mkdir()
    (machine / "home/ann/.ssh").symlink_to(machine / "data/keys")
    assert "sensitive" in refused(rules, machine / "data/keys")


def test_r41_a_home_that_is_a_link_is_one_by_its_target_too(machine):
    (machine / "linked").symlink_to(machine / "srv/eve")
    rules = HostMountRules(homes=[machine / "linked"], home_parents=[], environ={})
    refused(rules, machine / "linked")
    refused(rules, machine / "srv/eve")
    assert resolve(rules, machine / "srv/eve/work").source == str(machine / "srv/eve/work")


def test_r41_a_loop_of_links_is_refused(rules, machine):
    (machine / "data/a").symlink_to("b")
    (machine / "data/b").symlink_to("a")
    assert "cannot be reached" in refused(rules, machine / "data/a")


def test_r41_a_link_that_may_not_be_read_is_refused(rules, machine, monkeypatch):
    def unreadable(path, **_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "readlink", unreadable)
    (machine / "data/link").symlink_to("sets")
    assert "cannot be reached: Permission denied" in refused(rules, machine / "data/link")


@pytest.mark.parametrize(
    "spelling", ["home/ann/.SSH", "HOME/Ann/.Ssh", "home/ann/.SSH/id", "Home", "home/ANN", "State", "home/ann/.CONFIG"]
)
def test_r41_on_a_file_system_that_ignores_case_other_spellings_are_refused(machine, spelling):
    (machine / "home/ann/.ssh/id").mkdir(parents=True)
    (machine / "home/ann/.config").mkdir()

    def ignoring_case(path):
        below = path.removeprefix(str(machine))
        path = path if below == path else f"{machine}{below.lower()}"
        try:
            return os.stat(path)[1:3]
        except OSError:
            return None

    insensitive = HostMountRules(
        private=[machine / "state"],
        homes=[machine / "home/ann"],
        home_parents=[machine / "home"],
        environ={},
        identity=ignoring_case,
    )
    assert "cannot be reached" not in refused(insensitive, machine / spelling)


def test_r41_the_same_directory_by_another_path_is_the_same(rules, machine):
    """What a bind mount does: another text, the same device and inode."""
    (machine / "home/ann/.ssh").mkdir()
    (machine / "data/alias").mkdir()

    def aliased(path):
        try:
            found = os.stat(path.replace(f"{machine}/data/alias", f"{machine}/home/ann/.ssh"))
        except OSError:
            return None
        return found.st_dev, found.st_ino

    # Reached below a home, or as one of the system's paths: identity speaks where text does not.
    rules = HostMountRules(private=[machine / "home/ann/.ssh"], homes=[], environ={}, identity=aliased)
    assert "sensitive" in refused(rules, machine / "data/alias")


@pytest.mark.parametrize(
    "variable", ["SSH_AUTH_SOCK", "DOCKER_HOST", "CONTAINER_HOST", "XDG_RUNTIME_DIR", "XAUTHORITY"]
)
def test_r41_sockets_named_by_the_environment_are_sensitive(machine, variable):
    value = f"unix://{machine}/data/sets" if variable.endswith("_HOST") else f"{machine}/data/sets"
    rules = HostMountRules(homes=[], environ={variable: value})
    assert "sensitive" in refused(rules, machine / "data/sets")
    assert "contains" in refused(rules, machine / "data")


def test_r41_sockets_pipes_and_devices_are_refused_wherever_they_are(rules, machine, monkeypatch):
    monkeypatch.chdir(machine / "data")  # a socket's path is at most 107 bytes
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("pipe", "socket"):
            assert "only files and directories" in refused(rules, machine / "data" / name)


def test_a_file_may_be_mounted(rules, machine):
    (machine / "data/file").write_text("x")
    assert resolve(rules, machine / "data/file").source == f"{machine}/data/file"


def test_a_missing_path_is_refused_with_what_to_do(rules, machine):
    text = refused(rules, machine / "data/none")
    assert "No such file or directory" in text
    assert "create it first" in text


@pytest.mark.parametrize(
    ("source", "text"), [("relative/path", "not an absolute path"), ("", "not an absolute"), ("/a\0b", "NUL")]
)
def test_a_source_that_is_no_absolute_path_is_refused(rules, source, text):
    assert text in refused(rules, source)


def test_a_tilde_is_the_home_of_the_user(rules, machine, monkeypatch):
    monkeypatch.setenv("HOME", str(machine / "home/ann"))
    assert resolve(rules, "~/project").source == f"{machine}/home/ann/project"
    refused(rules, "~")


parts = st.lists(st.sampled_from(["..", ".", "", "home", "ann", ".ssh", "project", "data", "link", "up"]), max_size=8)


@given(parts)
@settings(deadline=None, max_examples=300)
def test_r41_no_spelling_reaches_what_is_refused(tmp_path_factory, path):
    root = tmp_path_factory.getbasetemp() / "spellings"
    if not root.exists():
        for name in ("home/ann/.ssh", "home/ann/project", "data"):
            (root / name).mkdir(parents=True)
        (root / "data/link").symlink_to("../home/ann/.ssh")
        (root / "home/ann/project/up").symlink_to("..")
    base = os.path.realpath(root)
    rules = HostMountRules(homes=[f"{base}/home/ann"], home_parents=[f"{base}/home"], environ={})
    try:
        source = resolve(rules, "/".join([base, *path])).source
    except MountForbidden:
        return
    assert source == os.path.realpath(source)
    forbidden = (f"{base}/home/ann/.ssh", f"{base}/home/ann", f"{base}/home")
    assert source not in forbidden
    assert not source.startswith(f"{forbidden[0]}/")
    assert not any(secret.startswith(source.rstrip("/") + "/") for secret in forbidden)


def test_an_image_passes_the_same_rules(rules, machine):
    assert rules.check_image(f"{machine}/data/../data/sets") == f"{machine}/data/sets"
    with pytest.raises(MountForbidden, match="image='host'"):
        rules.check_image("/")
    with pytest.raises(MountForbidden, match="image="):
        rules.check_image(f"{machine}/home/ann")


class TestModes:
    @pytest.mark.parametrize("mode", ["ro", "cow"])
    def test_cautious_lets_what_leaves_the_host_alone(self, rules, machine, mode):
        assert resolve(rules, machine / "data", CAUTIOUS, mode=mode).mode == mode

    def test_r11_a_mount_without_a_mode_is_read_only(self, rules, machine):
        assert resolve(rules, machine / "data", CAUTIOUS).mode == "ro"
        assert resolve(rules, machine / "data", DEV).mode == "ro"

    def test_cautious_forbids_read_write(self, rules, machine):
        with pytest.raises(ProfileForbids, match="'ro', 'cow'"):
            resolve(rules, machine / "data", CAUTIOUS, mode="rw")

    def test_dev_lets_read_write(self, rules, machine):
        assert resolve(rules, machine / "data", DEV, mode="rw").mode == "rw"

    def test_strict_forbids_mounts(self, rules, machine):
        with pytest.raises(ProfileForbids, match="profile 'strict' forbids host mounts"):
            resolve(rules, machine / "data", STRICT)

    @pytest.mark.parametrize(("profile", "mode"), [(CAUTIOUS, "cow"), (DEV, "rw")])
    def test_r11_the_project_is_as_the_profile_says(self, rules, machine, profile, mode):
        mount = rules.resolve(Mount(source=str(machine / "data")), profile, project=True)
        assert mount == ResolvedMount(f"{machine}/data", f"{machine}/data", mode, project=True)

    def test_the_project_may_be_asked_for_in_a_safer_mode_only(self, rules, machine):
        project = Mount(source=str(machine / "data"), mode="ro")
        assert rules.resolve(project, DEV, project=True).mode == "ro"
        with pytest.raises(ProfileForbids):
            rules.resolve(project.model_copy(update={"mode": "rw"}), CAUTIOUS, project=True)

    def test_strict_shows_no_project(self, rules, machine):
        with pytest.raises(ProfileForbids):
            rules.resolve(Mount(source=str(machine / "data")), STRICT, project=True)


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "path"),
        [("/data", "/data"), ("//data//x/", "/data/x"), ("/a/./b", "/a/b"), ("/etc/app", "/etc/app")],
    )
    def test_r41_a_target_is_normalised(self, target, path):
        assert check_target(target) == path

    @pytest.mark.parametrize(
        "target",
        [
            "",
            "data",
            "/",
            "//",
            "/.",
            "/x/..",
            "/x/../../etc",
            "/proc",
            "/proc/1",
            "/sys/fs",
            "/dev/shm",
            "//dev",
            "/usr",
            "/usr/",
        ]
        + ["/usr/bin", "/etc", "/bin", "/lib", "/lib64", "/sbin", "/var", "/tmp", "/run", "/root", "/home", "/x\0y"],
    )
    def test_r41_a_target_that_is_relative_or_over_the_system_is_refused(self, target):
        with pytest.raises(MountForbidden):
            check_target(target)

    @given(st.text("/.ab", max_size=12))
    @settings(deadline=None)
    def test_r41_what_passes_is_absolute_and_normal(self, target):
        try:
            path = check_target(target)
        except MountForbidden:
            return
        assert path == os.path.normpath(path)
        assert path.startswith("/")
        assert not path.startswith("//")
        assert check_target(path) == path

    def test_without_a_target_a_mount_is_where_it_was_written(self, rules, machine):
        (machine / "current").symlink_to("data")
        assert resolve(rules, machine / "current") == ResolvedMount(f"{machine}/data", f"{machine}/current", "ro")
        assert resolve(rules, machine / "current/../data/sets").target == f"{machine}/data/sets"

    def test_a_target_that_is_given_is_used(self, rules, machine):
        assert resolve(rules, machine / "data", target="/mnt/d").target == "/mnt/d"


class TestRegistry:
    A, B, C = (ResolvedMount(f"/host/{name}", f"/{name}", "ro") for name in "abc")

    def test_r24_mounts_are_listed_by_sandbox(self):
        registry = MountRegistry()
        registry.register("one", [self.A])
        registry.register("one", [self.B])
        registry.register("two", [self.C])
        assert registry.list("one") == (self.A, self.B)
        assert registry.list("two") == (self.C,)
        assert registry.list("none") == ()

    def test_r24_unregistering_takes_all_of_one_and_none_of_another(self):
        registry = MountRegistry()
        registry.register("one", [self.A, self.B])
        registry.register("two", [self.C])
        assert registry.unregister_all("one") == (self.A, self.B)
        assert registry.list("one") == ()
        assert registry.list("two") == (self.C,)
        assert registry.unregister_all("one") == ()

    def test_r25_no_registration_is_lost_among_threads(self):
        registry, start = MountRegistry(), threading.Barrier(4)

        def work():
            start.wait()
            for _ in range(200):
                registry.register("one", [self.A])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(registry.list("one")) == 800
