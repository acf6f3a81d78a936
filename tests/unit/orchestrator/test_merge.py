"""Layers to one spec, and the faults of a layer in words."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_airlock.errors import InvalidName, InvalidSpec, ProvisionForbidden, UnknownName
from pytest_airlock.models import DEFAULT_DISK, DEFAULT_TIMEOUT, Mount, Network, SandboxSpec
from pytest_airlock.orchestrator.policy.merge import faults, merge_layers, nearest_word, validate_spec
from pytest_airlock.orchestrator.policy.profiles import ProfileRegistry

scalars = st.sampled_from(["cpu", "memory", "disk", "timeout", "image", "user", "runtime", "profile", "name", "source"])
layers = st.dictionaries(scalars, st.one_of(st.none(), st.just(False), st.just(0), st.just(""), st.integers(1, 9)))


@given(st.lists(layers, max_size=4))
@settings(deadline=None)
def test_a_scalar_is_the_closest_that_was_given_even_if_it_is_false_or_none(stack):
    merged = merge_layers(stack)
    assert merged == {key: next(layer[key] for layer in stack if key in layer) for layer in stack for key in layer}


@given(st.lists(st.dictionaries(st.sampled_from("ABC"), st.text(max_size=2)), min_size=1, max_size=4))
@settings(deadline=None)
def test_env_merges_by_key_closest_wins(envs):
    merged = merge_layers([{"env": env} for env in envs])["env"]
    assert merged == {name: next(env[name] for env in envs if name in env) for env in envs for name in env}


@given(st.lists(st.lists(st.text("xy", min_size=1, max_size=2), max_size=3), min_size=1, max_size=4))
@settings(deadline=None)
def test_provision_concatenates_outermost_first_and_keeps_repetitions(commands):
    merged = merge_layers([{"provision": each} for each in commands])["provision"]
    assert merged == [command for each in reversed(commands) for command in each]


@given(st.lists(st.lists(st.integers(1, 5), max_size=3), min_size=1, max_size=4))
@settings(deadline=None)
def test_ports_unite_without_repetition(ports):
    merged = merge_layers([{"ports": each} for each in ports])["ports"]
    assert sorted(merged) == sorted({port for each in ports for port in each})


@given(st.lists(layers, max_size=3))
@settings(deadline=None)
def test_an_empty_layer_changes_nothing(stack):
    assert merge_layers([{}, *stack, {}]) == merge_layers(stack)


def test_merging_does_not_touch_its_layers():
    inner, outer = {"env": {"A": "1"}, "ports": [1]}, {"env": {"B": "2"}, "ports": [2]}
    merge_layers([inner, outer])
    assert (inner, outer) == ({"env": {"A": "1"}, "ports": [1]}, {"env": {"B": "2"}, "ports": [2]})


def test_network_replaces_as_a_whole():
    assert merge_layers([{"network": ["a:1"]}, {"network": ["b:2"]}]) == {"network": ["a:1"]}


def test_mounts_merge_by_target_whatever_their_form():
    merged = merge_layers(
        [
            {"mounts": ["/near:/data:ro", Mount(source="/b", target="/two")]},
            {"mounts": [{"source": "/far", "target": "/data/"}, "/data:/elsewhere", "/two"]},
        ]
    )
    assert merged["mounts"] == ["/near:/data:ro", "/data:/elsewhere", Mount(source="/b", target="/two")]


def test_none_goes_back_to_the_default_past_every_outer_layer():
    merged = merge_layers(
        [
            {"env": {"A": "1"}, "mounts": None},
            {"env": None, "ports": None, "cpu": None},
            {"env": {"B": "2"}, "ports": [80], "cpu": 4, "mounts": ["/x"], "provision": ["true"]},
        ]
    )
    spec = validate_spec(merged, where="marker")
    assert (spec.env, spec.ports, spec.cpu, spec.mounts) == ({"A": "1"}, (), None, ())
    assert spec.provision == ("true",)


def test_none_for_one_variable_drops_that_variable():
    merged = merge_layers([{"env": {"A": None}}, {"env": {"A": "1", "B": "2"}}])
    assert validate_spec(merged, where="marker").env == {"B": "2"}


def test_a_malformed_value_survives_merging_and_is_reported():
    merged = merge_layers([{"env": 3, "mounts": [7]}, {"env": {"A": "1"}, "mounts": ["/x"]}])
    assert [text.split(" is not valid")[0] for text in faults(merged, where="m")] == ["m: env=3", "m: mounts[1]=7"]


class TestTheProfileBeatsTheLayersBelowTheOneThatChoseIt:
    def merged(self, *stack):
        return merge_layers(stack, profiles=ProfileRegistry())

    def test_what_the_profile_has_a_default_for_is_hidden(self):
        merged = self.merged({"profile": "strict"}, {"network": "open", "user": "root", "mounts": ["/x"], "cpu": 2})
        assert merged == {"profile": "strict", "cpu": 2}

    def test_layers_closer_than_it_stay(self):
        merged = self.merged({"network": "open"}, {"profile": "cautious"}, {"network": "locked", "mounts": ["/x"]})
        assert merged == {"network": "open", "profile": "cautious", "mounts": ["/x"]}

    def test_what_the_choosing_layer_itself_says_stays(self):
        assert self.merged({"profile": "dev", "network": "locked"})["network"] == "locked"

    def test_a_profile_further_out_hides_nothing_more(self):
        merged = self.merged({"profile": "dev"}, {"profile": "strict", "source": "/p"}, {"source": "/q", "cpu": 1})
        assert merged == {"profile": "dev", "source": "/p", "cpu": 1}

    def test_none_chooses_the_default_profile(self):
        assert self.merged({"profile": None}, {"profile": "dev", "network": "open"}) == {"profile": None}

    def test_a_limit_of_resources_in_a_user_profile_counts_as_its_default(self):
        profiles = ProfileRegistry()
        profiles.extend("small", "cautious", memory="64M")
        merged = merge_layers([{"profile": "small"}, {"memory": "1G", "cpu": 2}], profiles=profiles)
        assert merged == {"profile": "small", "cpu": 2}

    def test_without_a_choice_nothing_is_hidden(self):
        assert self.merged({}, {"network": "open"}) == {"network": "open"}

    def test_an_unknown_profile_is_an_error(self):
        with pytest.raises(UnknownName, match="strict"):
            self.merged({"profile": "stricct"})


BAD = [
    ({"memory": "4 Gigs"}, "memory='4 Gigs' is not valid: a size is a number of bytes or a text such as '512M'"),
    ({"memory": 0}, "at least 1 byte"),
    ({"memory": True}, "not true or false"),
    ({"address_space": "1M"}, "address_space is at least 64M"),
    ({"nesting": 1}, "it is true or false"),
    ({"disk": "-1G"}, "disk='-1G' is not valid: a size is"),
    ({"cpu": 0}, "cpu=0 is not valid: input should be greater than or equal to 1"),
    ({"cpu": -1}, "cpu=-1 is not valid"),
    ({"cpu": 1.5}, "whole number of processors"),
    ({"cpu": "4"}, "cpu='4' is not valid: cpu is a whole number"),
    ({"cpu": True}, "whole number of processors"),
    ({"timeout": 0}, "more than 0 seconds"),
    ({"timeout": float("nan")}, "more than 0 seconds"),
    ({"timeout": "30"}, "number of seconds"),
    ({"user": "rot"}, "it is one of 'root', 'airlock' (did you mean 'root'?)"),
    ({"network": "opne"}, "did you mean 'open'?"),
    ({"network": "allow"}, "list of 'host:port'"),
    (
        {"network": {"mod": "open"}},
        "setting='network.mod' is not valid: there is no such setting (did you mean 'mode'?",
    ),
    ({"network": 3}, "or a list of 'host:port' texts"),
    ({"mounts": [{"source": "/x", "mod": "ro"}]}, "setting='mounts[0].mod'"),
    ({"mounts": ["/x:/y:rx"]}, "mounts[0].mode='rx' is not valid: it is one of 'ro', 'cow', 'rw'"),
    ({"mounts": ["a:b:c:d"]}, "'source:target:mode'"),
    ({"mounts": "/x"}, "it is a list"),
    ({"mounts": [5]}, "mounts[0]=5 is not valid: a mount is 'source', 'source:target' or 'source:target:mode', or a"),
    ({"source": True}, "it is a path, or False for none"),
    ({"provision": "make"}, "a list of commands"),
    ({"provision": [["make", 3]]}, "a text or a list of texts"),
    ({"provision": ["make; make install"]}, "';' (character 5) is none of"),
    ({"env": {"A": 1}}, "env.A=1 is not valid: it maps names to texts"),
    ({"env": {"A=B": "x"}}, "no environment variable name"),
    ({"ports": [70000]}, "ports[0]=70000"),
    ({"ports": ["80"]}, "ports[0]='80'"),
    ({"keep": "yes"}, "it is true or false"),
    ({"name": "../x"}, "a name is made of a-z"),
    (
        {"memry": 1},
        "setting='memry' is not valid: there is no such setting (did you mean 'memory'? known: address_space, ",
    ),
]


@pytest.mark.parametrize(("values", "text"), BAD, ids=[str(values) for values, _ in BAD])
def test_a_bad_value_is_one_fault_in_one_line_that_says_why(values, text):
    (fault,) = faults(values, where="marker of test_x")
    assert fault.startswith("marker of test_x: ")
    assert text in fault
    assert "\n" not in fault


def test_all_faults_of_a_layer_are_told_at_once():
    values = {"memry": 1, "cpu": 0, "user": "x", "env": {"A": 1, "B": 2}, "provision": [1, "true", 2]}
    assert len(faults(values, where="m")) == 7


def test_faults_that_pydantic_cannot_see_are_told_together():
    assert len(faults({"name": "A", "provision": ["a|b"], "cpus": 3}, where="m")) == 3


def test_known_words_are_checked_and_the_nearest_is_named():
    known = {"profile": ["strict", "cautious"], "provider": ["auto", "namespaces"], "runtime": ["python"]}
    values = {"profile": "strikt", "provider": "namespace", "runtime": "pyton"}
    found = faults(values, where="m", known=known)
    assert [text.partition("did you mean ")[2].split("?")[0] for text in found] == [
        "'strict'",
        "'namespaces'",
        "'python'",
    ]
    assert faults({"profile": "strict"}, where="m", known=known) == []


def test_values_of_the_environment_are_not_shown_beside_a_bad_name():
    (fault,) = faults({"env": {"": "s3cret", "TOKEN": "s3cret"}}, where="m")
    assert "TOKEN" in fault
    assert "s3cret" not in fault


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"cpu": 0}, InvalidSpec),
        ({"memry": 1}, UnknownName),
        ({"name": "Box"}, InvalidName),
        ({"provision": ["$(id)"]}, ProvisionForbidden),
    ],
)
def test_validate_spec_raises_the_kind_of_the_fault_with_its_place(values, kind):
    with pytest.raises(kind) as caught:
        validate_spec(values, where="airlock.yaml")
    assert type(caught.value) is kind
    assert str(caught.value).startswith("airlock.yaml: ")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_validate_spec_notes_the_other_faults():
    with pytest.raises(InvalidSpec) as caught:
        validate_spec({"cpu": 0, "memory": "x"}, where="m")
    assert caught.value.field == "cpu"
    assert [note.partition("=")[0] for note in caught.value.__notes__] == ["memory"]


def test_good_values_become_a_spec_paths_included():
    spec = validate_spec(
        {
            "cpu": 4,
            "memory": "4GiB",
            "mounts": [Path("/data"), {"source": Path("/a"), "target": "/b", "mode": "ro"}, "/c:rw"],
            "source": Path("/src"),
            "network": ["pypi.org:443"],
            "provision": ["make all", ["touch", Path("/x y")]],
            "timeout": None,
        },
        where="m",
    )
    assert spec.memory == 4 * 1024**3
    assert spec.mounts == (
        Mount(source="/data"),
        Mount(source="/a", target="/b", mode="ro"),
        Mount(source="/c", mode="rw"),
    )
    assert (spec.source, spec.network) == ("/src", Network(mode="allow", allow=("pypi.org:443",)))
    assert spec.provision == ("make all", ("touch", "/x y"))


def test_r27_an_empty_layer_is_the_spec_of_nothing_set():
    assert validate_spec({}, where="m") == SandboxSpec()
    assert (SandboxSpec().cpu, SandboxSpec().memory, SandboxSpec().disk) == (None, None, None)


def test_r27_defaults_stand_in_models_alone():
    import pytest_airlock

    root = Path(pytest_airlock.__file__).parent
    assigning = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for name in ("DEFAULT_DISK", "DEFAULT_TIMEOUT")
        if any(line.startswith((f"{name} =", f"{name}:")) for line in path.read_text().splitlines())
    ]
    assert assigning == ["models.py", "models.py"]
    assert (DEFAULT_DISK, DEFAULT_TIMEOUT) == (2 * 1024**3, None)


def test_no_near_word_is_invented():
    assert nearest_word("xyzzy", ["cpu", "memory"]) is None
    assert nearest_word("CPU", ["cpu", "memory"]) == "cpu"
