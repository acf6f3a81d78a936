"""The plugin over the embedded engine: what a user gets, in the forms that the README promises."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def real(project: pytest.Pytester) -> pytest.Pytester:
    """A project that uses the provider of this machine."""
    project.makeconftest("")
    project.makeini("[pytest]\nairlock_provider = namespaces\n")
    return project


def test_the_forms_of_the_readme(real: pytest.Pytester) -> None:
    real.makepyfile("""
        import os
        import pytest

        def test_x(airlock_sandbox):
            done = airlock_sandbox.run(["sh", "-c", "echo $$; echo hello"])
            assert done.returncode == 0
            assert done.stdout.splitlines()[1] == "hello"
            assert airlock_sandbox.info.profile == "cautious"
            assert airlock_sandbox.info.provider == "namespaces"

        @pytest.mark.airlock(cpu=1)
        def test_y(airlock_sandbox):
            assert airlock_sandbox.run(["true"], check=True).returncode == 0
    """)
    result = real.runpytest("--airlock-profile=cautious", "-o", "airlock_unavailable=error")
    result.stdout.fnmatch_lines(["airlock: profile cautious, provider namespaces"])
    result.assert_outcomes(passed=2)


def test_tests_see_nothing_of_each_other(real: pytest.Pytester, workers: tuple[str, ...]) -> None:
    real.makepyfile("""
        import os
        import pytest

        LEAVE = '''
        echo dirt > /usr/local/left; echo dirt > /etc/left; echo dirt > /tmp/left; rm -f /etc/passwd
        (setsid sleep 1000 &)
        '''
        LISTEN = '''
        import os, socket
        server = socket.create_server(("127.0.0.1", 4321))
        if os.fork() == 0:
            os.setsid()
            server.accept()
        '''

        @pytest.mark.parametrize("n", range(8))
        def test_x(airlock_sandbox, n):
            for path in ("/usr/local/left", "/etc/left", "/tmp/left"):
                assert not airlock_sandbox.path(path).exists()
            assert airlock_sandbox.path("/etc/passwd").exists()
            assert "sleep" not in airlock_sandbox.shell("cat /proc/[0-9]*/cmdline").stdout
            airlock_sandbox.shell(LEAVE, check=True)
            # Two of them cannot listen at one port.
            airlock_sandbox.run(["python3", "-c", LISTEN.replace(chr(10) + " " * 8, chr(10))], check=True, timeout=60)
            assert "sleep" in airlock_sandbox.shell("cat /proc/[0-9]*/cmdline").stdout
            assert not os.path.exists("/usr/local/left") and not os.path.exists("/etc/left")
    """)
    real.runpytest_subprocess(*workers).assert_outcomes(passed=8)


def test_four_workers_leave_nothing(real: pytest.Pytester, own_state: Path) -> None:
    real.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(40))
        def test_x(airlock_sandbox, airlock_factory, n):
            assert airlock_sandbox.diff().added == set()
            airlock_sandbox.shell("echo dirt > /etc/left; sleep 1000 &", check=True)
            if n % 10 == 0:
                assert airlock_factory(name=f"own-{n}").run(["hostname"]).returncode == 0
    """)
    real.runpytest_subprocess("-n", "4").assert_outcomes(passed=40)
    assert list(own_state.rglob("*.json")) == []


