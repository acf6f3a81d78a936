"""A spec and its profile to a plan: defaults fill, limits bind, what conflicts is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_airlock.errors import (
    InvalidName,
    InvalidSpec,
    MountForbidden,
    ProfileForbids,
    ProvisionForbidden,
    UnknownName,
)
from pytest_airlock.models import DEFAULT_DISK, DEFAULT_TIMEOUT, Network, SandboxSpec
from pytest_airlock.orchestrator.contracts import Need
from pytest_airlock.orchestrator.policy.detection import RuntimeDetector
from pytest_airlock.orchestrator.policy.mounts import HostMountRules
from pytest_airlock.orchestrator.policy.planning import is_project, plan
from pytest_airlock.orchestrator.policy.profiles import ProfileRegistry
from pytest_airlock.providers.base import FEATURES, ResolvedMount

ISOLATION = {"network_locked", "syscall_filter", "private_proc"}


class Host:
    """A project with a pyproject.toml, a directory of data, a home, and the collaborators of plan()."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        for name in ("project/tests", "data", "home/ann"):
            (self.root / name).mkdir(parents=True)
        self.project = self.root / "project"
        (self.project / "pyproject.toml").write_text('[project]\nname = "x"\n')
        self.data = self.root / "data"
        self.profiles = ProfileRegistry()
        self.rules = HostMountRules(homes=[self.root / "home/ann"], home_parents=[], environ={})

    def plan(self, name="box", options=None, **spec):
        given = {"project_root": self.project, "environ": {}, **(options or {})}
        return plan(
            SandboxSpec(**spec),
            profiles=self.profiles,
            mount_rules=self.rules,
            detector=RuntimeDetector(),
            name=name,
            **given,
        )

    def key(self, options=None, **spec):
        return self.plan(options=options, **spec).key


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_r11_nothing_set_is_cautious_locked_and_leaves_the_host_alone(host):
    planned = host.plan()
    assert planned.profile.name == "cautious"
    assert planned.network == Network(mode="locked")
    assert planned.provider_spec.mounts == (ResolvedMount(str(host.project), str(host.project), "cow", project=True),)
    assert planned.provider_spec.cwd == str(host.project)
    assert planned.provider_spec.user == "root"
    assert planned.provider_spec.env == ()
    assert planned.provider_spec.nested is False
    assert planned.provider_spec.required == ISOLATION | {"user_root", "mount_cow"}
    assert planned.provision == ()
    assert planned.provision_network is None
    assert planned.notes == ()
    assert planned.provider_name == "auto"


def test_r27_a_spec_without_resources_has_the_defaults_as_wishes(host):
    planned = host.plan()
    made = planned.provider_spec
    assert (made.cpu, made.memory, made.disk, planned.timeout) == (None, None, DEFAULT_DISK, DEFAULT_TIMEOUT)
    assert planned.need == Need("box", None, None, None)
    assert not made.required & {"cpu", "memory", "disk"}


def test_r27_a_profiles_resources_are_wishes_what_is_set_is_required(host):
    host.profiles.extend("small", "cautious", cpu=1, memory="64M", disk="32M")
    wished = host.plan(profile="small")
    assert (wished.provider_spec.cpu, wished.provider_spec.memory, wished.provider_spec.disk) == (1, 64 << 20, 32 << 20)
    assert wished.need == Need("box")
    assert not wished.provider_spec.required & {"cpu", "memory", "disk"}
    asked = host.plan(profile="small", cpu=2, memory="1G", disk="1G", timeout=5)
    assert asked.need == Need("box", 2, 1 << 30, 1 << 30)
    assert asked.provider_spec.required >= {"cpu", "memory", "disk"}
    assert (asked.provider_spec.cpu, asked.timeout) == (2, 5)


def test_every_required_word_is_a_feature(host):
    every = host.plan(
        profile="trusted",
        options={"environ": {}},
        cpu=1,
        memory=1 << 20,
        disk=1 << 20,
        address_space=1 << 30,
        nesting=True,
        ports=[80],
        network="host",
        image="host",
        mounts=[f"{host.data}:/a:ro", f"{host.data}:/b:cow", f"{host.data}:/c:rw"],
    )
    assert every.provider_spec.required <= set(FEATURES)
    assert every.provider_spec.required >= {"ports", "network_host", "image_host", "mount_ro", "mount_cow", "mount_rw"}


