"""All of the soak: 400 dirty tests, 10,000 resets, 200 sandboxes a second for a minute, 200 kills. Each says in one line how it went; the status is 0 only if
nothing was left by any.

python tests/soak/run_all.py [--quick]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = (
    ("run_dirty_suite.py", (), ("-k", "[1] or [2] or [3]")),
    ("run_resets.py", ("--plot", str(HERE.parents[1] / "docs" / "soak.svg")), ("--resets", "500")),
    ("run_rate.py", (), ("--seconds", "5")),
    ("run_kills.py", (), ("--kills", "10")),
)


def main() -> int:
    quick = sys.argv[1:] == ["--quick"]
    if sys.argv[1:] and not quick:
        sys.exit(__doc__)
    statuses = []
    for script, whole, short in PARTS:
        argv = [sys.executable, str(HERE / script), *(short if quick else whole)]
        statuses.append(subprocess.run(argv, check=False).returncode)
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
