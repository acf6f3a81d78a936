from __future__ import annotations

import errno as e
import pickle
from pathlib import Path

import pytest

from pytest_airlock.errors import AirlockError, ProviderError, ProviderUnavailable, UnsupportedFeature
from pytest_airlock.providers.base import FEATURES
from pytest_airlock.providers.namespaces.cause import CGROUP, Row
from pytest_airlock.providers.namespaces.causes import ROWS
from pytest_airlock.providers.namespaces.diagnosis import HostFacts, explain

DOCS = Path(__file__).parents[3] / "docs" / "where-it-works.md"
BY_NAME = {row.name: row for row in ROWS}
NEW = (6, 12)

# What each row's host looks like, and the failure that is seen there.
SCENES: dict[str, tuple[HostFacts, str, int, str]] = {
    "wsl1": (HostFacts(kernel=(4, 4), release="4.4.0-19041-Microsoft"), "clone3", e.ENOSYS, ""),
    "no-user-namespaces": (HostFacts(kernel=NEW, user_namespaces=False), "unshare", e.EINVAL, ""),
    "max-user-namespaces": (
        HostFacts(kernel=NEW, sysctl={"user.max_user_namespaces": "0"}),
        "unshare",
        e.ENOSPC,
        "",
    ),
    "namespace-limit": (
        HostFacts(kernel=NEW, sysctl={"user.max_user_namespaces": "96365"}),
        "clone3",
        e.ENOSPC,
        "",
    ),
    "userns-clone": (
        HostFacts(kernel=(5, 4), sysctl={"kernel.unprivileged_userns_clone": "0"}),
        "unshare",
        e.EPERM,
        "",
    ),
    "chroot": (HostFacts(kernel=NEW, chroot=True), "unshare", e.EPERM, ""),
    "kubernetes": (HostFacts(kernel=NEW, seccomp=True, container="kubernetes"), "unshare", e.EPERM, ""),
    "podman": (HostFacts(kernel=NEW, seccomp=True, container="podman"), "clone3", e.ENOSYS, ""),
    "docker-apparmor": (
        HostFacts(kernel=NEW, seccomp=True, container="docker", apparmor="docker-default (enforce)"),
        "unshare",
        e.EPERM,
        "",
    ),
    "docker": (HostFacts(kernel=NEW, seccomp=True, container="docker"), "clone3", e.ENOSYS, ""),
    "docker-sys-admin": (
        HostFacts(kernel=NEW, seccomp=True, container="docker", privileged=True),
        "pivot_root",
        e.EPERM,
        ".",
    ),
    "filtered": (HostFacts(kernel=NEW, seccomp=True), "unshare", e.EPERM, ""),
    "container-apparmor": (
        HostFacts(kernel=NEW, container="docker", apparmor="docker-default (enforce)"),
        "mount tmpfs",
        e.EACCES,
        "/tmp",
    ),
    "filtered-new-calls": (HostFacts(kernel=NEW, seccomp=True), "openat2", e.EPERM, ""),
    "apparmor-userns": (
        HostFacts(kernel=(6, 8), sysctl={"kernel.apparmor_restrict_unprivileged_userns": "1"}, apparmor="unconfined"),
        "uid_map",
        e.EACCES,
        "/proc/self/uid_map",
    ),
    "selinux": (HostFacts(kernel=(5, 14), selinux=True), "mount overlay", e.EACCES, "/r"),
    "masked-proc-podman": (HostFacts(kernel=NEW, proc_masked=True, container="podman"), "mount proc", e.EPERM, "/proc"),
    "masked-proc-kubernetes": (
        HostFacts(kernel=NEW, proc_masked=True, container="kubernetes"),
        "mount proc",
        e.EPERM,
        "/proc",
    ),
    "masked-proc": (HostFacts(kernel=NEW, proc_masked=True, container="docker"), "mount proc", e.EPERM, "/proc"),
    "proc-sys-read-only": (HostFacts(kernel=NEW), "sysctl", e.EROFS, "/proc/sys/user/max_user_namespaces"),
    "old-kernel": (HostFacts(kernel=(4, 19)), "mount_setattr", e.ENOSYS, ""),
    "overlay-old": (HostFacts(kernel=(5, 10)), "mount overlay", e.EPERM, "/r"),
    "overlay-missing": (HostFacts(kernel=NEW), "mount overlay", e.ENODEV, "/r"),
    "tmpfs-xattr": (HostFacts(kernel=(6, 1)), "tmpfs attributes", e.EOPNOTSUPP, ""),
    "upper-directory": (HostFacts(kernel=(6, 1)), "upper directory", e.EINVAL, "/home/somebody/.cache/pytest-airlock"),
    "descriptors": (HostFacts(kernel=NEW), "scratch", e.EMFILE, "/proc/7/ns/mnt"),
    "idmap-overlay": (HostFacts(kernel=NEW, privileged=True, root_type="overlay"), "mount_setattr", e.EINVAL, "/usr"),
    "idmap": (HostFacts(kernel=NEW, privileged=True, root_type="ext4"), "idmapped rw mount", e.EOPNOTSUPP, "/nfs"),
    "no-device-nodes": (HostFacts(kernel=NEW, privileged=True), "bind", e.ENOENT, "/d/null"),
    "no-newuidmap": (HostFacts(kernel=NEW, newuidmap=False), "newuidmap", e.ENOENT, ""),
    "no-subids": (HostFacts(kernel=NEW), "newuidmap", e.EINVAL, ""),
    "newuidmap-refused": (HostFacts(kernel=NEW, no_new_privs=True, container="docker"), "newuidmap", e.EPERM, ""),
    "newuidmap-in-container": (HostFacts(kernel=NEW, container="docker"), "newuidmap", e.EPERM, ""),
    "few-ids": (HostFacts(kernel=NEW, container="podman"), "id map", e.ENOSPC, ""),
    "id-range": (HostFacts(kernel=NEW, privileged=True), "id range", e.ENOSPC, "/proc/self/uid_map"),
    "no-seccomp": (HostFacts(kernel=NEW), "seccomp", e.EINVAL, ""),
    "cgroup-read-only": (HostFacts(kernel=NEW), "cgroup memory", e.EROFS, "/sys/fs/cgroup"),
    "cgroup-not-delegated": (HostFacts(kernel=NEW), "cgroup pids", e.EACCES, "/sys/fs/cgroup"),
    "cgroup-missing": (HostFacts(kernel=NEW), "cgroup memory", e.EOPNOTSUPP, ""),
    "no-packet-sockets": (HostFacts(kernel=NEW), "network sockets", e.EPERM, ""),
    "no-routes": (HostFacts(kernel=NEW), "network route", e.EPERM, ""),
    "no-nftables": (HostFacts(kernel=NEW), "network divert", e.EOPNOTSUPP, ""),
    "network-process-gone": (HostFacts(kernel=NEW), "network process", e.EPIPE, ""),
    "filtered-otherwise": (HostFacts(kernel=NEW, seccomp=True), "signalfd4", e.ENOSYS, ""),
}