@pytest.mark.parametrize("profile", ["dev", "trusted"])
@pytest.mark.parametrize("nesting", [True, False, None])
def test_name_spaces_inside_are_for_who_asks_for_them(host, profile, nesting):
    made = host.plan(profile=profile, nesting=nesting).provider_spec
    assert made.nested == bool(nesting)
    assert ("nested" in made.required) == bool(nesting)


def test_an_address_space_is_required_under_its_own_name(host):
    made = host.plan(address_space="1G").provider_spec
    assert (made.address_space, made.memory) == (1 << 30, None)
    assert "address_space" in made.required
    assert "memory" not in made.required


class TestProfileLimits:
    @pytest.mark.parametrize(
        ("profile", "spec", "text"),
        [
            ("strict", {"network": "open"}, "network mode 'open'"),
            ("cautious", {"network": "open"}, "network mode 'open'"),
            ("cautious", {"network": ["pypi.org:443"]}, "network mode 'allow'"),
            ("dev", {"network": "host"}, "network mode 'host'"),
            ("strict", {"user": "root"}, "user='root'"),
            ("strict", {"mounts": ["{data}"]}, "host mounts"),
            ("strict", {"source": "{data}"}, "showing the project"),
            ("cautious", {"mounts": ["{data}:rw"]}, "mount mode 'rw'"),
            ("strict", {"keep": True}, "keep=True"),
            ("strict", {"nesting": True}, "nesting=True"),
            ("cautious", {"nesting": True}, "nesting=True"),
            ("cautious", {"keep": True}, "keep=True"),
            ("dev", {"keep": True}, "keep=True"),
        ],
    )
    def test_r14_what_the_profile_excludes_is_refused(self, host, profile, spec, text):
        def filled(value):
            return value.format(data=host.data) if isinstance(value, str) else value

        spec = {
            key: [filled(item) for item in value] if isinstance(value, list) else filled(value)
            for key, value in spec.items()
        }
        with pytest.raises(ProfileForbids) as caught:
            host.plan(profile=profile, **spec)
        assert caught.value.asked.startswith(text)
        assert caught.value.hint

    def test_r14_strict_is_an_ordinary_user_without_project_and_says_so(self, host):
        planned = host.plan(profile="strict")
        assert planned.provider_spec.mounts == ()
        assert planned.provider_spec.cwd is None
        assert planned.provider_spec.required == ISOLATION | {"user_ordinary", "groups_dropped"}
        assert planned.runtime is None
        (note,) = planned.notes
        assert "'strict' shows no project" in note
        assert "wheel" in note

    def test_r14_dev_shares_the_project_and_says_so(self, host):
        planned = host.plan(profile="dev")
        assert planned.provider_spec.mounts[0].mode == "rw"
        assert planned.provider_spec.nested is False
        assert planned.notes == (f"read-write on the host, outside reset, snapshot and diff: {host.project}",)

    def test_an_open_network_is_required_only_if_somebody_asked_for_it(self, host):
        assert host.plan(profile="dev").network.mode == "open"
        assert "network_open" not in host.plan(profile="dev").provider_spec.required
        assert "network_open" in host.plan(profile="dev", network="open").provider_spec.required
        locked = host.plan(profile="dev", network="locked")
        assert (locked.network.mode, "network_locked" in locked.provider_spec.required) == ("locked", True)

    def test_trusted_may_keep(self, host):
        assert host.plan(profile="trusted", keep=True).spec.keep is True

    def test_an_ordinary_user_can_be_asked_for(self, host):
        planned = host.plan(user="airlock")
        assert planned.provider_spec.user == "airlock"
        assert "user_ordinary" in planned.provider_spec.required

    def test_the_default_profile_is_that_of_the_caller(self, host):
        assert host.plan(options={"default_profile": "strict"}).profile.name == "strict"
        assert host.plan(options={"default_profile": "strict"}, profile="dev").profile.name == "dev"

    def test_an_unknown_profile_lists_the_known(self, host):
        with pytest.raises(UnknownName, match="cautious, dev, strict, trusted"):
            host.plan(profile="lax")

    @pytest.mark.parametrize(
        ("chosen", "limit", "fits"),
        [("dev", "dev", 1), ("strict", "dev", 1), ("trusted", "dev", 0), ("dev", "cautious", 0)],
    )
    def test_r14_the_laxest_profile_is_capped(self, host, chosen, limit, fits):
        if fits:
            assert host.plan(options={"max_profile": limit}, profile=chosen).profile.name == chosen
        else:
            with pytest.raises(ProfileForbids, match="--airlock-max-profile"):
                host.plan(options={"max_profile": limit}, profile=chosen)

    def test_r14_a_users_profile_is_capped_by_what_it_grants(self, host):
        host.profiles.extend("harmless", "strict", network_allowed=["locked", "host"])
        with pytest.raises(ProfileForbids):
            host.plan(options={"max_profile": "dev"}, profile="harmless")


