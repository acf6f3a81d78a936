"""Hosts that forbid what the engine needs, simulated by a filter or a sysctl: works another way, or says cause and fix."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from pytest_airlock.providers.namespaces.engine.syscall_table import NUMBERS

PROBE = """
import json, struct, sys
from pytest_airlock.errors import AirlockError
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.engine import syscalls

refused = json.loads(sys.argv[1])
code = [struct.pack("=HBBI", 0x20, 0, 0, 0)]
for number, answer in refused:
    code += [struct.pack("=HBBI", 0x15, 0, 1, number), struct.pack("=HBBI", 0x06, 0, 0, 0x50000 | answer)]
code.append(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
if refused:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.seccomp(b"".join(code))
provider = NamespacesProvider()
try:
    provider.probe()
except AirlockError as error:
    print(type(error).__name__, error)
else:
    print("works")
finally:
    provider.close()
"""


def numbers(*names):
    return [NUMBERS[os.uname().machine][name] for name in names]


def probe(refused, *prefix):
    pairs = [[number, answer] for names, answer in refused for number in numbers(*names)]
    done = subprocess.run(
        [*prefix, sys.executable, "-c", PROBE, str(pairs)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_clone3_the_older_clone_serves():
    assert probe([(["clone3"], errno.ENOSYS)]) == "works"


def test_a_filter_that_forbids_name_spaces_is_recognised_and_the_fix_named():
    told = probe([(["clone3"], errno.ENOSYS), (["unshare"], errno.EPERM)])
    assert told.startswith("ProviderUnavailable provider 'namespaces' does not work on this host")
    assert "unshare failed with Operation not permitted" in told
    assert "filter" in told
    assert "hint: " in told


def test_no_more_user_name_spaces_is_told_with_the_sysctl():
    """user.max_user_namespaces=0, set in a user name space of the test's own: the host's is not touched."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    told = probe([], "unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    assert told.startswith("ProviderUnavailable")
    assert "user.max_user_namespaces is 0" in told
    assert "sysctl -w user.max_user_namespaces" in told


def test_without_idmapped_mounts_own_directories_stand_in():
    assert probe([(["mount_setattr"], errno.EINVAL)]) == "works"


@pytest.mark.parametrize("step", ["pivot_root", "mount"])
def test_a_forbidden_mount_step_is_named(step):
    told = probe([([step], errno.EPERM)])
    assert told.startswith(("ProviderUnavailable", "ProviderError", "UnsupportedFeature"))
    assert "hint: " in told
