"""The fork server: one per pytest process. Prepares base images once, then makes a sandbox with one clone.

It never reads a byte that comes from inside a running sandbox, has no threads, imports nothing after start-up, and ends,
with everything it made, when its owner dies: the owner's pidfd and the end of the control socket say so.
"""

from __future__ import annotations

import _socket
import gc
import os
import select
import signal
import sys
from typing import Any

from . import base, diff, protocol, stage, syscalls
from .lives import Life, Lives, Recipe
from .seats import Seat, Seats
from .syscalls import MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT, StepError
from .world import World

__all__ = ["main"]

_UNCLEARED = 16  # dead lives at most that wait to be cleared away


class Sandbox:
    """What the server knows of one: its seat stays, its base, its life and its layers change."""

    def __init__(self, seat: Seat, recipe: Recipe) -> None:
        self.seat, self.recipe = seat, recipe
        self.made: set[int] = set()
        self.life: Life | None = None

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
        self.lives = Lives(owner, found)
        self.seats = Seats(self.lives, found)
        self.bases: dict[int, base.Base] = {}
        self.sandboxes: dict[int, Sandbox] = {}
        self.count = 0
        self.walkers: list[int] = []
        self.refill: Sandbox | None = None
        self.dead: list[Life] = []

    # ------------------------------------------------------------------ requests

    def op_base(self, request: dict[str, Any]) -> int:
        world = World.from_json(request["world"].encode())
        self.count += 1
        self.bases[self.count] = base.Base(
            self.count, world, self.stage.identity, self.stage.probe, idmap=self.stage.idmap
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
        protocol.send_json(self.sock, {"ok": life.pid}, (life.control.fileno(), life.pidfd))
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
            written, scratch = not box.life.pristine(), box.life.take_scratch()
            try:
                self._end(box)
                if written:
                    self._freeze(box, scratch)
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
                base.clone_to(plain, place, userns)
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

    def _reap(self) -> None:
        """Collect diff processes that are done; the client has their output long since."""
        self.walkers = [pid for pid in self.walkers if os.waitpid(pid, os.WNOHANG)[0] == 0]

    def op_delete(self, request: dict[str, Any]) -> None:
        box = self.sandboxes.pop(request["id"], None)
        if box is None:
            return
        self._end(box)
        self.seats.leave(box.seat)
        box.drop(set(box.made))

    # ------------------------------------------------------------------ sandboxes

    def _box(self, request: dict[str, Any]) -> Sandbox:
        """The sandbox of a request, which is known from its first one on, on the base that it is to stand on now."""
        image, number = self.bases[request["base"]], request["id"]
        box = self.sandboxes.get(number)
        if box is None:
            recipe = Recipe(image, (), request["spec"])
            box = self.sandboxes[number] = Sandbox(self.seats.sit(recipe), recipe)
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

    def _freeze(self, box: Sandbox, scratch: int) -> None:
        self.count += 1
        place = f"/l/{self.count}"
        os.mkdir(place)
        syscalls.move_mount(scratch, place)
        # The superblock, not only this mount: EBUSY if anything could still write to it.
        syscalls.mount(None, place, None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
        box.made.add(self.count)
        box.recipe = box.recipe._replace(layers=(*box.recipe.layers, self.count))

    def _diff_views(self, box: Sandbox, since: int) -> list[diff.DiffView]:
        tops: list[str] = []
        if box.life is not None:
            tops.append(f"/proc/self/fd/{box.life.scratch}")
        layers = [f"/l/{layer}" for layer in reversed(box.recipe.layers)]
        newer, older = layers[: len(layers) - since], layers[len(layers) - since :]
        views = []
        for index, view in enumerate(box.recipe.image.views(box.seat.slot)):
            if view.mode == "cow" and view.system:
                uppers = tuple(f"{top}/u{index}" for top in (*tops, *newer))
                lowers = tuple(f"{layer}/u{index}" for layer in older) + tuple(f"/{lower}" for lower in view.lowers)
                views.append(diff.DiffView(view.target or "/", uppers, lowers))
        return views

    # ------------------------------------------------------------------ the loop

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        poll.register(self.owner, select.POLLIN)
        while True:
            events = poll.poll(0 if self.dead or self.refill is not None else None)
            if not events or len(self.dead) > _UNCLEARED:
                self._tidy()
            for fd, _ in events:
                if fd == self.owner:
                    return
                request, fds = protocol.receive_json(self.sock)
                if request is None:
                    return
                self._answer(request, fds)

    def _tidy(self) -> None:
        """Nobody asks for anything: time to clear away the dead, and for a spare."""
        while self.dead:
            self.dead.pop().dispose()
        box, self.refill = self.refill, None
        if box is not None and box.life is not None:
            self.seats.refill(box.seat, box.recipe)

    def _answer(self, request: dict[str, Any], fds: list[int]) -> None:
        op = request["op"]
        try:
            call = getattr(self, f"op_{op}")
            answer = {"ok": call(request, fds) if op == "diff" else call(request)}
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
        for box in self.sandboxes.values():
            if box.life is not None:
                box.life.kill()
        self.seats.close()
        for box in self.sandboxes.values():
            self._end(box)


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
