"""Parameters: one place, described, type-tolerant, and refused with parameter, value and what is accepted."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter, get_parameter_value
from rclpy.parameter import parameter_value_to_python as parameter_value
from ros_helpers import Bench

from steer_ros.nodes.parameter_specs import MAX_TEXT, PERCEPTION, REASONING
from steer_ros.nodes.parameters import Parameters

TABLES = {"perception": PERCEPTION, "reasoning": REASONING}
SPECS = [(name, spec) for name, table in TABLES.items() for spec in table]


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def declared(bench, table=REASONING, on_change=None, **overrides):
    node = bench.add(
        LifecycleNode(
            "tested",
            context=bench.context,
            parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
        )
    )
    return node, Parameters(node, table, on_change)


def put(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


@pytest.mark.parametrize(("node", "spec"), SPECS, ids=lambda value: getattr(value, "name", value))
def test_every_parameter_has_a_description_and_accepts_its_own_default(node, spec):
    assert len(spec.description) > 10
    assert spec.validated(spec.default) == spec.default
    assert spec.accepted


@given(
    st.sampled_from([spec for _, spec in SPECS]),
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
    ),
)
def test_any_value_is_taken_in_the_right_type_or_refused_in_one_line(spec, value):
    try:
        taken = spec.validated(value)
    except ValueError as error:
        text = str(error)
        assert text.startswith(f"parameter {spec.name}: ")
        assert "\n" not in text
        assert "accepted" in text
    else:
        assert type(taken) is (str if spec.or_model and taken == "model" else spec.kind)
        assert taken == ({True: "on", False: "off"}[value] if isinstance(value, bool) and spec.on_off else value)
        assert not isinstance(taken, float) or math.isfinite(taken)


def test_an_integer_is_taken_where_a_real_is_meant(bench):
    changes = []
    node, parameters = declared(bench, on_change=lambda *change: changes.append(change), **{"deadline_ms": 40})
    assert parameters["deadline_ms"] == 40.0
    assert put(node, "steering.alpha", 3).successful
    assert parameters["steering.alpha"] == 3.0
    assert isinstance(parameters["steering.alpha"], float)
    assert put(node, "steering.alpha", 2.5).successful
    assert changes == [("steering.alpha", 3.0), ("steering.alpha", 2.5)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steering.alpha", math.nan),
        ("steering.alpha", math.inf),
        ("steering.alpha", 65),
        ("steering.alpha", 64.5),
        ("steering.alpha", "two"),
        ("steering.alpha", True),
        ("steering.law", "magic"),
        ("steering.alpha", ""),
        ("steering.setpoint", 1.5),
        ("steering.setpoint", "much"),
        ("steering.guard", "perhaps"),
        ("steering.guard", "copies=2"),
        ("steering.schedule", ""),
        ("steering.schedule", "act=2"),
        ("steering.schedule", "sure=0.9"),
        ("policy", "perhaps"),
        ("steering.gate", "layers=7-3"),
        ("steering.gate", ""),
        ("instruction", 5),
        ("instruction", "x" * (MAX_TEXT + 1)),
        ("max_thought_tokens", 0),
        ("max_thought_tokens", 5.0),
        ("deadline_ms", -1),
        ("steering.alpha", None),
    ],
)
def test_bad_values_are_refused_by_name_and_the_old_one_stays(bench, name, value):
    changes = []
    node, parameters = declared(bench, on_change=lambda *change: changes.append(change))
    before = parameters[name]
    result = put(node, name, value)
    assert not result.successful
    assert name in result.reason
    assert parameters[name] == before
    assert not changes


@pytest.mark.parametrize(("name", "value"), [("steering.alpha", math.nan), ("dtype", "float8"), ("autostart", "yes")])
def test_a_bad_value_at_start_is_one_line(bench, name, value):
    with pytest.raises(ValueError, match=f"^parameter {name}: .*accepted is [^\n]*$"):
        declared(bench, **{name: value})


@pytest.mark.parametrize(("said", "taken"), [("off", "off"), ("on", "on"), ("model", "model"), ("yes", "on")])
def test_the_guard_is_set_as_on_a_command_line(bench, said, taken):
    """`ros2 param set` and rcl read a value as YAML does: on and off are booleans."""
    node, parameters = declared(bench)
    assert put(node, "steering.guard", parameter_value(get_parameter_value(said))).successful
    assert parameters["steering.guard"] == taken


@pytest.mark.parametrize("name", ["steering.share", "steering.target"])
def test_a_parameter_of_an_earlier_release_is_refused_with_the_new_one_named(bench, name):
    with pytest.raises(ValueError, match=f"^parameter {name}: is now steering.setpoint$"):
        declared(bench, **{name: 0.9})


@pytest.mark.parametrize(("name", "value"), [("alpha", 3), ("setpoint", 0.5), ("law", "share"), ("gate", "heads=0")])
def test_a_steering_parameter_goes_back_to_the_models_own(bench, name, value):
    node, parameters = declared(bench)
    assert parameters[f"steering.{name}"] == "model"
    assert put(node, f"steering.{name}", value).successful and parameters[f"steering.{name}"] == value
    assert put(node, f"steering.{name}", "model").successful and parameters[f"steering.{name}"] == "model"


def test_the_model_is_fixed_while_configured(bench):
    node, parameters = declared(bench)
    assert put(node, "model", "builtin:other").successful
    parameters.locked = True
    result = put(node, "model", "builtin:lab-r1")
    assert not result.successful
    assert "model" in result.reason
    assert put(node, "instruction", "Describe one object.").successful
    parameters.locked = False
    assert put(node, "model", "builtin:lab-r1").successful


def test_descriptors_carry_description_and_range(bench):
    node, _ = declared(bench)
    alpha = node.describe_parameter("steering.alpha")
    assert alpha.description
    assert (alpha.floating_point_range[0].from_value, alpha.floating_point_range[0].to_value) == (-64.0, 64.0)
    assert node.describe_parameter("max_thought_tokens").integer_range[0].from_value == 1
    assert "additive" in node.describe_parameter("steering.law").additional_constraints


def test_the_file_of_defaults_says_what_the_code_says(repo):
    content = yaml.safe_load((repo / "config" / "vta.yaml").read_text())
    assert {key: value["ros__parameters"] for key, value in content.items()} == {
        f"/**/{name}": _nested({spec.name: spec.default for spec in table}) for name, table in TABLES.items()
    }


def _nested(flat):
    tree = {}
    for name, value in flat.items():
        *path, leaf = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = value
    return tree