def test_every_row_has_a_scene() -> None:
    assert list(SCENES) == list(BY_NAME)
    assert len(BY_NAME) == len(ROWS)


@pytest.mark.parametrize("name", SCENES)
def test_each_cause_is_recognised_by_its_failure_and_facts(name: str) -> None:
    host, step, number, path = SCENES[name]
    row = BY_NAME[name]
    error = explain(step, number, path, host)
    assert row.cause in str(error)
    assert step in str(error)
    assert error.hint == row.fix
    assert isinstance(error, UnsupportedFeature if row.feature else ProviderUnavailable)


@pytest.mark.parametrize("name", SCENES)
def test_each_error_survives_pickling(name: str) -> None:
    host, step, number, path = SCENES[name]
    error = explain(step, number, path, host)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_missing_feature_is_one_of_the_contract(row: Row) -> None:
    assert row.feature in FEATURES or row.feature in ("", CGROUP)
    assert row.cause
    assert row.fix


@pytest.mark.parametrize(
    "name", [name for name, row in BY_NAME.items() if row.name not in ("old-kernel", "overlay-old")]
)
def test_the_facts_matter_not_only_the_failure(name: str) -> None:
    """Where the facts rule a cause out, the same failure is not blamed on it."""
    _, step, number, path = SCENES[name]
    healthy = HostFacts(kernel=NEW, root_type="ext4")
    error = explain(step, number, path, healthy)
    assert (BY_NAME[name].cause in str(error)) == BY_NAME[name].fits(healthy, path)