def test_what_a_diff_says_is_what_was_done(real: pytest.Pytester) -> None:
    real.makepyfile("""
        def test_x(airlock_sandbox):
            airlock_sandbox.shell("echo x > /usr/local/bin/tool; echo y > /etc/tool.conf", check=True)
            assert airlock_sandbox.diff().added == {"/usr/local/bin/tool", "/etc/tool.conf"}
            airlock_sandbox.reset()
            assert not airlock_sandbox.diff().added
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_200_megabytes_of_output(real: pytest.Pytester) -> None:
    real.makepyfile("""
        def test_x(airlock_sandbox):
            done = airlock_sandbox.run(["head", "-c", str(200 * 1024**2), "/dev/zero"], text=False)
            assert done.returncode == 0
            assert len(done.stdout) == 200 * 1024**2
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_output_beyond_the_limit(real: pytest.Pytester) -> None:
    real.makepyfile("""
        import pytest
        from pytest_airlock.errors import OutputLimitExceeded

        def test_x(airlock_sandbox):
            with pytest.raises(OutputLimitExceeded, match="more than 1000 bytes"):
                airlock_sandbox.run(["yes"], max_output=1000)
            assert airlock_sandbox.run(["true"]).returncode == 0
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_binary_output(real: pytest.Pytester) -> None:
    real.makepyfile(r"""
        def test_x(airlock_sandbox):
            every = bytes(range(256))
            assert airlock_sandbox.run(["cat"], input=every, text=False).stdout == every
            done = airlock_sandbox.run(["printf", r"\377\000caf\303\251"])
            assert done.stdout == "\\xff\0caf\u00e9"
            assert done.stdout_bytes == b"\xff\0caf\xc3\xa9"
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_arguments_cross_exactly(real: pytest.Pytester) -> None:
    real.makepyfile(r"""
        def test_x(airlock_sandbox):
            words = ["", " ", "a b", "'", '"', "$(id)", "*", "-n", "two\nlines", "\udcff"]
            done = airlock_sandbox.run(["printf", r"%s\0", *words])
            assert done.stdout_bytes.split(b"\0")[:-1] == [word.encode("utf-8", "surrogateescape") for word in words]
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_a_program_that_is_missing_or_not_executable(real: pytest.Pytester) -> None:
    real.makepyfile("""
        import pytest

        def test_x(airlock_sandbox):
            with pytest.raises(FileNotFoundError):
                airlock_sandbox.run(["no-such-program"])
            airlock_sandbox.path("/tmp/text").write_text("no program")
            with pytest.raises(PermissionError):
                airlock_sandbox.run(["/tmp/text"])
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_a_daemon_that_keeps_its_output_open(real: pytest.Pytester) -> None:
    real.makepyfile("""
        def test_leaves_it(airlock_sandbox):
            done = airlock_sandbox.shell("(trap '' TERM HUP; exec sleep 1000) & echo started")
            assert done.stdout == "started\\n"

        def test_sees_none(airlock_sandbox):
            assert "sleep" not in airlock_sandbox.shell("cat /proc/[0-9]*/cmdline").stdout
    """)
    real.runpytest().assert_outcomes(passed=2)


def test_a_time_out_ends_every_descendant(real: pytest.Pytester) -> None:
    real.makepyfile("""
        import subprocess
        import pytest

        def test_x(airlock_sandbox):
            with pytest.raises(subprocess.TimeoutExpired):
                airlock_sandbox.shell("trap '' TERM; setsid sleep 1000 & sleep 1000", timeout=0.5)
            assert "sleep" not in airlock_sandbox.shell("cat /proc/[0-9]*/cmdline").stdout
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_a_command_that_kills_all_it_can(real: pytest.Pytester) -> None:
    real.makepyfile("""
        from pytest_airlock.errors import SandboxDied

        def test_kills(airlock_sandbox):
            try:
                airlock_sandbox.shell("kill -9 -1; kill -9 1; kill -9 $$")
            except SandboxDied:
                pass

        def test_next(airlock_sandbox):
            assert airlock_sandbox.run(["echo", "alive"]).stdout == "alive\\n"
    """)
    real.runpytest().assert_outcomes(passed=2)


def test_a_fork_bomb_spoils_nothing_for_the_next_test(real: pytest.Pytester) -> None:
    real.makepyfile("""
        import subprocess
        import pytest

        def test_bomb(airlock_sandbox):
            try:
                airlock_sandbox.shell("i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; wait", timeout=2)
            except subprocess.TimeoutExpired:
                pass

        def test_next(airlock_sandbox):
            assert airlock_sandbox.run(["echo", "alive"]).stdout == "alive\\n"
    """)
    real.runpytest().assert_outcomes(passed=2)


def test_the_network_is_locked(real: pytest.Pytester) -> None:
    real.makepyfile("""
        CODE = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=30)"

        def test_x(airlock_sandbox):
            done = airlock_sandbox.run(["python3", "-c", CODE])
            assert done.returncode == 1
            assert "Connection refused" in done.stderr
            (tried,) = airlock_sandbox.network.attempts
            assert (tried.protocol, tried.address, tried.port, tried.verdict) == ("tcp", "192.0.2.1", 80, "refused")
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_outside_of_pytest(real: pytest.Pytester) -> None:
    real.makepyfile(
        script="""
        import pytest_airlock

        with pytest_airlock.create_sandbox(profile="strict", disk="64M") as box:
            print(box.run(["echo", "hello"]).stdout, end="")
        """
    )
    result = real.runpython(real.path / "script.py")
    assert result.outlines == ["hello"], result.stderr.str()


@pytest.mark.parametrize("network", ["'open'", "['example.test:443']", "['10.0.0.0/8:*']"])
def test_a_marker_says_what_is_reached(real: pytest.Pytester, network: str) -> None:
    real.makepyfile(f"""
        import pytest
        from pytest_airlock.models import Network

        @pytest.mark.airlock(profile="dev", network={network})
        def test_x(airlock_sandbox):
            asked = {network}
            mode, allow = (asked, ()) if isinstance(asked, str) else ("allow", tuple(asked))
            assert airlock_sandbox.network.policy == Network(mode=mode, allow=allow)
            airlock_sandbox.reset()
            assert airlock_sandbox.network.policy.mode == mode
    """)
    real.runpytest().assert_outcomes(passed=1)


def test_a_crowd_does_not_make_the_next_one_dearer(real: pytest.Pytester) -> None:
    """What was prepared for the ids of one sandbox goes when others came since, and comes back when it is asked for."""
    real.makepyfile("""
        import os
        from pathlib import Path

        def mounts():
            (server,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            return len(Path(f"/proc/{server}/mountinfo").read_text().splitlines())

        def test_crowd(airlock_factory):
            boxes = [airlock_factory() for _ in range(10)]
            before = mounts()
            boxes += [airlock_factory() for _ in range(10)]
            assert mounts() <= before + 10
            for box in boxes:
                box.run(["touch", "/usr/local/new"], check=True)
                assert box.diff().added == {"/usr/local/new"}
                assert not box.diff().deleted
                box.reset()
                assert not box.diff()
                assert box.run(["ls", "/usr/bin/env"]).returncode == 0
    """)
    real.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_mounted_directory_that_was_replaced_is_the_new_one(real: pytest.Pytester) -> None:
    real.makepyfile("""
        import shutil
        from pytest_airlock import Mount

        def test_x(airlock_factory, tmp_path):
            source = tmp_path / "data"
            source.mkdir()
            (source / "a").write_text("old")
            mounts = [Mount(source=str(source), target="/data", mode="cow")]
            first = airlock_factory(mounts=mounts)
            assert first.run(["cat", "/data/a"]).stdout == "old"
            shutil.rmtree(source)
            source.mkdir()
            (source / "a").write_text("new")
            assert airlock_factory(mounts=mounts).run(["cat", "/data/a"]).stdout == "new"
            first.reset()
            assert first.run(["cat", "/data/a"]).stdout == "new"
    """)
    real.runpytest().assert_outcomes(passed=1)
