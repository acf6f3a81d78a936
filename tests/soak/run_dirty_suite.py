"""Run the 400 dirty tests on 4 workers; then no process, mount, cgroup, file, lease or record may be left.

python tests/soak/run_dirty_suite.py [--workers 4] [further arguments of pytest]
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SUITE = HERE / "dirty_suite"
LEAVES_NOTHING = HERE.parents[1] / ".ci" / "leaves_nothing.py"

sys.path.insert(0, str(SUITE))
from dirt import MARK, PLACES, PORT  # noqa: E402 - the suite is no package


def left_in_state(directory: Path) -> Iterator[str]:
    """Records, leases, owners and locks: the state directory must hold no file at all."""
    yield from (f"state: {path}" for path in sorted(directory.rglob("*")) if not path.is_dir())


def left_on_host() -> Iterator[str]:
    for place in (*PLACES, str(SUITE)):
        yield from (f"file: {path}" for path in Path(place).glob(f"{MARK}*"))
    if not Path("/etc/passwd").read_text().startswith("root:"):
        yield "file: /etc/passwd"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            yield f"port: {PORT}"


def left_in(kind: str, directory: Path) -> Iterator[str]:
    # pytest keeps the temporary directories of its last runs itself.
    yield from (f"{kind}: {path}" for path in sorted(directory.iterdir()) if not path.name.startswith("pytest-of-"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="4")
    options, arguments = parser.parse_known_args()

    # Short names: sockets live below some of these, and their paths are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        state, temporary, runtime = (Path(name, part) for part in ("state", "tmp", "run"))
        for directory in (state, temporary, runtime):
            directory.mkdir(mode=0o700)
        environment = {**os.environ, "TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(runtime)}
        argv = [
            sys.executable, str(LEAVES_NOTHING), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            f"--numprocesses={options.workers}", f"--airlock-state-dir={state}", str(SUITE), *arguments,
        ]  # fmt: skip
        status = subprocess.run(argv, cwd=SUITE, env=environment, check=False).returncode
        left = [*left_in_state(state), *left_in("temporary", temporary), *left_in("run-time", runtime), *left_on_host()]
    for line in left:
        print(f"left over: {line}", file=sys.stderr)
    if not left:
        print("left over: no file, no lease, no record, no port")
    return status or int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
