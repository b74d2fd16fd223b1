"""Schedules: phases, half-life and floor, the text form, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steering_helpers import IDS, SPAN, build, qwen2

from steer_ros.kernels import triton_unsupported_reason
from steer_ros.steering import SteeringField, attach, make_law
from steer_ros.steering.schedule import SCALED_PHASES, Schedule

parts = st.floats(0, 1)
positive = st.floats(1e-3, 1e6)
schedules = st.builds(
    Schedule,
    prompt=parts,
    think=parts,
    act=parts,
    half_life=st.none() | positive,
    floor=parts,
    confidence_threshold=st.none() | st.floats(0, 1, exclude_min=True),
    plausibility=st.none() | st.floats(0, 1, exclude_min=True),
    guidance=st.none() | positive,
)


@given(schedules)
def test_the_text_says_the_same(schedule):
    assert Schedule.parse(str(schedule)) == schedule


@given(schedules, st.sampled_from(SCALED_PHASES), st.integers(0, 100_000))
def test_factors_stay_between_zero_and_the_phases_own(schedule, phase, n):
    strength_scale = schedule.strength_scale(phase, n)
    assert 0 <= strength_scale <= getattr(schedule, phase) * (1 + 1e-12)
    assert strength_scale >= schedule.strength_scale(phase, n + 1) * (1 - 1e-12)


def test_the_default_is_the_law_itself():
    assert str(Schedule()) == "constant"
    assert Schedule.parse("constant") == Schedule()
    assert {Schedule().strength_scale(phase, n) for phase in SCALED_PHASES for n in (0, 1, 500)} == {1.0}


def test_phases_and_decay():
    schedule = Schedule.parse("prompt=0.5; act=0 ;half_life=20;floor=0.2;confidence_threshold=0.9")
    assert schedule == Schedule(prompt=0.5, act=0, half_life=20, floor=0.2, confidence_threshold=0.9)
    assert str(schedule) == "prompt=0.5;act=0;half_life=20;floor=0.2;confidence_threshold=0.9"
    assert schedule.strength_scale("prompt", 0) == 0.5
    assert schedule.strength_scale("act", 3) == 0
    assert schedule.strength_scale("think", 0) == 1
    assert schedule.strength_scale("think", 20) == pytest.approx(0.6)
    assert schedule.strength_scale("think", 40) == pytest.approx(0.4)
    assert schedule.strength_scale("think", 10_000) == pytest.approx(0.2)


def test_a_floor_alone_changes_nothing():
    assert Schedule(floor=0.3).strength_scale("think", 1000) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "always",
        "think",
        "think=",
        "think=a",
        "think=1;think=1",
        "half-life=3",
        "think=1,act=0",
        "think==1",
        3,
    ],
)
def test_texts_that_are_none(text):
    with pytest.raises(ValueError, match=r"schedule: .*accepted"):
        Schedule.parse(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("think", -0.1), ("act", 1.5), ("prompt", math.nan), ("half_life", 0), ("half_life", math.inf), ("floor", 2),
     ("confidence_threshold", 0), ("confidence_threshold", 1.01), ("plausibility", 0), ("guidance", 0),
     ("guidance", math.inf), ("think", True), ("act", None), ("half_life", "20")],
)  # fmt: skip
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"schedule {name}: .*accepted"):
        Schedule(**{name: value})


def test_a_phase_that_is_none():
    with pytest.raises(ValueError, match="phase: 'speak'"):
        Schedule().strength_scale("speak", 0)
    with pytest.raises(ValueError, match="schedule think: 3"):
        Schedule.parse("think=3")


# The attachment's factor, which a schedule sets.
@pytest.fixture(scope="module")
def model():
    return build(qwen2, torch.float64)


WEIGHTS = torch.zeros(20, dtype=torch.int8)
WEIGHTS[3:6], WEIGHTS[6:9] = 127, 64


def logits_at(model, law, strength_scale, **options):
    with attach(model) as attachment, torch.no_grad():
        with attachment.steer(SteeringField([SPAN], [WEIGHTS]), law, **options) as report:
            attachment.strength_scale = strength_scale
            out = model(IDS).logits
        return out, report


@pytest.mark.parametrize("impl", ["sdpa", "reference"])
@pytest.mark.parametrize(
    ("law", "half"),
    [
        (make_law("additive", 4.0), make_law("additive", 2.0)),
        (make_law("conserving", 4.0), make_law("conserving", 2.0)),
        (make_law("share", 0.0, 0.8), make_law("share", 0.0, 0.4)),
        (make_law("target", 1.0, 0.8), make_law("target", 0.5, 0.4)),
    ],
)
def test_a_factor_scales_tilt_and_mark(model, law, half, impl):
    found, report = logits_at(model, law, 0.5, measure_focus=True, impl=impl)
    wanted, whole = logits_at(model, half, 1.0, measure_focus=True, impl=impl)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert report.focus_after == pytest.approx(whole.focus_after)


def test_factor_zero_is_plain_and_measures_nothing(model):
    found, report = logits_at(model, make_law("additive", 4.0), 0.0, measure_focus=True)
    with torch.no_grad():
        assert torch.equal(found, model(IDS).logits)
    assert report.focus_before is None and report.attention_calls == 0
    assert report.nothing_to_steer == "scale 0, by the schedule"


def test_a_factor_counts_from_the_next_forward_pass_on(model):
    law = make_law("conserving", 3.0)
    with attach(model) as attachment, torch.no_grad():
        assert attachment.strength_scale == 1.0
        with attachment.steer(SteeringField([SPAN], [WEIGHTS]), law, measure_focus=True) as report:
            passes = []
            for strength_scale in (1.0, 0.0, 0.25, 1.0):
                attachment.strength_scale = strength_scale
                passes.append(model(IDS).logits)
    assert torch.equal(passes[0], passes[3])
    assert not torch.allclose(passes[0], passes[1]) and not torch.allclose(passes[0], passes[2])
    assert report.skipped == {"scale 0, by the schedule": 1}
    alone = [
        logits_at(model, law, strength_scale, measure_focus=True)[1].focus_after for strength_scale in (1.0, 0.25, 1.0)
    ]
    assert report.focus_after == pytest.approx(sum(alone) / 3)


@pytest.mark.parametrize("scale", [-0.1, 1.5, math.nan, "1", None, True])
def test_scales_that_are_none(model, scale):
    with attach(model) as attachment, pytest.raises(ValueError, match=r"strength_scale: .*accepted"):
        attachment.strength_scale = scale


def test_regions_are_measured_in_the_passes_that_are_watched(model):
    law = make_law("additive", 3.0)
    everything = [[torch.ones(20)]]
    with attach(model) as attachment, torch.no_grad():
        field = SteeringField([SPAN], [WEIGHTS])
        with attachment.steer(field, law, measure_focus=True, regions=everything) as report:
            model(IDS)
            attachment.measure_regions = False
            attachment.strength_scale = 0.5
            model(IDS)
        attachment.strength_scale, attachment.measure_regions = 1.0, True
        with attachment.steer(field, law, measure_focus=True, regions=everything) as once:
            model(IDS)
    assert report.region_shares == once.region_shares
    assert once.region_shares[1][0] == pytest.approx(once.focus_after)
    assert report.regions_after == once.regions_after and report.focus_after < once.focus_after


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROBE = torch.zeros(1, 1, 1, 64, device=DEVICE)


@pytest.mark.skipif(
    bool(triton_unsupported_reason(PROBE, PROBE, PROBE)), reason=triton_unsupported_reason(PROBE, PROBE, PROBE)
)
def test_the_kernels_read_the_factor_of_each_pass():
    model, ids = build(lambda: qwen2(head_dim=64, num_hidden_layers=1)).to(DEVICE), IDS[:, :28].to(DEVICE)
    law, everything, passes, reports = make_law("target", 1.0, 0.8), [[torch.ones(20)]], {}, {}
    for impl in ("reference", "triton"):
        field, passes[impl] = SteeringField([SPAN], [WEIGHTS], device=DEVICE), []
        with (
            attach(model) as attachment,
            torch.no_grad(),
            attachment.steer(field, law, impl=impl, measure_focus=True, regions=everything) as reports[impl],
        ):
            for strength_scale, measure_regions in ((1.0, True), (0.5, False), (0.0, True), (1.0, False)):
                attachment.strength_scale, attachment.measure_regions = strength_scale, measure_regions
                passes[impl].append(model(ids).logits)
    for one, other in zip(passes["reference"], passes["triton"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-3 if DEVICE == "cuda" else 1e-4)
    assert not torch.allclose(passes["triton"][0], passes["triton"][1], atol=1e-3)
    one, other = reports["reference"], reports["triton"]
    assert other.focus_after == pytest.approx(one.focus_after, abs=1e-3)
    assert other.region_shares[1] == pytest.approx(one.region_shares[1], abs=1e-3)
