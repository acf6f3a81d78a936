"""The fork server: one per pytest process. Prepares base images once, then makes a sandbox with one clone.

It never reads a byte that comes from inside a running sandbox, has no threads, imports nothing after start-up, and ends,
with everything it made, when its owner dies: the owner's pidfd and the end of the control socket say so.
"""

from __future__ import annotations

import _socket
import gc
import os
import resource
import select
import signal
import sys
from typing import Any, NamedTuple

from . import base, cgroups, child, diff, door, identity, protocol, seccomp, stage, syscalls
from .identity import Slot
from .syscalls import MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT, StepError
from .world import World

__all__ = ["main"]

_DEADLINE_MS = 10_000
_NAMESPACES = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWNET
)


class Life(NamedTuple):
    """A running incarnation of a sandbox: PID 1, its pidfd, and the channel its tmpfs arrives on."""

    pid: int
    pidfd: int
    setup: _socket.socket
    group: Any


class Sandbox:
    """What the server knows of one: its base and slot stay, its life and its layers change."""

    def __init__(self, image: base.Base, slot: Slot, spec: dict[str, Any]) -> None:
        self.image, self.slot, self.spec = image, slot, spec
        self.facts: Any = None  # for visitors
        self.visited = False
        self.layers: tuple[int, ...] = ()
        self.made: set[int] = set()
        self.life: Life | None = None
        self.scratch = -1

    def drop(self, layers: set[int]) -> None:
        """Unmount layers that nothing stands on any more."""
        for layer in layers:
            for place in (f"/l/{layer}", f"/p/{layer}"):
                if os.path.isdir(place):
                    syscalls.umount(place)
                    os.rmdir(place)
        self.made -= layers


