"""Run every program under every network policy in real sandboxes, as whoever runs this, and write what came of it:

python tests/programs/run.py --json FILE [--only curl]

Once as root and once as an ordinary user; `table.py` makes docs/network-programs.md of the two files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from answers import HOST, answers
from programs import POLICIES, PROGRAMS, Policy, Program
from sources import GO, JAVA

from pytest_airlock import Sandbox, create_sandbox
from pytest_airlock.errors import CommandTimeout
from pytest_airlock.sandbox import Snapshot

#: Seconds after which a program is given up: far more than any should take.
TIME_OUT = 90
ROUNDS = 3
#: Characters of what a program said that are kept.
SAID = 300
_GO_PATHS = f"{os.environ.get('PATH', '')}:/usr/local/go/bin"

Row = dict[str, object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the file that is written")
    parser.add_argument("--only", default="", help="programs whose name contains this")
    options = parser.parse_args()
    programs = [program for program in PROGRAMS if options.only in program.name]
    with tempfile.TemporaryDirectory() as made:
        built = build(Path(made))
        said = answers(Path(made))
        rows = [row for policy in POLICIES for row in under(policy, programs, built, said)]
    result = {"user": "root" if os.geteuid() == 0 else "ordinary", "machine": machine(), "rows": rows}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def machine() -> dict[str, str]:
    """What the figures depend on, and nothing that tells whose machine it is."""
    release = platform.freedesktop_os_release()
    return {
        "system": release["PRETTY_NAME"],
        "kernel": ".".join(platform.release().split(".")[:2]),
        "processors": str(os.cpu_count()),
        "python": platform.python_version(),
        "busybox": libc(shutil.which("busybox")),
    }


def libc(program: str | None) -> str:
    """Whose resolver a static program has."""
    if program is None:
        return "not installed"
    content = Path(program).read_bytes()
    return "musl" if b"musl" in content else "glibc" if b"glibc" in content else "unknown"


def build(directory: Path) -> list[Path]:
    """Programs that are compiled here, and copied into each sandbox; those whose compiler is not installed are left out."""
    built = []
    go, javac = shutil.which("go", path=_GO_PATHS), shutil.which("javac")
    if go is not None:
        (directory / "main.go").write_text(GO)
        for name, cgo in (("go-static", "0"), ("go-cgo", "1")):
            environ = {**os.environ, "CGO_ENABLED": cgo, "GO111MODULE": "off", "GOTOOLCHAIN": "local"}
            subprocess.run([go, "build", "-o", name, "main.go"], cwd=directory, env=environ, check=True)
            built.append(directory / name)
    if javac is not None:
        (directory / "Fetch.java").write_text(JAVA)
        subprocess.run([javac, "--release", "11", "Fetch.java"], cwd=directory, check=True)
        built.append(directory / "Fetch.class")
    cargo = real_cargo()
    return built if cargo is None else [*built, cargo]


def real_cargo() -> Path | None:
    """The one behind rustup's, which lies in a home that no sandbox sees."""
    rustup = shutil.which("rustup")
    if rustup is None:
        return None
    done = subprocess.run([rustup, "which", "cargo"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def under(policy: Policy, programs: list[Program], built: list[Path], said: dict[str, object]) -> Iterator[Row]:
    with create_sandbox(profile="dev", network=policy.network, source=False, timeout=TIME_OUT) as box:
        for path in built:
            box.copy_in(path, "/usr/local/bin/")
        if policy.served:
            box.network.serve(f"https://{HOST}", said)
            box.network.serve(f"http://{HOST}", said)
        clean = box.snapshot()
        for program in programs:
            if program.about in policy.about:
                row = measured(box, clean, program, policy) if installed(box, program) else {"absent": True}
                print(f"{policy.name}: {program.name}: {row}", file=sys.stderr, flush=True)
                yield {"policy": policy.name, "program": program.name, **row}


def installed(box: Sandbox, program: Program) -> bool:
    kind, _, module = program.needs.partition(": ")
    if module:
        return box.run([kind, "-c", f"import {module}"]).returncode == 0
    return box.run(["sh", "-c", 'command -v "$1" || test -e /usr/local/bin/"$1"', "sh", program.needs]).returncode == 0


def measured(box: Sandbox, clean: Snapshot, program: Program, policy: Policy) -> Row:
    """Several runs, each in the sandbox as it was, and the median of what they took."""
    argv = command(program, policy)
    exits: list[str] = []
    times: list[float] = []
    said = ""
    while len(times) < ROUNDS and "time-out" not in exits:
        box.restore(clean)
        began = time.monotonic()
        try:
            done = box.run(argv, stderr=subprocess.STDOUT)
        except CommandTimeout as error:
            output, code = error.stdout, "time-out"
        else:
            output, code = done.stdout, str(done.returncode)
        times.append(time.monotonic() - began)
        exits.append(code)
        said = line(str(output or ""), program.telling)
    return {
        "exit": "/".join(dict.fromkeys(exits)),
        "said": said,
        "ms": round(statistics.median(times) * 1000, 1),
        "recorded": recorded(box),
    }


def command(program: Program, policy: Policy) -> list[str]:
    secure = program.about == "https"
    port = policy.ports[0 if secure else 1]
    usual = port == (443 if secure else 80)
    url = f"{'https' if secure else 'http'}://{policy.host}{'' if usual else f':{port}'}/"
    words = {"{url}": url, "{host}": policy.host, "{port}": str(port)}
    return [re.sub(r"\{(url|host|port)\}", lambda found: words[found.group()], word) for word in program.argv]


def line(output: str, telling: str) -> str:
    """What says what happened, without what differs each time."""
    lines = [text.strip() for text in output.splitlines() if text.strip()]
    found = [match for match in (re.search(telling, text) for text in lines if telling) if match]
    text = found[0].group() if found else (lines or [""])[-1]
    text = " ".join(text.split())
    text = re.sub(r"after \d+ ms", "after … ms", text)
    return re.sub(r"198\.18\.0\.1:\d+->", "", text)[:SAID]


def recorded(box: Sandbox) -> list[str]:
    """Each attempt once, in order of its first."""
    told = []
    for each in box.network.attempts:
        address = f"[{each.address}]" if ":" in each.address else each.address
        port = "" if each.port is None else f":{each.port}"
        whom = f"{each.protocol} {each.host or address}{port}" if each.question is None else f"dns {each.question}"
        told.append(f"{whom} {each.verdict}")
    return list(dict.fromkeys(told))


if __name__ == "__main__":
    sys.exit(main())
