"""What steered attention refuses, and that it says which argument and what is accepted; the field's maker too."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.kernels import KeyField, make_key_field, steered_attention

torch.set_num_threads(1)
NAN_BITS = torch.tensor([0x7F] * 4, dtype=torch.uint8).view(torch.float8_e4m3fn)


def a_field(keys=6, **changes):
    weights = torch.zeros(keys, dtype=torch.int8)
    weights[1] = 127
    return make_key_field(weights, [(1, 2)], **changes)


def by_hand(**changes):
    """A field that make_key_field has not checked."""
    field = a_field()
    for name, value in changes.items():
        if callable(value):
            changes[name] = value(getattr(field, name).clone())
    return replace(field, **changes)


def good():
    return {
        "q": torch.randn(1, 4, 2, 8),
        "k": torch.randn(1, 2, 6, 8),
        "v": torch.randn(1, 2, 6, 8),
        "field": a_field(),
        "law": "additive",
    }


REFUSED = [
    ({"q": torch.zeros(4, 2, 8)}, "q"),
    ({"q": None}, "q"),
    ({"q": torch.zeros(1, 4, 2, 8).to_sparse()}, "q"),
    ({"v": torch.zeros(1, 2, 6, 8).to_sparse()}, "v"),
    ({"k": np.zeros((1, 2, 6, 8), np.float32)}, "k"),
    ({"v": [0.0]}, "v"),
    ({"q": torch.zeros(1, 3, 2, 8)}, "k"),
    ({"q": torch.zeros(1, 4, 0, 8)}, "q"),
    ({"q": torch.zeros(1, 4, 2, 8, dtype=torch.float16)}, "k"),
    ({"q": torch.zeros(1, 4, 2, 8, dtype=torch.int32)}, "q"),
    ({"k": torch.zeros(1, 2, 6, 9)}, "k"),
    ({"k": torch.zeros(2, 2, 6, 8)}, "k"),
    ({"k": torch.zeros(1, 2, 0, 8), "v": torch.zeros(1, 2, 0, 8)}, "k"),
    ({"k": torch.zeros(1, 2, 6, 8, device="meta")}, "k"),
    ({"v": torch.zeros(1, 2, 7, 8)}, "v"),
    ({"v": torch.zeros(1, 2, 6, 0)}, "v"),
    ({"v": torch.zeros(1, 2, 6, 8, dtype=torch.float64)}, "v"),
    ({"law": "magic"}, "law"),
    ({"law": None}, "law"),
    ({"law": ["additive"]}, "law"),
    ({"alpha": math.nan}, "alpha"),
    ({"alpha": -math.inf}, "alpha"),
    ({"alpha": 65}, "alpha"),
    ({"alpha": "2"}, "alpha"),
    ({"alpha": True}, "alpha"),
    ({"alpha": torch.tensor([math.nan])}, "alpha"),
    ({"alpha": torch.ones(2)}, "alpha"),
    ({"alpha": torch.ones(1, dtype=torch.int64)}, "alpha"),
    ({"alpha": torch.ones(1, device="meta")}, "alpha"),
    ({"setpoint": 0.5}, "setpoint"),
    ({"law": "share"}, "setpoint"),
    ({"law": "share", "setpoint": 1.01}, "setpoint"),
    ({"law": "share", "setpoint": -0.01}, "setpoint"),
    ({"law": "share", "setpoint": math.nan}, "setpoint"),
    ({"law": "share", "setpoint": torch.tensor(2.0)}, "setpoint"),
    ({"law": "target"}, "setpoint"),
    ({"law": "target", "setpoint": 0.0}, "setpoint"),
    ({"law": "target", "setpoint": 1}, "setpoint"),
    ({"law": "target", "setpoint": torch.tensor([1.0])}, "setpoint"),
    ({"rows": torch.zeros(3, dtype=torch.bool)}, "rows"),
    ({"rows": torch.zeros(2)}, "rows"),
    ({"rows": torch.zeros(2, dtype=torch.bool, device="meta")}, "rows"),
    ({"rows": [True, False]}, "rows"),
    ({"scale": math.nan}, "scale"),
    ({"scale": 0.0}, "scale"),
    ({"scale": -1.0}, "scale"),
    ({"scale": 1e-40}, "scale"),
    ({"scale": 1e40}, "scale"),
    ({"q_start": 5}, "q_start"),
    ({"q_start": -1}, "q_start"),
    ({"q_start": 1.5}, "q_start"),
    ({"valid_length": 7}, "valid_length"),
    ({"valid_length": 0}, "valid_length"),
    ({"valid_length": 1}, "valid_length"),
    ({"valid_length": 4.0}, "valid_length"),
    ({"valid_length": torch.tensor([5, 4])}, "valid_length"),
    ({"valid_length": torch.tensor([5.0])}, "valid_length"),
    ({"valid_length": torch.tensor([7])}, "valid_length"),
    ({"valid_length": torch.tensor(5, device="meta")}, "valid_length"),
    ({"valid_length": 2}, "field"),
    ({"valid_length": torch.tensor(2)}, "field"),
    ({"field": a_field(8), "k": torch.zeros(1, 2, 2, 8), "v": torch.zeros(1, 2, 2, 8)}, "field"),
    ({"field": torch.zeros(6, dtype=torch.int8)}, "field"),
    ({"field": a_field(gains=torch.ones(3))}, "field"),
    ({"field": a_field(device="meta")}, "field"),
    ({"field": make_key_field(torch.zeros(3, 6, dtype=torch.int8), [(1, 2)])}, "field"),
    ({"field": by_hand(weights=lambda w: w.float())}, "field"),
    ({"field": by_hand(weights=lambda w: w.fill_(-128))}, "field"),
    ({"field": by_hand(visual=lambda v: v.logical_not())}, "field"),
    ({"field": by_hand(visual=lambda v: v[:1])}, "field"),
    ({"field": by_hand(visual=lambda v: v.int())}, "field"),
    ({"field": by_hand(weight_extrema=lambda s: s[..., 0])}, "field"),
    ({"field": by_hand(gains=torch.ones(4, dtype=torch.float64))}, "field"),
    ({"field": by_hand(gains=torch.ones(4, 1))}, "field"),
    ({"field": by_hand(gains=torch.tensor([1.0, math.nan, 1.0, 1.0]))}, "field"),
    ({"field": by_hand(gains=NAN_BITS)}, "field"),
    ({"field": by_hand(start=1.5)}, "field"),
    ({"field": by_hand(start=-1)}, "field"),
    ({"field": by_hand(start=5)}, "field"),
    ({"v": torch.zeros(1, 2, 6, 8, device="meta")}, "v"),
    ({"q": torch.zeros(2, 4, 2, 8)}, "k"),
    ({"alpha": torch.tensor(65.0)}, "alpha"),
    ({"valid_length": True}, "valid_length"),
    ({"valid_length": torch.tensor([0])}, "valid_length"),
    ({"valid_length": torch.tensor([6, 6])}, "valid_length"),
    ({"impl": "flash"}, "impl"),
    ({"focus": "yes"}, "focus"),
    ({"focus": torch.tensor(True)}, "focus"),
]


@pytest.mark.parametrize(("change", "name"), REFUSED, ids=[f"{name}-{i}" for i, (_, name) in enumerate(REFUSED)])
@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_wrong_arguments_are_named(change, name, impl):
    steered_attention(**good(), impl=impl)
    with pytest.raises(ValueError, match=rf"^{name}\b.*accepted"):
        steered_attention(**(good() | {"impl": impl} | change))


@pytest.mark.parametrize(("name", "says"), [("mark", "^mark: renamed; use setpoint$"), ("bias", "argument 'bias'$")])
def test_an_argument_that_is_not_there_is_refused_and_a_renamed_one_by_its_new_name(name, says):
    with pytest.raises(TypeError, match=says):
        steered_attention(**good(), **{name: 0.5})


@pytest.mark.parametrize("law", ["share", "target"])
@pytest.mark.parametrize("impl", ["auto", "reference", "sdpa"])
def test_a_weight_below_zero_is_refused_by_the_laws_with_a_setpoint(law, impl):
    weights = torch.tensor([0, 127, -1, 0, 0, 0], dtype=torch.int8)
    arguments = good() | {"field": make_key_field(weights, [(1, 2)]), "law": law, "setpoint": 0.5, "impl": impl}
    with pytest.raises(ValueError, match=rf"^field: weights below 0 with law {law}; accepted are 0 to 127"):
        steered_attention(**arguments)
    steered_attention(**(arguments | {"law": "conserving", "setpoint": None}))


@pytest.mark.parametrize(
    ("weights", "spans", "options", "name"),
    [
        (torch.full((4,), -128, dtype=torch.int8), [(0, 4)], {}, "weights"),
        (torch.zeros(4), [(0, 4)], {}, "weights"),
        (torch.zeros(4, dtype=torch.uint8), [(0, 4)], {}, "weights"),
        (torch.zeros(2, 2, 4, dtype=torch.int8), [(0, 4)], {}, "weights"),
        (torch.zeros(0, dtype=torch.int8), [(0, 4)], {}, "weights"),
        ([0, 1], [(0, 2)], {}, "weights"),
        (torch.ones(4, dtype=torch.int8), [(0, 2)], {}, "weights"),
        (torch.ones(2, 4, dtype=torch.int8), [(2, 2)], {}, "weights"),
        (torch.zeros(4, dtype=torch.int8), [], {}, "spans"),
        (torch.zeros(4, dtype=torch.int8), [(3, 2)], {}, "spans"),
        (torch.zeros(4, dtype=torch.int8), [(-1, 2)], {}, "spans"),
        (torch.zeros(4, dtype=torch.int8), [(1, 0)], {}, "spans"),
        (torch.zeros(4, dtype=torch.int8), [(0, 3), (2, 2)], {}, "spans"),
        (torch.zeros(4, dtype=torch.int8), [3], {}, "spans"),
        (torch.zeros(4, dtype=torch.int8), [(0, "x")], {}, "spans"),
        (torch.zeros(4, dtype=torch.int8), [(0.5, 2)], {}, "spans"),
        (torch.zeros(4, dtype=torch.int8), [(0, 4)], {"gains": torch.tensor([1.0, math.nan])}, "gains"),
        (torch.zeros(4, dtype=torch.int8), [(0, 4)], {"gains": torch.ones(2, 2)}, "gains"),
        (torch.zeros(4, dtype=torch.int8), [(0, 4)], {"gains": NAN_BITS}, "gains"),
        (torch.zeros(4, dtype=torch.int8), [(0, 4)], {"gains": []}, "gains"),
    ],
)
def test_a_field_that_does_not_fit_is_named(weights, spans, options, name):
    with pytest.raises(ValueError, match=rf"^{name}\b.*accepted"):
        make_key_field(weights, spans, **options)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_field_is_what_each_row_sees(data):
    batch, spans, at = data.draw(st.integers(1, 3)), [], data.draw(st.integers(0, 4))
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(1, 5))
        spans.append((at, count))
        at += count + data.draw(st.integers(0, 3))
    keys = at + data.draw(st.integers(0, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    inside = np.zeros(keys, bool)
    for start, count in spans:
        inside[start : start + count] = True
    dense = rng.integers(-127, 128, (batch, keys), dtype=np.int8) * inside
    field = make_key_field(dense, data.draw(st.permutations(spans)))
    assert (field.start, field.end) == (spans[0][0], sum(spans[-1]))
    assert np.array_equal(field.visual.numpy(), np.broadcast_to(inside[field.start : field.end], field.visual.shape))
    for b in range(batch):
        for position in range(field.start, keys):
            j = min(position, field.end - 1) - field.start
            visible = dense[b, : position + 1][inside[: position + 1]]
            assert field.weight_extrema[b, j].tolist() == [visible.min(), visible.max()]
    one = make_key_field(torch.from_numpy(dense[0]), spans)
    assert torch.equal(one.weights, field.weights[0])
    assert torch.equal(one.weight_extrema, field.weight_extrema[0])
    assert one.memory_bytes == 4 * (field.end - field.start)
    for length in range(keys + 1):
        cut = one.truncated(length)
        if length <= field.start:
            assert cut is None
        else:
            assert isinstance(cut, KeyField)
            assert cut.end == min(length, field.end)
            assert torch.equal(cut.weight_extrema, one.weight_extrema[: cut.end - cut.start])


def test_gains_become_float32_and_e4m3_stays():
    weights = torch.zeros(4, dtype=torch.int8)
    assert make_key_field(weights, [(0, 4)], gains=[1, 0.5]).gains.dtype == torch.float32
    e4m3 = torch.tensor([0.9, 1.0]).to(torch.float8_e4m3fn)
    field = make_key_field(weights, [(0, 4)], gains=e4m3)
    assert field.gains.float().tolist() == [0.875, 1.0]
    assert field.memory_bytes == 4 * 4 + 2
    assert field.weights.data_ptr() != weights.data_ptr()


def test_the_note_s_masks_fit_in_its_memory():
    """2,304 visual tokens: 9 KB with the gains of 28 layers."""
    field = make_key_field(torch.zeros(2400, dtype=torch.int8), [(40, 2304)], gains=torch.ones(12))
    assert field.memory_bytes + 28 * 12 < 16 * 1024
