"""The world of the image `host`, planned on fake machines: directory trees that stand for `/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_airlock.errors import InvalidSpec, MountForbidden, ProviderUnavailable
from pytest_airlock.providers.base import ProviderSpec, ResolvedMount
from pytest_airlock.providers.namespaces.engine.world import ROOT, USER, Entry, View, World
from pytest_airlock.providers.namespaces.images import HostView, Memory, plan_world

KEY = "-----BEGIN PRIVATE KEY-----"


class Machine:
    """A fake machine: a merged-/usr Debian with a pyenv interpreter in root's home and a venv in a project."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for path in ("usr/bin/bash", "usr/lib/x.so", "usr/local/bin/tool", "etc/passwd", "etc/group"):
            self.put(path)
        for path in ("var/lib/dpkg", "var/lib/apt", "opt", "home/me", "run", "tmp"):
            self.directory(path)
        self.link("bin", "usr/bin")
        self.link("lib", "usr/lib")
        self.put("root/.pyenv/versions/3.12/bin/python3.12")
        self.directory("root", 0o700)
        self.put("work/app/pyproject.toml")
        self.put("work/app/.venv/pyvenv.cfg")
        self.link("work/app/.venv/bin/python", "/root/.pyenv/versions/3.12/bin/python3.12")
        self.host = HostView(
            root=str(top),
            prefix="/work/app/.venv",
            base_prefix="/root/.pyenv/versions/3.12",
            executable="/work/app/.venv/bin/python",
            site_dirs=("/work/app/.venv/lib/python3.12/site-packages",),
            homes=("/root",),
        )

    def put(self, path: str, content: str = "x", mode: int = 0o644) -> None:
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)

    def directory(self, path: str, mode: int = 0o755) -> None:
        (self.top / path).mkdir(parents=True, exist_ok=True)
        (self.top / path).chmod(mode)

    def link(self, path: str, text: str) -> None:
        (self.top / path).parent.mkdir(parents=True, exist_ok=True)
        (self.top / path).symlink_to(text)

    def plan(
        self,
        *mounts: ResolvedMount,
        host: HostView | None = None,
        root_mode: bool = False,
        expose: tuple[str, ...] = (),
        memory: Memory | None = None,
    ) -> World:
        spec = ProviderSpec("box", mounts=mounts, expose=expose)
        return plan_world(spec, host or self.host, root_mode=root_mode, memory=memory)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


PROJECT = ResolvedMount("/work/app", "/work/app", "cow", project=True)


def entries(world: World) -> dict[str, Entry]:
    return {entry.path: entry for entry in world.entries}


def views(world: World) -> dict[str, View]:
    return {view.target: view for view in world.views}


def test_the_world_survives_json(machine: Machine) -> None:
    machine.put("work/app/.env")
    world = machine.plan(PROJECT)
    assert World.from_json(world.to_json()) == world


def test_programs_are_views_and_merged_directories_links(machine: Machine) -> None:
    world = machine.plan()
    assert {"/usr", "/opt", "/var/lib/dpkg", "/var/lib/apt"} <= set(views(world))
    assert views(world)["/usr"] == View(f"{machine.top}/usr", "/usr", "cow", (), (), True)
    assert entries(world)["/bin"] == Entry("link", "/bin", 0o777, ROOT, "usr/bin")
    assert "/bin" not in views(world)


def test_the_sandbox_owns_what_a_package_manager_edits_in_place(machine: Machine) -> None:
    shown = views(machine.plan())
    assert {"lock", "lock-frontend", "status"} <= set(shown["/var/lib/dpkg"].owned)
    assert "lists/lock" in shown["/var/lib/apt"].owned
    assert shown["/usr"].owned == ()


def test_real_bin_and_lib_directories_are_views(machine: Machine) -> None:
    (machine.top / "lib").unlink()
    machine.put("lib/ld.so")
    machine.put("lib64/ld.so")
    assert {"/lib", "/lib64"} <= set(views(machine.plan()))


def test_no_home_no_run_no_tmp_of_the_host(machine: Machine) -> None:
    for secret in (
        "home/me/.ssh/id_rsa",
        "root/.bash_history",
        "run/docker.sock",
        "tmp/x",
        "var/log/auth.log",
        "srv/data",
    ):
        machine.put(secret)
    world = machine.plan(PROJECT)
    for path in ("/home", "/home/me", "/root", "/run", "/tmp", "/var", "/var/log", "/srv", "/"):
        assert path not in views(world)
    assert not any(entry.path.startswith(("/home/me", "/run/docker", "/srv/data")) for entry in world.entries)


