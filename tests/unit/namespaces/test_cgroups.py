"""What is understood of a host's cgroups, on fake trees; test_cgroups_real.py makes groups."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine import cgroup_tree, cgroups, syscalls

STAT = "4711 (a (very) odd name) S 1 " + " ".join(str(n) for n in range(5, 22)) + " 8899 0 0\n"
V1_FILES = {
    "cpu": ("cpu.cfs_period_us", "cpu.cfs_quota_us"),
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"),
    "pids": ("pids.max",),
}
V2_FILES = {
    "cpu": ("cpu.max",),
    "memory": ("memory.max", "memory.swap.max", "memory.events"),
    "pids": ("pids.max",),
}


MKDIR, RMDIR = os.mkdir, os.rmdir


class FakeHost:
    """A host below `root`: directories made in its hierarchies get the files that the kernel would put there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prefix = str(root)
        self.refuse: dict[str, int] = {}
        self.hierarchies: dict[str, tuple[str, ...]] = {}
        self.mountinfo: list[str] = []
        self.own: list[str] = []
        self.write("/proc/self/stat", STAT)
        self.write("/proc/4711/stat", STAT)
        self.write("/proc/self/ns/pid", "")

    def write(self, path: str, text: str) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def mount(self, point: str, options: str, *, root: str = "/", files: tuple[str, ...]) -> None:
        kind = "cgroup2" if options == "rw" else "cgroup"
        self.mountinfo.append(f"30 23 0:2 {root} {point} rw,relatime shared:9 - {kind} {kind} {options}\n")
        self.hierarchies[point.replace("\\040", " ")] = files
        self.write("/proc/self/mountinfo", "23 1 0:1 / / rw - ext4 /dev/vda rw\n" + "".join(self.mountinfo))

    def cgroup(self, *lines: str) -> None:
        self.write("/proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def make(self, path: str) -> None:
        """A directory of a hierarchy, with its files."""
        target = self.root / path.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        self.fill(str(target))

    def fill(self, path: str) -> None:
        for point, files in self.hierarchies.items():
            if path.startswith(self.prefix + point):
                for name in (*files, "cgroup.procs", *([] if "cgroup.type" in files else ["tasks"])):
                    Path(path, name).touch()

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        for part, number in self.refuse.items():
            if part in str(path):
                raise OSError(number, os.strerror(number), path)
        MKDIR(path, mode)
        self.fill(str(path))

    def rmdir(self, path: str) -> None:
        """The kernel takes the files of a group with it."""
        for entry in Path(path).iterdir():
            if entry.is_file():
                entry.unlink()
        RMDIR(path)

    def groups(self, path: str) -> list[str]:
        return sorted(entry.name for entry in (self.root / path.lstrip("/")).iterdir() if entry.is_dir())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    fake = FakeHost(tmp_path)
    monkeypatch.setattr(os, "mkdir", fake.mkdir)
    monkeypatch.setattr(os, "rmdir", fake.rmdir)
    return fake


def version1(host: FakeHost, own: str = "/", root: str = "/") -> FakeHost:
    host.cgroup(*[f"{n}:{name}:{own}" for n, name in enumerate(V1_FILES, 2)], "1:name=systemd:/", "0::/")
    for controller, files in V1_FILES.items():
        point = f"/sys/fs/cgroup/{controller}"
        host.mount(point, f"rw,{controller}", root=root, files=files)
        host.make(point + own.removeprefix(root.rstrip("/")))
    return host


def version2(
    host: FakeHost, own: str, *, there: str = "cpu memory pids", down: str = "", point: str = "/sys/fs/cgroup"
) -> str:
    files = tuple(name for names in V2_FILES.values() for name in names) + ("cgroup.type",)
    host.mount(point, "rw", files=files)
    host.cgroup(f"0::{own}")
    directory = (point + own).rstrip("/")
    host.make(directory)
    host.write(f"{directory}/cgroup.controllers", f"{there}\n")
    host.write(f"{directory}/cgroup.subtree_control", f"{down}\n")
    return directory


# ---------------------------------------------------------------- finding


def test_version_1_has_one_directory_for_each_controller(host: FakeHost) -> None:
    means = cgroups.probe(version1(host, "/jobs/7").prefix)
    assert {name: place.path for name, place in means.places.items()} == {
        "cpu": "/sys/fs/cgroup/cpu/jobs/7",
        "memory": "/sys/fs/cgroup/memory/jobs/7",
        "pids": "/sys/fs/cgroup/pids/jobs/7",
    }
    assert means.absent == {}
    assert host.groups("/sys/fs/cgroup/pids/jobs/7") == []


def test_a_hybrid_host_takes_each_controller_where_it_is(host: FakeHost) -> None:
    directory = version2(host, "/a", there="memory", down="memory", point="/sys/fs/cgroup/unified")
    host.mount("/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct", files=V1_FILES["cpu"])
    host.make("/sys/fs/cgroup/cpu,cpuacct/b")
    host.cgroup("4:cpu,cpuacct:/b", "0::/a")
    means = cgroups.probe(host.prefix)
    assert means.places == {
        "cpu": cgroup_tree.Place("/sys/fs/cgroup/cpu,cpuacct/b", 1),
        "memory": cgroup_tree.Place(directory, 2),
    }
    assert "pids controller is not handed down" in means.absent["pids"].why


def test_a_container_without_a_cgroup_name_space_sees_a_part_of_the_tree(host: FakeHost) -> None:
    """Docker with version 1: the mount's root is the container's cgroup, and so is what /proc/self/cgroup says."""
    means = cgroups.probe(version1(host, "/docker/abc/inner", root="/docker/abc").prefix)
    assert means.places["memory"].path == "/sys/fs/cgroup/memory/inner"


@pytest.mark.parametrize("own", ["/../../outside", "/elsewhere"])
def test_an_own_cgroup_outside_of_the_mount_cannot_be_used(host: FakeHost, own: str) -> None:
    version1(host, "/docker/abc", root="/docker/abc")
    host.cgroup(*[f"{n}:{name}:{own}" for n, name in enumerate(V1_FILES, 2)])
    means = cgroups.probe(host.prefix)
    assert means.places == {}
    assert all("no mounted hierarchy shows" in absence.why and absence.fix for absence in means.absent.values())


def test_a_mount_point_with_a_blank_is_unescaped(host: FakeHost) -> None:
    host.mount("/mnt/c\\040groups", "rw,pids", files=V1_FILES["pids"])
    host.cgroup("3:pids:/")
    host.make("/mnt/c groups")
    assert cgroups.probe(host.prefix).places["pids"].path == "/mnt/c groups"


def test_after_pivot_root_the_mount_points_have_the_prefix_already(host: FakeHost) -> None:
    version1(host)
    host.write("/proc/self/mountinfo", "".join(host.mountinfo).replace("/sys/fs", f"{host.prefix}/sys/fs"))
    assert cgroups.probe(host.prefix).places["cpu"].path == "/sys/fs/cgroup/cpu"


def test_without_any_cgroups_everything_is_absent_with_a_reason(host: FakeHost) -> None:
    assert set(cgroups.probe(host.prefix).absent) == {"cpu", "memory", "pids"}


@pytest.mark.parametrize(
    ("number", "fix"),
    [(errno.EROFS, "writable cgroup tree"), (errno.EACCES, "run as root"), (errno.EPERM, "run as root")],
)
def test_what_the_kernel_refuses_is_explained(host: FakeHost, number: int, fix: str) -> None:
    host.refuse = {"/memory/airlock-": number}
    means = cgroups.probe(version1(host).prefix)
    assert set(means.places) == {"cpu", "pids"}
    assert os.strerror(number) in means.absent["memory"].why
    assert fix in means.absent["memory"].fix


def test_the_means_cross_as_json(host: FakeHost) -> None:
    host.refuse = {"/memory/airlock-": errno.EROFS}
    found = json.loads(json.dumps(cgroups.probe(version1(host).prefix).to_json()))
    assert found["cpu"] == {"usable": True, "version": 1, "why": "", "fix": ""}
    assert found["memory"]["usable"] is False
    assert "Read-only" in found["memory"]["why"]


# ---------------------------------------------------------------- version 2 and delegation


def test_version_2_with_controllers_handed_down_is_used_as_it_is(host: FakeHost) -> None:
    directory = version2(host, "/user.slice/run.scope", down="cpu memory pids")
    assert set(cgroups.probe(host.prefix).places.values()) == {cgroup_tree.Place(directory, 2)}
    assert host.groups(directory) == []


def test_a_cgroup_that_is_not_delegated_is_left_alone(host: FakeHost) -> None:
    directory = version2(host, "/user.slice/session-3.scope")
    host.write(f"{directory}/cgroup.procs", "17\n")
    means = cgroups.probe(host.prefix)
    assert means.places == {}
    assert all("not delegated" in absence.why for absence in means.absent.values())
    assert all("--scope -p Delegate=yes pytest" in absence.fix for absence in means.absent.values())
    assert host.groups(directory) == []
    assert host.read(f"{directory}/cgroup.subtree_control") == "\n"


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Writes to cgroup.procs move a pid, as in the kernel."""
    moved: list[tuple[str, str]] = []
    real = cgroup_tree.write

    def write(path: str, value: str, *, step: str = "cgroup") -> None:
        real(path, value, step=step)
        if path.endswith(f"{cgroup_tree.LEAF}/cgroup.procs"):
            source = Path(path).parent.parent / "cgroup.procs"
            source.write_text("".join(f"{pid}\n" for pid in source.read_text().split() if pid != value))
            moved.append((Path(path).parent.name, value))

    monkeypatch.setattr(cgroup_tree, "write", write)
    return moved


def test_a_delegated_cgroup_moves_its_processes_into_a_leaf_first(
    host: FakeHost, moving: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = version2(host, "/user.slice/run-u5.scope")
    host.write(f"{directory}/cgroup.procs", "17\n18\n")
    marks = {host.prefix + directory: b"1"}
    monkeypatch.setattr(os, "getxattr", lambda path, name: {"user.delegate": marks[path]}[name])
    means = cgroups.probe(host.prefix)
    assert moving == [("airlock-leaf", "17"), ("airlock-leaf", "18")]
    assert host.read(f"{directory}/cgroup.subtree_control") == "+cpu +memory +pids"
    assert set(means.places) == {"cpu", "memory", "pids"}


def test_the_root_of_a_containers_own_tree_counts_as_delegated(host: FakeHost, moving: list[tuple[str, str]]) -> None:
    directory = version2(host, "/")
    host.write(f"{directory}/cgroup.procs", "1\n")
    assert set(cgroups.probe(host.prefix).places) == {"cpu", "memory", "pids"}
    assert moving == [("airlock-leaf", "1")]


def test_an_engine_in_the_leaf_makes_its_groups_beside_it(host: FakeHost) -> None:
    directory = version2(host, "/run.scope", down="cpu memory pids")
    host.make(f"{directory}/airlock-leaf")
    host.cgroup("0::/run.scope/airlock-leaf")
    assert cgroups.probe(host.prefix).places["pids"].path == directory


def test_a_controller_that_is_not_handed_down_names_the_setting(host: FakeHost) -> None:
    version2(host, "/run.scope", there="memory pids", down="memory pids")
    means = cgroups.probe(host.prefix)
    assert set(means.places) == {"memory", "pids"}
    assert "user@.service" in means.absent["cpu"].fix


# ---------------------------------------------------------------- groups


def test_limits_of_version_1(host: FakeHost) -> None:
    group = cgroups.create("3", cpu=2, memory=1 << 30, pids=99, prefix=version1(host).prefix)
    cpu, memory, pids = (place.path for place in group.places)
    assert host.read(f"{cpu}/cpu.cfs_period_us") == "100000"
    assert host.read(f"{cpu}/cpu.cfs_quota_us") == "200000"
    assert host.read(f"{memory}/memory.limit_in_bytes") == str(1 << 30)
    assert host.read(f"{memory}/memory.memsw.limit_in_bytes") == str(1 << 30)
    assert host.read(f"{pids}/pids.max") == "99"


def test_limits_of_version_2_share_one_directory(host: FakeHost) -> None:
    version2(host, "/a", down="cpu memory pids")
    (place,) = cgroups.create("3", cpu=1.5, memory=4096, pids=9, prefix=host.prefix).places
    assert host.read(f"{place.path}/cpu.max") == "150000 100000"
    assert host.read(f"{place.path}/memory.max") == "4096"
    assert host.read(f"{place.path}/memory.swap.max") == "0"
    assert host.read(f"{place.path}/pids.max") == "9"


def test_only_the_hierarchies_of_the_limits_asked_for_are_touched(host: FakeHost) -> None:
    group = cgroups.create("1", pids=5, prefix=version1(host).prefix)
    assert len(group.places) == 1
    assert host.groups("/sys/fs/cgroup/cpu") == host.groups("/sys/fs/cgroup/memory") == []


def test_a_group_is_named_after_its_maker(host: FakeHost) -> None:
    cgroups.create("12", pids=5, prefix=version1(host).prefix)
    inode = os.stat(f"{host.prefix}/proc/self/ns/pid").st_ino
    assert host.groups("/sys/fs/cgroup/pids") == [f"airlock-{inode}-4711-8899-12"]


def test_no_swap_accounting_is_no_error(host: FakeHost) -> None:
    version1(host)
    host.hierarchies["/sys/fs/cgroup/memory"] = ("memory.limit_in_bytes",)
    group = cgroups.create("1", memory=4096, prefix=host.prefix)
    assert host.read(f"{group.places[0].path}/memory.limit_in_bytes") == "4096"


def test_a_failed_create_leaves_nothing(host: FakeHost) -> None:
    version1(host)
    host.refuse = {"/pids/airlock-": errno.ENOSPC}
    with pytest.raises(cgroups.CgroupError) as caught:
        cgroups.create("1", cpu=1, memory=4096, pids=5, prefix=host.prefix)
    assert caught.value.errno == errno.ENOSPC
    assert [host.groups(f"/sys/fs/cgroup/{name}") for name in V1_FILES] == [[], [], []]


def test_a_limit_that_cannot_be_set_names_the_file_and_the_value(host: FakeHost) -> None:
    version1(host)
    host.hierarchies["/sys/fs/cgroup/pids"] = ()
    with pytest.raises(cgroups.CgroupError) as caught:
        cgroups.create("1", pids=5, prefix=host.prefix)
    assert caught.value.step == "cgroup pids"
    assert caught.value.filename.endswith("/pids.max")
    assert "writing '5'" in str(caught.value)
    assert host.groups("/sys/fs/cgroup/pids") == []


def test_a_limit_that_is_absent_here_is_refused_with_the_reason(host: FakeHost) -> None:
    with pytest.raises(cgroups.CgroupError, match="no mounted hierarchy shows") as caught:
        cgroups.create("1", memory=4096, prefix=host.prefix)
    assert (caught.value.errno, caught.value.step) == (errno.EOPNOTSUPP, "cgroup memory")


def test_joining_writes_to_every_hierarchy(host: FakeHost) -> None:
    group = cgroups.create("1", cpu=1, pids=5, prefix=version1(host).prefix)
    group.add(77)
    assert [host.read(f"{place.path}/cgroup.procs") for place in group.places] == ["77", "77"]
    assert group.pids() == {77}


def test_a_child_enters_version_1_by_its_own_hand_in_every_hierarchy(host: FakeHost) -> None:
    group = cgroups.create("1", cpu=1, pids=5, prefix=version1(host).prefix)
    entrance = group.entrance()
    entrance.join()
    entrance.close()
    assert entrance.unified == -1
    assert [host.read(f"{place.path}/tasks") for place in group.places] == ["0", "0"]


@pytest.mark.parametrize("into", [True, False])
def test_a_child_is_born_in_version_2_where_the_kernel_can(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, *, into: bool
) -> None:
    monkeypatch.setattr(syscalls, "has_clone3", lambda: into)
    version2(host, "/a", down="cpu memory pids")
    group = cgroups.create("1", cpu=1, pids=5, prefix=host.prefix)
    entrance = group.entrance()
    entrance.join()
    (place,) = group.places
    if into:
        assert os.path.samestat(os.fstat(entrance.unified), os.stat(group.prefix + place.path))
    assert host.read(f"{place.path}/cgroup.procs") == ("" if into else "0")
    entrance.close()


def test_entering_a_group_that_refuses_names_the_file(host: FakeHost) -> None:
    group = cgroups.create("1", pids=5, prefix=version1(host).prefix)
    path = f"{group.prefix}{group.places[0].path}/tasks"
    with open(path, "rb") as unwritable, pytest.raises(cgroups.CgroupError, match="Bad file descriptor") as caught:
        cgroups.Entrance(-1, (unwritable.fileno(),)).join()
    assert (caught.value.step, caught.value.filename) == ("cgroup", path)


@pytest.mark.parametrize(
    ("version", "name", "text"),
    [
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        (2, "memory.events", "low 0\nhigh 0\nmax 8\noom 2\noom_kill 3\noom_group_kill 0\n"),
    ],
)
def test_the_kernels_count_of_oom_kills(host: FakeHost, version: int, name: str, text: str) -> None:
    if version == 1:
        version1(host)
    else:
        version2(host, "/a", down="cpu memory pids")
    group = cgroups.create("1", memory=4096, pids=5, prefix=host.prefix)
    assert group.oom_kills() == 0
    assert group.memory is not None
    host.write(f"{group.memory.path}/{name}", text)
    assert group.oom_kills() == 3


def test_without_a_memory_limit_there_are_no_oom_kills(host: FakeHost) -> None:
    assert cgroups.create("1", pids=5, prefix=version1(host).prefix).oom_kills() == 0


def test_killing_uses_the_kernels_own_switch_where_there_is_one(host: FakeHost) -> None:
    version2(host, "/a", down="cpu memory pids")
    group = cgroups.create("1", pids=5, prefix=host.prefix)
    host.write(f"{group.places[0].path}/cgroup.kill", "")
    group.kill()
    assert host.read(f"{group.places[0].path}/cgroup.kill") == "1"


def test_sweeping_takes_only_groups_whose_maker_is_provably_dead(host: FakeHost) -> None:
    version1(host)
    inode = os.stat(f"{host.prefix}/proc/self/ns/pid").st_ino
    keep = [
        f"airlock-{inode}-4711-8899-1",  # alive
        f"airlock-{inode + 1}-5-6-1",  # of another pid name space
        f"airlock-{inode}-x-6-1",
        "airlock-leaf",
        f"other-{inode}-5-6-1",
    ]
    dead = [
        f"airlock-{inode}-5-6-1",  # no such process
        f"airlock-{inode}-4711-8898-2",  # the number was given to another process
        f"airlock-{inode}-5-6-probe-cpu",
    ]
    for name in (*keep, *dead):
        host.make(f"/sys/fs/cgroup/pids/{name}")
    assert sorted(cgroups.sweep(host.prefix)) == sorted(f"/sys/fs/cgroup/pids/{name}" for name in dead)
    assert host.groups("/sys/fs/cgroup/pids") == sorted(keep)
