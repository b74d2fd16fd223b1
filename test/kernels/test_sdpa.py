"""PyTorch's own path against the specification in float64: no worse than twice the error of plain PyTorch."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_cases import SETPOINTS, STEERING, AttentionCase, attention_cases

from steer_ros.kernels import make_key_field, steered_attention, steered_attention_reference
from steer_ros.kernels.impl.sdpa import call as sdpa_call
from steer_ros.kernels.impl.sdpa import parts, steered_rows
from steer_ros.kernels.impl.sdpa.row_bias import make_row_bias

torch.set_num_threads(1)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(attention_cases(laws=("none", *STEERING), head_sizes=(8, 64, 80)))
def test_in_float64_it_is_the_specification(case):
    out, focus = case.call("sdpa")
    wanted, wanted_focus = case.call("reference")
    assert torch.allclose(out, wanted, rtol=1e-9, atol=1e-11)
    assert torch.allclose(focus, wanted_focus, rtol=1e-6, atol=1e-7)


def one_case(seed, law, n_rows=None):
    """A case like those of the models: a context with a frame or two in it, text rows after it."""
    generator = torch.Generator().manual_seed(seed)
    pick = lambda low, high: int(torch.randint(low, high + 1, (), generator=generator))  # noqa: E731
    group, k_heads, rows = pick(1, 8), pick(1, 3), n_rows or (1, 1, 2, 5)[seed % 4]
    start, n = pick(0, 9), pick(2, 60)
    length = start + n + pick(0, 9) + rows
    torch.manual_seed(seed)
    q = torch.randn(1, group * k_heads, rows, 64, dtype=torch.float64)
    k, v = torch.randn(2, 1, k_heads, length, 64, dtype=torch.float64)
    spans = [(start, n)] if n < 9 or seed % 2 else [(start, n // 3), (start + n // 2, n - n // 2)]
    weights = torch.randint(0 if law in SETPOINTS else -127, 128, (length,), dtype=torch.int8)
    if law in SETPOINTS:  # keys of V that are not in the region
        weights[torch.rand(length) < 0.5] = 0
        weights[start], weights[start + n - 1] = 90, 0
    setpoint = {"share": 0.7, "target": 0.4}.get(law)
    alpha = (0.0, 2.0, -3.0, 5.0)[seed % 4]
    case = AttentionCase(q, k, v, weights, spans, law, alpha, setpoint, None, None, length - rows, length)
    case.weights = weights * case.visual()
    return case


def even(case):
    """All of R at one weight, the rest of V at none: what takes fewer passes."""
    case.weights = (case.weights > 63).to(torch.int8) * 127
    case.weights[case.spans[0][0]] = 127
    case.alpha = abs(case.alpha)
    return case


@pytest.mark.parametrize("law", STEERING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", ["graded", "even"])
@pytest.mark.parametrize("fewest", [0, parts.FEWEST])
def test_its_error_is_within_twice_that_of_plain_pytorch(law, dtype, weights, fewest, monkeypatch):
    """Root mean squares over random cases: one case's largest error is luck, in both."""
    monkeypatch.setattr(parts, "FEWEST", fewest)
    ours, plains = [], []
    for seed in range(24):
        case = one_case(seed, law)
        case = (even(case) if weights == "even" else case).rounded(dtype)  # both are judged on the inputs they got
        wanted, wanted_focus = case.call("reference")
        out, focus = case.call("sdpa", dtype)
        plain, _ = case.call("reference", law="none")
        ours.append((out.double() - wanted).flatten())
        plains.append((eager(case, dtype) - plain).flatten())
        assert (focus - wanted_focus).abs().max() < 1e-5
    assert torch.cat(ours).square().mean().sqrt() <= 2 * torch.cat(plains).square().mean().sqrt()


@pytest.mark.parametrize("law", ["conserving", "share"])
@pytest.mark.parametrize("gains", [None, (0.5,), (1.0, 0.0), (2.0, 0.25, 1.0)])
def test_rows_from_parts_of_the_keys_are_the_specification(law, gains, monkeypatch):
    """In float64, which takes the same way for several rows: heads that differ or are off, and R all of a frame."""
    calls = []
    monkeypatch.setattr(parts, "FEWEST", 0)
    monkeypatch.setattr(parts, "FEWEST_ROWS", 0)
    monkeypatch.setattr(steered_rows, "attend_parts", lambda *given: calls.append(given) or parts.attend_parts(*given))
    for seed in range(12):
        case = even(one_case(seed, law, 2 + seed % 3))
        if seed == 5:
            case.weights[: sum(case.spans[0])] = 127
            case.weights = case.weights * case.visual()
        if gains is not None:
            case.gains = torch.tensor((gains * case.q.shape[1])[: case.q.shape[1]])
        out, _ = case.call("sdpa")
        wanted, _ = case.call("reference")
        assert torch.allclose(out, wanted, rtol=1e-9, atol=1e-11)
    assert len(calls) >= 8


