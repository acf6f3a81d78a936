"""Compare diff with the kernel: random work on real overlays, and what a walk before and after says changed.

Run as `unshare --mount … python -I -S overlay_oracle.py ENGINE_PARENT PLACE SEED ROUNDS`; prints one JSON list of faults.
Mounts live in that mount name space only and go with it.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from typing import Any

NAMES = ["a", "b", "c", "d", "e é"]
CONTENT = [b"", b"one", b"two", b"a longer text", b"x" * 5000]


def mount(kind: str, target: str, options: str) -> None:
    subprocess.run(["mount", "-t", kind, kind, target, "-o", options], check=True)


def walk(top: str) -> dict[str, tuple[Any, ...]]:
    """{path: (mode, owner, …)}; content stands for the time of nothing but itself."""
    found: dict[str, tuple[Any, ...]] = {}
    for directory, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            data: Any = None
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    data = file.read()
            elif stat.S_ISLNK(info.st_mode):
                data = os.readlink(path)
            found[path[len(top) :]] = (info.st_mode, info.st_uid, info.st_gid, data, info.st_mtime_ns)
    return found


def expected(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    changes: set[tuple[Any, ...]] = set()
    for path, now in after.items():
        old = before.get(path)
        if old is None:
            changes.add(("added", path, now[0], False))
        elif now[:4] != old[:4] or (not stat.S_ISDIR(now[0]) and now != old):
            changes.add(("modified", path, now[0], False))
        elif now != old:
            changes.add(("modified", path, now[0], True))
    changes |= {("deleted", path, old[0], False) for path, old in before.items() if path not in after}
    return changes


class Machine:
    """An overlay that can be worked on and frozen, as a sandbox with snapshots is."""

    def __init__(self, place: str, chance: random.Random) -> None:
        self.place, self.chance = place, chance
        self.root = f"{place}/m"
        self.layers: list[str] = []  # oldest first
        for name in ("m", "l"):
            os.mkdir(f"{place}/{name}")
        self.layers.append(f"{place}/l")
        self.populate(f"{place}/l", 3)

    def populate(self, directory: str, depth: int) -> None:
        for name in NAMES:
            path, roll = f"{directory}/{name}", self.chance.random()
            if roll < 0.4 and depth:
                os.mkdir(path)
                self.populate(path, depth - 1)
            elif roll < 0.7:
                self.file(path)
            elif roll < 0.8:
                os.symlink(self.chance.choice(NAMES), path)

    def file(self, path: str) -> None:
        with open(path, "wb") as file:
            file.write(self.chance.choice(CONTENT))

    def up(self) -> None:
        number = len(self.layers)
        for kind in "uw":
            os.mkdir(f"{self.place}/{kind}{number}")
        lowers = ":".join(reversed(self.layers))
        upper = f"{self.place}/u{number}"
        mount("overlay", self.root, f"userxattr,lowerdir={lowers},upperdir={upper},workdir={self.place}/w{number}")
        self.layers.append(upper)

    def down(self) -> None:
        subprocess.run(["umount", self.root], check=True)

    def somewhere(self) -> str:
        path = self.root
        for _ in range(self.chance.randint(1, 4)):
            path = f"{path}/{self.chance.choice(NAMES)}"
        return path

    def work(self, steps: int) -> None:
        for _ in range(steps):
            step = self.chance.choice(STEPS)
            try:
                step(self, self.somewhere())
            except OSError:
                continue  # not possible there: nothing changed, or a part of it, which the walk sees

    def make(self, path: str) -> None:
        self.file(path)

    def open_only(self, path: str) -> None:
        with open(path, "r+b"):
            pass

    def forge(self, path: str) -> None:
        """Other content of the same length under the old time."""
        info = os.stat(path)
        with open(path, "r+b") as file:
            data = file.read()
            file.seek(0)
            file.write(data[::-1])
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    def remove(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def directory(self, path: str) -> None:
        os.mkdir(path)

    def replace(self, path: str) -> None:
        """A directory made anew: opaque, if there was one below."""
        shutil.rmtree(path)
        os.mkdir(path)
        self.file(f"{path}/{self.chance.choice(NAMES)}")

    def swap_type(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
            self.file(path)
        else:
            os.unlink(path)
            os.mkdir(path)

    def mode(self, path: str) -> None:
        os.chmod(path, self.chance.choice([0o700, 0o755, 0o644, 0o1777]))

    def same_mode(self, path: str) -> None:
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))

    def owner(self, path: str) -> None:
        os.chown(path, 5, 7, follow_symlinks=False)

    def touch(self, path: str) -> None:
        os.utime(path, ns=(1, self.chance.randint(1, 10**18)), follow_symlinks=False)

    def move(self, path: str) -> None:
        os.rename(path, self.somewhere())

    def link(self, path: str) -> None:
        os.symlink(self.chance.choice(NAMES), path)

    def hard_link(self, path: str) -> None:
        os.link(path, self.somewhere(), follow_symlinks=False)

    def fifo(self, path: str) -> None:
        os.mknod(path, 0o600 | stat.S_IFSOCK)


STEPS = [
    Machine.make,
    Machine.make,
    Machine.open_only,
    Machine.forge,
    Machine.remove,
    Machine.remove,
    Machine.directory,
    Machine.replace,
    Machine.swap_type,
    Machine.mode,
    Machine.same_mode,
    Machine.owner,
    Machine.touch,
    Machine.move,
    Machine.link,
    Machine.hard_link,
    Machine.fifo,
]


def changes(engine: Any, since: list[str], base: list[str]) -> list[tuple[Any, ...]]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            view = engine.diff.DiffView("/v", tuple(reversed(since)), tuple(reversed(base)))
            engine.diff.diff([view], write, xattr_prefix="user.", limit=100_000)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = io.BytesIO(file.read())
    os.waitpid(pid, 0)
    frames, found = engine.frames.FrameReader(data.read, bound=1 << 30), []
    while (frame := frames.next())[0] == engine.frames.CHANGE:
        record = engine.frames.ChangeRecord.unpack(frame[1])
        kind = ["added", "modified", "deleted"][record.kind - 1]
        found.append((kind, os.fsdecode(record.path)[2:], record.mode, record.mtime_only))
    if frame[0] != engine.frames.END:
        raise RuntimeError(f"diff failed: {engine.frames.unpack_error(frame[1])}")
    return found


def compare(engine: Any, place: str, seed: int) -> list[str]:
    """One machine, a few snapshots; the changes since each of them, by diff and by walking."""
    chance = random.Random(seed)
    machine = Machine(place, chance)
    faults, snapshots = [], []
    for _ in range(chance.randint(1, 4)):
        machine.up()
        snapshots.append((len(machine.layers) - 1, walk(machine.root)))
        machine.work(chance.choice([3, 15, 40]))
        after = walk(machine.root)
        for at, before in snapshots:
            found, truth = changes(engine, machine.layers[at:], machine.layers[:at]), expected(before, after)
            if len(found) != len(set(found)):
                faults.append(f"seed {seed}: told twice: {sorted(x for x in found if found.count(x) > 1)}")
            if set(found) != truth:
                faults.append(f"seed {seed}: missing {sorted(truth - set(found))} wrong {sorted(set(found) - truth)}")
        machine.down()
    return faults


def main(engine_parent: str, place: str, seed: str, rounds: str) -> None:
    sys.path.insert(0, engine_parent)
    for name in ("engine.diff", "engine.frames"):
        importlib.import_module(name)
    engine = sys.modules["engine"]

    mount("tmpfs", place, "mode=755")
    faults = []
    for number in range(int(rounds)):
        inner = f"{place}/{number}"
        os.mkdir(inner)
        faults += compare(engine, inner, int(seed) + number)
    print(json.dumps(faults))


if __name__ == "__main__":
    main(*sys.argv[1:])