def test_the_usual_directories_are_there_with_their_modes_and_owners(machine: Machine) -> None:
    made = entries(machine.plan())
    for path in ("/proc", "/dev", "/sys", "/run", "/var/log", "/srv", "/mnt", "/media"):
        assert made[path] == Entry("dir", path, 0o755, ROOT)
    assert made["/tmp"].mode == made["/var/tmp"].mode == 0o1777
    assert made["/home/airlock"].owner == USER
    assert made["/root"].owner == ROOT


def test_parents_come_before_children_and_paths_are_unique(machine: Machine) -> None:
    world = machine.plan(PROJECT)
    seen = {"/"}
    for entry in world.entries:
        assert entry.path not in seen
        assert (entry.path.rpartition("/")[0] or "/") in seen
        seen.add(entry.path)
    targets = [view.target for view in world.views]
    assert len(targets) == len(set(targets))
    assert all(not later.startswith(f"{target}/") for at, later in enumerate(targets) for target in targets[at + 1 :])


def test_nothing_is_made_below_a_link(machine: Machine) -> None:
    world = machine.plan(PROJECT)
    links = tuple(f"{entry.path}/" for entry in world.entries if entry.kind == "link")
    assert not any(entry.path.startswith(links) for entry in world.entries)


def test_the_interpreter_is_shown_at_its_paths_below_a_private_home(machine: Machine) -> None:
    world = machine.plan()
    assert views(world)["/root/.pyenv/versions/3.12"].system
    assert views(world)["/work/app/.venv"].system
    assert entries(world)["/root/.pyenv/versions"].mode == 0o755
    assert entries(world)["/root"].mode & 0o005 == 0o005
    assert "/work/app" not in views(world)


def test_the_venv_lies_above_the_project(machine: Machine) -> None:
    world = machine.plan(PROJECT)
    order = [view.target for view in world.views]
    assert order.index("/work/app") < order.index("/work/app/.venv")
    assert not views(world)["/work/app"].system
    assert not any(entry.path.startswith("/work/app/") and entry.path != "/work/app/.venv" for entry in world.entries)


def test_a_project_that_is_the_venv_keeps_the_mode_of_its_mount(machine: Machine) -> None:
    mount = ResolvedMount("/work/app/.venv", "/work/app/.venv", "rw", project=True)
    view = views(machine.plan(mount))["/work/app/.venv"]
    assert (view.mode, view.system) == ("rw", False)


def test_site_packages_outside_the_prefix_get_a_view(machine: Machine) -> None:
    machine.put("srv/extra/site-packages/x.py")
    host = HostView(
        str(machine.top), "/usr", "/usr", "/usr/bin/python3", ("/srv/extra/site-packages", "/usr/lib/python3")
    )
    found = views(machine.plan(host=host))
    assert found["/srv/extra/site-packages"].system
    assert "/usr/lib/python3" not in found


def test_a_prefix_behind_links_is_found_by_its_name_and_its_real_path(machine: Machine) -> None:
    machine.put("data/cpython-3.12.5/bin/python3.12")
    machine.link("srv/python", "/data/cpython-3.12")
    machine.link("data/cpython-3.12", "cpython-3.12.5")
    host = HostView(str(machine.top), "/srv/python", "/srv/python", "/srv/python/bin/python3.12")
    world = machine.plan(host=host)
    assert views(world)["/data/cpython-3.12.5"].source == f"{machine.top}/data/cpython-3.12.5"
    assert entries(world)["/srv/python"].data == "/data/cpython-3.12"
    assert entries(world)["/data/cpython-3.12"].data == "cpython-3.12.5"


@pytest.mark.parametrize("prefix", ["/home/me", "/root", "/home/me/.local"])
def test_a_prefix_that_is_a_home_shows_no_more_than_the_interpreter(machine: Machine, prefix: str) -> None:
    for part in ("bin/python3", "lib/python3.12/os.py", ".ssh/id_rsa", "share/keyrings/login.keyring"):
        machine.put(f"{prefix[1:]}/{part}")
    host = HostView(str(machine.top), prefix, prefix, f"{prefix}/bin/python3", homes=("/root",))
    found = {target for target in views(machine.plan(host=host)) if target.startswith(prefix)}
    assert found == {f"{prefix}/bin", f"{prefix}/lib"}