def eager(case, dtype):
    """Plain attention as Transformers' eager function does it."""
    q, k, v = (t.to(dtype) for t in (case.q, case.k, case.v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(k.shape[2] - q.shape[2] + 1)
    scores = ((q @ k.transpose(-1, -2)) * case.scale).masked_fill(hidden, float("-inf"))
    return (scores.softmax(-1, dtype=torch.float32).to(dtype) @ v).double()


@FEW
@given(attention_cases(laws=("none", *STEERING)), st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_not_steered_is_plain_bit_for_bit(case, dtype):
    plain, _ = case.call("sdpa", dtype, law="none")
    same = [case.call("sdpa", dtype, rows=torch.zeros(case.q.shape[2], dtype=torch.bool))]
    if case.law == "additive":
        same.append(case.call("sdpa", dtype, alpha=0.0))
    same.append(replace(case, weights=torch.zeros_like(case.weights)).call("sdpa", dtype))
    same.append(replace(case, gains=torch.zeros(case.q.shape[1])).call("sdpa", dtype))
    for out, focus in same:
        assert torch.equal(out, plain)
        assert torch.equal(focus[..., 0], focus[..., 1])
    out, focus = case.call("sdpa", dtype)
    if case.gains is not None:
        assert torch.equal(out[:, case.gains == 0], plain[:, case.gains == 0])
    if case.rows is not None:
        assert torch.equal(out[:, :, ~case.rows], plain[:, :, ~case.rows])
        assert torch.equal(focus[:, :, ~case.rows, 0], focus[:, :, ~case.rows, 1])


@pytest.mark.parametrize("law", STEERING)
@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("far", [-60.0, 60.0, 150.0])
def test_masses_too_small_for_single_precision(law, n_rows, far, monkeypatch):
    """R's base mass is e^−60, or e^−150: what the law makes of it is exact all the same."""
    monkeypatch.setattr(parts, "FEWEST", 0)
    case = one_case(3, law, n_rows)
    case.alpha = 64.0 if law in ("additive", "conserving") else 0.0
    case.weights[case.visual()] = 0
    first = case.spans[0][0]
    case.weights[first] = 100
    case.q[..., 0] = 8.0
    case.k[:, :, first, 0] -= far
    case = case.rounded(torch.float32)
    wanted, wanted_focus = case.call("reference")
    out, focus = case.call("sdpa", torch.float32)
    assert torch.allclose(out.double(), wanted, atol=2e-4)
    assert torch.allclose(focus, wanted_focus, atol=1e-4)
    if law == "target":
        assert focus[..., 1].sub(case.setpoint).abs().max() < 1e-5


def test_a_field_changed_in_place_is_seen():
    """A kernel may write new weights into the same memory; what was worked out of the old ones must go."""
    case = one_case(1, "conserving", 1)
    case.alpha = 2.0
    field = case.field
    q, k, v = case.q.float(), case.k.float(), case.v.float()
    first, _ = steered_attention(q, k, v, field, "conserving")
    again, _ = steered_attention(q, k, v, field, "conserving")
    assert torch.equal(first, again)
    field.weights.copy_(field.weights.roll(1))
    changed, _ = steered_attention(q, k, v, field, "conserving")
    wanted, _ = steered_attention(q, k, v, field, "conserving", impl="reference")
    assert not torch.allclose(changed, first, atol=1e-4)
    assert torch.allclose(changed, wanted, atol=1e-5)
    assert len(sdpa_call._CACHE) <= sdpa_call._CACHE_SIZE


@pytest.mark.parametrize("law", STEERING)
@pytest.mark.parametrize("n_rows", [1, 3])
def test_gradients_are_the_specification_s(law, n_rows):
    case = one_case(3, law, n_rows)
    start = case.spans[0][0]
    n = sum(case.spans[-1]) - start
    grads = []
    for fast in (True, False):
        q, k, v = (t.detach().requires_grad_() for t in (case.q, case.k, case.v))
        gains = torch.full((q.shape[1],), case.alpha, dtype=torch.float64)
        if fast:
            row_bias = make_row_bias(
                case.weights[start : start + n], case.visual()[start : start + n], start, gains,
                torch.ones_like(gains), k.shape[1], law=law, setpoint=case.setpoint, has_gaps=len(case.spans) > 1,
                regions=None, dtype=torch.float64,
            )  # fmt: skip
            out = steered_rows.attend_rows(q, k, v, row_bias, case.scale).transpose(1, 2)
        else:
            out = steered_attention_reference(
                q, k, v, case.weights, case.visual(), law=law, gain=case.alpha, setpoint=case.setpoint
            ).out
        grads.append(torch.autograd.grad(out.square().sum(), (q, k, v)))
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*grads))


def test_memory_for_the_bias_is_bounded_whatever_the_prompt():
    for batch, heads, keys in ((1, 12, 640), (1, 28, 131072), (8, 64, 1 << 20)):
        rows = steered_rows.chunk_rows(batch, heads, keys)
        assert rows == 1 or batch * heads * rows * keys <= steered_rows.MAX_MASK_ITEMS


@pytest.mark.parametrize("law", STEERING)
def test_a_long_prefill_in_pieces_is_the_prefill(law, monkeypatch):
    torch.manual_seed(0)
    q = torch.randn(1, 4, 40, 16)
    k, v = torch.randn(2, 1, 2, 40, 16)
    weights = torch.zeros(40, dtype=torch.int8)
    weights[5:9] = 120
    field = make_key_field(weights, [(4, 8), (20, 5)])
    setpoint = {"share": 0.7, "target": 0.4}.get(law)
    options = {"setpoint": setpoint, "focus": True, "impl": "sdpa"}
    whole, whole_focus = steered_attention(q, k, v, field, law, **options)
    monkeypatch.setattr(steered_rows, "MAX_MASK_ITEMS", 4 * 40 * 3)
    pieces, focus = steered_attention(q, k, v, field, law, **options)
    assert torch.allclose(pieces, whole, atol=1e-6)
    assert torch.allclose(focus, whole_focus, atol=1e-6)


def test_regions_are_measured_beside_the_field():
    """focus_rows measures R first, then each region asked for, before and after the law."""
    case = one_case(2, "share", 1)
    start, count = case.spans[0]
    weights = case.weights[start : start + count]
    halves = torch.stack([torch.arange(count) < 3, torch.arange(count) >= 3], dim=1)
    row_bias = make_row_bias(
        weights, torch.ones(count, dtype=torch.bool), start, torch.zeros(case.q.shape[1]),
        torch.ones(case.q.shape[1]), case.k.shape[1], law="share", setpoint=0.9, has_gaps=False, regions=halves,
        dtype=torch.float64,
    )  # fmt: skip
    both = steered_rows.focus_rows(case.q, case.k, row_bias, case.scale)
    assert both.shape == (1, case.q.shape[1], 1, 2, 3)
    of_v = both[..., 1:].sum(-1)
    assert torch.allclose(of_v[..., 0], of_v[..., 1])  # V keeps its total
    share = both[..., 1, 0] / of_v[..., 1]
    assert torch.all(share > 0.9 - 1e-9)
    assert math.isclose(float(both[..., 0, 1:].sum(-1).max()), float(of_v[..., 0].max()))


@pytest.mark.parametrize(("law", "setpoint"), [("conserving", None), ("share", 0.0)])
@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_law_without_effect_leaves_the_rows_plain(law, setpoint, n_rows, dtype, monkeypatch):
    """conserving with α = 0, share below what the region has: nothing changes. To the bit, but for share where PyTorch
    may sum in another order (one float32 row has the same): there to an ulp of the magnitudes that make out, float32
    to four (below one with AVX-512, 3.4 without); in float64, which it computes in another way, to some."""
    monkeypatch.setattr(parts, "FEWEST", 0)
    for seed in range(6):
        case = one_case(seed, law, n_rows)
        case.alpha, case.setpoint = 0.0, setpoint
        for impl in ("reference", "sdpa"):
            out, focus = case.call(impl, dtype)
            plain, _ = case.call(impl, dtype, law="none")
            same = n_rows == 1 and dtype != torch.bfloat16
            if law == "share" and impl == "sdpa" and not same:
                magnitudes, _ = replace(case, v=case.v.abs()).call(impl, dtype, law="none")
                ulps = {torch.float64: 8, torch.float32: 4}.get(dtype, 1)
                assert bool(((out - plain).abs() <= ulps * torch.finfo(dtype).eps * magnitudes).all())
            else:
                assert torch.equal(out, plain)
            assert torch.allclose(focus[..., 0], focus[..., 1], rtol=0, atol=4e-7)


@pytest.mark.parametrize("law", ["share", "target"])
@pytest.mark.parametrize("n_rows", [1, 5])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_the_setpoint_is_reached_for_every_head_and_row(law, n_rows, gated, alpha, monkeypatch):
    """Graded weights, single precision, measured by values that say which group a key is of."""
    monkeypatch.setattr(parts, "FEWEST", 0)
    for seed in range(8):
        case = one_case(seed, law, n_rows)
        case.alpha = alpha
        on = torch.ones(case.q.shape[1], dtype=torch.bool)
        if gated:
            case.gains = torch.ones(case.q.shape[1])
            case.gains[::2] = 0.0
            on = case.gains != 0
        case.v = torch.zeros_like(case.v)
        case.v[..., 0] = (case.weights > 0).double()
        case.v[..., 1] = case.visual().double()
        out, focus = case.call("sdpa", torch.float32)
        plain, _ = case.call("reference", law="none")
        biased, _ = case.call("reference", law="additive")
        region, visual = out[:, on, :, 0], out[:, on, :, 1]
        if law == "share":
            wanted = (biased[:, on, :, 0] / biased[:, on, :, 1]).clamp_min(case.setpoint)
            assert torch.allclose((region / visual).double(), wanted, rtol=0, atol=1e-3)
            assert torch.allclose(visual.double(), plain[:, on, :, 1], rtol=0, atol=1e-3)
        else:
            assert torch.all((region - case.setpoint).abs() < 1e-3)
        assert torch.allclose(focus[:, on, :, 1], region, rtol=0, atol=1e-3)
        assert torch.allclose(out[:, ~on].double(), plain[:, ~on], rtol=0, atol=1e-6)
