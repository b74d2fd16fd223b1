"""Laws, gates and the field: what they accept, refuse and say."""

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.kernels import LAWS, make_key_field
from steer_ros.steering import LAW_NAMES, Gate, Law, Span, SteeringField, make_law

FEW = settings(max_examples=50, deadline=None)


def test_every_law_has_its_specification():
    assert set(LAW_NAMES) == set(LAWS)


def test_a_whole_number_is_taken_where_a_real_is_meant():
    assert make_law("additive", 2) == Law("additive", 2.0)
    assert isinstance(make_law("conserving", np.float32(2)).alpha, float)
    assert make_law("conserving", -1).steers
    assert not make_law("additive", 0).steers
    assert not make_law("none", 2).steers
    assert make_law("share", setpoint=1) == Law("share", 0.0, 1.0)


def test_a_setpoint_belongs_to_share_and_target():
    assert make_law("share", setpoint=0.9) == Law("share", 0.0, 0.9)
    assert make_law("target", 2, 0.5) == Law("target", 2.0, 0.5)
    assert make_law("additive").alpha == make_law("conserving").alpha == 2.0
    assert make_law("target", setpoint=0.5).steers
    assert make_law("share", setpoint=0).steers


@pytest.mark.parametrize(
    ("name", "setpoint"),
    [("share", None), ("share", -0.1), ("share", 1.1), ("share", math.nan), ("share", "1"), ("share", True),
     ("target", None), ("target", 0), ("target", 1.0), ("additive", 0.5), ("none", 0.5)],
)  # fmt: skip
def test_a_wrong_setpoint_is_named(name, setpoint):
    with pytest.raises(ValueError, match=r"^setpoint: .*accepted"):
        make_law(name, setpoint=setpoint)


def test_gains_are_kept_as_e4m3_has_them():
    gain = torch.tensor([[0.9, 1.0], [1e-4, -0.3]])
    field = SteeringField([Span(0, 1)], np.zeros(1, np.int8), gain=gain)
    assert field.gain.tolist() == [[0.875, 1.0], [0.0, -0.3125]]
    assert torch.equal(field.gain.to(torch.float8_e4m3fn).float(), field.gain)


@pytest.mark.parametrize("law", [make_law("share", setpoint=0.9), make_law("target", setpoint=0.5)])
def test_weights_below_zero_are_refused_while_a_setpoint_is_aimed_at(law):
    field = SteeringField([Span(0, 3)], np.array([1, 2, -3], np.int8))
    refused = pytest.raises(ValueError, match=rf"^weights: -3 with law {law.name}; accepted are 0 to 127")
    with refused, field.used_by(law):
        pass
    field.update(np.array([1, 2, 0], np.int8))
    with field.used_by(law):
        with pytest.raises(ValueError, match=rf"^weights: -1 with law {law.name}; accepted"):
            field.update(np.array([-1, 2, 0], np.int8))
        assert field.snapshot().weights.tolist() == [1, 2, 0]
    field.update(np.array([-1, 2, 0], np.int8))
    with field.used_by(make_law("conserving")):
        field.update(np.array([-1, -2, 0], np.int8))


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf, 64.1, "2", None, True, 1j])
def test_a_wrong_alpha_is_named(alpha):
    with pytest.raises(ValueError, match=r"^alpha: .*accepted"):
        make_law("additive", alpha)


def test_a_wrong_law_is_named():
    with pytest.raises(ValueError, match=r"^law: 'Additive'; accepted are none, additive, conserving"):
        make_law("Additive", 1.0)


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("all", Gate()),
        (" layers=2-3 ", Gate(layers=[2, 3])),
        ("layers=1-2,5;heads=0,1;phases=think", Gate([(1, 2), 5], range(2), "think")),
        ("phases=act,think;layers=all", Gate()),
        ("heads = 3 ; phases = act", Gate(heads=(3,), phases={"act"})),
        ("pairs=2.0, 3.5,2.0;phases=think", Gate(phases="think", pairs=[(3, 5), (2, 0)])),
    ],
)
def test_gates_are_read(text, gate):
    assert Gate.parse(text) == gate
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize(
    "text",
    ["", "  ", "layers", "layers=", "layers=x", "layers=-1", "layers=3-2", "layers=1;layers=2", "rows=1", "phases=",
     "phases=dream", "pairs=1", "pairs=1.x", "pairs=", "heads=1.5", "layers=1,,2", "layers=9999999", None, 3],
)  # fmt: skip
def test_wrong_gates_are_named(text):
    with pytest.raises(ValueError, match=r"^gate.*accepted"):
        Gate.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [{"layers": 2}, {"heads": 0}, {"layers": [None]}, {"layers": [(0, "2")]}, {"heads": [[1]]}, {"pairs": 3},
     {"pairs": [1, 2]}, {"pairs": [(0, "a"), (0, 1)]}, {"phases": 1}, {"phases": ["think", 2]}],
)  # fmt: skip
def test_what_is_no_list_of_places_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"^gate {name}: .*accepted"):
        Gate(**wrong)