def test_a_prefix_in_a_store_brings_the_store(machine: Machine) -> None:
    machine.put("nix/store/abc-python/bin/python3")
    host = HostView(
        str(machine.top), "/nix/store/abc-python", "/nix/store/abc-python", "/nix/store/abc-python/bin/python3"
    )
    found = views(machine.plan(host=host))
    assert "/nix/store" in found
    assert "/nix/store/abc-python" not in found


@pytest.mark.parametrize("mode", ["ro", "cow", "rw"])
def test_mounts_keep_their_modes_and_are_no_part_of_the_image(machine: Machine, mode: str) -> None:
    machine.put("data/set/x")
    view = views(machine.plan(ResolvedMount("/data/set", "/mnt/set", mode)))["/mnt/set"]  # type: ignore[arg-type]
    assert view == View(f"{machine.top}/data/set", "/mnt/set", mode, (), (), False)


def test_a_mounted_file_gets_a_file_to_be_mounted_on(machine: Machine) -> None:
    machine.put("data/hosts")
    machine.put("data/.env")
    world = machine.plan(
        ResolvedMount("/data/hosts", "/etc/hosts", "ro"), ResolvedMount("/data/.env", "/srv/.env", "ro")
    )
    assert entries(world)["/srv/.env"].kind == "file"
    assert views(world)["/srv/.env"].hidden == ()
    assert entries(world)["/etc/hosts"].kind == "file"


def test_a_target_behind_a_link_of_the_image_is_resolved(machine: Machine) -> None:
    machine.put("data/set/x")
    assert "/run/set" in views(machine.plan(ResolvedMount("/data/set", "/var/run/set", "ro")))


@pytest.mark.parametrize(
    "target", ["/", "/proc", "/proc/1", "/sys/fs", "/dev/shm", "/usr", "/etc", "/var", "/var/lib", "/etc/hosts"]
)
def test_a_mount_may_not_stand_in_the_place_of_the_image(machine: Machine, target: str) -> None:
    with pytest.raises(MountForbidden) as caught:
        machine.plan(ResolvedMount("/work/app", target, "cow"))
    assert caught.value.hint


def test_two_mounts_of_one_target_are_refused(machine: Machine) -> None:
    with pytest.raises(MountForbidden, match="another mount"):
        machine.plan(PROJECT, ResolvedMount("/opt", "/work/app", "ro"))


def test_a_missing_source_is_refused(machine: Machine) -> None:
    with pytest.raises(MountForbidden, match="no such file"):
        machine.plan(ResolvedMount("/nowhere", "/srv/x", "ro"))


def test_a_mount_point_is_never_made_on_the_host(machine: Machine) -> None:
    shared = ResolvedMount("/work/app", "/work/app", "rw", project=True)
    with pytest.raises(MountForbidden, match="shared with the host"):
        machine.plan(shared, ResolvedMount("/opt", "/work/app/new", "ro"))
    machine.directory("work/app/new")
    assert "/work/app/new" in views(machine.plan(shared, ResolvedMount("/opt", "/work/app/new", "ro")))


def test_a_mount_point_behind_a_link_in_a_view_is_refused(machine: Machine) -> None:
    machine.link("work/app/out", "/etc")
    with pytest.raises(MountForbidden, match="symbolic link"):
        machine.plan(PROJECT, ResolvedMount("/opt", "/work/app/out/x", "ro"))


def test_the_project_is_masked_but_not_the_venv_in_it_twice(machine: Machine) -> None:
    machine.put("work/app/.env")
    machine.put("work/app/.venv/pip.conf")
    found = views(machine.plan(PROJECT))
    assert found["/work/app"].hidden == (".env",)
    assert found["/work/app/.venv"].hidden == ("pip.conf",)


