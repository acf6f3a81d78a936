"""One incarnation of a sandbox: cloned, told its options, proved dead."""

from __future__ import annotations

import _socket
import os
import resource
import select
import signal
from typing import Any, NamedTuple

from . import base, cgroups, child, identity, protocol, seccomp, stage, syscalls
from .identity import Slot
from .net.registry import Registry
from .scratch import Upper, Uppers
from .syscalls import StepError

__all__ = ["Life", "Lives", "Recipe"]

_DEADLINE_MS = 10_000
_NAMESPACES = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWNET
)


def _name_spaces(spec: dict[str, Any]) -> int:
    """Flags of clone(2): the network of the host is shared only by who asked for exactly that."""
    return _NAMESPACES & ~syscalls.CLONE_NEWNET if spec["shares_network"] else _NAMESPACES


class Recipe(NamedTuple):
    """All that decides what a life is: two of one recipe cannot be told apart. `spec` are the words of limits.py."""

    image: base.Base
    layers: tuple[int, ...]
    spec: dict[str, Any]


class Life:
    """A running PID 1: its pidfd, the channel its tmpfs arrives on, its cgroup, its directory on disk if it has one, and until
    it is handed out our end of its control socket.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        control: _socket.socket,
        setup: _socket.socket,
        group: Any,
        *,
        owner: int,
        number: int,
        registry: Registry,
    ) -> None:
        self.pid, self.pidfd, self.control, self.setup, self.group = pid, pidfd, control, setup, group
        self._owner, self.number, self._registry = owner, number, registry
        self.upper: Upper | None = None
        self.visited = False
        self._scratch = self._mounts = -1

    def alive(self) -> bool:
        """The kernel's word."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    @property
    def scratch(self) -> int:
        """A detached clone of its tmpfs, or of its directory on disk, sent by the child before any sandbox code ran."""
        if self._scratch < 0:
            # One that hangs while its root is put together, on a dead file system, must not hold up all others.
            poll = select.poll()
            for fd in (self.setup.fileno(), self.pidfd, self._owner):
                poll.register(fd, select.POLLIN)
            ready = [fd for fd, _ in poll.poll(_DEADLINE_MS)]
            if self.setup.fileno() not in ready:
                raise StepError(62 if not ready else 3, "scratch")  # ETIME, ESRCH
            data, fds = protocol.receive(self.setup)
            if data is None or not fds:
                raise StepError(3, "scratch")  # ESRCH: it died while its root was put together
            self._scratch = fds[0]
        return self._scratch

    def pristine(self) -> bool:
        """Whether nothing has been written yet: no upper directory of its tmpfs has an entry."""
        top = f"/proc/self/fd/{self.scratch}"
        return not any(os.listdir(f"{top}/{name}") for name in os.listdir(top) if name.startswith("u"))

    def introduce(self) -> int:
        """A new channel to PID 1 for a visitor, see visitors.py. Never waits: OSError(EAGAIN) if it does not listen."""
        near, far = protocol.channel()
        try:
            protocol.send(self.setup, b"v", (far.fileno(),), _socket.MSG_DONTWAIT)
        except OSError:
            near.close()
            raise
        finally:
            far.close()
        self.visited = True
        return near.detach()

    def hold_mounts(self) -> None:
        """Keep its mounts beyond its death: the last who has a mount name space unmounts all, and waits for every
        processor to have noticed. To be called while it waits to be let go.
        """
        self._mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def kill(self) -> None:
        """It begins to die; bury() is the proof."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def bury(self) -> None:
        """SIGKILL to PID 1 and wait: the kernel lets its pidfd poll readable only when the whole pid name space is empty.

        Who sits in an uninterruptible call does not die: after a deadline that is an error, and the rest is left alone.
        """
        self.kill()
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(_DEADLINE_MS):
            raise StepError(16, "death of PID 1", f"/proc/{self.pid}")  # EBUSY
        os.waitpid(self.pid, 0)
        if self.group is not None:
            self.group.remove()

    def unmount(self) -> None:
        """Let go of the mounts of a dead life at once: then nothing can be written by them any more."""
        if self._mounts >= 0:
            os.close(self._mounts)
            self._mounts = -1

    def remains(self) -> list[int]:
        """What a dead life still holds, as descriptors that are to be closed."""
        if self.upper is not None:
            self.upper.release()
        self._registry.gone(self.number)
        kept = [self.pidfd, self.setup.detach(), self.control.detach(), self._scratch, self._mounts]
        self._scratch = self._mounts = -1
        return [fd for fd in kept if fd >= 0]

    def dispose(self) -> None:
        """Give that back here."""
        for fd in self.remains():
            os.close(fd)

    def take_scratch(self) -> int:
        """The tmpfs outlives the life: it is the caller's from now on."""
        scratch, self._scratch = self.scratch, -1
        return scratch