@FEW
@given(st.sets(st.integers(0, 5), min_size=1), st.sets(st.integers(0, 3), min_size=1))
def test_a_gate_table_is_the_product_of_layers_and_heads(layers, heads):
    table = Gate(sorted(layers), sorted(heads)).table(6, 4)
    assert {(int(i), int(j)) for i, j in table.nonzero()} == {(i, j) for i in layers for j in heads}
    assert set(table.unique().tolist()) <= {0.0, 1.0}


def test_a_gate_beyond_the_model_is_named():
    with pytest.raises(ValueError, match="gate layers: 4; accepted are 0 to 3"):
        Gate.parse("layers=4").table(4, 2)
    with pytest.raises(ValueError, match="gate heads: 2; accepted are 0 to 1"):
        Gate.parse("heads=2").table(4, 2)
    with pytest.raises(ValueError, match=r"gate pairs: 3.2; accepted are 0.0 to 3.1"):
        Gate.parse("pairs=0.0,3.2").table(4, 2)


def test_pairs_are_single_heads():
    table = Gate(layers=[0, 1], pairs=[(0, 1), (1, 0), (2, 0)]).table(3, 2)
    assert table.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match="gate pairs"):
        Gate(pairs=[(1, 2, 3)])


@st.composite
def layouts(draw):
    """Spans in any order, and int8 weights for each."""
    position, spans = 0, []
    for _ in range(draw(st.integers(0, 4))):
        position += draw(st.integers(0, 5))
        spans.append(Span(position, draw(st.integers(1, 7))))
        position = spans[-1].end
    spans = draw(st.permutations(spans))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return spans, [rng.integers(-127, 128, s.length, dtype=np.int8) for s in spans]


@FEW
@given(layouts())
def test_each_weight_lands_on_the_key_of_its_token(layout):
    spans, weights = layout
    field = SteeringField(spans, weights)
    dense, visual = field.dense(field.end + 3)
    wanted = np.zeros(field.end + 3, np.int8)
    seen = np.zeros(field.end + 3, bool)
    for span, array in zip(spans, weights, strict=True):
        wanted[span.start : span.end] = array
        seen[span.start : span.end] = True
    assert np.array_equal(dense.numpy(), wanted)
    assert np.array_equal(visual.numpy(), seen)
    assert field.num_keys == seen.sum()
    if spans:
        same = make_key_field(dense, [(s.start, s.length) for s in spans])
        assert torch.equal(field.snapshot().weight_extrema, same.weight_extrema)
        assert torch.equal(field.snapshot().weights, same.weights)
    ordered = [w for _, w in sorted(zip(spans, weights, strict=True), key=lambda pair: pair[0].start)]
    for j in range(len(spans)):
        upto = np.concatenate(ordered[: j + 1])
        assert (field.snapshot().low[j], field.snapshot().high[j]) == (upto.min(), upto.max())


def test_grids_and_tensors_are_taken_as_they_are():
    grid = np.arange(12, dtype=np.int8).reshape(3, 4)
    field = SteeringField([Span(2, 12)], grid)
    assert field.update(torch.from_numpy(grid[::-1].copy())) == field.version == 1
    assert field.snapshot().weights.tolist() == grid[::-1].ravel().tolist()


@pytest.mark.parametrize(
    ("spans", "weights", "message"),
    [
        ([Span(0, 4), Span(3, 2)], [np.zeros(4, np.int8), np.zeros(2, np.int8)], "spans: .*overlap"),
        ([Span(0, 4)], [np.zeros(5, np.int8)], r"weights\[0\]: 5 values"),
        ([Span(0, 4)], np.zeros(4, np.float32), r"weights\[0\]: dtype float32; accepted is int8"),
        ([Span(0, 4)], np.full(4, -128, np.int8), r"weights\[0\]: -128"),
        ([Span(0, 4)], [], "weights: 0 arrays"),
        ([], [np.zeros(1, np.int8)], "weights: 1 arrays"),
    ],
)
def test_a_field_that_does_not_fit_is_named(spans, weights, message):
    with pytest.raises(ValueError, match=message):
        SteeringField(spans, weights)


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 0), (1.5, 2), (0, True), ("0", 1)])
def test_a_wrong_span_is_named(start, length):
    with pytest.raises(ValueError, match=r"^span (start|length): .*accepted"):
        Span(start, length)


@pytest.mark.parametrize("gain", [torch.ones(3), torch.full((2, 2), math.nan), torch.full((2, 2), 500.0)])
def test_a_wrong_gain_is_named(gain):
    with pytest.raises(ValueError, match=r"^gain: .*accepted"):
        SteeringField([Span(0, 1)], np.zeros(1, np.int8), gain=gain)


def test_a_refused_update_leaves_the_field_as_it_was():
    field = SteeringField([Span(0, 3)], np.array([1, 2, 3], np.int8))
    with pytest.raises(ValueError, match="weights"):
        field.update(np.zeros(4, np.int8))
    assert field.version == 0
    assert field.snapshot().weights.tolist() == [1, 2, 3]


def test_updates_from_many_threads_are_whole_and_counted():
    field = SteeringField([Span(0, 64)], np.zeros(64, np.int8))
    mixed = []

    def write(value):
        for _ in range(50):
            field.update(np.full(64, value, np.int8))
            if field.snapshot().weights.unique().numel() != 1:
                mixed.append(value)

    threads = [threading.Thread(target=write, args=(value,)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mixed
    assert field.version == 200