def test_private_files_of_system_directories_are_hidden_as_root_only(machine: Machine) -> None:
    machine.put("usr/local/etc/token", mode=0o600)
    machine.put("usr/lib/helper", mode=0o600)
    machine.put("opt/vendor/license", mode=0o640)
    machine.put("root/.pyenv/versions/3.12/secret", mode=0o600)
    machine.put("work/app/private", mode=0o600)
    as_root, as_user = views(machine.plan(PROJECT, root_mode=True)), views(machine.plan(PROJECT))
    assert as_root["/usr"].hidden == ("local/etc/token",)
    assert as_root["/opt"].hidden == ("vendor/license",)
    assert as_root["/root/.pyenv/versions/3.12"].hidden == ("secret",)
    assert as_root["/work/app"].hidden == ()
    assert not any(view.hidden for view in as_user.values())


def test_a_private_opt_is_not_shown_as_root(machine: Machine) -> None:
    machine.directory("opt", 0o700)
    world = machine.plan(root_mode=True)
    assert "/opt" not in views(world)
    assert entries(world)["/opt"].kind == "dir"
    assert "/opt" in views(machine.plan())


def test_an_interpreter_made_under_a_strict_umask_still_works_as_root(machine: Machine) -> None:
    machine.put("opt/app/venv/bin/python", mode=0o700)
    machine.put("opt/app/venv/pip.conf", mode=0o600)
    machine.put("opt/app/settings", mode=0o644)
    machine.directory("opt/app/venv", 0o700)
    machine.directory("opt/app", 0o700)
    host = HostView(str(machine.top), "/opt/app/venv", "/usr", "/opt/app/venv/bin/python")
    hidden = views(machine.plan(host=host, root_mode=True))["/opt"].hidden
    assert hidden == ("app/settings", "app/venv/pip.conf")


def test_expose_is_relative_to_the_project_or_absolute(machine: Machine) -> None:
    for path in (".env", "a.key", "b.key", ".venv/pip.conf"):
        machine.put(f"work/app/{path}", KEY)
    world = machine.plan(PROJECT, expose=(".env", "/work/app/a.key", ".venv/pip.conf"))
    assert views(world)["/work/app"].hidden == ("b.key",)
    assert views(world)["/work/app/.venv"].hidden == ()


def test_expose_of_the_project_exposes_all_of_it(machine: Machine) -> None:
    machine.put("work/app/.env")
    assert views(machine.plan(PROJECT, expose=(".",)))["/work/app"].hidden == ()


def test_expose_of_what_does_not_exist_is_a_mistake(machine: Machine) -> None:
    with pytest.raises(InvalidSpec, match=r"\.evn"):
        machine.plan(PROJECT, expose=(".evn",))


def test_expose_without_a_project_hides_nothing_and_is_no_mistake(machine: Machine) -> None:
    assert machine.plan(expose=(".env", "/work/app/pyproject.toml")) == machine.plan()


def test_equal_specs_give_equal_worlds(machine: Machine) -> None:
    machine.put("work/app/.env")
    assert machine.plan(PROJECT) == machine.plan(PROJECT)


def test_memory_gives_the_same_world_and_notices_new_credentials(machine: Machine) -> None:
    memory = Memory()
    first = machine.plan(PROJECT, memory=memory)
    assert first == machine.plan(PROJECT)
    machine.put("work/app/src/.env")
    machine.put("work/app/.netrc")
    assert machine.plan(PROJECT, memory=memory) == machine.plan(PROJECT) != first


def test_plans_from_one_memory_do_not_leak_into_each_other(machine: Machine) -> None:
    memory = Memory()
    machine.plan(PROJECT, memory=memory)
    assert machine.plan(memory=memory) == machine.plan()


def test_a_machine_without_etc_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="/etc cannot be copied") as caught:
        plan_world(ProviderSpec("box"), HostView(root=str(tmp_path)), root_mode=False)
    assert "image=" in caught.value.hint


def test_a_link_loop_in_a_prefix_does_not_hang(machine: Machine) -> None:
    machine.link("srv/a", "b")
    machine.link("srv/b", "a")
    host = HostView(str(machine.top), "/srv/a", "/usr", "/usr/bin/python3")
    assert machine.plan(host=host) == machine.plan(host=HostView(str(machine.top)))


def test_this_machine_shows_the_running_interpreter() -> None:
    host = HostView.current()
    world = plan_world(ProviderSpec("box"), host, root_mode=False)
    real = host.trace(host.executable).real
    assert any(view.system and real.startswith(f"{view.target}/") for view in world.views)
