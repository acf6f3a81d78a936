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
from typing import Any

from . import base, diff, door, helpers, mounts, protocol, stage, transfer
from .lives import Life, Lives, Recipe
from .net import hopper
from .net.launch import start
from .net.registry import Registry
from .sandboxes import Sandbox
from .scratch import Uppers
from .seats import Seats
from .shape import Shape
from .skeletons import Skeletons
from .syscalls import StepError
from .undertaker import Undertaker
from .world import World

__all__ = ["main"]

#: Requests that come with the descriptor of a pipe.
_WITH_PIPE = ("diff", "export", "import", "listen")
_UNCLEARED = 16  # dead lives at most that wait to be cleared away
_SHIFTED = 8  # slots of each base that stay shifted when nobody asks for anything


class Server:
    """Requests are one JSON object each, answered in order: {"ok": …} or {"error": [step, errno, path]}."""

    def __init__(self, sock: _socket.socket, owner: int, found: stage.Stage, told: Registry) -> None:
        self.sock, self.owner, self.stage, self.told = sock, owner, found, told
        self.undertaker = Undertaker()
        self.uppers = Uppers()
        self.lives = Lives(owner, found, self.uppers, told)
        self.seats = Seats(self.lives, found)
        self.bases: dict[int, base.Base] = {}
        self.sandboxes: dict[int, Sandbox] = {}
        self.count = 0
        self.walkers: list[int] = []
        self.hoppers: list[int] = []
        self.refill: Sandbox | None = None
        self.skeletons = Skeletons()
        self.dead: list[Life] = []
        self.poll = select.poll()
        self.door: door.Door | None = None
        self.number = 0  # of the request that is being carried out

    # ------------------------------------------------------------------ requests

    def op_base(self, request: dict[str, Any]) -> int:
        if not self.stage.in_memory:
            self.uppers.open(request["cache"])
        world = World.from_json(request["world"].encode())
        self.count += 1

        def kept(source: str) -> tuple[str | None, Shape | None]:
            return self.skeletons.find(request["cache"], source, root=base.HOST)

        found = self.stage
        self.bases[self.count] = base.Base(
            self.count, world, found.identity, found.probe, kept, idmap=found.idmap, layers_shift=found.layers_shift
        )
        return self.count

    def op_forget(self, request: dict[str, Any]) -> None:
        """Nothing stands on this base any more."""
        image = self.bases.pop(request["base"])
        self.seats.forget(image)
        image.close()

    def op_start(self, request: dict[str, Any]) -> None:
        """Begin a life; answers by itself, with the control socket and the pidfd of PID 1."""
        box = self._box(request)
        box.facts = request["facts"]
        self._end(box)
        self._hand_out(box, box.seat.take(box.recipe) or self.lives.begin(box.recipe, box.seat.slot))

    def op_reset(self, request: dict[str, Any]) -> None:
        """kill, layers, retain and start in one: the next life is taken, or built while the old one dies; it is handed
        out when the old one is proved dead, and only if nothing was ever written in it.
        """
        box = self._box(request)
        if box.life is not None:
            box.life.kill()
        box.recipe = box.recipe._replace(layers=tuple(request["layers"]))
        following = box.seat.take(box.recipe) or self.lives.begin(box.recipe, box.seat.slot)
        try:
            self._end(box)
            box.drop(box.made - set(request["needed"]))
            if not following.pristine():
                raise StepError(39, "pristine")  # ENOTEMPTY
        except BaseException:
            following.bury()
            following.dispose()
            raise
        self._hand_out(box, following)

    def _hand_out(self, box: Sandbox, life: Life) -> None:
        box.life = life
        self._reply({"ok": life.number}, (life.control.fileno(), life.pidfd))
        life.control.close()
        self.refill = box

    def op_kill(self, request: dict[str, Any]) -> bool:
        """End the life: proved by the kernel when this returns. What was written is lost."""
        box = self._known(request)
        alive = box.life is not None
        self._end(box)
        return alive

    def op_freeze(self, request: dict[str, Any]) -> list[int]:
        """End the life and keep what it wrote as a layer; the answer is the new list of layers."""
        box = self._known(request)
        if box.life is not None:
            life = box.life
            written, scratch = not life.pristine(), life.take_scratch()
            try:
                self._end(box)
                life.unmount()
                if written:
                    self.count += 1
                    box.freeze(self.count, scratch, life.upper)
            finally:
                os.close(scratch)
        return list(box.recipe.layers)

    def op_layers(self, request: dict[str, Any]) -> None:
        """Choose what the next life stands on."""
        box = self._box(request)
        box.recipe = box.recipe._replace(layers=tuple(request["layers"]))

    def op_adopt(self, request: dict[str, Any]) -> list[int]:
        """Make another sandbox's layers this one's own, shifted into its id range; the answer are their numbers."""
        box = self._box(request)
        shift = self.stage.idmap and self.stage.identity.privileged
        adopted = []
        for layer in request["layers"]:
            self.count += 1
            # A shifted mount cannot be shifted again, so the plain one is kept for the next who adopts it.
            plain = f"/p/{layer}" if os.path.isdir(f"/p/{layer}") else f"/l/{layer}"
            for place, userns in ((f"/p/{self.count}", 0), (f"/l/{self.count}", box.seat.slot.userns if shift else 0)):
                mounts.clone_to(plain, place, userns)
            self.uppers.share(layer, self.count)
            box.made.add(self.count)
            adopted.append(self.count)
        box.recipe = box.recipe._replace(layers=tuple(adopted))
        return adopted

    def op_retain(self, request: dict[str, Any]) -> None:
        """Unmount the layers of a sandbox that are not in `layers`: nothing stands on them any more."""
        box = self.sandboxes.get(request["id"])
        if box is not None:
            box.drop(box.made - set(request["layers"]))

    def op_oom(self, request: dict[str, Any]) -> int:
        """How often the kernel killed for the sandbox's memory limit."""
        life = self._known(request).life
        return life.group.oom_kills() if life is not None and life.group is not None else 0

    def op_diff(self, request: dict[str, Any], fds: list[int]) -> None:
        """Write the changes since `layers` to the pipe that came along, from a process of its own."""
        box = self._known(request)
        views = box.diff_views(len(request["layers"]))
        self._reap()
        self.walkers.append(
            helpers.begin(lambda: diff.diff(views, fds[0], xattr_prefix="user.", limit=request["limit"]))
        )

    def op_hopper(self, _request: dict[str, Any]) -> None:
        """Begin what makes sockets in sandboxes' networks; one that was before ends, since nobody asks it any more."""
        channel, pid = hopper.start()
        self.hoppers.append(pid)
        try:
            self.told.hand_over_hopper(channel)
        finally:
            channel.close()

    def op_listen(self, request: dict[str, Any], fds: list[int]) -> None:
        """Let visitors in from now on."""
        self.door = door.Door(self.poll, fds, request["name"], self._invite)

    def op_visited(self, request: dict[str, Any]) -> bool:
        """Whether somebody visited the present life."""
        life = self._known(request).life
        return life is not None and life.visited

    def _invite(self, kind: str, number: int) -> tuple[Any, tuple[int, ...]]:
        """What a visitor needs: facts, a channel to PID 1, its pidfd; to steer, a channel to the network process."""
        box = self._known({"id": number})
        if box.life is None:
            raise StepError(3, kind)  # ESRCH
        if kind == "visit":
            return box.facts, (box.life.introduce(), box.life.pidfd)
        if box.recipe.spec["shares_network"]:
            raise StepError(95, kind)  # EOPNOTSUPP
        box.life.visited = True
        self._reap()
        if not self.hoppers:
            self.op_hopper({})
        facts = {"name": box.facts["name"], "life": box.life.number, "divert": self.stage.network.divert}
        return facts, (self.told.introduce(box.life.number),)

    def _reap(self) -> None:
        """Collect children that are done; the client has their output long since."""
        self.skeletons.reap()
        for children in (self.walkers, self.hoppers):
            children[:] = [pid for pid in children if os.waitpid(pid, os.WNOHANG)[0] == 0]

    def op_export(self, request: dict[str, Any], fds: list[int]) -> int:
        """Write one layer to the pipe that came along, from a process of its own, whose pid is to be joined."""
        box = self._known(request)
        slot = box.seat.slot
        views = [n for n, view in enumerate(box.recipe.image.views(slot)) if view.mode == "cow" and not view.file]
        return transfer.begin_export(request["layer"], views, fds[0], slot, request["limit"])

    def op_import(self, request: dict[str, Any], fds: list[int]) -> list[int]:
        """Make a layer of what comes from the pipe: the pid to be joined, and the number that place() will give it."""
        box, who = self._box(request), self.stage.identity
        self.count += 1
        views = sum(1 for _ in box.recipe.image.views(box.seat.slot))
        shift = self.stage.idmap and who.privileged
        pid = transfer.begin_import(
            self.count,
            fds[0],
            box.seat.slot,
            views=views,
            who=who,
            limit=request["limit"],
            shift=shift,
            uppers=self.uppers,
        )
        return [pid, self.count]

    def op_join(self, request: dict[str, Any]) -> None:
        helpers.join(request["pid"])

    def op_place(self, request: dict[str, Any]) -> list[int]:
        """What was imported is the sandbox' uppermost layer, or nothing if that failed; the answer is the list of layers."""
        box, layer = self._box(request), request["layer"]
        try:
            helpers.join(request["pid"])
            shift = self.stage.idmap and self.stage.identity.privileged
            transfer.place(layer, box.seat.slot, shift=shift, in_memory=self.stage.in_memory)
        except BaseException:
            transfer.discard(layer)
            self.uppers.drop(layer)
            raise
        box.made.add(layer)
        box.recipe = box.recipe._replace(layers=(*box.recipe.layers, layer))
        return list(box.recipe.layers)

    def op_delete(self, request: dict[str, Any]) -> None:
        box = self.sandboxes.pop(request["id"], None)
        if box is None:
            return
        try:
            self._end(box)
        finally:
            self.seats.leave(box.seat)
            box.drop(set(box.made))

    # ------------------------------------------------------------------ sandboxes

    def _box(self, request: dict[str, Any]) -> Sandbox:
        """The sandbox of a request, which is known from its first one on, on the base that it is to stand on now."""
        image, number = self.bases[request["base"]], request["id"]
        box = self.sandboxes.get(number)
        if box is None:
            recipe = Recipe(image, (), request["spec"])
            box = self.sandboxes[number] = Sandbox(self.seats.sit(recipe), recipe, self.uppers)
        elif box.recipe.image is not image:
            box.recipe = box.recipe._replace(image=image)
        return box

    def _known(self, request: dict[str, Any]) -> Sandbox:
        box = self.sandboxes.get(request["id"])
        if box is None:
            raise StepError(3, "sandbox")  # ESRCH: it was never started
        return box

    def _end(self, box: Sandbox) -> None:
        if box.life is None:
            return
        life, box.life = box.life, None
        try:
            life.bury()
        except StepError:
            # Quarantined: its id slot and its tmpfs are never used again.
            self.seats.abandon(box.seat)
            box.seat = self.seats.sit()
            raise
        self.dead.append(life)

    # ------------------------------------------------------------------ the loop

    def serve(self) -> None:
        for fd in (self.sock.fileno(), self.owner):
            self.poll.register(fd, select.POLLIN)
        while True:
            events = self.poll.poll(0 if self.dead or self.refill is not None else None)
            if not events or len(self.dead) > _UNCLEARED:
                self._tidy()
            for fd, _ in events:
                if fd == self.owner:
                    return
                if fd != self.sock.fileno():
                    if self.door is not None:
                        self.door.ready(fd)
                    continue
                try:
                    request, fds = protocol.receive_json(self.sock)
                except OSError as error:  # no descriptor is left for those that came along
                    self.number = protocol.ANY
                    self._reply({"error": ["receive", error.errno or 0, ""]})
                    continue
                if request is None:
                    return
                self._answer(request, fds)

    def _tidy(self) -> None:
        """Nobody asks for anything: time to clear away the dead, and for a spare."""
        box, self.refill = self.refill, None
        if box is not None and box.life is not None:
            self.seats.refill(box.seat, box.recipe)
        self._clear()
        self.told.tell()
        self._reap()
        if self.walkers:
            return  # a list of changes is still being made from what could go
        for image in self.bases.values():
            image.trim(_SHIFTED)
        if not self.stage.in_memory:
            self.uppers.clear()

    def _clear(self) -> None:
        """Have what the dead left put away; it takes longer than their death."""
        while self.dead:
            self.undertaker.take(self.dead.pop().remains())

    def _answer(self, request: dict[str, Any], fds: list[int]) -> None:
        op, self.number = request["op"], request["number"]
        try:
            call = getattr(self, f"op_{op}")
            answer = {"ok": call(request, fds) if op in _WITH_PIPE else call(request)}
        except OSError as error:
            step = getattr(error, "step", "") or op
            answer = {"error": [step, error.errno or 0, str(error.filename or "")]}
        except Exception as error:  # noqa: BLE001 - every other sandbox would go with us: whoever asked is told
            answer = {"error": [f"{op}: {type(error).__name__}: {error}"[:500], 0, ""]}
        finally:
            for fd in fds:
                os.close(fd)
        if op not in ("start", "reset") or "error" in answer:
            self._reply(answer)

    def _reply(self, answer: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        protocol.send_json(self.sock, {**answer, "number": self.number}, fds)

    def close(self) -> None:
        """Kill all first, then wait for all: they die side by side."""
        if self.door is not None:
            self.door.close()
        for box in self.sandboxes.values():
            if box.life is not None:
                box.life.kill()
        self.seats.close()
        for box in self.sandboxes.values():
            self._end(box)
        self._clear()
        self.undertaker.close()
        self.told.close()
        self.uppers.close()


def main(fd: int) -> None:
    """Entry point of the process: `fd` is the control socket; the owner's pidfd and the channel of the network process come with
    the first message.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = _socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    # Some five for each sandbox; those inside have limits of their own.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _, (owner, channel) = protocol.receive_json(sock)
    # Everything is loaded by now; what a sandbox could make us import must not be found.
    sys.path[:] = []
    # Before any name space is ours: it stays where the host's network is.
    told = start(channel, owner)
    try:
        found = stage.prepare()
    except OSError as error:
        step = getattr(error, "step", "") or "start"
        protocol.send_json(sock, {"error": [step, error.errno or 0, str(error.filename or "")], "number": 0})
        return
    gc.collect()
    gc.freeze()
    protocol.send_json(sock, {"ok": {**found.report(), "network_process": told.pid}, "number": 0})
    server = Server(sock, owner, found, told)
    try:
        server.serve()
    finally:
        server.close()