class TestProject:
    @pytest.mark.parametrize("name", ["pyproject.toml", "pytest.ini", "tox.ini", ".git", ".hg"])
    def test_what_makes_a_directory_a_project(self, tmp_path, name):
        assert not is_project(tmp_path)
        (tmp_path / name).touch()
        assert is_project(tmp_path)

    def test_an_ini_file_of_any_name_makes_one(self, tmp_path):
        assert is_project(tmp_path, tmp_path / "own.ini")
        assert not is_project(tmp_path, tmp_path.parent / "own.ini")

    def test_a_root_that_is_no_project_is_not_shown_and_it_is_said(self, host):
        planned = host.plan(options={"project_root": host.data})
        assert planned.provider_spec.mounts == ()
        assert "no project is visible inside" in planned.notes[0]

    def test_r41_a_root_that_the_rules_refuse_is_not_shown_and_it_is_said_why(self, host):
        home = host.root / "home/ann"
        (home / ".git").mkdir()
        planned = host.plan(options={"project_root": home})
        assert planned.provider_spec.mounts == ()
        assert "it is a home" in planned.notes[0]

    def test_r41_a_source_that_the_rules_refuse_is_an_error(self, host):
        with pytest.raises(MountForbidden):
            host.plan(source=str(host.root / "home/ann"))

    def test_source_overrides_relative_to_the_root(self, host):
        for source in (str(host.data), "../data", "../data/."):
            (mount,) = host.plan(source=source).provider_spec.mounts
            assert (mount.source, mount.project) == (str(host.data), True)

    def test_source_false_shows_none_and_says_nothing(self, host):
        planned = host.plan(source=False)
        assert (planned.provider_spec.mounts, planned.provider_spec.cwd, planned.notes) == ((), None, ())
        assert host.plan(profile="strict", source=False).notes == ()

    def test_without_a_root_there_is_none(self, host):
        assert host.plan(options={"project_root": None}).provider_spec.mounts == ()

    def test_expose_is_relative_to_the_project(self, host):
        assert host.plan(expose=["b", "./.env", "b"]).provider_spec.expose == (".env", "b")
        for path in ("/etc", "../x", "a/../../x", "", "a\0"):
            with pytest.raises(InvalidSpec, match="relative to the project"):
                host.plan(expose=[path])
        with pytest.raises(InvalidSpec, match="nothing to expose"):
            host.plan(expose=[".env"], source=False)


class TestMounts:
    def test_mounts_come_parents_first_beside_the_project(self, host):
        planned = host.plan(mounts=[f"{host.data}:/z/a", f"{host.data}:/z", f"{host.data}:/a:cow"])
        targets = [mount.target for mount in planned.provider_spec.mounts]
        assert targets == sorted(["/a", "/z", "/z/a", str(host.project)])
        assert planned.provider_spec.required >= {"mount_ro", "mount_cow"}

    def test_a_relative_source_starts_at_the_root(self, host):
        mounts = host.plan(mounts=["tests:/t"]).provider_spec.mounts
        assert f"{host.project}/tests" in {mount.source for mount in mounts}

    @pytest.mark.parametrize("mounts", [["{data}:/x", "{project}:/x/"], ["{data}:{project}"], ["{project}"]])
    def test_two_mounts_at_one_place_are_an_error(self, host, mounts):
        mounts = [text.format(data=host.data, project=host.project) for text in mounts]
        with pytest.raises(InvalidSpec, match="already"):
            host.plan(mounts=mounts)

    @pytest.mark.parametrize("source", ["/etc", "none", "", "../home/ann"])
    def test_r41_a_sensitive_or_missing_mount_is_an_error(self, host, source):
        with pytest.raises(InvalidSpec):
            host.plan(mounts=[{"source": source, "target": "/x"}])


