"""Base images: carry a World out on the fork server's private tmpfs, once, and hand out its layers per id slot.

    /b/N/t      one tmpfs: k = the synthesised tree, mI = what hides parts of view I, oI = own directories above view I
    /b/N/ovI    bind of own directories above view I that are kept on disk
    /b/N/vI     bind of view I's host directory; /b/N/r = bind of the image directory, if the image is one
    /b/N/sS/…   the same, shifted into the id range of slot S by idmapped mounts

Nothing of it is writable once built, and nothing is ever built from bytes of a sandbox.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import mounts, syscalls
from .identity import Identity, Slot, can_shift
from .shape import Shape
from .skeletons import make_directories
from .syscalls import StepError
from .world import Entry, View, World

__all__ = ["Base", "Layered"]

HOST = "/host"
COVERS = ("/s/e", "/s/n")  # the empty directory and the empty file that every sandbox makes for itself
_NOBODY = 65_534  # shown for ids that do not exist here
_RO = syscalls.MS_NOSUID | syscalls.MS_NODEV


class Layered(NamedTuple):
    """One view ready to be mounted: lower layers newest first, relative to `/`, without a leading slash.

    `file`: the view is a single file. `covers` hide parts of a rw view: (path below it, what to bind there).
    """

    target: str
    mode: str
    lowers: tuple[str, ...]
    system: bool
    file: bool = False
    covers: tuple[tuple[str, str], ...] = ()


class Base:
    """A built World. `idmap` tells whether its own tmpfs can be shifted; else everything is owned by `owner`. `layers_shift`:
    overlays take what is shifted.

    `kept(path)` finds a skeleton of that host directory on disk (Skeletons.find).
    """

    def __init__(
        self,
        number: int,
        world: World,
        identity: Identity,
        probe: Slot,
        kept: Callable[[str], tuple[str | None, Shape | None]],
        *,
        idmap: bool,
        layers_shift: bool = True,
    ) -> None:
        self.kept = kept
        self.number, self.world, self.identity, self.idmap = number, world, identity, idmap
        self.layers_shift = layers_shift
        self.home = f"/b/{number}"
        self.owner = 0 if idmap else probe.first
        self.shifted: set[str] = {"t"} if idmap else set()
        self.layers: dict[str, list[str]] = {}
        self.files: set[str] = set()
        self._views: dict[int, tuple[Layered, ...]] = {}
        os.mkdir(self.home)
        # A mount of its own, so that one umount takes all that is mounted below.
        syscalls.mount(self.home, self.home, None, syscalls.MS_BIND)
        try:
            self._fill(probe)
        except BaseException:
            self.close()
            raise

    def _fill(self, probe: Slot) -> None:
        os.mkdir(f"{self.home}/t")
        syscalls.mount("tmpfs", f"{self.home}/t", "tmpfs", _RO, "mode=755,size=1g,nr_inodes=1m")
        mask = os.umask(0)
        try:
            self._build(probe)
        finally:
            os.umask(mask)
        syscalls.mount(None, f"{self.home}/t", None, syscalls.MS_REMOUNT | syscalls.MS_RDONLY | _RO)

    def _build(self, probe: Slot) -> None:
        os.mkdir(f"{self.home}/t/k", 0o755)
        self._own(f"{self.home}/t/k", 0)
        for entry in self.world.entries:
            self._make(entry)
        self.layers["k"] = ["t/k"]
        if self.world.root:
            self._bind(self.world.root, "r", probe, above="k")
        for index, view in enumerate(self.world.views):
            name = f"v{index}"
            if os.path.isfile(HOST + view.source):
                self.files.add(name)
                self.layers[name] = []
            else:
                self.layers[name] = self._mask(index, view)
            self._bind(view.source, name, probe, above=name, own=view.mode != "rw", edited=bool(view.owned))
            if f"t/o{name}" in self.layers[name]:
                self._copies(view, f"{self.home}/t/o{name}")

    def _make(self, entry: Entry) -> None:
        path = f"{self.home}/t/k{entry.path}"
        if entry.kind == "dir":
            try:
                os.mkdir(path, entry.mode)
            except FileExistsError:
                os.chmod(path, entry.mode)
        elif entry.kind == "link":
            os.symlink(entry.data, path)
        elif entry.kind == "file":
            _write(path, entry.data.encode("latin-1"), entry.mode)
        elif entry.kind == "copy" and not _copy(HOST + entry.data, path, entry.mode):
            return
        self._own(path, entry.owner)

    def _own(self, path: str, owner: int) -> None:
        """Give it to an id of the sandbox; where only one id exists, that is the one."""
        if self.identity.ids == 1:
            return
        uid = self.owner + owner
        os.chown(path, uid, uid, follow_symlinks=False)

    def _mask(self, index: int, view: View) -> list[str]:
        """The layer that hides and replaces parts of a view and has the places where other views are mounted.

        A read-only overlay needs two lower layers, so it has one always.
        """
        places = self._missing_places(view)
        if not (view.hidden or view.replaced or places or view.mode == "ro"):
            return []
        top = f"{self.home}/t/m{index}"
        made: set[str] = set()
        source = HOST + view.source
        self._like(source, top)
        for relative in view.hidden:
            if self._parents(source, top, relative, made):
                os.mknod(f"{top}/{relative}", stat.S_IFCHR, 0)  # an overlay whiteout
        for relative, text in view.replaced:
            if self._parents(source, top, relative, made):
                _write(f"{top}/{relative}", text.encode("latin-1"), 0o644)
                self._own(f"{top}/{relative}", 0)
        for relative, is_file in places:
            self._place_for(source, top, relative, made, is_file=is_file)
        return [f"t/m{index}"]

    def _missing_places(self, view: View) -> list[tuple[str, bool]]:
        """(path below the view, is a file) of mount points of other views that its source does not have."""
        inner = [other for other in self.world.views if other.target.startswith(f"{view.target}/")]
        found = [(other.target[len(view.target) + 1 :], os.path.isfile(HOST + other.source)) for other in inner]
        return [(path, is_file) for path, is_file in found if not os.path.lexists(f"{HOST}{view.source}/{path}")]

    def _place_for(self, source: str, top: str, relative: str, made: set[str], *, is_file: bool) -> None:
        parts = relative.split("/")
        for depth in range(1, len(parts)):
            path = "/".join(parts[:depth])
            if path not in made and not self._parents(source, top, f"{path}/x", made):
                os.mkdir(f"{top}/{path}", 0o755)
                self._own(f"{top}/{path}", 0)
                made.add(path)
        if is_file:
            _write(f"{top}/{relative}", b"", 0o644)
        elif relative not in made:
            os.mkdir(f"{top}/{relative}", 0o755)
        self._own(f"{top}/{relative}", 0)

    def _parents(self, source: str, top: str, relative: str, made: set[str]) -> bool:
        """Make the directories above `relative` as they are in the view; False if they are not there (any more)."""
        parts = relative.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path in made:
                continue
            try:
                self._like(f"{source}/{path}", f"{top}/{path}")
            except FileNotFoundError:
                return False
            made.add(path)
        return True

    def _like(self, source: str, target: str) -> None:
        """An empty directory with the attributes of `source`: in an overlay the topmost one's count."""
        info = os.stat(source, follow_symlinks=False)
        os.mkdir(target, stat.S_IMODE(info.st_mode) & 0o1777)
        if self.identity.ids > 1:
            uid, gid = (self.owner + (number if number < _NOBODY else 0) for number in (info.st_uid, info.st_gid))
            os.chown(target, uid, gid)
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))

    def _bind(self, source: str, name: str, probe: Slot, *, above: str, own: bool = True, edited: bool = False) -> None:
        """Bind a host directory as /b/N/NAME and decide how its files get to belong to the sandbox.

        `edited`: its skeleton gets copies of files, so it is not for others.
        """
        place = f"{self.home}/{name}"
        _mount_point(place, is_file=name in self.files)
        try:
            # MS_REC: in a user name space submounts of the source are locked to it, and leaving them out is EINVAL.
            syscalls.mount(HOST + source, place, None, syscalls.MS_BIND | syscalls.MS_REC)
        except StepError as error:
            raise StepError(error.errno or 0, error.step, source) from error
        if own:
            mounts.protect(place)
        if self.identity.privileged and (self.layers_shift or not own) and can_shift(place, probe):
            self.shifted.add(name)
        elif not own:
            if self.identity.privileged:
                raise StepError(95, "idmapped rw mount", source)  # EOPNOTSUPP
        elif name not in self.files and (os.stat(place).st_uid != 0 or self.identity.privileged):
            self.layers[above].append(self._skeleton(source, name, probe, edited=edited))
        self.layers[above].append(name)

    def _skeleton(self, source: str, name: str, probe: Slot, *, edited: bool) -> str:
        """The layer of own directories with the shape of `source`: with them on top, entries below can be made, replaced
        and removed although the image belongs to an id that does not exist here. On disk if it can be, else in memory.
        """
        kept, shape = (None, None) if edited else self.kept(source)
        if kept is not None and self._stands(kept, name, probe):
            return f"o{name}"
        shape = shape or Shape.of(HOST + source)
        target = f"{self.home}/t/o{name}"
        os.mkdir(target, 0o755)
        make_directories(target, shape)
        if self.identity.ids > 1 and self.owner:
            for path in shape.paths:
                self._own(target + path, 0)
        return f"t/o{name}"

    def _stands(self, skeleton: str, name: str, probe: Slot) -> bool:
        """Bind a skeleton as /b/N/oNAME and try an overlay with it: not every file system can be a lower layer."""
        place = f"{self.home}/o{name}"
        os.mkdir(place)
        try:
            syscalls.mount(skeleton, place, None, syscalls.MS_BIND)
            if self.identity.privileged and not (self.layers_shift and can_shift(place, probe)):
                raise StepError(errno.EINVAL, "idmapped skeleton", skeleton)
            options = f"userxattr,lowerdir={place[1:]}:{self.home[1:]}/{name}"
            syscalls.mount("overlay", "/x", "overlay", _RO | syscalls.MS_RDONLY, options)
            syscalls.umount("/x")
        except StepError:
            if os.path.ismount(place):
                syscalls.umount(place)
            os.rmdir(place)
            return False
        if self.identity.privileged:
            self.shifted.add(f"o{name}")
        return True

    def _copies(self, view: View, skeleton: str) -> None:
        """Own copies of files that are edited in place; one that may not be read is made empty, as a lock file is, and so is a
        directory: through an overlay nobody could even create a file in it.
        """
        for relative in view.owned:
            source, target = f"{HOST}{view.source}/{relative}", f"{skeleton}/{relative}"
            try:
                info = os.stat(source, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(info.st_mode):
                if not os.access(source, os.R_OK | os.X_OK):
                    _make_opaque(target)
                continue
            mode = stat.S_IMODE(info.st_mode) & 0o777
            if not _copy(source, target, mode):
                _write(target, b"", mode)
            os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
            self._own(target, 0)

    def views(self, slot: Slot) -> tuple[Layered, ...]:
        """What to mount for a sandbox of this slot, `/` first."""
        views = self._views.pop(slot.number, None) or tuple(self._plan_views(slot))
        self._views[slot.number] = views  # the last one used is the last
        return views

    def trim(self, most: int) -> None:
        """Unmount what was shifted for all but the `most` slots used last: every clone copies all mounts there are.

        Sandboxes have their own by then; whoever needs it again has it shifted anew. The mount points stay: to remove one
        would unmount what another mount name space has there, that of a child under way (rmdir(2) since Linux 3.18).
        """
        for number in list(self._views)[:-most]:
            del self._views[number]
            if self.shifted:
                syscalls.umount(f"{self.home}/s{number}")

    def _plan_views(self, slot: Slot) -> Iterator[Layered]:
        if self.shifted:
            self._shift(slot)
        for name, target, mode, system in self._names():
            lowers = tuple(self._place(layer, slot) for layer in self.layers[name])
            covers = self._covers(int(name[1:]), slot) if mode == "rw" else ()
            yield Layered(target, mode, lowers, system, name in self.files, covers)

    @property
    def covers_shared(self) -> bool:
        """Whether something is masked in a directory that sandboxes change: covers go where it lies now, and until they
        are used it can be moved from there and back.
        """
        return any(view.mode == "rw" and (view.hidden or view.replaced) for view in self.world.views)

    def _covers(self, index: int, slot: Slot) -> tuple[tuple[str, str], ...]:
        """What a bound directory must not show is covered one by one: no overlay stands above it."""
        view = self.world.views[index]
        hidden = [(path, COVERS[not os.path.isdir(f"{HOST}{view.source}/{path}")]) for path in view.hidden]
        replaced = [(path, "/" + self._place(f"t/m{index}/{path}", slot)) for path, _ in view.replaced]
        return (*hidden, *replaced)

    def _names(self) -> Iterator[tuple[str, str, str, bool]]:
        yield "k", "", "cow", True
        for index, view in enumerate(self.world.views):
            yield f"v{index}", view.target, view.mode, view.system

    def _place(self, layer: str, slot: Slot) -> str:
        shifted = layer.partition("/")[0] in self.shifted
        return f"b/{self.number}/s{slot.number}/{layer}" if shifted else f"b/{self.number}/{layer}"

    def _shift(self, slot: Slot) -> None:
        place = f"{self.home}/s{slot.number}"
        os.makedirs(place, exist_ok=True)  # what was trimmed has left its mount points
        syscalls.mount(place, place, None, syscalls.MS_BIND)  # one umount takes all that is mounted below
        for name in sorted(self.shifted):
            if not os.path.lexists(f"{place}/{name}"):
                _mount_point(f"{place}/{name}", is_file=name in self.files)
            mounts.shift_to(f"{self.home}/{name}", f"{place}/{name}", slot.userns)

    def close(self) -> None:
        """Unmount everything; sandboxes that still run keep their own clones."""
        syscalls.umount(self.home)
        # The mount points below remain, as empty directories and files.
        for path, directories, files in os.walk(self.home, topdown=False):
            for name in files:
                os.unlink(f"{path}/{name}")
            for name in directories:
                os.rmdir(f"{path}/{name}")
        os.rmdir(self.home)


def _mount_point(path: str, *, is_file: bool) -> None:
    if is_file:
        _write(path, b"", 0o644)
    else:
        os.mkdir(path)


def _write(path: str, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def _make_opaque(path: str) -> None:
    """Nothing of the layers below is in this directory."""
    try:
        os.setxattr(path, "user.overlay.opaque", b"y")
    except OSError as error:
        # Before Linux 6.6 tmpfs has no such attributes; then the directory is closed, as it is outside.
        if error.errno != errno.EOPNOTSUPP:
            raise


def _copy(source: str, target: str, mode: int) -> bool:
    """Copy a host file; False for one that may not be read or is gone by now: it is left out."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, PermissionError):
        return False
    with os.fdopen(fd, "rb") as file:
        _write(target, file.read(), mode)
    return True
