"""Where things are, and an environment with the built wheel in it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def clean_environment() -> dict[str, str]:
    """Nothing that leads back to the checkout, or to the environment that these tests run in."""
    dropped = ("PYTHON", "COVERAGE", "VIRTUAL_ENV", "PYTEST", "TOX", "AIRLOCK")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the built wheel in it, and a directory outside the checkout to work in."""

    prefix: Path
    home: Path

    @property
    def python(self) -> str:
        return str(self.prefix / "bin" / "python")

    def run(self, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the environment's python; the streams are shown by pytest if the test fails."""
        done = subprocess.run(
            [self.python, *argv],
            cwd=cwd or self.home,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.args, done.stdout, done.stderr, sep="\n")
        return done