def test_an_unknown_failure_is_a_provider_error_that_shows_the_host() -> None:
    host = HostFacts(kernel=NEW, release="6.12.1", system="Some Linux 7", container="docker", seccomp=True)
    error = explain("mount tmpfs", e.ENOMEM, "/x", host)
    assert isinstance(error, ProviderError)
    assert "mount tmpfs failed with Cannot allocate memory (/x)" in str(error)
    assert (
        "Linux 6.12.1, Some Linux 7, in docker, without CAP_SYS_ADMIN, a system-call filter is in force" in error.hint
    )


def test_a_step_matches_whole_words() -> None:
    masked = HostFacts(kernel=NEW, proc_masked=True)
    assert isinstance(explain("mount process", e.EPERM, "/proc", masked), ProviderError)
    assert isinstance(explain("mount proc", e.EPERM, "/proc", masked), UnsupportedFeature)


def test_the_missing_feature_of_a_cgroup_is_its_controller() -> None:
    def feature(step: str) -> str:
        error = explain(step, e.EROFS, "/sys/fs/cgroup", HostFacts(kernel=NEW))
        assert isinstance(error, UnsupportedFeature)
        return error.feature

    assert [feature(step) for step in ("cgroup cpu", "cgroup pids", "cgroup memory", "cgroup")] == [
        "cpu",
        "pids",
        "memory",
        "memory",
    ]


def test_docker_on_an_apparmor_host_needs_one_flag_more() -> None:
    plain = explain(*failure("docker"))
    with_apparmor = explain(*failure("docker-apparmor"))
    assert "seccomp=unconfined" in plain.hint
    assert "systempaths=unconfined" in plain.hint
    assert "apparmor" not in plain.hint
    assert with_apparmor.hint == f"{plain.hint[:-1]} --security-opt apparmor=unconfined`"


def test_the_ubuntu_fix_says_what_it_costs() -> None:
    hint = explain(*failure("apparmor-userns")).hint
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in hint
    assert "every local program" in hint


@pytest.mark.parametrize("step", ["clone3", "unshare", "uid_map", "gid_map", "mount tmpfs", "bind", "mount_setattr"])
def test_the_ubuntu_restriction_shows_at_any_of_its_steps(step: str) -> None:
    host, *_ = SCENES["apparmor-userns"]
    assert "apparmor_restrict_unprivileged_userns is 1" in str(explain(step, e.EPERM, "", host))


def test_root_is_not_told_of_restrictions_of_ordinary_users() -> None:
    host = HostFacts(
        kernel=(6, 8),
        privileged=True,
        sysctl={"kernel.apparmor_restrict_unprivileged_userns": "1", "kernel.unprivileged_userns_clone": "0"},
    )
    assert isinstance(explain("unshare", e.EPERM, "", host), ProviderError)


def failure(name: str) -> tuple[str, int, str, HostFacts]:
    host, step, number, path = SCENES[name]
    return step, number, path, host


# ---------------------------------------------------------------- the documentation


def line(row: Row) -> str:
    names = {**e.errorcode, e.EOPNOTSUPP: "EOPNOTSUPP"}  # Linux has one number for it and ENOTSUP
    seen = (
        f"{', '.join(f'`{step}`' for step in row.steps) or 'any'}: {', '.join(names[number] for number in row.errnos)}"
    )
    result = "nothing works"
    if row.feature:
        result = "no `cpu`, `memory`, `pids` group" if row.feature == CGROUP else f"no `{row.feature}`"
    return f"| {row.where} | {seen} | {row.cause} | {row.fix} | {result} | {row.evidence} |"


def test_the_docs_show_the_table_row_by_row() -> None:
    header = "| where | step: error |"
    _, _, table = DOCS.read_text(encoding="utf-8").partition(header)
    documented = [text for text in table.splitlines()[2:] if text.startswith("| ")]
    assert documented == [line(row) for row in ROWS]