class TestEnvironment:
    def test_nothing_of_the_host_crosses(self, host):
        assert host.plan(options={"environ": {"SECRET": "x"}}).provider_spec.env == ()

    def test_a_profile_passes_what_it_names_the_spec_wins_and_names_are_sorted(self, host):
        host.profiles.extend("ci", "cautious", pass_env=["CI", "LANG", "NONE"])
        planned = host.plan(
            options={"environ": {"CI": "1", "LANG": "C", "X": "y"}}, profile="ci", env={"LANG": "de", "A": "b"}
        )
        assert planned.provider_spec.env == (("A", "b"), ("CI", "1"), ("LANG", "de"))

    def test_the_hosts_environment_is_asked_by_default(self, host, monkeypatch):
        monkeypatch.setenv("AIRLOCK_TEST_WORD", "here")
        host.profiles.extend("ci", "cautious", pass_env=["AIRLOCK_TEST_WORD"])
        planned = host.plan(options={"environ": None}, profile="ci")
        assert planned.provider_spec.env == (("AIRLOCK_TEST_WORD", "here"),)


class TestNetwork:
    def test_an_allow_list_is_required_of_the_provider(self, host):
        planned = host.plan(profile="dev", network=["pypi.org:443"])
        assert planned.network == Network(mode="allow", allow=("pypi.org:443",))
        assert "network_allow" in planned.provider_spec.required

    @pytest.mark.parametrize("network", [{"mode": "locked", "allow": ["a:1"]}, {"mode": "host", "allow": ["a:1"]}, []])
    def test_a_list_without_its_mode_or_a_mode_without_its_list_is_an_error(self, host, network):
        with pytest.raises(InvalidSpec, match=r"network\.allow"):
            host.plan(profile="trusted", network=network)

    def test_an_open_network_may_reach_listed_private_addresses_too(self, host):
        planned = host.plan(profile="dev", network={"mode": "open", "allow": ["10.0.0.5:5432"]})
        assert planned.network == Network(mode="open", allow=("10.0.0.5:5432",))
        assert planned.provider_spec.required >= {"network_open", "network_allow"}

    def test_r14_it_takes_a_profile_with_both(self, host):
        host.profiles.extend("half", "dev", network_allowed=["locked", "open"])
        assert host.plan(profile="half", network="open").network.mode == "open"
        with pytest.raises(ProfileForbids, match="network mode 'allow'"):
            host.plan(profile="half", network={"mode": "open", "allow": ["10.0.0.5:5432"]})


class TestProvisioning:
    def test_r15_commands_become_argv_in_order_and_run_locked(self, host):
        planned = host.plan(provision=["make all", ["touch", "a b"]])
        assert planned.provision == (("/bin/sh", "-c", "make all"), ("touch", "a b"))
        assert planned.provision_network is None

    def test_an_open_sandbox_is_provisioned_open(self, host):
        assert host.plan(profile="dev", provision=["true"]).provision_network == Network(mode="open")
        assert host.plan(profile="dev").provision_network is None

    def test_r42_text_outside_the_list_is_refused(self, host):
        with pytest.raises(ProvisionForbidden):
            host.plan(provision=["curl x | sh"])

    def test_r13_detection_informs_and_installs_nothing(self, host):
        planned = host.plan()
        assert planned.runtime.runtime == "python"
        assert planned.provision == ()

    @pytest.mark.parametrize("runtime", ["auto", "python"])
    def test_r13_a_runtime_installs_before_all_other_commands(self, host, runtime):
        planned = host.plan(runtime=runtime, provision=["make"])
        assert planned.provision == (("python", "-m", "pip", "install", "."), ("/bin/sh", "-c", "make"))

    def test_r13_an_explicit_runtime_wins(self, host):
        planned = host.plan(runtime="go")
        assert (planned.runtime.runtime, planned.provision) == ("go", (("go", "mod", "download"),))

    def test_r13_auto_without_evidence_is_an_error(self, host):
        with pytest.raises(InvalidSpec, match=r"nothing in .* tells"):
            host.plan(runtime="auto", source=str(host.data))

    def test_r13_an_unknown_runtime_is_an_error(self, host):
        with pytest.raises(UnknownName, match="did you mean 'python'"):
            host.plan(runtime="pythn")

    @pytest.mark.parametrize("spec", [{"source": False}, {"profile": "strict"}])
    def test_a_runtime_without_a_project_is_an_error(self, host, spec):
        with pytest.raises(InvalidSpec, match="no project is visible"):
            host.plan(runtime="python", **spec)


