"""What reads a sandbox from the host (read, copy_out, diff, glob): never led astray, never held up, never made to take much memory."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attacker import Box
from weakenings_bounds import DETOURS, LIES, NAMES_TAKEN, OPENED_UNSEEN, PARTS_TAKEN

from pytest_airlock.conformance.machine import within
from pytest_airlock.errors import ProviderError, SandboxDied
from pytest_airlock.providers.base import ResolvedMount
from pytest_airlock.providers.namespaces import NamespacesProvider, replies
from pytest_airlock.sandbox import copying, diff
from pytest_airlock.sandbox.backend import Backend
from pytest_airlock.sandbox.paths import SandboxPath

MIB = 1024**2
#: Memory that one call may take for itself, whatever a sandbox says: three times the largest of what it keeps.
MOST = 256 * MIB


def backend(box: Box) -> Backend:
    """As much of a hand-out as reading needs."""
    names = ("export_tree", "listdir", "stat", "read", "change")
    calls = {name: partial(getattr(box.provider, name), box.handle) for name in names}
    return cast("Backend", SimpleNamespace(name=box.name, **calls))


def copy_out(box: Box, inside: str, host: Path, limit: int = 64 * MIB) -> copying.Copied:
    return within(lambda: copying.copy_out(backend(box), inside, host, limit=limit))


def one_of(error: OSError, *codes: int) -> None:
    assert error.errno in codes, error


def script(box: Box, text: str) -> None:
    assert box.run([sys.executable, "-I", "-B", "-c", f"import os\n{text}"]).returncode == 0


def status(field: str) -> int:
    """A field of proc_pid_status(5) in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