def test_no_cell_breaks_the_table() -> None:
    assert [row.name for row in ROWS if "|" in row.cause + row.fix + row.where] == []


# ---------------------------------------------------------------- reading a host


def write(root: Path, files: dict[str, str]) -> str:
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return str(root)


STATUS = "Name:\tpython3\nUid:\t1000\t1000\t1000\t1000\nCapEff:\t{caps}\nNoNewPrivs:\t0\nSeccomp:\t{seccomp}\n"
DOCKER_MOUNTS = """\
500 400 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/x
501 500 0:51 / /proc rw,nosuid - proc proc rw
502 501 0:51 /sys /proc/sys ro,nosuid - proc proc rw
503 501 0:52 / /proc/kcore rw,nosuid - tmpfs tmpfs rw
"""


def test_a_docker_container_is_read(tmp_path: Path) -> None:
    host = HostFacts.read(
        write(
            tmp_path,
            {
                ".dockerenv": "",
                "proc/sys/kernel/osrelease": "5.15.0-91-generic\n",
                "proc/sys/user/max_user_namespaces": "127235\n",
                "proc/self/status": STATUS.format(caps="00000000a80425fb", seccomp=2),
                "proc/self/mountinfo": DOCKER_MOUNTS,
                "proc/self/ns/user": "",
                "proc/self/attr/current": "docker-default (enforce)\n",
                "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            },
        )
    )
    assert host == HostFacts(
        kernel=(5, 15),
        release="5.15.0-91-generic",
        system="Debian GNU/Linux 12 (bookworm)",
        sysctl={"user.max_user_namespaces": "127235"},
        seccomp=True,
        apparmor="docker-default (enforce)",
        container="docker",
        proc_masked=True,
        root_type="overlay",
        newuidmap=False,
    )


def test_an_ubuntu_desktop_is_read(tmp_path: Path) -> None:
    host = HostFacts.read(
        write(
            tmp_path,
            {
                "proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
                "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
                "proc/sys/kernel/unprivileged_userns_clone": "1\n",
                "proc/self/status": STATUS.format(caps="0000000000000000", seccomp=0),
                "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                "30 22 0:4 / /proc rw - proc proc rw\n"
                "31 30 0:5 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n",
                "proc/self/ns/user": "",
                "proc/self/attr/apparmor/current": "unconfined\n",
                "usr/bin/newuidmap": "",
            },
        )
    )
    assert host.sysctl["kernel.apparmor_restrict_unprivileged_userns"] == "1"
    assert (host.container, host.privileged, host.seccomp, host.proc_masked, host.chroot) == (
        "",
        False,
        False,
        False,
        False,
    )
    assert host.newuidmap


@pytest.mark.parametrize(
    ("path", "container"),
    [("run/.containerenv", "podman"), ("var/run/secrets/kubernetes.io/serviceaccount/token", "kubernetes")],
)
def test_other_containers_are_known_by_their_marks(tmp_path: Path, path: str, container: str) -> None:
    assert HostFacts.read(write(tmp_path, {path: ""})).container == container


def test_root_is_the_capability_not_the_uid(tmp_path: Path) -> None:
    status = STATUS.format(caps="000001ffffffffff", seccomp=0)
    assert HostFacts.read(write(tmp_path, {"proc/self/status": status})).privileged


def test_a_chroot_is_a_root_that_is_no_mount(tmp_path: Path) -> None:
    mounts = "30 22 0:4 / /proc rw - proc proc rw\n"
    assert HostFacts.read(write(tmp_path, {"proc/self/mountinfo": mounts})).chroot


def test_nothing_readable_is_no_error(tmp_path: Path) -> None:
    host = HostFacts.read(str(tmp_path))
    assert host.kernel == (0, 0)
    assert isinstance(explain("unshare", e.EPERM, "", host), AirlockError)


def test_this_host_is_read() -> None:
    host = HostFacts.read()
    assert host.kernel >= (3, 8)
    assert host.describe().startswith(f"Linux {host.release}")
