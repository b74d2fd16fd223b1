"""New weights written into a field: by Triton and by PyTorch alike, and as regions' own union says."""

import importlib
import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steer_ros.kernels.fields import make_key_field
from steer_ros.kernels.update import update_field
from steer_ros.regions.mask import union

updating = importlib.import_module("steer_ros.kernels.update")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HAS_TRITON = importlib.util.find_spec("triton") is not None
WAYS = ["torch", pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason="needs triton"))]
SPANS = [(3, 40), (50, 23)]  # a gap of 7


def field_of(shape=(80,), spans=SPANS, gains=None):
    return make_key_field(torch.zeros(shape, dtype=torch.int8), spans, gains=gains, device=DEVICE)


def parts_of(regions, lead=(), n=70, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, (*lead, regions, n), generator=rng).to(torch.int8).to(DEVICE)


def expected(parts, strengths, visual):
    """By NumPy: each region's weights times its signed strength, then regions.union, and the running extremes."""
    scaled = []
    for part, strength in zip(parts.cpu().numpy(), strengths.cpu().numpy(), strict=True):
        scaled.append(np.clip(np.rint(part.astype(np.float32) * strength), -127, 127).astype(np.int8))
    merged = union(scaled) if scaled else np.zeros(parts.shape[-1], dtype=np.int8)
    merged = np.where(visual, merged, 0)
    low = np.minimum.accumulate(np.where(visual, merged, 127))
    high = np.maximum.accumulate(np.where(visual, merged, -127))
    return merged, np.stack([low, high], -1)


@pytest.fixture(autouse=True)
def short_tiles(monkeypatch):
    """The interpreter's scans go key by key; and so the running extremes cross from tile to tile."""
    monkeypatch.setattr(updating, "BLOCK", 32)


@pytest.mark.parametrize("impl", WAYS)
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_equal_to_the_regions_own_union(impl, data):
    """Bit by bit, the extremes too; strengths that land on halves included."""
    regions = data.draw(st.integers(0, 4))
    strength = st.sampled_from([1.0, 0.5, -0.5, 0.0, 1.5, -1.0, 0.3, 1 / 127])
    strengths = data.draw(st.lists(strength, min_size=regions, max_size=regions))
    strengths = torch.tensor(strengths, dtype=torch.float32, device=DEVICE)
    field, parts = field_of(), parts_of(regions, seed=data.draw(st.integers(0, 99)))
    update_field(field, parts, strengths, impl=impl)
    weights, weight_extrema = expected(parts, strengths, field.visual.cpu().numpy())
    np.testing.assert_array_equal(field.weights.cpu().numpy(), weights)
    np.testing.assert_array_equal(field.weight_extrema.cpu().numpy(), weight_extrema)


@pytest.mark.parametrize("impl", WAYS)
def test_a_field_for_each_sequence(impl):
    field, parts = field_of((2, 80)), parts_of(3, (2,))
    strengths = torch.tensor([[1.0, 0.5, -1.0], [0.25, 1.0, 1.0]], device=DEVICE)
    for given_strengths, each in ((strengths, strengths), (strengths[0], strengths[:1].expand(2, -1))):
        update_field(field, parts, given_strengths, impl=impl)
        for b in range(2):
            weights, weight_extrema = expected(parts[b], each[b], field.visual[b].cpu().numpy())
            np.testing.assert_array_equal(field.weights[b].cpu().numpy(), weights)
            np.testing.assert_array_equal(field.weight_extrema[b].cpu().numpy(), weight_extrema)


@pytest.mark.parametrize("impl", WAYS)
def test_in_place_and_as_made_anew(impl):
    """The buffers stay, so that a captured graph reads the new weights; they hold what make_key_field makes."""
    field, parts = field_of(), parts_of(1)
    places = [t.data_ptr() for t in (field.weights, field.visual, field.weight_extrema)]
    update_field(field, parts, impl=impl)
    assert places == [t.data_ptr() for t in (field.weights, field.visual, field.weight_extrema)]
    dense = torch.zeros(80, dtype=torch.int8)
    dense[3:73] = torch.where(field.visual, parts[0], torch.zeros_like(parts[0])).cpu()
    anew = make_key_field(dense, SPANS, device=DEVICE)
    assert torch.equal(field.weights, anew.weights)
    assert torch.equal(field.weight_extrema, anew.weight_extrema)


@pytest.mark.parametrize("impl", WAYS)
def test_rows_of_a_larger_table(impl):
    wide = parts_of(6, n=140)
    field, other = field_of(), field_of()
    update_field(field, wide[::2, 10:80], impl=impl)
    update_field(other, wide[::2, 10:80].contiguous(), impl="torch")
    assert torch.equal(field.weights, other.weights)
    assert torch.equal(field.weight_extrema, other.weight_extrema)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="on a CPU these raise")
@pytest.mark.parametrize("impl", WAYS)
def test_on_a_gpu_bad_values_are_tamed(impl):
    field = field_of()
    parts = torch.full((2, 70), -128, dtype=torch.int8, device=DEVICE)
    update_field(field, parts, torch.tensor([1.0, float("nan")], device=DEVICE), impl=impl)
    assert set(field.weights[field.visual].tolist()) == {-127}


@pytest.mark.parametrize(
    ("parts", "strengths", "message"),
    [
        (torch.zeros(2, 70), None, r"parts: torch.float32 \[2, 70\]; accepted is int8, \[regions, 70\]"),
        (torch.zeros(2, 69, dtype=torch.int8), None, r"parts: torch.int8 \[2, 69\]"),
        (torch.zeros(70, dtype=torch.int8), None, r"parts: torch.int8 \[70\]"),
        (torch.full((1, 70), -128, dtype=torch.int8), None, "parts: -128"),
        (torch.zeros(2, 70, dtype=torch.int8), torch.ones(3), r"strengths: torch.float32 \[3\]; accepted is"),
        (torch.zeros(2, 70, dtype=torch.int8), torch.ones(2).double(), "strengths: torch.float64"),
        (torch.zeros(2, 70, dtype=torch.int8), torch.tensor([1.0, float("nan")]), "strengths: not finite"),
    ],
)
def test_what_is_wrong_is_named(parts, strengths, message):
    field = make_key_field(torch.zeros(80, dtype=torch.int8), SPANS)
    with pytest.raises(ValueError, match=message):
        update_field(field, parts, strengths)


def test_implementations_are_named():
    with pytest.raises(ValueError, match="impl: 'cuda'; accepted are auto, torch, triton"):
        update_field(field_of(), parts_of(1), impl="cuda")
