"""From words to a sandbox and back: the layers of a spec, the hand-out, the end, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_airlock.plugin.attempts import enforce, lent
from pytest_airlock.plugin.factory import SandboxFactory
from pytest_airlock.plugin.markers import marker_layers
from pytest_airlock.plugin.run import RUN, Run

if TYPE_CHECKING:
    from pytest_airlock.models import SandboxSpec
    from pytest_airlock.orchestrator.session import AirlockSession
    from pytest_airlock.sandbox import Sandbox

__all__ = ["factory", "lend", "resolve"]

_Words = Mapping[str, Any]


def resolve(run: Run, item: pytest.Item | None, fixture: _Words, own: _Words | None = None) -> SandboxSpec:
    """The spec of one sandbox: hook > factory arguments (`own`) > markers > airlock_spec > settings.

    Raises InvalidSpec and its kinds, saying which layer is at fault.
    """
    from pytest_airlock.errors import InvalidSpec
    from pytest_airlock.orchestrator.policy.merge import validate_spec

    layers: list[_Words] = []
    if own is not None:
        layers.append(_checked(run, own, "arguments of the airlock factory"))
    if item is not None:
        for words in marker_layers(item):
            if own is not None:
                words.pop("name", None)  # of what a factory makes, only its own argument is the name
            layers.append(words)
    layers.append(_checked(run, fixture, "airlock_spec fixture"))
    layers += run.settings.spec_layers()
    merged = _merge(run, layers)
    changes = run.events.hooks(item).pytest_airlock_modify_spec(spec=dict(merged), item=item)
    if changes:
        layers = [*(_checked(run, words, "pytest_airlock_modify_spec hook") for words in changes), *layers]
        merged = _merge(run, layers)
    if merged.get("profile") is None:
        merged["profile"] = run.default_profile
    where = f"sandbox of {item.nodeid}" if item is not None else "sandbox of the session"
    spec = validate_spec(merged, where=where, known=run.known)
    if spec.profile is not None and (fault := run.exceeds_cap(spec.profile)):
        raise InvalidSpec("profile", spec.profile, fault, hint="choose a stricter profile, or raise the cap")
    return spec


@contextmanager
def lend(config: pytest.Config, item: pytest.Item | None, words: _Words) -> Iterator[Sandbox]:
    """A sandbox for as long as the block lasts; without an item it serves the session."""
    run = config.stash[RUN]
    with run.events.concerning(item), _skipping(run):
        spec = resolve(run, item, words)
        session = run.session
        sandbox = session.acquire(spec, _test_id(item))
    try:
        run.watch_network()
        lent(item, sandbox, spec.network_attempts or "ignore")
        with run.events.concerning(item):
            run.events.ready(sandbox)
        yield sandbox
        if item is None:
            enforce(sandbox, spec.network_attempts or "ignore")
    finally:
        with run.events.concerning(item):
            session.release(sandbox, keep=spec.keep and run.settings.get("keep") != "none")


@contextmanager
def factory(config: pytest.Config, item: pytest.Item | None, words: _Words) -> Iterator[SandboxFactory]:
    """A factory, and at the end of the block the end of all it made, but for what is kept."""
    run = config.stash[RUN]
    made: dict[str, tuple[AirlockSession, SandboxSpec]] = {}

    def make(own: _Words) -> Sandbox:
        with run.events.concerning(item), _skipping(run):
            spec = resolve(run, item, words, own)
            session = run.session
            sandbox = session.create_named(spec, _test_id(item))
            made[sandbox.name] = session, spec
        run.watch_network()
        lent(item, sandbox, spec.network_attempts or "ignore")
        return sandbox

    def ready(sandbox: Sandbox) -> None:
        with run.events.concerning(item):
            run.events.ready(sandbox)

    def end(sandbox: Sandbox) -> None:
        session, spec = made[sandbox.name]
        with run.events.concerning(item):
            try:
                if item is None:
                    enforce(sandbox, spec.network_attempts or "ignore")
            finally:
                session.release(sandbox, keep=_keeps(run, item, spec))

    product = SandboxFactory(make, end, ready)
    try:
        yield product
    finally:
        product.close()


def _keeps(run: Run, item: pytest.Item | None, spec: SandboxSpec) -> bool:
    """Does what a factory made outlive the run? Only what --airlock-keep or the spec asks for, and the profile allows."""
    policy = run.settings.get("keep")
    if policy == "none":
        return False
    asked = policy == "all" or (run.outcomes is not None and run.outcomes.failed(item))
    return spec.keep or (asked and run.profiles.get(str(spec.profile)).outlive)


@contextmanager
def _skipping(run: Run) -> Iterator[None]:
    """Skip the test instead of raising, where the settings say so."""
    from pytest_airlock.errors import InsufficientResources, ProviderUnavailable, UnsupportedFeature

    __tracebackhide__ = True
    try:
        yield
    except InsufficientResources as error:
        if run.settings.get("insufficient") == "skip":
            pytest.skip(str(error))
        raise
    except (ProviderUnavailable, UnsupportedFeature) as error:
        if run.settings.get("unavailable") == "skip":
            pytest.skip(str(error))
        raise


def _merge(run: Run, layers: Sequence[_Words]) -> dict[str, object]:
    from pytest_airlock.orchestrator.policy.merge import merge_layers

    return merge_layers(layers, profiles=run.profiles, default_profile=run.default_profile)


def _checked(run: Run, words: object, where: str) -> _Words:
    """`words` if they are good by themselves, so that an error names who said them."""
    from pytest_airlock.errors import InvalidSpec
    from pytest_airlock.orchestrator.policy.merge import validate_spec

    if not isinstance(words, Mapping):
        raise InvalidSpec(where, words, "it is not a mapping of words to values", hint='for example {"cpu": 2}')
    if words:
        validate_spec(words, where=where, known=run.known)
    return words


def _test_id(item: pytest.Item | None) -> str:
    return item.nodeid if item is not None else "session"