@pytest.fixture
def frugal(record_property: Callable[[str, object], None]) -> Callable[[Callable[[], Any]], Any]:
    """Call it; the peak of the test process' memory meanwhile is bounded, and recorded."""

    def call(work: Callable[[], Any]) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, proc_pid_clear_refs(5)
        before = status("VmHWM")
        try:
            return within(work, 100)
        finally:
            taken = status("VmHWM") - before
            record_property("peak_mib", taken // MIB)
            assert taken < MOST, f"{taken // MIB} MiB"

    return call


@contextmanager
def racing(box: Box, text: str) -> Iterator[None]:
    """`text` is done again and again inside meanwhile."""
    process = box.python(f'print("ready", flush=True)\nwhile True:\n{text}')
    try:
        yield
    finally:
        process.kill_tree()


# ---------------------------------------------------------------------- led astray

#: A directory and a link to a directory of the host take turns, and so do a file and a link to a file of the host.
SWAP = """
    os.rename("/opt/t/real", "/opt/t/spare"); os.rename("/opt/t/link", "/opt/t/real")
    os.rename("/opt/t/real", "/opt/t/link"); os.rename("/opt/t/spare", "/opt/t/real")
    os.rename("/opt/t/real/file", "/opt/t/real/spare"); os.rename("/opt/t/real/bait", "/opt/t/real/file")
    os.rename("/opt/t/real/file", "/opt/t/real/bait"); os.rename("/opt/t/real/spare", "/opt/t/real/file")
"""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    place = tmp_path / "secret"
    place.mkdir()
    (place / "file").write_text("only the host has this")
    return place


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def contents(place: Path) -> set[str]:
    """Of all files below, links not followed."""
    found = set()
    for top, _, files in os.walk(place):
        for name in files:
            path = Path(top, name)
            found.add(f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text())
    return found


def test_no_race_for_links_leads_a_copy_out_of_the_sandbox(box: Box, secret: Path, landing: Path) -> None:
    script(
        box,
        f"""
os.makedirs("/opt/t/real"); os.symlink({str(secret)!r}, "/opt/t/link")
open("/opt/t/real/file", "w").write("mine"); os.symlink({str(secret / "file")!r}, "/opt/t/real/bait")
""",
    )
    seen = set()
    with racing(box, SWAP):
        for number in range(40):
            try:
                copy_out(box, "/opt/t", landing / str(number))
            except OSError as error:
                # A directory that has become a link is not entered, one that was moved not left again; a link is no file.
                one_of(error, errno.ENOTDIR, errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.EINVAL)
        seen = contents(landing)
    assert seen <= {"mine"}
    assert seen, "some copies came through"


def test_no_race_for_links_leads_a_read_out_of_the_sandbox(box: Box, secret: Path) -> None:
    script(
        box,
        f"""
os.makedirs("/opt/t/real"); os.symlink({str(secret)!r}, "/opt/t/link")
open("/opt/t/real/file", "w").write("mine"); os.symlink({str(secret / "file")!r}, "/opt/t/real/bait")
""",
    )
    seen = set()
    with racing(box, SWAP):
        for _ in range(80):
            try:
                seen.add(box.provider.read(box.handle, "/opt/t/real/file", limit=100))
            except FileNotFoundError:
                seen.add(b"")
    assert seen <= {b"mine", b""}
    assert b"mine" in seen


def test_no_race_for_links_leads_a_diff_out_of_the_sandbox(
    box: Box, provider: NamespacesProvider, secret: Path
) -> None:
    clean = provider.snapshot(box.handle)
    script(box, f'os.makedirs("/opt/t/real"); os.symlink({str(secret)!r}, "/opt/t/link")')
    script(box, 'open("/opt/t/real/file", "w").close(); os.symlink("/etc/shadow", "/opt/t/real/bait")')
    names: set[str] = set()
    with racing(box, SWAP):
        for _ in range(8):
            try:
                names |= {change.path for change in within(lambda: list(provider.diff(box.handle, clean)))}
            except OSError as error:
                one_of(error, errno.ESTALE, errno.ENOENT, errno.ENOTDIR)
    below = {name.removeprefix("/opt/t") for name in names if name.startswith("/opt/t")}
    assert below <= {
        "",
        *(f"/{top}{rest}" for top in ("real", "spare", "link") for rest in ("", "/file", "/bait", "/spare")),
    }
    assert {name for name in names if not name.startswith("/opt/t") and "__pycache__" not in name} <= {"/opt"}


def test_a_race_between_files_and_fifos_holds_nobody_up(box: Box, landing: Path) -> None:
    script(box, 'os.makedirs("/opt/t"); open("/opt/t/a", "w").write("mine"); os.mkfifo("/opt/t/b")')
    swap = "".join(f'    os.rename("/opt/t/{old}", "/opt/t/{new}")\n' for old, new in ("ax", "ba", "ab", "xa"))
    seen: set[object] = set()
    with racing(box, swap):
        for number in range(30):
            try:
                seen.add(within(lambda: box.provider.read(box.handle, "/opt/t/a", limit=100)))
            except OSError as error:
                seen.add(error.errno)
            try:
                copy_out(box, "/opt/t", landing / str(number))
            except OSError as error:
                one_of(error, errno.EINVAL, errno.ESTALE)  # a FIFO where a file was, or another file
    assert seen <= {b"mine", errno.EINVAL, errno.ENOENT}
    assert contents(landing) == {"mine"}
    assert not any(path.is_fifo() for path in landing.rglob("*"))


def test_control_a_worker_that_opens_what_it_is_given_waits_for_ever(
    make_weak_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch, row: Callable[..., None]
) -> None:
    box = make_weak_box(OPENED_UNSEEN)
    script(box, 'os.mkfifo("/opt/fifo")')
    monkeypatch.setattr(replies, "IDLE", 0.5)
    with pytest.raises(ProviderError, match="kept us waiting"):
        box.provider.read(box.handle, "/opt/fifo", limit=10)
    row(
        "Let the host read a FIFO that nobody writes",
        group="host reader",
        stops="nothing is opened before it is known to be a file; patience",
        expected="EINVAL",
        seen="EINVAL",
        off=OPENED_UNSEEN,
        without="given up after a minute",
    )


# ---------------------------------------------------------------------- a worker that was taken over

TREES = {
    LIES: "../planted",
    DETOURS: "out of order",
}


def planted(box: Box, landing: Path) -> str:
    """Copy out, and say what came of it: refused (by whom), or a file beside the place where the copy belongs."""
    script(box, 'os.makedirs("/opt/t/d"); open("/opt/t/a", "w").write("x"); os.symlink("..", "/opt/t/d/up")')
    try:
        copy_out(box, "/opt/t", landing / "copy")
    except ProviderError:
        outcome = "refused on arrival"
    except OSError as error:
        one_of(error, errno.EINVAL)
        outcome = "refused when made"
    else:
        outcome = "copied"
    return "planted" if (landing / "planted").exists() else outcome


@pytest.mark.parametrize(
    ("off", "outcome"),
    [
        ((LIES,), "refused on arrival"),
        ((LIES, NAMES_TAKEN), "refused when made"),
        ((LIES, NAMES_TAKEN, PARTS_TAKEN), "planted"),
        ((DETOURS,), "refused on arrival"),
    ],
    ids=["checked twice", "checked once", "not checked", "below a file"],
)
def test_a_worker_that_was_taken_over_plants_nothing(
    make_weak_box: Callable[..., Box], landing: Path, row: Callable[..., None], off: tuple[str, ...], outcome: str
) -> None:
    assert planted(make_weak_box(*off), landing) == outcome
    row(
        f"A worker of file calls that was taken over: {off[0]}",
        group="host reader",
        stops="names are checked on arrival, and when they are made",
        expected="refused on arrival",
        seen="refused on arrival",
        off=" (+) ".join(off[1:]) or "nothing",
        without=outcome,
    )


def test_a_worker_that_is_killed_is_no_dead_sandbox(box: Box, users: tuple[str, ...]) -> None:
    """What runs as its root user may signal it; the ordinary user, where there is one, may not."""
    script(box, 'open("/opt/big", "w").truncate(50_000_000)')
    entries = box.provider.export_tree(box.handle, "/opt/big", limit=100 * MIB)
    entry = next(entries)
    kill = """
own = {1, os.getpid()}
answer = [tried(os.kill, int(name), signal.SIGKILL) for name in os.listdir("/proc") if name.isdigit() and int(name) not in own]
"""
    if "airlock" in users:
        assert box.attack(kill, user="airlock") == ["EPERM"]
    assert box.attack(kill, user="root") == ["ok"]
    with pytest.raises(ProviderError, match=r"its worker was ended inside .wait status 0x9."):
        for _ in entry.chunks:
            pass
    assert box.run("echo alive").out == "alive\n"


def test_a_worker_that_dies_with_its_sandbox_tells_so(box: Box) -> None:
    script(box, 'open("/opt/big", "w").truncate(50_000_000)')
    entries = box.provider.export_tree(box.handle, "/opt/big", limit=100 * MIB)
    entry = next(entries)
    os.kill(box.init, 9)
    with pytest.raises(SandboxDied):
        for _ in entry.chunks:
            pass


# ---------------------------------------------------------------------- too much of it

DEEP = """
os.mkdir("/opt/t"); os.chdir("/opt/t")
for _ in range(10_000):
    os.mkdir("d"); os.chdir("d")
"""
LONG = """
os.mkdir("/opt/t"); os.chdir("/opt/t")
for _ in range({levels}):
    os.mkdir("\\U0001f600" * 63); os.chdir("\\U0001f600" * 63)
"""


def glob(box: Box, pattern: str) -> list[SandboxPath]:
    return list(SandboxPath(backend(box), "/opt").glob(pattern))


def test_a_tree_of_ten_thousand_levels(
    box: Box, provider: NamespacesProvider, landing: Path, frugal: Callable[[Callable[[], Any]], Any]
) -> None:
    clean, before = provider.snapshot(box.handle), box.run("ls /opt").out
    script(box, DEEP)
    with pytest.raises(OSError, match="more than 200 levels") as caught:
        frugal(lambda: copying.copy_out(backend(box), "/opt/t", landing / "t", limit=MIB))
    assert caught.value.errno == errno.EINVAL
    found = frugal(lambda: diff.collect(provider.diff(box.handle, clean), ()))
    assert len(found.added) == 10_001
    assert len(str(found)) < 2 * MIB
    frugal(lambda: provider.change(box.handle, "rmtree", "/opt/t"))
    provider.reset(box.handle, clean)
    assert box.run("ls /opt").out == before


def test_names_of_what_is_left_out_are_bounded(
    box: Box, landing: Path, frugal: Callable[[Callable[[], Any]], Any], row: Callable[..., None]
) -> None:
    """On the wire an entry has one name; its path is 50 KB here, and a million such could be skipped: 50 GB."""
    script(box, LONG.format(levels=198) + 'for number in range(4000): os.mkfifo(f"{number}")')
    with pytest.raises(OSError, match="names alone") as caught:
        frugal(lambda: copying.copy_out(backend(box), "/opt/t", landing / "t", limit=MIB))
    assert caught.value.errno == errno.EFBIG
    row(
        "Make the host list a million FIFOs by paths of 50 KB",
        group="host reader",
        stops="bound of what a copy tells",
        expected="EFBIG",
        seen="EFBIG",
        off="",
        without="not shown: it takes 50 GB of memory",
    )


def test_a_list_of_changes_is_bounded(
    box: Box, provider: NamespacesProvider, frugal: Callable[[Callable[[], Any]], Any]
) -> None:
    clean = provider.snapshot(box.handle)
    script(box, LONG.format(levels=249) + 'for number in range(4000): os.mknod(f"{number}")')
    with pytest.raises(OSError, match="too large") as caught:
        frugal(lambda: diff.collect(provider.diff(box.handle, clean), ()))
    assert caught.value.errno == errno.EOVERFLOW


def test_a_listing_is_bounded(
    box: Box, provider: NamespacesProvider, frugal: Callable[[Callable[[], Any]], Any]
) -> None:
    script(box, 'os.mkdir("/opt/t")\nfor n in range(20_000): os.symlink("\\U0001f600" * 1000, f"/opt/t/{n}")')
    with pytest.raises(OSError, match="too large") as caught:
        frugal(lambda: provider.listdir(box.handle, "/opt/t"))
    assert caught.value.errno == errno.EOVERFLOW


def test_a_search_is_bounded(
    box: Box, frugal: Callable[[Callable[[], Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_airlock.sandbox.paths.GLOB_LIMIT", 100_000)
    script(box, 'os.mkdir("/opt/t")\nfor n in range(10_000): os.mknod(f"/opt/t/{n}")')
    with pytest.raises(OSError, match="more files than") as caught:
        frugal(lambda: glob(box, "**/*"))
    assert caught.value.errno == errno.EOVERFLOW


def test_files_that_are_large_only_by_their_word(
    box: Box, provider: NamespacesProvider, landing: Path, frugal: Callable[[Callable[[], Any]], Any]
) -> None:
    """The largest that the file system takes, and many whose sum is more than one may copy."""
    clean = provider.snapshot(box.handle)
    script(box, 'os.mkdir("/opt/t"); open("/opt/t/huge", "w").truncate(2**63 - 1)')
    for work in (
        lambda: provider.read(box.handle, "/opt/t/huge", limit=MIB),
        lambda: copying.copy_out(backend(box), "/opt/t", landing / "huge", limit=MIB),
    ):
        with pytest.raises(OSError, match="too large") as caught:
            frugal(work)
        assert caught.value.errno == errno.EFBIG
    (change,) = [change for change in provider.diff(box.handle, clean) if change.path.endswith("huge")]
    assert change.size == 2**63 - 1
    script(box, 'os.mkdir("/opt/m")\nfor n in range(100): open(f"/opt/m/{n}", "w").truncate(1 << 20)')
    with pytest.raises(OSError, match="too large"):
        frugal(lambda: copying.copy_out(backend(box), "/opt/m", landing / "many", limit=8 * MIB))
    written = sum(path.stat().st_size for path in landing.rglob("*") if path.is_file())
    assert written <= 9 * MIB


def test_a_file_that_grows_as_fast_as_it_is_copied(box: Box, landing: Path) -> None:
    script(box, 'os.mkdir("/opt/t"); open("/opt/t/log", "w").write("x" * 200_000)')
    with racing(box, '    os.write(os.open("/opt/t/log", os.O_WRONLY | os.O_APPEND), b"x" * 4096)'):
        for number in range(20):
            try:
                copy_out(box, "/opt/t", landing / str(number), limit=MIB)
            except OSError as error:
                one_of(error, errno.EFBIG)
    assert all(path.stat().st_size <= MIB for path in landing.rglob("log"))


# ---------------------------------------------------------------------- names

NAMES = [
    b"\xff\xfe",
    b"new\nline",
    b"\x1b]0;owned\x07\x1b[2J",
    b"-rf",
    b" ",
    b"a\tb",
    "\u202egnp.exe".encode(),
    b"\\x41",
    b"x" * 255,
]


def test_names_of_any_bytes_cross_as_they_are_and_are_shown_harmlessly(
    box: Box, provider: NamespacesProvider, landing: Path
) -> None:
    clean = provider.snapshot(box.handle)
    script(box, f"os.mkdir('/opt/t')\nfor name in {NAMES!r}: os.close(os.open(b'/opt/t/' + name, os.O_CREAT))")
    assert sorted(os.fsencode(info.path)[7:] for info in provider.listdir(box.handle, "/opt/t")) == sorted(NAMES)
    assert copy_out(box, "/opt/t", landing / "t").files == len(NAMES)
    assert sorted(os.listdir(os.fsencode(landing / "t"))) == sorted(NAMES)
    found = diff.collect(provider.diff(box.handle, clean), ())
    assert {os.fsencode(path) for path in found.added} == {b"/opt/t", *(b"/opt/t/" + name for name in NAMES)}
    text = str(found)
    assert all(line.isprintable() for line in text.replace("new\nline", "").replace("\t", " ").splitlines())
    assert "\x1b" not in text
    assert "\u202e" not in text
    (bad,) = [info.path for info in provider.listdir(box.handle, "/opt/t") if "\x1b" in info.path]
    script(box, "os.mkdir('/opt/d'); os.mkdir(b'/opt/d/' + b'\\x1b[2J')")
    with pytest.raises(OSError, match="x1b") as caught:
        provider.change(box.handle, "rename", bad, to="/opt/d/\x1b[2J")
    assert "\x1b" not in str(caught.value)


# ---------------------------------------------------------------------- locks


@pytest.mark.parametrize(("how", "felt"), [("ro", False), ("cow", False), ("rw", True)])
def test_no_lock_of_a_sandbox_is_felt_on_the_host_or_by_a_neighbour(
    make_box: Callable[..., Box],
    tmp_path_factory: pytest.TempPathFactory,
    how: str,
    felt: bool,
    row: Callable[..., None],
) -> None:
    """A view has inodes of its own; a shared directory does not: that is the control."""
    share = tmp_path_factory.mktemp("share")
    share.chmod(0o755)
    file = share / "file"
    file.write_text("host")
    file.chmod(0o666)
    mounts = (ResolvedMount(str(share), str(share), how, project=False),)  # type: ignore[arg-type]
    box, neighbour = make_box(mounts=mounts), make_box(mounts=mounts)
    box.python(
        f"""
import fcntl
fd = os.open({str(file)!r}, os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
print("ready", flush=True)
signal.pause()
"""
    )
    lock = (
        f"import fcntl; answer = tried(fcntl.flock, os.open({str(file)!r}, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    assert (neighbour.attack(lock) != "ok") == felt
    with file.open() as own:
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert felt
        else:
            assert not felt
    row(
        f"Hold a lock on a file of the host below a {how} mount",
        group="host reader",
        stops="ro and cow mounts are views with inodes of their own",
        expected=felt,
        seen=felt,
        off="a shared directory (rw)",
        without="felt by the neighbour and the host",
    )
