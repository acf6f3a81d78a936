"""The state of one pytest process: settings, registries, the session that makes sandboxes, and what there is to say.

Everything beyond pytest and the standard library is imported where it is first needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

import pytest

from pytest_airlock.plugin.settings import Settings

if TYPE_CHECKING:
    from pytest_airlock.orchestrator.contracts import Insufficient
    from pytest_airlock.orchestrator.policy.detection import RuntimeDetector
    from pytest_airlock.orchestrator.policy.profiles import ProfileRegistry
    from pytest_airlock.orchestrator.providers import ProviderRegistry
    from pytest_airlock.orchestrator.session import AirlockSession
    from pytest_airlock.plugin.events import Events, Outcomes

__all__ = ["RUN", "Run"]

_FIXTURES = frozenset({"airlock_sandbox", "airlock_factory", "airlock_session_sandbox", "airlock_session_factory"})


class Run:
    """One per process (each xdist worker has its own), kept in the configuration's stash."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        given: dict[str, str] = getattr(config, "workerinput", {})  # what xdist tells its workers
        self.is_worker = bool(given)
        self.worker = given.get("workerid", "main")
        # One id for all processes of a run; the controller of xdist makes no sandbox, so it needs none.
        self.run_id = given.get("testrunuid") or os.urandom(16).hex()
        self.outcomes: Outcomes | None = None
        self._messages: dict[str, None] = {}
        self._session: AirlockSession | None = None
        #: What is wrong with settings and markers of the selected tests.
        self.faults: list[str] = []
        #: Something was left over that should be gone: a run of passed tests fails, too.
        self.failed = False
        # A child that a test forks inherits this object; what it holds belongs to the parent.
        self._pid = os.getpid()

    def watch(self) -> None:
        """From now on `outcomes` knows which tests failed."""
        from pytest_airlock.plugin.events import Outcomes

        self.outcomes = Outcomes()
        self.config.pluginmanager.register(self.outcomes, "airlock-outcomes")

    def watch_network(self) -> None:
        """From now on what tests tried over the network is told, and fails them where it is forbidden."""
        from pytest_airlock.plugin.attempts import Watcher

        if not self.config.pluginmanager.has_plugin("airlock-network"):
            self.config.pluginmanager.register(Watcher(), "airlock-network")

    @property
    def messages(self) -> list[str]:
        """What the terminal summary tells, each text once."""
        return list(self._messages)

    def say(self, *messages: str) -> None:
        for message in messages:
            # Names in them may come from other people's records: nothing may steer the terminal.
            shown = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in message)
            self._messages.setdefault(shown)

    # What there is to choose from

    @cached_property
    def events(self) -> Events:
        from pytest_airlock.plugin.events import Events

        return Events(self.config)

    @cached_property
    def profiles(self) -> ProfileRegistry:
        """The built-in profiles, those of hooks and those of the configuration file. Raises ConfigError, InvalidSpec."""
        from pytest_airlock.orchestrator.policy.profiles import ProfileRegistry

        registry = ProfileRegistry()
        self.config.hook.pytest_airlock_register_profiles(profiles=registry)
        if self.settings.file is not None:
            self.settings.file.add_profiles(registry)
        return registry

    @cached_property
    def providers(self) -> ProviderRegistry:
        from pytest_airlock.orchestrator.providers import ProviderRegistry

        registry = ProviderRegistry()
        self.config.hook.pytest_airlock_register_providers(providers=registry)
        return registry

    @cached_property
    def detectors(self) -> RuntimeDetector:
        from pytest_airlock.orchestrator.policy.detection import RuntimeDetector

        detectors = RuntimeDetector()
        self.config.hook.pytest_airlock_register_detectors(detectors=detectors)
        return detectors

    @property
    def known(self) -> dict[str, Sequence[str]]:
        """The words that profile=, provider= and runtime= may have."""
        return {
            "profile": self.profiles.names(),
            "provider": ["auto", *self.providers.names()],
            "runtime": ["auto", *self.detectors.names()],
        }

    @cached_property
    def default_profile(self) -> str:
        """The built-in one, or the cap if that is stricter: nobody chose it, so it is no fault that it exceeds the cap."""
        from pytest_airlock.orchestrator.policy.profiles import DEFAULT_PROFILE

        cap = self.settings.get("max_profile")
        return cap if cap is not None and self.exceeds_cap(DEFAULT_PROFILE) else DEFAULT_PROFILE

    def exceeds_cap(self, profile: str) -> str:
        """Why a known profile is laxer than --airlock-max-profile allows; empty if it is not."""
        cap, origin, key = self.settings.find("max_profile")
        if cap is None or self.profiles.get(profile).rank <= self.profiles.get(cap).rank:
            return ""
        return f"profile {profile!r} is less strict than {cap!r}, the most that {key} ({origin}) allows"

    def check(self, items: Sequence[pytest.Item]) -> list[str]:
        """`faults`, found; quick if no selected test uses a sandbox."""
        if self.settings.asked or any(map(_is_user, items)):
            self.faults = self._find_faults(items)
        return self.faults

    def _find_faults(self, items: Sequence[pytest.Item]) -> list[str]:
        from pytest_airlock.errors import AirlockError
        from pytest_airlock.plugin.markers import marker_faults

        try:
            faults = list(self._setting_faults())
            return faults or list(marker_faults(items, self))
        except AirlockError as error:  # a profile or provider that cannot be registered
            return [str(error)]

    def _setting_faults(self) -> Iterator[str]:
        from pytest_airlock.errors import ConfigError, UnknownName
        from pytest_airlock.orchestrator.policy.merge import nearest_word

        for word, kind in (("max_profile", "profile"), ("profile", "profile"), ("provider", "provider")):
            value, origin, key = self.settings.find(word)
            if value is None:
                continue
            if value not in (known := self.known[kind]):
                unknown = UnknownName(kind, value, known, nearest=nearest_word(value, known))
                yield str(ConfigError(origin, f"there is no {kind} {value!r}", key=key, hint=unknown.hint))
                if word == "max_profile":
                    return  # nothing can be compared with it
            elif word == "profile" and (fault := self.exceeds_cap(value)):
                yield str(ConfigError(origin, fault, key=key, hint="choose a stricter profile, or raise the cap"))

    # The session

    @property
    def session(self) -> AirlockSession:
        """Made at first use; anew in a child made by fork, which must not use its parent's sandboxes."""
        if self._session is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._session = self._open()
        return self._session

    def _open(self) -> AirlockSession:
        from pytest_airlock.orchestrator.assembly import Setup
        from pytest_airlock.orchestrator.session import AirlockSession

        settings = self.settings
        setup = Setup(
            state_dir=settings.state_dir,
            run_id=self.run_id,
            worker=self.worker,
            project_root=self.config.rootpath,
            inipath=self.config.inipath,
            default_profile=self.default_profile,
            max_profile=settings.get("max_profile"),
            insufficient=cast("Insufficient", settings.get("insufficient")),
            wait=settings.wait,
            refresh=self.config.getoption("airlock_refresh"),
            say=self.say,
            profiles=self.profiles,
            providers=self.providers,
            detector=self.detectors,
        )
        return AirlockSession(setup, listener=self.events)

    def close(self) -> None:
        """End the session, once; a forked child leaves its parent's alone. What cannot be ended fails the run."""
        session, self._session = self._session, None
        if session is None or self._pid != os.getpid():
            return
        try:
            session.close()
        except Exception as error:  # noqa: BLE001 - here a traceback would hide the results of the tests
            self.failed = True
            self.say(f"at the end of the run: {type(error).__name__}: {error}", *getattr(error, "__notes__", ()))


def _is_user(item: pytest.Item) -> bool:
    if not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return True
    return item.get_closest_marker("airlock") is not None


RUN = pytest.StashKey[Run]()