class TestImage:
    def test_words_are_the_providers(self, host):
        assert host.plan(image="debian:12").provider_spec.image == "debian:12"
        assert host.plan(image="debian:12").provider_spec.required == host.plan().provider_spec.required
        assert "image_host" in host.plan(image="host").provider_spec.required

    def test_r41_a_path_is_checked_and_resolved(self, host):
        for image in (str(host.data), "../data", f"{host.data}/../data"):
            made = host.plan(image=image).provider_spec
            assert made.image == str(host.data)
            assert "image_rootfs" in made.required

    @pytest.mark.parametrize("image", ["/", "/etc", "/no/such", "../home/ann", "~root/.ssh", "", "a\0b"])
    def test_r41_a_sensitive_or_missing_image_is_an_error(self, host, image):
        with pytest.raises(InvalidSpec, match="image="):
            host.plan(image=image)


class TestName:
    def test_r45_the_name_is_checked_against_the_providers_limit(self, host):
        with pytest.raises(InvalidName):
            host.plan(name="../x")
        with pytest.raises(InvalidName):
            host.plan(name="abcdef", options={"name_limit": 5})
        assert host.plan(name="abcde", options={"name_limit": 5}).provider_spec.name == "abcde"


class TestKey:
    def test_the_key_is_all_but_name_and_time_out(self, host):
        keys = {
            host.key(),
            host.key(timeout=3),
            host.key(name="other"),
            host.plan(name="third").key,
            host.key(profile="cautious"),
            host.key(network="locked"),
            host.key(user="root"),
            host.key(env={}, mounts=[]),
            host.key(source="."),
        }
        assert len(keys) == 1

    def test_any_other_difference_is_another_key(self, host):
        host.profiles.extend("small", "cautious", cpu=1)
        differences = [
            {},
            {"cpu": 1},
            {"memory": 1 << 20},
            {"disk": DEFAULT_DISK},
            {"address_space": 1 << 30},
            {"env": {"A": "1"}},
            {"env": {"A": "2"}},
            {"mounts": [f"{host.data}:/a"]},
            {"mounts": [f"{host.data}:/a:cow"]},
            {"mounts": [f"{host.data}:/b"]},
            {"source": False},
            {"source": str(host.data)},
            {"expose": [".env"]},
            {"provision": ["true"]},
            {"provision": [["true"]]},
            {"runtime": "python"},
            {"user": "airlock"},
            {"image": "host"},
            {"provider": "other"},
            {"ports": [80]},
            {"profile": "strict"},
            {"profile": "small"},
            {"profile": "dev"},
            {"profile": "dev", "network": "open"},
            {"profile": "dev", "network": "locked"},
            {"profile": "dev", "network": ["a:1"]},
            {"profile": "trusted"},
            {"profile": "trusted", "keep": True},
        ]
        keys = [host.key(**spec) for spec in differences]
        assert len(set(keys)) == len(keys)

    def test_order_that_means_nothing_makes_no_difference(self, host):
        assert host.key(ports=[1, 2, 1]) == host.key(ports=[2, 1])
        assert host.key(env={"A": "1", "B": "2"}) == host.key(env={"B": "2", "A": "1"})
        assert host.key(profile="dev", network=["a:1", "b:2"]) == host.key(profile="dev", network=["b:2", "a:1"])

    def test_order_of_commands_does(self, host):
        assert host.key(provision=["a", "b"]) != host.key(provision=["b", "a"])

    @given(
        env=st.dictionaries(
            st.text("AB", min_size=1, max_size=3),
            st.text(st.characters(exclude_characters="\0"), max_size=3),
            max_size=2,
        )
    )
    @settings(deadline=None, max_examples=30)
    def test_the_key_is_stable_and_tells_environments_apart(self, tmp_path_factory, env):
        host = Host(tmp_path_factory.mktemp("host"))
        assert host.key(env=env) == host.key(env=dict(reversed(env.items())))
        assert (host.key(env=env) == host.key()) == (not env)
