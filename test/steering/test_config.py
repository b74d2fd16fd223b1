"""SteeringConfig: one parser, one set of messages; what is not given stays, what does not go together is refused."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.steering import UNSTEERED, Gate, Guard, Schedule, SteeringConfig, make_law
from steer_ros.steering.config import FIELDS, as_config
from steer_ros.steering.head_gains import HeadGainNet

OWN = SteeringConfig(make_law("share", 1.5, 0.9), Gate((1,)), Schedule(act=0.0), guard=Guard(check_interval=4))


def test_the_default_is_conserving_at_alpha_2():
    config = SteeringConfig()
    assert config.law == make_law("conserving", 2.0) and config.guard == Guard() and config.steers
    assert str(config) == "conserving, alpha 2, gate all, schedule constant, guard on"
    assert not UNSTEERED.steers and str(UNSTEERED) == "none, gate all, schedule constant, guard off"


def test_alpha_or_setpoint_alone_is_of_the_own_law():
    assert OWN.override() == OWN
    assert OWN.override(alpha=3).law == make_law("share", 3.0, 0.9)
    assert OWN.override(setpoint=0.5).law == make_law("share", 1.5, 0.5)
    assert OWN.override(law="share").law == OWN.law
    with pytest.raises(ValueError, match=r"setpoint: 0\.5 with law conserving"):
        SteeringConfig().override(setpoint=0.5)


def test_another_law_begins_anew_and_the_rest_stays():
    other = OWN.override(law="target", setpoint=0.5)
    assert other == dataclasses.replace(OWN, law=make_law("target", 0.0, 0.5))
    assert OWN.override(law="additive").law == make_law("additive", 2.0)
    assert OWN.override(law=make_law("additive", 1.0)).law == make_law("additive", 1.0)
    with pytest.raises(ValueError, match="setpoint: None"):
        OWN.override(law="target")


def test_head_gains_go_with_the_law_and_alpha_that_they_were_learnt_for():
    table = torch.ones(2, 2)
    config = SteeringConfig(head_gains=table)
    assert config.gain_table is table and config.gain_network is None
    assert config.override(gate="heads=0", guard="off").head_gains is table
    for fields in ({"alpha": 3.0}, {"alpha": 2.0}, {"law": "additive"}, {"law": "share", "setpoint": 0.9}):
        assert config.override(**fields).head_gains is None
    assert config.override(law="conserving").head_gains is table  # nothing becomes another
    net = HeadGainNet()
    assert config.override(alpha=1.0, head_gains=net).gain_network is net
    with pytest.raises(ValueError, match="head_gains: given with law 'share'"):
        OWN.override(head_gains=table)


def test_equal_tables_are_equal():
    one, two = (SteeringConfig(head_gains=torch.ones(2, 2)) for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert one != SteeringConfig(head_gains=torch.zeros(2, 2)) != SteeringConfig() != one
    assert SteeringConfig(head_gains=HeadGainNet()) != SteeringConfig(head_gains=HeadGainNet())


LAWS = st.one_of(
    st.builds(make_law, st.sampled_from(["none", "additive", "conserving"]), st.floats(-64, 64)),
    st.builds(make_law, st.just("share"), st.floats(-64, 64), st.floats(0, 1)),
    st.builds(make_law, st.just("target"), st.floats(-64, 64), st.floats(0.01, 0.99)),
)
GATES = st.builds(Gate, layers=st.none() | st.lists(st.integers(0, 30), min_size=1).map(tuple),
                  phases=st.sampled_from([("think",), ("act",), ("think", "act")]))  # fmt: skip
SCHEDULES = st.builds(Schedule, prompt=st.floats(0, 1), half_life=st.none() | st.floats(0.1, 50),
                      guidance=st.none() | st.floats(0.1, 4))  # fmt: skip
GUARDS = st.none() | st.builds(Guard, st.sampled_from([(1.0, 0.5, 0.0), (1.0,), (1.0, 1 / 3)]),
                               check_interval=st.integers(1, 99), follow_moves=st.booleans())  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.builds(SteeringConfig, LAWS, GATES, SCHEDULES, guard=GUARDS))
def test_texts_read_back_as_what_they_were(config):
    assert set(config.texts()) == set(FIELDS)
    assert SteeringConfig.parse(config.texts()) == config


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"law": "magic"}, "law: 'magic'.*accepted"), ({"law": 3}, "law: 3"), ({"alpha": "2"}, "alpha: '2'; accepted"),
     ({"alpha": float("nan")}, "alpha: nan"), ({"alpha": True}, "alpha: True"),
     ({"setpoint": "x"}, "setpoint: x with law conserving; accepted"),
     ({"gate": "rows=1"}, "gate: 'rows=1'"), ({"schedule": "later"}, "schedule: 'later'"), ({"gate": 3}, "gate: 3"),
     ({"guard": False}, "guard: False"), ({"colour": "red"}, "colour: no field .*accepted are law, alpha"),
     ({"law": make_law("additive"), "alpha": 2.0}, "law: additive, alpha 2, and alpha or setpoint")],
)  # fmt: skip
def test_what_is_wrong_is_named(fields, says):
    with pytest.raises(ValueError, match=says):
        SteeringConfig().override(**fields)


@pytest.mark.parametrize(
    ("old", "new"),
    [("mark", "setpoint"), ("share", "setpoint"), ("target", "setpoint"), ("adaptive", "head_gains"),
     ("gains", "head_gains"), ("found", "provenance")],
)  # fmt: skip
def test_an_old_name_is_refused_with_the_new_one_named(old, new):
    with pytest.raises(ValueError, match=f"^{old}: is now {new}$"):
        SteeringConfig.parse({old: 0.5})


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("sure=0.9", "confidence_threshold"),
        ("prompt=0;plausible=0.1", "plausibility"),
        ("contrast=1", "guidance"),
    ],
)
def test_an_old_key_of_a_schedule_is_refused_with_the_new_one_named(text, new):
    with pytest.raises(ValueError, match=f"is now {new}"):
        SteeringConfig.parse({"schedule": text})


def test_a_part_of_another_type_is_refused():
    with pytest.raises(TypeError, match="gate: str; accepted is Gate"):
        SteeringConfig(gate="all")
    with pytest.raises(TypeError, match="guard: bool; accepted is Guard or None"):
        SteeringConfig(guard=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        OWN.law = make_law("none")


def test_what_does_not_fit_a_model_is_named():
    OWN.check(2, 4)
    with pytest.raises(ValueError, match="gate layers: 1; accepted are 0 to 0"):
        OWN.check(1, 4)
    with pytest.raises(ValueError, match=r"head_gains: shape \[2, 2\]; accepted is \[layers, heads\] = \[2, 4\]"):
        SteeringConfig(head_gains=torch.ones(2, 2)).check(2, 4)
    with pytest.raises(ValueError, match="head_gains: alpha 8 times a gain of 10; accepted is a product within 64"):
        SteeringConfig(make_law("conserving", 8.0), head_gains=torch.full((2, 4), 10.0)).check(2, 4)


def test_a_mapping_overrides_the_default():
    assert as_config(None, OWN) is OWN
    assert as_config({"alpha": 3.0}, OWN) == OWN.override(alpha=3.0)
    assert as_config(UNSTEERED, OWN) is UNSTEERED
    with pytest.raises(ValueError, match="config: str; accepted are a SteeringConfig"):
        as_config("share", OWN)
