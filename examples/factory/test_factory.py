"""Two sandboxes in one test: what one builds is installed in another that has never seen the build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytest_airlock import Sandbox


def test_what_is_built_here_runs_there(airlock_factory: Callable[..., Sandbox], tmp_path: Path) -> None:
    builder = airlock_factory(name="builder")
    target = airlock_factory(name="target", profile="strict")

    builder.shell("mkdir -p build/bin && printf '#!/bin/sh\\necho built\\n' > build/bin/app", check=True)
    builder.run(["chmod", "755", "build/bin/app"], check=True)
    builder.run(["tar", "-czf", "/tmp/app.tar.gz", "-C", "build", "."], check=True)

    archive = tmp_path / "app.tar.gz"
    builder.copy_out("/tmp/app.tar.gz", archive)
    target.copy_in(archive, "/tmp/app.tar.gz")
    target.shell("mkdir app && tar -xzf /tmp/app.tar.gz -C app", check=True)

    assert target.run(["./app/bin/app"]).stdout == "built\n"
    assert target.run(["ls"]).stdout == "app\n"  # the build directory stayed where it was
