"""The launch file's arguments name parameters that exist; where `launch` is not installed, with stand-ins for it."""

import importlib.util
import sys
from unittest.mock import MagicMock

import pytest
import yaml

from steer_ros.nodes.parameter_specs import PERCEPTION, REASONING
from steer_ros.steering.laws import LAW_NAMES

TABLES = {"perception": PERCEPTION, "reasoning": REASONING}
NEEDED = ("launch", "launch.actions", "launch.substitutions", "launch_ros", "launch_ros.actions")


@pytest.fixture
def module(repo, monkeypatch):
    if importlib.util.find_spec("launch_ros") is None:
        for name in NEEDED:
            monkeypatch.setitem(sys.modules, name, MagicMock())
    spec = importlib.util.spec_from_file_location("vta_launch", repo / "launch" / "vta.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_arguments_are_parameters_of_the_nodes_they_go_to(module):
    for name, (nodes, parameter, description) in module.FORWARDED.items():
        assert description.endswith(".")
        for node in nodes:
            assert parameter in {spec.name for spec in TABLES[node]}, name
    for law in LAW_NAMES:
        assert law in module.FORWARDED["law"][2]


def test_only_what_is_given_overrides_the_file_and_text_stays_text(module):
    values = dict.fromkeys(module.FORWARDED, "")
    assert module.overrides(values) == {}
    values.update(alpha="3", setpoint="model", device="cpu", instruction="yes", look_for="1: {a}")
    assert module.overrides(values) == {
        "/**/perception": {"ros__parameters": {"device": "cpu", "look_for": "1: {a}"}},
        "/**/reasoning": {
            "ros__parameters": {
                "device": "cpu",
                "steering.alpha": 3,
                "steering.setpoint": "model",
                "instruction": "yes",
            }
        },
    }


@pytest.mark.parametrize("name", ["share", "target"])
def test_an_argument_of_an_earlier_release_is_refused_with_the_new_one_named(module, name):
    with pytest.raises(ValueError, match=f"launch argument {name}: is now setpoint"):
        module.refuse_renamed(["image:=/camera", f"{name}:=0.9"])
    module.refuse_renamed([f"{argument}:=x" for argument in module.FORWARDED])


def test_a_section_named_by_a_node_holds_in_every_namespace(module, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "perception: {ros__parameters: {look_for: a}}\n/ns/reasoning: {ros__parameters: {deadline_ms: 5}}\n"
    )
    assert list(module.rooted(str(file))) == ["/**/perception", "/ns/reasoning"]
    file.write_text("")
    assert module.rooted(str(file)) == {}
    file.write_text("[1, 2]")
    with pytest.raises(ValueError, match="params_file"):
        module.rooted(str(file))


def test_a_nest_of_parameters_that_is_left_empty_goes_too(module):
    """rcl can't read it: the nodes would not start."""
    mine = {"/**/reasoning": {"ros__parameters": {"steering": {"alpha": 2.0}, "policy": "hold"}}}
    given = module.overrides(dict.fromkeys(module.FORWARDED, "") | {"alpha": "3"})
    assert module.without(mine, given) == {"/**/reasoning": {"ros__parameters": {"policy": "hold"}}}


def test_what_is_given_goes_before_every_section_of_the_file(module):
    file = {
        "/**/perception": {"ros__parameters": {"device": "auto", "model": "a"}},
        "/**/reasoning": {"ros__parameters": {"steering": {"alpha": 2.0, "law": "share"}, "model": "b"}},
        "/lab/reasoning": {"ros__parameters": {"steering.alpha": 5.0}},
        "/**": {"ros__parameters": {"device": "cpu", "use_sim_time": True, "model": "c"}},
    }
    given = module.overrides({"device": "cuda", "alpha": "3", "perception_model": "d"})
    assert module.without(file, given) == {
        "/**/reasoning": {"ros__parameters": {"steering": {"law": "share"}, "model": "b"}},
        "/**": {"ros__parameters": {"use_sim_time": True, "model": "c"}},
    }
    assert module.without(file, {}) == file
    both = module.overrides({"perception_model": "d", "reasoning_model": "e"})
    assert module.without({"/**": {"ros__parameters": {"model": "c", "device": "cpu"}}}, both) == {
        "/**": {"ros__parameters": {"device": "cpu"}}
    }


def test_what_is_written_reads_back(module):
    content = {"/**/reasoning": {"ros__parameters": {"instruction": "yes", "steering.alpha": 3}}}
    with open(module.written(content), encoding="utf-8") as file:
        assert yaml.safe_load(file) == content
