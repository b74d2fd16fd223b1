"""The specification of steered attention against independent oracles, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.kernels import steered_attention_reference

FEW = settings(max_examples=25, deadline=None)


@st.composite
def cases(draw):
    """q, k, v in float64 with the rows last, weights and visual of any shape a context can have."""
    group, key_heads = draw(st.integers(1, 8)), draw(st.integers(1, 2))
    rows = draw(st.integers(1, 5))
    keys = rows + draw(st.integers(0, 29))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    q = torch.randn(1, group * key_heads, rows, 8, dtype=torch.float64) * draw(st.sampled_from([0.1, 1.0, 3.0]))
    k, v = torch.randn(2, 1, key_heads, keys, 8, dtype=torch.float64)
    first = draw(st.integers(0, keys))
    last = draw(st.integers(first, keys))
    visual = torch.zeros(keys, dtype=torch.bool)
    visual[first:last] = True
    low, high = draw(st.sampled_from([(-127, 127), (-127, -1), (0, 0), (127, 127), (0, 127), (1, 127)]))
    weights = torch.randint(low, high + 1, (keys,), dtype=torch.int8) * visual
    return q, k, v, weights, visual


def plain(q, k, v, bias=0.0):
    """Attention with a bias on the scores, written down a second time. Returns out and probabilities."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    rows, keys = q.shape[2], k.shape[2]
    scores = torch.einsum("bhsd,bhkd->bhsk", q, k) / math.sqrt(q.shape[3]) + bias
    hidden = torch.arange(keys) > torch.arange(keys - rows, keys)[:, None]
    p = scores.masked_fill(hidden, -math.inf).softmax(-1)
    return p @ v, p


def close(a, b):
    return torch.allclose(a, b, rtol=1e-12, atol=1e-13)


@FEW
@given(cases(), st.floats(-6, 6))
def test_additive_is_attention_with_one_more_dimension(case, gain):
    q, k, v, weights, visual = case
    scale = q.shape[3] ** -0.5
    bias = gain * weights.double() / 127 / scale
    q_long = torch.cat([q, torch.ones_like(q[..., :1])], -1)
    k_long = torch.cat([k, bias.view(1, 1, -1, 1).expand(*k.shape[:3], 1)], -1)
    unsteered = torch.zeros_like(weights)
    oracle = steered_attention_reference(q_long, k_long, v, unsteered, visual, law="none", scale=scale)
    result = steered_attention_reference(q, k, v, weights, visual, law="additive", gain=gain)
    assert close(result.out, oracle.out)


@FEW
@given(cases(), st.floats(-6, 6))
def test_additive_binary_is_two_attentions_merged_by_log_sum_exp(case, gain):
    q, k, v, weights, visual = case
    weights = (weights > 0).to(torch.int8) * 127
    q, k_last = q[:, :, -1:], k  # one row, so that a part is a choice of keys
    result = steered_attention_reference(q, k, v, weights, visual, law="additive", gain=gain)
    group = q.shape[1] // k.shape[1]
    scores = (q @ k_last.repeat_interleave(group, 1).transpose(-1, -2)) * q.shape[3] ** -0.5
    values = v.repeat_interleave(group, 1)
    outs, lses = [], []
    for part, shift in ((weights > 0, gain), (weights == 0, 0.0)):
        if part.any():
            outs.append(scores[..., part].softmax(-1) @ values[:, :, part])
            lses.append(scores[..., part].logsumexp(-1, keepdim=True) + shift)
    share = torch.cat(lses, -1).softmax(-1)
    assert close(result.out, sum(share[..., i : i + 1] * out for i, out in enumerate(outs)))


@FEW
@given(cases(), st.floats(-12, 12))
def test_conserving_keeps_what_the_image_gets(case, gain):
    q, k, _, weights, visual = case
    keys = k.shape[2]
    eye = torch.eye(keys, dtype=torch.float64).expand(1, k.shape[1], keys, keys)  # out is then the attention itself
    before = plain(q, k, eye)[0]
    after = steered_attention_reference(q, k, eye, weights, visual, law="conserving", gain=gain).out
    assert close(after[..., visual].sum(-1), before[..., visual].sum(-1))
    assert close(after[..., ~visual], before[..., ~visual])
    tilted = before * torch.exp(gain * weights.double() / 127)
    in_v = tilted[..., visual]
    if visual.any():  # inside V, the share of a key is its share of the tilted masses
        total = in_v.sum(-1, keepdim=True)
        share = torch.where(total > 0, in_v / total, 0.0)
        assert torch.allclose(after[..., visual], share * before[..., visual].sum(-1, keepdim=True), atol=1e-12)


@FEW
@given(cases(), st.floats(-6, 6), st.sampled_from(["additive", "conserving"]))
def test_focus_is_the_mass_of_the_region(case, gain, law):
    q, k, _, weights, visual = case
    keys = k.shape[2]
    eye = torch.eye(keys, dtype=torch.float64).expand(1, k.shape[1], keys, keys)
    result = steered_attention_reference(q, k, eye, weights, visual, law=law, gain=gain)
    assert close(result.focus_before, plain(q, k, eye)[0][..., weights > 0].sum(-1))
    assert close(result.focus_after, result.out[..., weights > 0].sum(-1))


