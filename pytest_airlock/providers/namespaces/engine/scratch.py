"""Where sandboxes write: in memory, or, where tmpfs keeps no user.* attributes (Linux before 6.6), in directories on disk.

An overlay marks deletions by attributes of its upper directory, so there that lies below the cache directory instead:

    uppers/LEASE/N    of one life: uI, wI = overlay upper and work directories of view I; frozen, it is a layer

LEASE is one fork server's: it holds flock(2) on it, alone, for as long as it or a child of it lives, whatever ends it. Who gets
that lock may remove the directory. Files in it have ids that only a user name space like the maker's has, so it is removed
from inside one. The fork server mounts it at /u, the only way on which a child, with ids of its own, gets there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from . import base, helpers, mounts, syscalls
from .dirstack import OPEN_DIRECTORY
from .identity import Slot
from .skeletons import open_home
from .syscalls import MS_NODEV, MS_NOSUID, StepError
from .trees import remove_tree

__all__ = ["Upper", "Uppers"]

_STEP = "upper directory"
_OPTIONS = "userxattr,volatile"
_WAITING = 32  # directories that nobody has any more


class Upper:
    """One directory, of a life or of the layers it became; it goes when the last of them has released it."""

    def __init__(self, name: str, unused: list[str]) -> None:
        self.name, self._unused, self._holders = name, unused, 1

    def hold(self) -> Upper:
        self._holders += 1
        return self

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._unused.append(self.name)


class Uppers:
    """All upper directories on disk of one fork server; there are none until open()."""

    def __init__(self) -> None:
        self._home = self._lease = self._child = -1
        self._name = ""
        self._made = 0
        self._unused: list[str] = []
        self._layers: dict[int, Upper] = {}

    def open(self, cache: str) -> None:
        """Begin to use the directory `cache` of the machine; twice is fine. Raises StepError if it cannot hold upper ones."""
        if self._lease >= 0:
            return
        try:
            self._home = open_home(base.HOST + cache, "uppers")
            self._take_lease()
            os.mkdir("/u")
            mounts.attach(f"/proc/self/fd/{self._lease}", "/u")
            self._try()
            self._sweep()
        except OSError as error:
            self.close()
            raise StepError(error.errno or errno.EIO, _STEP, cache) from error

    def _take_lease(self) -> None:
        while self._lease < 0:
            self._name = os.urandom(8).hex()
            os.mkdir(self._name, 0o700, dir_fd=self._home)
            # Who sweeps could have been here already: then it is another's, or gone.
            self._lease = self._lock(self._name)
        # Children have other ids; nobody else comes this far, since what is above is closed to all.
        os.fchmod(self._lease, 0o711)

    def _lock(self, name: str) -> int:
        """The directory of a lease, locked; -1 if its maker lives, or it is gone."""
        try:
            fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._home)
        except FileNotFoundError:
            return -1
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=self._home, follow_symlinks=False)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return -1

    def _try(self) -> None:
        """Remove and make again a directory of a lower layer, which takes all that an upper one must be able to do."""
        upper = Upper(self._make(0), self._unused)
        top = f"/u/{upper.name}"
        for path in ("l", "l/d", "u", "w"):
            os.mkdir(f"{top}/{path}")
        data = f"{_OPTIONS},lowerdir={top}/l,upperdir={top}/u,workdir={top}/w"
        syscalls.mount("overlay", "/x", "overlay", MS_NOSUID | MS_NODEV, data)
        try:
            os.rmdir("/x/d")
            os.mkdir("/x/d")
        finally:
            syscalls.umount("/x")
        if os.getxattr(f"{top}/u/d", "user.overlay.opaque") != b"y":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        upper.release()

    def _make(self, owner: int) -> str:
        self._made += 1
        name = str(self._made)
        os.mkdir(name, 0o755, dir_fd=self._lease)
        os.chown(name, owner, owner, dir_fd=self._lease, follow_symlinks=False)
        return name

    # ------------------------------------------------------------------ who has them

    def take(self, slot: Slot) -> Upper | None:
        """A new directory for root of a slot; None where sandboxes write to memory."""
        return Upper(self._make(slot.first), self._unused) if self._lease >= 0 else None

    def freeze(self, layer: int, upper: Upper) -> None:
        """It is a layer from now on, beside whatever else has it."""
        self._layers[layer] = upper.hold()

    def share(self, layer: int, other: int) -> None:
        """Layer `other` is the same as `layer`."""
        if layer in self._layers:
            self.freeze(other, self._layers[layer])

    def drop(self, layer: int) -> None:
        if layer in self._layers:
            self._layers.pop(layer).release()

    # ------------------------------------------------------------------ removal

    def clear(self) -> None:
        """Have a child remove what nobody has any more; waits for it only where it cannot keep up."""
        if self._child >= 0 and os.waitpid(self._child, os.WNOHANG if len(self._unused) < _WAITING else 0)[0]:
            self._child = -1
        if self._unused and self._child < 0:
            names, self._unused[:] = list(self._unused), []
            self._child = helpers.begin(lambda: _remove_all(self._lease, names))

    def _sweep(self) -> None:
        """Have a child remove what dead servers left, of which there may be much."""
        if len(os.listdir(self._home)) > 1:
            self._child = helpers.begin(self._sweep_all, nice=10)

    def _sweep_all(self) -> None:
        for name in os.listdir(self._home):
            with contextlib.suppress(OSError):  # no directory, or one of ids that do not exist here any more
                lease = self._lock(name) if name != self._name else -1
                if lease >= 0:
                    remove_tree(os.fsencode(name), directory=self._home)
                    os.close(lease)

    def close(self) -> None:
        """Remove the lease with all that is in it, after the death of all lives; twice is fine."""
        if self._child >= 0:
            os.waitpid(self._child, 0)
            self._child = -1
        if self._lease >= 0:
            _remove_all(self._home, [self._name])
            os.close(self._lease)
            self._lease = -1
        if self._home >= 0:
            os.close(self._home)
            self._home = -1


def _remove_all(directory: int, names: list[str]) -> None:
    for name in names:
        # What cannot be removed now is left to the next server's sweep.
        with contextlib.suppress(OSError):
            remove_tree(os.fsencode(name), directory=directory)
