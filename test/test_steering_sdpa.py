"""The fast path against the specification in float64: no worse than twice the error of plain PyTorch."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.kernels import steered_attention_reference
from steer_ros.steering import sdpa

torch.set_num_threads(1)
FEW = settings(max_examples=40, deadline=None)


@st.composite
def cases(draw):
    """Text rows after their spans: tensors in float64, weights, V, first and last key of V, gains."""
    group, key_heads, batch = draw(st.integers(1, 8)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    rows, head_size = draw(st.sampled_from([1, 1, 2, 5])), draw(st.sampled_from([8, 64, 80]))
    start, n, tail = draw(st.integers(0, 9)), draw(st.integers(1, 40)), draw(st.integers(0, 9))
    keys = start + n + tail + rows
    torch.manual_seed(draw(st.integers(0, 2**31)))
    q = torch.randn(batch, group * key_heads, rows, head_size, dtype=torch.float64)
    k, v = torch.randn(2, batch, key_heads, keys, head_size, dtype=torch.float64)
    visual = torch.zeros(keys, dtype=torch.bool)
    visual[start : start + n] = True
    if draw(st.booleans()) and n > 2:  # text between two frames
        visual[start + n // 3 : start + n - 1] = False
    low, high = draw(st.sampled_from([(-127, 127), (-127, -1), (127, 127), (0, 127), (1, 127)]))
    weights = torch.randint(low, high + 1, (keys,), dtype=torch.int8) * visual
    strength = draw(st.floats(-6, 6))
    gains = torch.full((group * key_heads,), strength)
    if draw(st.booleans()):  # heads that differ, some of them off
        gains = gains * torch.randint(0, 3, gains.shape)
    return q, k, v, weights, visual, start, n, gains.float()


def fast(case, dtype, law):
    """The case through sdpa.py in `dtype`: out [B, Hq, S, D] and focus before and after."""
    q, k, v, weights, visual, start, n, gains = case
    q, k, v = (t.to(dtype) for t in (q, k, v))
    terms = sdpa.make_terms(
        weights[start : start + n], visual[start : start + n], start, gains, torch.ones_like(gains), k.shape[1],
        conserving=law == "conserving", gapless=bool(visual[start : start + n].all()), regions=None,
        dtype=torch.float64 if dtype == torch.float64 else torch.float32,
    )  # fmt: skip
    scale = q.shape[3] ** -0.5
    out = sdpa.attend_rows(q, k, v, terms, scale).transpose(1, 2)
    focus = sdpa.focus_rows(q, k, terms, scale)[..., 0]
    return out, focus[..., 0], focus[..., 1]


def exact(case, law):
    q, k, v, weights, visual, _, _, gains = case
    return steered_attention_reference(q, k, v, weights, visual, law=law, gain=gains.double())


@FEW
@given(cases(), st.sampled_from(["additive", "conserving"]))
def test_in_float64_it_is_the_specification(case, law):
    out, before, after = fast(case, torch.float64, law)
    wanted = exact(case, law)
    assert torch.allclose(out, wanted.out, rtol=1e-9, atol=1e-12)
    assert torch.allclose(before, wanted.focus_before, rtol=1e-9, atol=1e-12)
    assert torch.allclose(after, wanted.focus_after, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("law", ["additive", "conserving"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_its_error_is_within_twice_that_of_plain_pytorch(law, dtype):
    """Root mean squares over random cases: one case's largest error is luck, in both."""
    ours, plains = [], []
    for seed in range(25):
        q, k, v, weights, visual, start, n, gains = random_case(seed)
        rounded = [t.to(dtype).double() for t in (q, k, v)]  # both are judged on the inputs that they were given
        case = (*rounded, weights, visual, start, n, gains)
        wanted = exact(case, law)
        out, before, after = fast(case, dtype, law)
        ours.append((out.double() - wanted.out).flatten())
        plains.append(
            (eager(rounded, dtype, exact_shift(rounded, weights, visual, gains, law)) - wanted.out).flatten()
        )
        assert (before.double() - wanted.focus_before).abs().max() < 1e-5
        assert (after.double() - wanted.focus_after).abs().max() < 1e-5
    assert torch.cat(ours).square().mean().sqrt() <= 2 * torch.cat(plains).square().mean().sqrt()


def random_case(seed):
    """As `cases` draws them, by a seed."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    group, key_heads, rows = rng.randint(1, 8), rng.randint(1, 3), rng.choice([1, 1, 2, 5])
    start, n = rng.randint(0, 9), rng.randint(2, 60)
    keys = start + n + rng.randint(0, 9) + rows
    q = torch.randn(1, group * key_heads, rows, 64, dtype=torch.float64)
    k, v = torch.randn(2, 1, key_heads, keys, 64, dtype=torch.float64)
    visual = torch.zeros(keys, dtype=torch.bool)
    visual[start : start + n] = True
    weights = torch.randint(-127, 128, (keys,), dtype=torch.int8) * visual
    return q, k, v, weights, visual, start, n, torch.full((group * key_heads,), rng.uniform(-6, 6))


def eager(inputs, dtype, shift):
    """Plain PyTorch, as Transformers' eager attention, with the law's shift given for nothing, in float64."""
    q, k, v = (t.to(dtype) for t in inputs)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(k.shape[2] - q.shape[2] + 1)
    scores = (q @ k.transpose(-1, -2)) * q.shape[3] ** -0.5 + shift.to(dtype)
    p = scores.masked_fill(hidden, float("-inf")).softmax(-1, dtype=torch.float32)
    return (p.to(dtype) @ v).double()


def exact_shift(inputs, weights, visual, gains, law):
    """The law's shift in float64: [B, Hq, S, K]."""
    q, k, _ = inputs
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2) * q.shape[3] ** -0.5
    tilt = (gains.double().view(-1, 1, 1) * weights.double() / 127).expand(scores.shape)
    if law == "additive":
        return tilt * visual
    in_v = scores.masked_fill(~visual, float("-inf"))
    return (tilt - (in_v + tilt).logsumexp(-1, keepdim=True) + in_v.logsumexp(-1, keepdim=True)) * visual


@pytest.mark.parametrize("law", ["additive", "conserving"])
def test_garbage_beyond_the_last_row_is_never_read(law):
    torch.manual_seed(0)
    q = torch.randn(1, 4, 1, 16)
    k, v = torch.randn(2, 1, 2, 30, 16)
    weights = torch.randint(-127, 128, (8,), dtype=torch.int8)
    terms = sdpa.make_terms(
        weights, torch.ones(8, dtype=torch.bool), 3, torch.full((4,), 2.0), torch.ones(4), 2,
        conserving=law == "conserving", gapless=True, regions=None, dtype=torch.float32,
    )  # fmt: skip
    clean = sdpa.attend_rows(q, k[:, :, :20], v[:, :, :20], terms, 0.25)
    k[:, :, 20:], v[:, :, 20:] = float("nan"), float("nan")
    assert torch.equal(sdpa.attend_rows(q, k[:, :, :20], v[:, :, :20], terms, 0.25), clean)


def test_memory_for_the_bias_is_bounded_whatever_the_prompt():
    for batch, heads, keys in ((1, 12, 640), (1, 28, 131072), (8, 64, 1 << 20)):
        rows = sdpa.chunk_rows(batch, heads, keys)
        assert rows == 1 or batch * heads * rows * keys <= sdpa.MAX_MASK_ITEMS
