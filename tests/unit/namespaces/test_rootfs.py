"""Images that are a root file system: what is accepted, what is added, what is said about the rest."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from pytest_airlock.errors import InvalidSpec, MountForbidden
from pytest_airlock.providers.base import ProviderSpec, ResolvedMount
from pytest_airlock.providers.namespaces.engine.world import USER, Entry, World
from pytest_airlock.providers.namespaces.images import HostView, plan_image, plan_rootfs


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A small system in the manner of Alpine: busybox behind absolute links."""
    top = tmp_path / "rootfs"
    for path in ("bin", "etc", "usr/bin", "var", "home/ubuntu", "tmp"):
        (top / path).mkdir(parents=True)
    (top / "bin/busybox").write_text("x")
    (top / "bin/sh").symlink_to("/bin/busybox")
    (top / "var/run").symlink_to("/run")
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/ash\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n")
    (top / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    return top


def plan(image: Path | str, cache: Path, *mounts: ResolvedMount) -> World:
    return plan_rootfs(ProviderSpec("box", image=str(image), mounts=mounts), HostView(), cache)


def entries(world: World) -> dict[str, Entry]:
    return {entry.path: entry for entry in world.entries}


def test_a_directory_is_the_root_of_the_world(rootfs: Path, tmp_path: Path) -> None:
    world = plan(rootfs, tmp_path / "cache")
    assert world.root == str(rootfs)
    assert world.views == ()
    assert not (tmp_path / "cache").exists()


def test_a_tarball_is_unpacked_below_the_cache(rootfs: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "image.tar.gz", "w:gz") as tar:
        tar.add(rootfs, ".")
    world = plan(tmp_path / "image.tar.gz", tmp_path / "cache")
    assert Path(world.root).parent == tmp_path / "cache"
    assert os.readlink(f"{world.root}/bin/sh") == "/bin/busybox"
    assert world.entries == plan(rootfs, tmp_path / "cache").entries


def test_mount_points_and_homes_are_added_where_missing(rootfs: Path, tmp_path: Path) -> None:
    made = entries(plan(rootfs, tmp_path))
    for path in ("/proc", "/dev", "/sys", "/run", "/root"):
        assert made[path].kind == "dir"
    assert made["/home/airlock"].owner == USER
    assert "/tmp" not in made


def test_mount_points_are_directories_whatever_the_image_has(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "proc").symlink_to("/etc")
    (rootfs / "dev").write_text("x")
    made = entries(plan(rootfs, tmp_path))
    assert made["/proc"].kind == made["/dev"].kind == "dir"


def test_the_sandbox_has_its_own_identity_and_users(rootfs: Path, tmp_path: Path) -> None:
    made = entries(plan(rootfs, tmp_path))
    assert made["/etc/hostname"].data == "airlock\n"
    assert made["/etc/resolv.conf"].kind == "file"
    users = [line.split(":")[0] for line in made["/etc/passwd"].data.splitlines()]
    assert users == ["root", "airlock", "ubuntu"]


def test_accounts_are_read_inside_the_image_only(rootfs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "etc-of-host"
    outside.write_text("leaked:x:7:7::/:/bin/sh\n")
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to(outside)
    assert "leaked" not in entries(plan(rootfs, tmp_path))["/etc/passwd"].data
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    assert entries(plan(rootfs, tmp_path))["/etc/passwd"].data.startswith("root:x:0:0:")


def test_nothing_is_made_below_a_link_of_the_image(rootfs: Path, tmp_path: Path) -> None:
    world = plan(rootfs, tmp_path, ResolvedMount(str(tmp_path), "/var/run/data", "ro"))
    assert [view.target for view in world.views] == ["/run/data"]
    for entry in world.entries:
        for parent in Path(entry.path).parents:
            assert not (rootfs / str(parent)[1:]).is_symlink()


def test_a_target_in_a_link_loop_is_refused(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "loop").symlink_to("loop")
    with pytest.raises(MountForbidden, match="Too many levels"):
        plan(rootfs, tmp_path, ResolvedMount(str(tmp_path), "/loop/x", "ro"))


def test_mounts_are_masked_as_in_the_host_image(rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/.env").touch()
    world = plan(rootfs, tmp_path, ResolvedMount(f"{tmp_path}/project", "/project", "cow", project=True))
    assert world.views[0].hidden == (".env",)


def test_programs_without_a_shell_are_enough(tmp_path: Path) -> None:
    (tmp_path / "image/usr/bin").mkdir(parents=True)
    (tmp_path / "image/usr/bin/server").touch()
    assert plan(tmp_path / "image", tmp_path).root == str(tmp_path / "image")


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ([], "holds bin, etc and usr"),
        (["rootfs/bin/sh"], "below 'rootfs'"),
        (["manifest.json", "abc/layer.tar"], "docker export"),
        (["oci-layout", "index.json", "blobs/x"], "docker export"),
    ],
)
def test_what_is_no_root_file_system_is_refused_with_a_hint(tmp_path: Path, files: list[str], hint: str) -> None:
    image = tmp_path / "image"
    image.mkdir()
    for name in files:
        (image / name).parent.mkdir(parents=True, exist_ok=True)
        (image / name).touch()
    with pytest.raises(InvalidSpec, match="no root file system") as caught:
        plan(image, tmp_path)
    assert hint in caught.value.hint


def test_a_shell_that_leads_out_of_the_image_is_no_shell(tmp_path: Path) -> None:
    (tmp_path / "image/bin").mkdir(parents=True)
    (tmp_path / "image/etc").mkdir()
    (tmp_path / "image/bin").rmdir()
    (tmp_path / "image/bin").symlink_to("/usr/bin")
    with pytest.raises(InvalidSpec, match="no root file system"):
        plan(tmp_path / "image", tmp_path)


@pytest.mark.parametrize(("image", "why"), [("debian:12", "no image of that name"), ("/no/such.tar", "no such file")])
def test_an_image_that_is_not_there_is_refused(tmp_path: Path, image: str, why: str) -> None:
    with pytest.raises(InvalidSpec, match=why) as caught:
        plan(image, tmp_path)
    assert caught.value.hint


def test_plan_image_tells_the_kinds_apart(rootfs: Path, tmp_path: Path) -> None:
    host = HostView(root=str(rootfs))
    for image, root in ((None, ""), ("host", "")):
        spec = ProviderSpec("box", image=image)
        assert plan_image(spec, host, root_mode=False, cache=tmp_path).root == root
    spec = ProviderSpec("box", image=str(rootfs))
    assert plan_image(spec, HostView(), root_mode=False, cache=tmp_path).root == str(rootfs)
