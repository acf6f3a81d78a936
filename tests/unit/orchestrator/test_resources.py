"""What the machine has, read from fake /proc and /sys trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_airlock.errors import InsufficientResources
from pytest_airlock.orchestrator.contracts import Need, ResourceChecker
from pytest_airlock.orchestrator.policy.resources import HostResources, format_size

MIB, GIB = 1024**2, 1024**3
V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


class Machine:
    """A tree such as the kernel shows; 8 processors, 16 GiB, 12 GiB of them available, unless changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {16 * MIB} kB\nMemFree: 1 kB\nMemAvailable: {12 * MIB} kB\n")

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text.rstrip()}\n")

    def groups(self, mountinfo, cgroup):
        self.write("proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda rw\n" + mountinfo)
        self.write("proc/self/cgroup", cgroup)

    def resources(self, processors=8, **options):
        return HostResources(self.root, processors=lambda: processors, **options)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def free(resources, resource, most=64 * GIB):
    """The largest need that passes."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        try:
            resources.check(Need("box", **{resource: middle}), [])
            low = middle
        except InsufficientResources:
            high = middle - 1
    return low


def test_r08_it_is_what_the_contract_says(machine):
    assert isinstance(machine.resources(), ResourceChecker)


def test_without_groups_the_machine_is_the_ceiling_and_what_is_available_is_free(machine):
    resources = machine.resources()
    assert resources.ceiling() == {"cpu": 8, "memory": 16 * GIB, "disk": 16 * GIB}
    assert free(resources, "memory") == 12 * GIB
    assert free(resources, "cpu") == 8


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("10000 100000", 1), ("", 8), ("0 0", 8)],
)
def test_version_2_quota_bounds_processors_rounded_down_but_one_is_always_there(machine, quota, cpus):
    machine.groups(V2, "0::/job\n")
    machine.write("sys/fs/cgroup/job/cpu.max", quota)
    assert machine.resources().ceiling()["cpu"] == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("300000", 3)])
def test_version_1_quota_bounds_processors(machine, quota, cpus):
    machine.groups(V1, "5:cpu,cpuacct:/job\n4:memory:/\n0::/\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", quota)
    machine.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000")
    assert machine.resources().ceiling()["cpu"] == cpus


def test_affinity_bounds_processors(machine):
    machine.groups(V2, "0::/\n")
    machine.write("sys/fs/cgroup/cpu.max", "400000 100000")
    assert machine.resources(processors=3).ceiling()["cpu"] == 3
    assert machine.resources(processors=5).ceiling()["cpu"] == 4


def test_the_real_affinity_is_asked_by_default(machine):
    assert HostResources(machine.root).ceiling()["cpu"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("level", ["", "a", "a/b"])
def test_the_tightest_level_up_to_the_mount_point_counts(machine, level):
    machine.groups(V2, "0::/a/b\n")
    for each in ("", "a", "a/b"):
        machine.write(f"sys/fs/cgroup/{each}/memory.max", str(2 * GIB) if each == level else "max")
        machine.write(f"sys/fs/cgroup/{each}/cpu.max", "200000 100000" if each == level else "max 100000")
    assert machine.resources().ceiling() == {"cpu": 2, "memory": 2 * GIB, "disk": 2 * GIB}


def test_another_groups_limits_do_not_count(machine):
    machine.groups(V2, "0::/a\n")
    machine.write("sys/fs/cgroup/a/memory.max", "max")
    machine.write("sys/fs/cgroup/b/memory.max", str(MIB))
    assert machine.resources().ceiling()["memory"] == 16 * GIB


def test_version_2_memory_in_use_is_gone_but_for_cache_that_can_be_dropped(machine):
    machine.groups(V2, "0::/job\n")
    machine.write("sys/fs/cgroup/job/memory.max", str(4 * GIB))
    machine.write("sys/fs/cgroup/job/memory.current", str(3 * GIB))
    machine.write("sys/fs/cgroup/job/memory.stat", f"anon 1\ninactive_file {GIB}\nactive_file 7")
    resources = machine.resources()
    assert resources.ceiling()["memory"] == 4 * GIB
    assert free(resources, "memory") == 2 * GIB


def test_version_1_memory_limits_and_use(machine):
    machine.groups(V1, "4:memory:/job\n")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    machine.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", str(4 * GIB))
    machine.write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", str(3 * GIB))
    machine.write("sys/fs/cgroup/memory/job/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB}")
    resources = machine.resources()
    assert resources.ceiling()["memory"] == 4 * GIB
    assert free(resources, "memory") == 2 * GIB


def test_version_1_without_a_limit_is_no_limit(machine):
    machine.groups(V1, "4:memory:/\n")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    assert machine.resources().ceiling()["memory"] == 16 * GIB


def test_both_versions_side_by_side(machine):
    machine.groups(
        V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"), "5:cpu,cpuacct:/\n4:memory:/\n0::/job\n"
    )
    machine.write("sys/fs/cgroup/unified/job/memory.max", str(3 * GIB))
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", str(5 * GIB))
    machine.write("sys/fs/cgroup/unified/job/cpu.max", "700000 100000")
    assert machine.resources().ceiling() == {"cpu": 7, "memory": 3 * GIB, "disk": 3 * GIB}


def test_a_container_without_its_own_cgroup_namespace(machine):
    """The path names the host's tree, of which the mount shows the container's part."""
    machine.groups(
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "4:memory:/docker/abc/inner\n"
    )
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", str(2 * GIB))
    machine.write("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", str(GIB))
    assert machine.resources().ceiling()["memory"] == GIB


@pytest.mark.parametrize("path", ["/../outside", "/elsewhere"])
def test_a_group_outside_what_is_mounted_leaves_the_mount_point(machine, path):
    machine.groups("35 31 0:32 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", f"0::{path}\n")
    machine.write("sys/fs/cgroup/memory.max", str(GIB))
    assert machine.resources().ceiling()["memory"] == GIB


def test_a_mount_point_with_a_space(machine):
    machine.groups(V2.replace("/sys/fs/cgroup", "/my\\040groups"), "0::/\n")
    machine.write("my groups/memory.max", str(GIB))
    assert machine.resources().ceiling()["memory"] == GIB


def test_a_machine_without_proc_has_its_physical_memory(tmp_path):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert HostResources(tmp_path).ceiling()["memory"] == physical


def test_disk_is_memory_because_sandboxes_write_to_tmpfs(machine):
    assert free(machine.resources(), "disk") == 12 * GIB


def test_disk_of_a_directory_is_what_its_file_system_has(machine, tmp_path):
    found = os.statvfs(tmp_path)
    resources = machine.resources(disk=tmp_path)
    assert resources.ceiling()["disk"] == found.f_frsize * found.f_blocks
    with pytest.raises(InsufficientResources, match="disk"):
        resources.check(Need("box", disk=found.f_frsize * found.f_blocks + 1), [])


def test_more_processors_than_the_machine_has_can_never_fit(machine):
    with pytest.raises(InsufficientResources) as caught:
        machine.resources(processors=2).check(Need("box", cpu=4), [])
    error = caught.value
    assert (error.resource, error.need, error.have, error.can_ever_fit) == ("cpu", 4, 2, False)
    assert "need 4, have 2" in str(error)
    assert "ask for cpu=2 or less" in error.hint
    assert "airlock_insufficient" in error.hint
    assert "skip" in error.hint
    assert "clamp" in error.hint


def test_more_memory_than_the_ceiling_can_never_fit_more_than_is_free_may(machine):
    resources = machine.resources()
    with pytest.raises(InsufficientResources) as never:
        resources.check(Need("box", memory=17 * GIB), [])
    with pytest.raises(InsufficientResources) as later:
        resources.check(Need("box", memory=13 * GIB), [])
    assert (never.value.can_ever_fit, later.value.can_ever_fit) == (False, True)
    assert "17 GiB asked for, this machine gives 16 GiB" in never.value.why
    assert "13 GiB asked for, 12 GiB free now" in later.value.why


@pytest.mark.parametrize(
    ("held", "need", "fits"),
    [
        ([Need("a", cpu=6)], Need("box", cpu=2), True),
        ([Need("a", cpu=6)], Need("box", cpu=3), False),
        ([Need("a", cpu=3), Need("b", cpu=3)], Need("box", cpu=3), False),
        ([Need("a")], Need("box", cpu=8), True),
        ([Need("a", memory=10 * GIB)], Need("box", memory=6 * GIB), True),
        ([Need("a", memory=10 * GIB)], Need("box", memory=6 * GIB + 1), False),
        ([Need("a", disk=10 * GIB)], Need("box", memory=7 * GIB), False),
        ([Need("a", memory=10 * GIB, disk=10 * GIB)], Need("box", memory=6 * GIB), True),
        ([Need("a", cpu=8, memory=16 * GIB)], Need("box"), True),
    ],
)
def test_what_others_hold_counts_as_gone(machine, held, need, fits):
    if fits:
        machine.resources().check(need, held)
    else:
        with pytest.raises(InsufficientResources) as caught:
            machine.resources().check(need, held)
        assert caught.value.can_ever_fit is True
        assert "held by a" in caught.value.why


def test_a_sandbox_does_not_stand_in_its_own_way(machine):
    machine.resources().check(Need("box", cpu=8), [Need("box", cpu=8)])


def test_what_is_held_never_shows_as_less_than_nothing(machine):
    with pytest.raises(InsufficientResources) as caught:
        machine.resources().check(Need("box", cpu=1), [Need("a", cpu=8), Need("b", cpu=8)])
    assert caught.value.have == 0


def test_clamping_lowers_what_is_set_to_the_ceiling_and_sets_nothing(machine):
    resources = machine.resources(processors=2)
    assert resources.clamp(Need("box", cpu=4, memory=64 * GIB)) == Need("box", cpu=2, memory=16 * GIB)
    assert resources.clamp(Need("box", cpu=1, disk=5)) == Need("box", cpu=1, disk=5)
    assert resources.clamp(Need("box")) == Need("box")


def test_this_machine_has_something():
    ceiling = HostResources().ceiling()
    assert ceiling["cpu"] >= 1
    assert ceiling["memory"] > 0
    HostResources().check(Need("box", cpu=1, memory=1, disk=1), [])


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1 bytes"), (1536, "1.5 KiB"), (4 * GIB, "4 GiB"), (GIB * 1024 * 5000, "5000 TiB")]
)
def test_sizes_are_written_as_people_do(size, text):
    assert format_size(size) == text