class Server:
    """Requests are one JSON object each, answered in order: {"ok": …} or {"error": [step, errno, path]}."""

    def __init__(self, sock: _socket.socket, owner: int, found: stage.Stage) -> None:
        self.sock, self.owner, self.stage = sock, owner, found
        self.myself = os.pidfd_open(os.getpid())
        self.bases: dict[int, base.Base] = {}
        self.sandboxes: dict[int, Sandbox] = {}
        self.free: list[Slot] = [found.probe]
        self.count = 0
        self.slots = 1
        self.born = 0
        self.walkers: list[int] = []
        self.poll = select.poll()
        self.door: door.Door | None = None

    # ------------------------------------------------------------------ requests

    def op_base(self, request: dict[str, Any]) -> int:
        world = World.from_json(request["world"].encode())
        self.count += 1
        self.bases[self.count] = base.Base(
            self.count, world, self.stage.identity, self.stage.probe, idmap=self.stage.idmap
        )
        return self.count

    def op_rebase(self, request: dict[str, Any]) -> None:
        """From its next life on a sandbox stands on another base."""
        self.sandboxes[request["id"]].image = self.bases[request["base"]]

    def op_forget(self, request: dict[str, Any]) -> None:
        """Nothing stands on this base any more."""
        self.bases.pop(request["base"]).close()

    def op_create(self, request: dict[str, Any]) -> int:
        image = self.bases[request["base"]]
        if self.stage.identity.privileged and self.stage.idmap:
            slot = self.free.pop() if self.free else self._new_slot()
        else:
            slot = self.stage.probe
        self.count += 1
        box = self.sandboxes[self.count] = Sandbox(image, slot, request["spec"])
        box.facts = request["facts"]
        return self.count

    def _new_slot(self) -> Slot:
        self.slots += 1
        return identity.open_slot(self.slots - 1, self.stage.identity)

    def op_start(self, request: dict[str, Any]) -> None:
        """Answers by itself, with the control socket and the pidfd of PID 1."""
        box = self.sandboxes[request["id"]]
        if box.life is not None:
            self._end(box)
        control, far = protocol.channel()
        try:
            box.life = self._clone(box, far)
            protocol.send_json(self.sock, {"ok": box.life.pid}, (control.fileno(), box.life.pidfd))
        finally:
            control.close()
            far.close()

    def op_reset(self, request: dict[str, Any]) -> None:
        """kill, layers, retain and start in one: the old life is proved dead before the new one begins."""
        box = self.sandboxes[request["id"]]
        self._end(box)
        box.layers = tuple(request["layers"])
        box.drop(box.made - set(request["needed"]))
        self.op_start(request)

    def op_kill(self, request: dict[str, Any]) -> bool:
        """End the life: proved by the kernel when this returns. What was written is lost."""
        box = self.sandboxes[request["id"]]
        alive = box.life is not None
        self._end(box)
        return alive

    def op_freeze(self, request: dict[str, Any]) -> list[int]:
        """End the life and keep what it wrote as a layer; the answer is the new list of layers."""
        box = self.sandboxes[request["id"]]
        if box.life is not None:
            scratch = self._scratch(box)
            self._end(box, keep=True)
            try:
                self._freeze(box, scratch)
            finally:
                os.close(scratch)
        return list(box.layers)

    def op_layers(self, request: dict[str, Any]) -> None:
        """Choose what the next life stands on."""
        box = self.sandboxes[request["id"]]
        box.layers = tuple(request["layers"])

    def op_adopt(self, request: dict[str, Any]) -> list[int]:
        """Make another sandbox's layers this one's own, shifted into its id range; the answer are their numbers."""
        box = self.sandboxes[request["id"]]
        shift = self.stage.idmap and self.stage.identity.privileged
        adopted = []
        for layer in request["layers"]:
            self.count += 1
            # A shifted mount cannot be shifted again, so the plain one is kept for the next who adopts it.
            plain = f"/p/{layer}" if os.path.isdir(f"/p/{layer}") else f"/l/{layer}"
            for place, userns in ((f"/p/{self.count}", 0), (f"/l/{self.count}", box.slot.userns if shift else 0)):
                base.clone_to(plain, place, userns)
            box.made.add(self.count)
            adopted.append(self.count)
        box.layers = tuple(adopted)
        return adopted

    def op_retain(self, request: dict[str, Any]) -> None:
        """Unmount the layers of a sandbox that are not in `layers`: nothing stands on them any more."""
        box = self.sandboxes[request["id"]]
        box.drop(box.made - set(request["layers"]))

    def op_pristine(self, request: dict[str, Any]) -> bool:
        """Whether the present life has written nothing yet."""
        return not _written(f"/proc/self/fd/{self._scratch(self.sandboxes[request['id']])}")

    def op_oom(self, request: dict[str, Any]) -> int:
        """How often the kernel killed for the sandbox's memory limit."""
        life = self.sandboxes[request["id"]].life
        return life.group.oom_kills() if life is not None and life.group is not None else 0

    def op_diff(self, request: dict[str, Any], fds: list[int]) -> None:
        """Write the changes since `layers` to the pipe that came along, from a process of its own."""
        box = self.sandboxes[request["id"]]
        views = self._diff_views(box, len(request["layers"]))
        self._reap()
        pid = os.fork()
        if pid == 0:
            try:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
                diff.diff(views, fds[0], xattr_prefix="user.", limit=request["limit"])
            finally:
                os._exit(0)
        self.walkers.append(pid)

    def op_listen(self, request: dict[str, Any], fds: list[int]) -> None:
        """Let visitors in from now on."""
        self.door = door.Door(self.poll, fds, request["name"], self._invite)

    def op_visited(self, request: dict[str, Any]) -> bool:
        """Whether somebody visited the present life."""
        return self.sandboxes[request["id"]].visited

    def _invite(self, number: int) -> tuple[Any, tuple[int, ...]]:
        """What a visitor needs: facts, a channel to PID 1, its pidfd. Never waits for PID 1."""
        box = self.sandboxes.get(number)
        if box is None or box.life is None:
            raise StepError(3, "visit")  # ESRCH
        near, far = protocol.channel()
        try:
            protocol.send(box.life.setup, b"v", (far.fileno(),), _socket.MSG_DONTWAIT)
        except OSError:
            near.close()
            raise
        finally:
            far.close()
        box.visited = True
        return box.facts, (near.detach(), box.life.pidfd)

    def _reap(self) -> None:
        """Collect diff processes that are done; the client has their output long since."""
        self.walkers = [pid for pid in self.walkers if os.waitpid(pid, os.WNOHANG)[0] == 0]

    def op_delete(self, request: dict[str, Any]) -> None:
        box = self.sandboxes.pop(request["id"], None)
        if box is None:
            return
        self._end(box)
        if box.slot is not self.stage.probe or self.stage.idmap:
            self.free.append(box.slot)
        box.drop(set(box.made))

    # ------------------------------------------------------------------ lives

    def _clone(self, box: Sandbox, far: _socket.socket) -> Life:
        setup, setup_far = protocol.channel()
        wait, go = os.pipe2(os.O_CLOEXEC)
        group = None
        try:
            options = self._options(box)
            group = self._group(box)
            pid, pidfd = syscalls.clone(_NAMESPACES)
            if pid == 0:
                child.run(options, child.Ends(far, setup_far, wait, self.owner, self.myself))
            life = Life(pid, pidfd, setup, group)
            try:
                inside = 0 if self.stage.identity.ids > 1 else box.spec["uid"]
                for name in ("uid_map", "gid_map"):
                    identity.write_proc(f"/proc/{pid}/{name}", box.slot.id_map(self.stage.identity, inside))
                if group is not None:
                    group.add(pid)
                os.write(go, b"x")
            except BaseException:
                self._bury(life)
                raise
            return life
        except BaseException:
            setup.close()
            if group is not None:
                group.remove()
            raise
        finally:
            os.close(wait)
            os.close(go)
            setup_far.close()

    def _options(self, box: Sandbox) -> child.Options:
        spec = box.spec
        program = seccomp.build(
            nesting=spec["nested"], single_user=self.stage.identity.ids == 1, pin_cpus=bool(spec["affinity"])
        )
        return child.Options(
            views=tuple(box.image.views(box.slot)),
            layers=box.layers,
            size=spec["disk"],
            inodes=spec["inodes"],
            uid=spec["uid"],
            many_users=self.stage.identity.ids > 1,
            nested=spec["nested"],
            program=program,
            limits=tuple((getattr(resource, name), soft, hard) for name, soft, hard in spec["limits"]),
            last_capability=self.stage.last_capability,
            affinity=spec["affinity"],
        )

    def _group(self, box: Sandbox) -> Any:
        wanted = box.spec["group"]
        if not wanted:
            return None
        self.born += 1
        return cgroups.create(f"{self.born}", prefix="/host", **wanted)

    def _bury(self, life: Life) -> None:
        """SIGKILL to PID 1 and wait: the kernel lets its pidfd poll readable only when the whole pid name space is empty.

        Who sits in an uninterruptible call does not die: after a deadline that is an error, and the rest is left alone.
        """
        signal.pidfd_send_signal(life.pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(life.pidfd, select.POLLIN)
        if not poll.poll(_DEADLINE_MS):
            raise StepError(16, "death of PID 1", f"/proc/{life.pid}")  # EBUSY
        os.waitpid(life.pid, 0)
        os.close(life.pidfd)

    def _end(self, box: Sandbox, *, keep: bool = False) -> None:
        if box.life is None:
            return
        life, box.life, box.visited = box.life, None, False
        try:
            self._bury(life)
        except StepError:
            # Quarantined: its id slot and its tmpfs are never used again.
            box.slot = self._new_slot() if self.stage.idmap else box.slot
            box.scratch = -1
            raise
        life.setup.close()
        if life.group is not None:
            life.group.remove()
        if box.scratch >= 0 and not keep:
            os.close(box.scratch)
        box.scratch = -1

    def _scratch(self, box: Sandbox) -> int:
        """The detached clone of the sandbox's tmpfs, sent by the child before any sandbox code ran."""
        if box.scratch < 0:
            if box.life is None:
                raise StepError(2, "scratch")
            data, fds = protocol.receive(box.life.setup)
            if data is None or not fds:
                raise StepError(3, "scratch")  # ESRCH: it died while its root was put together
            box.scratch = fds[0]
        return box.scratch

    def _freeze(self, box: Sandbox, scratch: int) -> None:
        if not _written(f"/proc/self/fd/{scratch}"):
            return
        self.count += 1
        place = f"/l/{self.count}"
        os.mkdir(place)
        syscalls.move_mount(scratch, place)
        # The superblock, not only this mount: EBUSY if anything could still write to it.
        syscalls.mount(None, place, None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
        box.made.add(self.count)
        box.layers = (*box.layers, self.count)

    def _diff_views(self, box: Sandbox, since: int) -> list[diff.DiffView]:
        tops: list[str] = []
        if box.life is not None:
            tops.append(f"/proc/self/fd/{self._scratch(box)}")
        layers = [f"/l/{layer}" for layer in reversed(box.layers)]
        newer, older = layers[: len(layers) - since], layers[len(layers) - since :]
        views = []
        for index, view in enumerate(box.image.views(box.slot)):
            if view.mode == "cow" and view.system:
                uppers = tuple(f"{top}/u{index}" for top in (*tops, *newer))
                lowers = tuple(f"{layer}/u{index}" for layer in older) + tuple(f"/{lower}" for lower in view.lowers)
                views.append(diff.DiffView(view.target or "/", uppers, lowers))
        return views

    # ------------------------------------------------------------------ the loop

    def serve(self) -> None:
        for fd in (self.sock.fileno(), self.owner):
            self.poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in self.poll.poll():
                if fd == self.owner:
                    return
                if fd != self.sock.fileno():
                    if self.door is not None:
                        self.door.ready(fd)
                    continue
                request, fds = protocol.receive_json(self.sock)
                if request is None:
                    return
                self._answer(request, fds)

    def _answer(self, request: dict[str, Any], fds: list[int]) -> None:
        op = request["op"]
        try:
            call = getattr(self, f"op_{op}")
            answer = {"ok": call(request, fds) if op in ("diff", "listen") else call(request)}
        except OSError as error:
            step = getattr(error, "step", "") or op
            answer = {"error": [step, error.errno or 0, str(error.filename or "")]}
        finally:
            for fd in fds:
                os.close(fd)
        if op not in ("start", "reset") or "error" in answer:
            protocol.send_json(self.sock, answer)

    def close(self) -> None:
        """Kill all first, then wait for all: they die side by side."""
        if self.door is not None:
            self.door.close()
        for box in self.sandboxes.values():
            if box.life is not None:
                signal.pidfd_send_signal(box.life.pidfd, signal.SIGKILL)
        for box in self.sandboxes.values():
            self._end(box)


def _written(scratch: str) -> bool:
    """Whether any upper directory of a sandbox's tmpfs has an entry."""
    return any(os.listdir(f"{scratch}/{name}") for name in os.listdir(scratch) if name.startswith("u"))


def main(fd: int) -> None:
    """Entry point of the process: `fd` is the control socket; the owner's pidfd comes with the first message."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = _socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    _, fds = protocol.receive_json(sock)
    # Everything is loaded by now; what a sandbox could make us import must not be found.
    sys.path[:] = []
    try:
        found = stage.prepare()
    except OSError as error:
        step = getattr(error, "step", "") or "start"
        protocol.send_json(sock, {"error": [step, error.errno or 0, str(error.filename or "")]})
        return
    gc.collect()
    gc.freeze()
    protocol.send_json(sock, {"ok": found.report()})
    server = Server(sock, fds[0], found)
    try:
        server.serve()
    finally:
        server.close()