@FEW
@given(cases(), st.sampled_from(["additive", "conserving"]))
def test_nothing_to_steer_with_leaves_the_rows_bit_for_bit(case, law):
    q, k, v, weights, visual = case
    base = steered_attention_reference(q, k, v, weights, visual, law="none").out
    assert close(base, plain(q, k, v)[0])
    no_weight, no_visual = torch.zeros_like(weights), torch.zeros_like(visual)
    rows = torch.zeros(q.shape[2], dtype=torch.bool)
    for args, options in (
        ((no_weight, visual), {}),
        ((weights, no_visual), {}),
        ((weights, visual), {"gain": 0.0}),
        ((weights, visual), {"rows": rows}),
    ):
        options = {"gain": 3.0} | options
        result = steered_attention_reference(q, k, v, *args, law=law, **options)
        assert torch.equal(result.out, base)
        assert torch.equal(result.focus_before, result.focus_after)


def test_conserving_with_the_region_all_of_v_changes_nothing():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 9, 8, dtype=torch.float64)
    visual = torch.arange(9) < 4
    result = steered_attention_reference(q, k, v, visual.to(torch.int8) * 90, visual, law="conserving", gain=5.0)
    assert torch.equal(result.out, steered_attention_reference(q, k, v, visual.to(torch.int8), visual, law="none").out)


def test_gains_act_on_their_heads_and_rows_on_theirs():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 9, 8, dtype=torch.float64)
    visual = torch.arange(9) < 4
    weights = torch.tensor([127, 0, -60, 0, 0, 0, 0, 0, 0], dtype=torch.int8)
    rows = torch.arange(9) >= 6
    gain = torch.tensor([0.0, 2.0, 0.0, -1.0])
    base = steered_attention_reference(q, k, v, weights, visual, law="none").out
    for law in ("additive", "conserving"):
        out = steered_attention_reference(q, k, v, weights, visual, law=law, gain=gain, rows=rows).out
        changed = (out != base).any(-1)[0]  # [heads, rows]
        assert torch.equal(changed, (gain != 0)[:, None] & rows[None, :])
        for head in (1, 3):
            alone = steered_attention_reference(q, k, v, weights, visual, law=law, gain=float(gain[head]))
            assert close(out[:, head, 6:], alone.out[:, head, 6:])


def test_what_lies_beyond_the_valid_length_is_never_read():
    torch.manual_seed(0)
    q = torch.randn(2, 4, 3, 8)
    k, v = torch.randn(2, 2, 2, 20, 8)
    weights, visual = torch.full((20,), 127, dtype=torch.int8), torch.arange(20) < 5
    short = steered_attention_reference(
        q, k[:, :, :11], v[:, :, :11], weights[:11], visual[:11], law="conserving", gain=2.0
    )
    k[:, :, 11:], v[:, :, 11:] = float("nan"), float("inf")
    for length in (11, torch.tensor(11)):
        result = steered_attention_reference(q, k, v, weights, visual, law="conserving", gain=2.0, valid_length=length)
        assert torch.equal(result.out, short.out)
    middle = steered_attention_reference(
        q, k, v, weights, visual, law="additive", gain=2.0, valid_length=11, q_start=4
    )
    assert middle.out.isfinite().all()


def test_one_key_and_large_scores():
    q = torch.full((1, 1, 1, 4), 1e3)
    k = v = torch.ones(1, 1, 1, 4)
    one = torch.ones(1, dtype=torch.int8), torch.ones(1, dtype=torch.bool)
    for law in ("none", "additive", "conserving"):
        result = steered_attention_reference(q, k, v, *one, law=law, gain=64.0)
        assert torch.equal(result.out, v)
        assert result.focus_after.item() == 1.0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"q": torch.zeros(1, 3, 2, 8)}, "k"),
        ({"q": torch.zeros(4, 2, 8)}, "q"),
        ({"k": torch.zeros(1, 2, 6, 9)}, "k"),
        ({"v": torch.zeros(1, 2, 7, 8)}, "v"),
        ({"v": torch.zeros(1, 2, 6, 8, dtype=torch.float64)}, "v"),
        ({"weights": torch.zeros(6)}, "weights"),
        ({"weights": torch.full((6,), -128, dtype=torch.int8)}, "weights"),
        ({"visual": torch.zeros(5, dtype=torch.bool)}, "visual"),
        ({"rows": torch.zeros(3, dtype=torch.bool)}, "rows"),
        ({"gain": math.nan}, "gain"),
        ({"gain": torch.zeros(3)}, "gain"),
        ({"law": "magic"}, "law"),
        ({"valid_length": 7}, "valid_length"),
        ({"valid_length": 0}, "valid_length"),
        ({"q_start": 5}, "q_start"),
    ],
)
def test_wrong_arguments_are_named(change, name):
    good = {
        "q": torch.zeros(1, 4, 2, 8),
        "k": torch.zeros(1, 2, 6, 8),
        "v": torch.zeros(1, 2, 6, 8),
        "weights": torch.zeros(6, dtype=torch.int8),
        "visual": torch.zeros(6, dtype=torch.bool),
        "law": "additive",
    }
    steered_attention_reference(**good)
    with pytest.raises(ValueError, match=rf"^{name}\b.*accepted"):
        steered_attention_reference(**(good | change))
