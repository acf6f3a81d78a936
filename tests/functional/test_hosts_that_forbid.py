"""Hosts that forbid what the engine needs, simulated by a filter or a sysctl: works another way, or says cause and fix."""

from __future__ import annotations

import errno
import os
import sys

import pytest
from forbidding import run_below

PROBE = """
from pytest_airlock.errors import AirlockError
from pytest_airlock.providers.namespaces import NamespacesProvider

provider = NamespacesProvider()
try:
    found = provider.probe()
except AirlockError as error:
    print(type(error).__name__, error)
else:
    print("works, without", *sorted(found.absent))
finally:
    provider.close()
"""


def probe(refused, *prefix):
    done = run_below(refused, *prefix, sys.executable, "-c", PROBE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_clone3_the_older_clone_serves():
    assert probe([(["clone3"], errno.ENOSYS)]).startswith("works")


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
    assert probe([(["mount_setattr"], errno.EINVAL)]).startswith("works")


@pytest.mark.parametrize("step", ["pivot_root", "mount"])
def test_a_forbidden_mount_step_is_named(step):
    told = probe([([step], errno.EPERM)])
    assert told.startswith(("ProviderUnavailable", "ProviderError", "UnsupportedFeature"))
    assert "hint: " in told


@pytest.mark.parametrize("call", ["landlock_create_ruleset", "close_range", "keyctl", "faccessat2", "statx"])
def test_calls_it_can_do_without(call):
    assert probe([([call], errno.ENOSYS)]).startswith("works")


@pytest.mark.parametrize("call", ["pidfd_open", "open_tree", "move_mount", "openat2"])
@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM])
def test_a_filter_that_does_not_know_newer_calls_is_recognised(call, answer):
    """An old libseccomp answers EPERM or ENOSYS to all that was added after it."""
    told = probe([([call], answer)])
    assert told.startswith("ProviderUnavailable provider 'namespaces' does not work on this host")
    assert "does not know calls of newer kernels" in told
    assert f"{call} failed with {os.strerror(answer)}" in told
    assert "hint: a newer libseccomp" in told


@pytest.mark.parametrize(("call", "answer"), [("sethostname", errno.EPERM), ("signalfd4", errno.ENOSYS)])
def test_any_other_call_that_a_filter_forbids_is_told_with_the_filter(call, answer):
    told = probe([([call], answer)])
    assert told.startswith("ProviderUnavailable")
    assert "a system-call filter is in force on this process" in told
    assert f"{call} failed with" in told
    assert "hint: run outside of it" in told


def test_without_a_proc_of_its_own_there_is_no_sandbox():
    """Something mounted over a part of /proc, as container engines do; in a mount name space of the test's own."""
    script = 'mount -t tmpfs none /proc/scsi 2>/dev/null || mount -t tmpfs none /proc/fs; exec "$@"'
    user = () if os.getuid() == 0 else ("--user", "--map-root-user")
    told = probe([], "unshare", *user, "--mount", "sh", "-c", script, "sh")
    assert told.startswith("ProviderUnavailable")
    assert "parts of /proc are masked" in told
    assert "systempaths=unconfined" in told or "unmask=ALL" in told or "procMount" in told


def without_powers(*powers):
    taken = ",".join(f"-{power}" for power in powers)
    return probe([], "setpriv", f"--bounding-set={taken}", f"--inh-caps={taken}")


@pytest.mark.skipif(os.getuid() != 0, reason="only root has powers to give up some of")
def test_rule14_root_of_a_container_leases_ids_for_its_sandboxes():
    """Docker and podman take CAP_SYS_ADMIN from it, but not what writing an id map takes."""
    told = without_powers("sys_admin")
    assert told.startswith("works")
    assert "many_users" not in told
    assert "mount_rw" in told


@pytest.mark.skipif(os.getuid() != 0, reason="only root has powers to give up some of")
def test_rule14_a_sandbox_is_never_root_of_the_machine():
    """Whom /proc/sys belongs to needs no capability for it, and no limit counts its processes."""
    told = without_powers("sys_admin", "setuid")
    assert told.startswith("ProviderUnavailable")
    assert "sandboxes would be the machine's root" in told
    assert "--user" in told
