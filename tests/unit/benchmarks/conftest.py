"""The benchmarks are scripts beside each other, no package."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: their short names must not stand before anybody's.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