class Lives:
    """Begins lives on a prepared stage."""

    def __init__(self, owner: int, found: stage.Stage, uppers: Uppers, registry: Registry) -> None:
        self._owner, self._stage, self._uppers, self._registry = owner, found, uppers, registry
        self._myself = os.pidfd_open(os.getpid())
        self._born = 0

    def begin(self, recipe: Recipe, slot: Slot) -> Life:
        """Returns at once; READY or BROKEN comes on the control socket."""
        self._born += 1
        control, far = protocol.channel()
        setup, setup_far = protocol.channel()
        wait, go = os.pipe2(os.O_CLOEXEC)
        life, group, upper = None, None, self._uppers.take(slot)
        try:
            options = self._options(recipe, slot, upper)
            group = self._group(recipe.spec)
            entrance = group.entrance() if group is not None else cgroups.NOWHERE
            try:
                pid, pidfd = syscalls.clone(_name_spaces(recipe.spec), entrance.unified)
                if pid == 0:
                    child.run(
                        options,
                        child.Ends(far, setup_far, wait, self._owner, self._myself, self._registry.sock, entrance),
                    )
            finally:
                entrance.close()
            life = Life(
                pid, pidfd, control, setup, group, owner=self._owner, number=self._born, registry=self._registry
            )
            life.upper = upper
            try:
                life.hold_mounts()
                self._admit(life, recipe.spec, slot)
                os.write(go, b"x")
            except BaseException:
                life.bury()
                life.dispose()
                raise
            return life
        except BaseException:
            control.close()
            setup.close()
            if group is not None:
                group.remove()
            if life is None and upper is not None:
                upper.release()  # else the life's, which has let go of it
            raise
        finally:
            far.close()
            setup_far.close()
            os.close(wait)
            os.close(go)

    def _admit(self, life: Life, spec: dict[str, Any], slot: Slot) -> None:
        inside = 0 if self._stage.identity.ids > 1 else spec["uid"]
        for name in ("uid_map", "gid_map"):
            identity.write_proc(f"/proc/{life.pid}/{name}", slot.id_map(self._stage.identity, inside))

    def _options(self, recipe: Recipe, slot: Slot, upper: Upper | None) -> child.Options:
        spec, ids = recipe.spec, self._stage.identity.ids
        program = seccomp.build(nesting=spec["nested"], single_user=ids == 1, pin_cpus=bool(spec["affinity"]))
        return child.Options(
            views=recipe.image.views(slot),
            layers=recipe.layers,
            size=spec["disk"],
            inodes=spec["inodes"],
            uid=spec["uid"],
            many_users=ids > 1,
            nested=spec["nested"],
            program=program,
            limits=tuple((getattr(resource, name), soft, hard) for name, soft, hard in spec["limits"]),
            last_capability=self._stage.last_capability,
            affinity=spec["affinity"],
            capped="memory" in spec["group"],
            landlock=self._stage.landlock,
            upper=upper.name if upper is not None else "",
            network=None if recipe.spec["shares_network"] else self._stage.network,
            life=self._born,
        )

    def _group(self, spec: dict[str, Any]) -> Any:
        wanted = spec["group"]
        if not wanted:
            return None
        return cgroups.create(f"{self._born}", prefix="/host", **wanted)
