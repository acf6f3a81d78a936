"""Packages of the system, installed in a sandbox: as root and as an ordinary user, whose image is a stranger's."""

from __future__ import annotations

import pytest

#: Where this machine has no dpkg there is no database either, and nothing to install with.
INSTALL = """
set -eu
for file in lock lock-frontend status diversions triggers/Lock; do
    if [ -e /var/lib/dpkg/$file ]; then
        : >>/var/lib/dpkg/$file
        ln /var/lib/dpkg/$file /var/lib/dpkg/$file.link
        rm /var/lib/dpkg/$file.link
    fi
done
if [ -d /var/lib/apt/lists/partial ]; then
    rm -f /var/lib/apt/lists/partial/none
    : >/var/lib/apt/lists/partial/some
    rm /var/lib/apt/lists/partial/some
fi
command -v dpkg-deb >/dev/null || exit 0
mkdir -p /tmp/tool/DEBIAN /tmp/tool/usr/bin
cat >/tmp/tool/DEBIAN/control <<END
Package: airlock-tool
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@example.test>
Description: a program
END
printf '#!/bin/sh\\necho from a package\\n' >/tmp/tool/usr/bin/airlock-tool
chmod 755 /tmp/tool/usr/bin/airlock-tool
dpkg-deb --build /tmp/tool /tmp/tool.deb >/dev/null
dpkg -i /tmp/tool.deb >/dev/null
airlock-tool | grep -q 'from a package'
dpkg --remove airlock-tool >/dev/null
! test -e /usr/bin/airlock-tool
apt-get install -y /tmp/tool.deb >/dev/null
airlock-tool | grep -q 'from a package'
"""


def test_a_package_is_installed_and_removed(project: pytest.Pytester) -> None:
    project.makeconftest("")
    project.makeini("[pytest]\nairlock_provider = namespaces\n")
    project.makepyfile(f"""
        import os

        SCRIPT = {INSTALL!r}

        def test_x(airlock_sandbox):
            airlock_sandbox.shell(SCRIPT, check=True, timeout=120)
            assert not os.path.exists("/usr/bin/airlock-tool")

        def test_the_next_has_none_of_it(airlock_sandbox):
            assert not airlock_sandbox.path("/usr/bin/airlock-tool").exists()
    """)
    project.runpytest().assert_outcomes(passed=2)
