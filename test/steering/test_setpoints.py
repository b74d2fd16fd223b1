"""share and target in real models: every head and row reaches the setpoint, and what can't be steered is said."""

import numpy as np
import pytest
import torch
from steering_helpers import IDS, MODELS, SPAN, build, greedy, prefill_and_decode, qwen2

from steer_ros.steering import Span, SteeringField, attach, make_law

pytestmark = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
LAWS = (
    make_law("share", setpoint=0.9),
    make_law("target", setpoint=0.6),
    make_law("share", 2, 0.5),
    make_law("target", 1, 0.3),
)


def graded(region=range(3, 9), length=20):
    weights = np.zeros(length, np.int8)
    weights[list(region)] = 127
    weights[region[0]] = 40
    return weights


def field(**options):
    return SteeringField([SPAN], graded(), **options)


@pytest.fixture(scope="module")
def qwen():
    return build(qwen2)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{law.name}-{law.alpha:g}")
@pytest.mark.parametrize("name", list(MODELS))
def test_specification_and_fast_path_write_the_same_text(name, law):
    model = build(MODELS[name])
    texts, logits, reports = [], [], []
    plain = prefill_and_decode(model)
    with attach(model) as attachment:
        for impl in ("reference", "sdpa", "auto"):
            with attachment.steer(field(), law, impl=impl, measure_focus=True) as report:
                texts.append(greedy(model))
            reports.append(report)
            with attachment.steer(field(), law, impl=impl):
                logits.append(prefill_and_decode(model))
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[1], texts[2])
    assert torch.allclose(logits[0], logits[1], atol=1e-4)
    assert (logits[0] - plain)[:, -1].abs().max() > 0.05
    assert {r.steered_rows for r in reports} == {15 + 7}
    if law.name == "target":
        assert all(r.focus_after == pytest.approx(law.setpoint, abs=1e-5) for r in reports)


@pytest.mark.parametrize("law", LAWS[:2], ids=lambda law: law.name)
def test_the_setpoint_is_reached_in_every_head_and_row(qwen, law):
    everything = np.ones(20, bool)
    with attach(qwen) as attachment, torch.no_grad():
        options = {"measure_focus": "rows", "regions": [everything]}
        with attachment.steer(field(), law, "layers=0,2;heads=1-3", **options) as report:
            prefill_and_decode(qwen)
    assert {rows.layer for rows in report.rows} == {0, 2}
    for rows in report.rows:
        region, of_v = rows.values[:, 1:, :, 1, 0], rows.values[:, 1:, :, 1, 1]
        if law.name == "target":
            assert torch.allclose(region, torch.full_like(region, law.setpoint), atol=1e-3)
        else:
            assert torch.allclose(of_v, rows.values[:, 1:, :, 0, 1], atol=1e-5)  # V keeps its total
            assert torch.all(region / of_v > law.setpoint - 1e-3)
        assert torch.equal(rows.before[:, 0], rows.after[:, 0])  # the gate leaves head 0 alone


def test_share_below_what_the_region_has_changes_nothing(qwen):
    plain = prefill_and_decode(qwen)
    with attach(qwen) as attachment, attachment.steer(field(), make_law("share", setpoint=0.0)) as report:
        logits = prefill_and_decode(qwen)
    assert report.attention_calls == 3 * 4
    assert torch.allclose(logits, plain, atol=1e-4)


@pytest.mark.parametrize(
    ("law", "weights", "why"),
    [
        (LAWS[0], np.zeros(20, np.int8), "all weights are 0"),
        (LAWS[1], np.zeros(20, np.int8), "all weights are 0"),
        (LAWS[0], np.full(20, 90, np.int8), "the region is all of V"),
    ],
)
def test_nothing_to_steer_with_is_said_and_bit_identical(qwen, law, weights, why):
    plain = prefill_and_decode(qwen)
    options = {"measure_focus": True, "regions": [np.arange(20) < 5, np.arange(20) >= 5]}
    with attach(qwen) as attachment, attachment.steer(SteeringField([SPAN], weights), law, **options) as report:
        assert torch.equal(prefill_and_decode(qwen), plain)
    assert report.regions_after == report.regions_before
    assert report.focus_after == report.focus_before
    assert report.attention_calls == 0
    assert why in report.nothing_to_steer


def test_target_holds_where_the_region_is_all_of_v(qwen):
    whole = SteeringField([SPAN], np.full(20, 90, np.int8))
    with attach(qwen) as attachment, attachment.steer(whole, LAWS[1], measure_focus=True) as report:
        prefill_and_decode(qwen)
    assert report.focus_after == pytest.approx(0.6, abs=1e-5)


def test_rows_between_frames_see_the_frames_before_them(qwen):
    """The first frame has no region: rows between the two are left alone, those after both are steered."""
    two = SteeringField([Span(5, 8), Span(18, 6)], [np.zeros(8, np.int8), graded(range(1, 3), 6)])
    with attach(qwen) as attachment, torch.no_grad():
        outs = []
        hook = qwen.model.layers[0].self_attn.register_forward_hook(lambda m, i, output: outs.append(output[0]))
        qwen(IDS)
        for impl in ("reference", "sdpa"):
            with attachment.steer(two, LAWS[1], impl=impl) as report:
                qwen(IDS)
            assert report.steered_rows == 16
        hook.remove()
    assert torch.allclose(outs[1], outs[2], atol=1e-6)
    changed = (outs[0] != outs[1]).any(-1)[0]
    assert changed.tolist() == [False] * 24 + [True] * 16


def test_a_weight_below_zero_is_refused_at_steer_and_at_update(qwen):
    negative = graded()
    negative[0] = -1
    with attach(qwen) as attachment, torch.no_grad():
        refused = pytest.raises(ValueError, match="weights: -1 with law share; accepted are 0 to 127")
        with refused, attachment.steer(SteeringField([SPAN], negative), LAWS[0]):
            pass
        steered = field()
        with attachment.steer(steered, LAWS[0]) as report:
            qwen(IDS)
            with pytest.raises(ValueError, match="weights: -1 with law share; accepted are 0 to 127"):
                steered.update(negative)
            qwen(IDS)
        assert report.field_version == 0
        assert steered.update(negative) == 1
