"""The fixtures: pristine for each test, shared for a session, made by a factory, gone whatever happens."""

from __future__ import annotations

import pytest


def test_a_test_sees_nothing_of_the_one_before(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(6))
        def test_x(airlock_sandbox, n):
            assert not airlock_sandbox.path("/tmp/left").exists()
            assert airlock_sandbox.run(["touch", "/tmp/left"]).returncode == 0
            assert airlock_sandbox.path("/tmp/left").exists()
    """)
    project.runpytest_subprocess(*workers).assert_outcomes(passed=6)


def test_the_sandbox_is_reset_and_used_again(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from conftest import provider

        def test_one(airlock_sandbox): pass
        def test_two(airlock_sandbox): pass

        def test_one_was_made():
            made = [operation for operation, _ in provider.calls if operation == "create"]
            assert len(made) == 1
            assert [operation for operation, _ in provider.calls if operation == "reset"]
    """)
    project.runpytest().assert_outcomes(passed=3)


def test_a_sandbox_handed_back_is_stale(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest
        from pytest_airlock.errors import StaleSandbox

        kept = []

        def test_one(airlock_sandbox):
            kept.append(airlock_sandbox)

        def test_two(airlock_sandbox):
            assert airlock_sandbox is not kept[0]
            with pytest.raises(StaleSandbox, match="handed back"):
                kept[0].run(["true"])
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_a_session_sandbox_keeps_what_tests_do(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def airlock_spec():
            return {"profile": "strict"}

        def test_one(airlock_session_sandbox):
            airlock_session_sandbox.run(["touch", "/tmp/left"])
            assert airlock_session_sandbox.info.profile == "strict"

        def test_two(airlock_session_sandbox):
            assert airlock_session_sandbox.path("/tmp/left").exists()

        def test_own(airlock_session_sandbox, airlock_sandbox):
            assert airlock_sandbox.name != airlock_session_sandbox.name
            assert not airlock_sandbox.path("/tmp/left").exists()
    """)
    project.runpytest().assert_outcomes(passed=3)


def test_nothing_is_left_at_the_end(project: pytest.Pytester) -> None:
    project.makeconftest(
        project.path.joinpath("conftest.py").read_text()
        + """

def pytest_unconfigure(config):
    print("left over:", provider.names())
"""
    )
    project.makepyfile("""
        def test_all(airlock_sandbox, airlock_session_sandbox, airlock_factory, airlock_session_factory):
            airlock_factory(), airlock_session_factory(name="db")

        def test_fails(airlock_sandbox, airlock_factory):
            airlock_factory()
            raise ValueError
    """)
    result = project.runpytest_subprocess("-s")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["left over: []"])


def test_a_factory_makes_what_it_is_told(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest
        from conftest import provider

        @pytest.mark.airlock(profile="strict", memory="64M", name="ignored")
        def test_many(airlock_factory):
            db = airlock_factory(name="db", memory="32M")
            web = airlock_factory(profile="dev")
            assert db.name == "db"
            assert provider.spec("db").memory == 32 * 1024**2
            assert db.info.profile == "strict"
            assert web.info.profile == "dev"
            assert web.name != db.name and "ignored" not in web.name
            db.run(["touch", "/tmp/x"])
            assert not web.path("/tmp/x").exists()

        def test_all_is_gone():
            assert not [name for name in provider.names() if name == "db"]
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_what_a_factory_made_goes_even_if_one_cannot(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from pytest_airlock.errors import ProviderError
        from conftest import provider

        def test_one(airlock_factory):
            for name in ("a", "b", "c"):
                airlock_factory(name=name)
            provider.faults.fail("delete", ProviderError("fake", "delete", "a disk error"), name="b", times=99)

        def test_the_others_are_gone():
            assert not {"a", "c"} & set(provider.names())
    """)
    result = project.runpytest()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ProviderError*a disk error*"])


def test_a_factory_of_a_test_that_is_over(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        kept = []

        def test_one(airlock_factory):
            kept.append(airlock_factory)

        def test_two():
            with pytest.raises(RuntimeError, match="test of this airlock factory is over"):
                kept[0]()
    """)
    project.runpytest().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("memroy='1G'", "*arguments of the airlock factory: *'memroy'*"),
        ("cpu=0", "*arguments of the airlock factory: cpu=0 is not valid*"),
        ("profile='strickt'", "*profile='strickt' is not valid*"),
        ("name='A_B'", "*name='A_B' is not valid*"),
    ],
)
def test_bad_arguments_of_a_factory(project: pytest.Pytester, arguments: str, line: str) -> None:
    project.makepyfile(f"def test_x(airlock_factory): airlock_factory({arguments})")
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line])


@pytest.mark.parametrize(
    ("value", "line"),
    [("{'memroy': 1}", "*airlock_spec fixture: *'memroy'*"), ("None", "*airlock_spec fixture*not a mapping*")],
)
def test_a_bad_airlock_spec(project: pytest.Pytester, value: str, line: str) -> None:
    project.makepyfile(f"""
        import pytest

        @pytest.fixture(scope="session")
        def airlock_spec():
            return {value}

        def test_x(airlock_sandbox): pass
    """)
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([line])


def test_airlock_spec_is_extended_by_directory(project: pytest.Pytester) -> None:
    (project.mkpydir("sub") / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture(scope='session')\n"
        "def airlock_spec(airlock_spec):\n    return {**airlock_spec, 'env': {'SUB': 'yes'}}\n"
    )
    test = "def test_x(airlock_sandbox):\n    assert ('SUB' in airlock_sandbox.environ) is {}\n"
    (project.path / "sub" / "test_sub.py").write_text(test.format(True))
    (project.path / "test_top.py").write_text(test.format(False))
    project.runpytest().assert_outcomes(passed=2)


def test_unittest_classes(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import unittest
        import pytest

        @pytest.mark.airlock(profile="strict")
        @pytest.mark.usefixtures("airlock_sandbox")
        class TestMarked(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def box(self, request):
                self.box = request.getfixturevalue("airlock_sandbox")

            def test_one(self):
                self.assertFalse(self.box.path("/tmp/x").exists())
                self.box.run(["touch", "/tmp/x"])
                self.assertEqual(self.box.info.profile, "strict")

            def test_two(self):
                self.assertFalse(self.box.path("/tmp/x").exists())
                self.box.run(["touch", "/tmp/x"])
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_async_tests_use_threads(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import asyncio

        def test_async(airlock_sandbox):
            async def main():
                return await asyncio.gather(
                    *(asyncio.to_thread(airlock_sandbox.run, ["echo", str(n)]) for n in range(4))
                )
            assert [done.stdout for done in asyncio.run(main())] == ["0\\n", "1\\n", "2\\n", "3\\n"]
    """)
    project.runpytest().assert_outcomes(passed=1)


def test_parametrised_markers(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.parametrize(
            "profile",
            [pytest.param(name, marks=pytest.mark.airlock(profile=name)) for name in ("strict", "cautious", "dev")],
        )
        def test_x(airlock_sandbox, profile):
            assert airlock_sandbox.info.profile == profile
    """)
    project.runpytest().assert_outcomes(passed=3)


def test_a_name_of_a_marker_serves_many_tests(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.airlock(name="db")
        @pytest.mark.parametrize("n", range(4))
        def test_x(airlock_sandbox, n):
            assert airlock_sandbox.name.startswith("db-")
    """)
    project.runpytest_subprocess(*workers).assert_outcomes(passed=4)


def test_fixtures_lists_them(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--fixtures")
    for name in ("airlock_sandbox", "airlock_factory", "airlock_spec [[]session scope[]]"):
        result.stdout.fnmatch_lines([f"{name} -- *"])
