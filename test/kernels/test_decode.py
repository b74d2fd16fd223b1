"""The Triton decode kernel against the specification in float64; interpreted on a machine without a GPU."""

import functools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton_calls import DEVICE, SETPOINT_LAWS, DecodeCall

from steer_ros.kernels.fields import make_key_field
from steer_ros.kernels.impl.reference import LAWS

pytest.importorskip("triton")
decoding = pytest.importorskip("steer_ros.kernels.impl.triton.decode")

STEERING = [law for law in LAWS if law != "none"]
E4M3 = torch.float8_e4m3fn


@st.composite
def cases(draw):
    capacity = draw(st.integers(1, 150))
    spans, at = [], draw(st.integers(0, max(0, capacity // 2)))
    for _ in range(draw(st.integers(1, 3))):
        if at < capacity:
            count = draw(st.integers(1, capacity - at))
            spans.append((at, count))
            at += count + draw(st.integers(0, 20))
    k_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 8))
    gains = None
    if draw(st.booleans()):
        gains = torch.tensor(draw(st.lists(st.sampled_from([0.0, 1.0, -0.5, 0.01, 1.75]),
                                           min_size=k_heads * group, max_size=k_heads * group)))  # fmt: skip
        gains = gains.to(E4M3) if draw(st.booleans()) else gains
    batch = draw(st.integers(1, 3 - k_heads))
    case = DecodeCall(
        seed=draw(st.integers(0, 99)), batch=batch, k_heads=k_heads, group=group, head=draw(st.sampled_from([64, 80])),
        capacity=capacity, length=draw(st.one_of(st.just(capacity), st.integers(1, capacity))), spans=spans,
        weights=draw(st.sampled_from(["graded", "signed", "negative", "empty", "full", "binary"])), gains=gains,
        batched=batch == 2, dtype=draw(st.sampled_from([torch.float32, torch.float16])),
        setpoint=draw(st.sampled_from([0.1, 0.5, 0.9])), alpha=draw(st.sampled_from([0.0, 2.0, -3.0, 12.0])),
    )  # fmt: skip
    if draw(st.integers(0, 3)) == 0:
        case.rows = torch.tensor([draw(st.booleans())], device=DEVICE)
    return case, draw(st.integers(1, 3))


@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(drawn=cases())
def test_as_exact_as_plain_pytorch(law, drawn):
    case, splits = drawn
    case.check(law, splits=splits)


@pytest.mark.parametrize(("head", "group", "law"), [(96, 3, "share"), (128, 7, "additive"), (64, 16, "share")])
def test_head_sizes_and_large_groups(head, group, law):
    DecodeCall(seed=head + group, head=head, group=group, dtype=torch.float16).check(law, splits=2)


@pytest.mark.parametrize("law", LAWS)
def test_measuring_focus_changes_no_bit_of_out(law):
    case = DecodeCall(seed=2)
    assert torch.equal(case.run(law, splits=2, focus=True)[0], case.run(law, splits=2)[0])


@pytest.mark.parametrize("law", STEERING)
@pytest.mark.parametrize("null", ["weights", "head", "row", "row in V"])
def test_a_null_field_changes_no_bit(law, null):
    weights, gains = "empty" if null == "weights" else "graded", [0.0] if null == "head" else None
    case = DecodeCall(seed=3, group=1, weights=weights, gains=gains, dtype=torch.float16)
    if null == "row":
        case.rows = torch.tensor([False], device=DEVICE)
    elif null == "row in V":
        case.length = 25
    plain, _ = case.run("none", field=None, splits=2)
    out, focus = case.run(law, splits=2, focus=True)
    assert torch.equal(out, plain)
    assert torch.equal(focus[..., 0], focus[..., 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_without_strength_nothing_moves(dtype):
    case = DecodeCall(seed=4, group=5, dtype=dtype, alpha=0.0, setpoint=1e-4, weights="signed")
    plain, _ = case.run("none", splits=2)
    assert torch.equal(case.run("additive", splits=2)[0], plain)
    assert torch.equal(case.run("conserving", splits=2)[0], plain)
    share, focus = case.run("share", splits=2, focus=True)
    if dtype == torch.float32:
        assert torch.equal(share, plain)
    case.v = case.v.abs()
    ulp = torch.finfo(dtype).eps * case.run("none", splits=2)[0]  # of the sum of magnitudes that makes out
    assert bool(((share - plain).abs() <= ulp).all())
    torch.testing.assert_close(focus[..., 0], focus[..., 1], rtol=0, atol=4e-7)


def test_rows_that_have_their_share_are_plain_beside_some_that_have_not():
    case = DecodeCall(seed=13, k_heads=2, group=3, alpha=0.0, setpoint=0.6)
    plain, _ = case.run("none", splits=2)
    out, focus = case.run("share", splits=2, focus=True)
    changed = (focus[..., 1] - focus[..., 0] > 1e-5).flatten()
    assert changed.any() and not changed.all()
    assert torch.equal(out[:, ~changed], plain[:, ~changed])
    torch.testing.assert_close(out.double(), case.expect("share")[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("weights", "setpoint"), [("graded", 0.05), ("binary", 0.5), ("graded", 0.97)])
def test_share_and_target_reach_their_setpoint(weights, setpoint):
    """Measured by the values: the first counts R, the second V."""
    case = DecodeCall(seed=5, group=3, weights=weights, setpoint=setpoint, alpha=1.5)
    field = case.field
    case.v.zero_()
    case.v[..., field.start : field.end, 0] = (field.weights > 0).float()
    case.v[..., field.start : field.end, 1] = field.visual.float()
    before = case.run("none", splits=2)[0]
    biased = case.run("additive", splits=2)[0]
    share = case.run("share", splits=2, focus=True)
    target = case.run("target", splits=2, focus=True)
    wanted = (biased[..., 0] / biased[..., 1]).clamp_min(setpoint)
    torch.testing.assert_close(share[0][..., 0] / share[0][..., 1], wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(share[0][..., 1], before[..., 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(target[0][..., 0], torch.full_like(wanted, setpoint), rtol=0, atol=1e-5)
    for out, focus in (share, target):
        torch.testing.assert_close(focus[..., 0], before[..., 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(focus[..., 1], out[..., 0], rtol=0, atol=1e-5)


def test_two_independent_oracles():
    """Binary weights: attention over R and the rest apart, merged by log-sum-exp with R's shifted by α; and q longer
    by one, k longer by bias / scale."""
    case = DecodeCall(seed=6, group=2, weights="binary", alpha=3.0)
    q, k, v = (t.double() for t in (case.q, case.k.repeat_interleave(2, 1), case.v.repeat_interleave(2, 1)))
    bias = torch.zeros(70, dtype=torch.float64, device=DEVICE)
    bias[case.field.start : case.field.end] = 3.0 * (case.field.weights > 0)
    longer_q = torch.cat([q, torch.ones_like(q[..., :1])], -1)
    longer_k = torch.cat([k, (bias / case.scale)[None, None, :, None].expand(*k.shape[:3], 1)], -1)
    extended = ((longer_q @ longer_k.transpose(-1, -2)) * case.scale).softmax(-1) @ v
    parts = []
    for keys, shift in ((bias > 0, 3.0), (bias == 0, 0.0)):
        scores = (q @ k[:, :, keys].transpose(-1, -2)) * case.scale
        parts.append((scores.logsumexp(-1, keepdim=True) + shift, scores.softmax(-1) @ v[:, :, keys]))
    share = torch.cat([lse for lse, _ in parts], -1).softmax(-1)
    split = share[..., :1] * parts[0][1] + share[..., 1:] * parts[1][1]
    torch.testing.assert_close(split, extended, rtol=0, atol=1e-13)
    torch.testing.assert_close(case.run("additive", splits=2)[0].double(), extended, rtol=0, atol=1e-6)


@pytest.mark.parametrize("law", STEERING)
def test_a_huge_bias_flushes_no_group(law):
    case = DecodeCall(seed=7, group=2, weights="binary", alpha=64.0, setpoint=0.25)
    out, _ = case.run(law, splits=3)
    torch.testing.assert_close(out.double(), case.expect(law)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_length_from_the_device(dtype):
    case = DecodeCall(seed=8, capacity=140, length=77)
    for law in ("none", "share"):
        wanted = case.run(law, splits=3)[0]
        assert torch.equal(case.run(law, splits=3, length=torch.tensor([77], dtype=dtype, device=DEVICE))[0], wanted)
    whole, beyond = DecodeCall(seed=8), torch.tensor([1000], dtype=dtype, device=DEVICE)
    assert torch.equal(whole.run("share", length=beyond)[0], whole.run("share")[0])
    assert not case.run("share", length=torch.tensor([0], dtype=dtype, device=DEVICE))[0].any()


@pytest.mark.filterwarnings("ignore:All-NaN")  # of the interpreter
def test_strengths_that_are_nan_give_nan():
    case, nan = DecodeCall(seed=9), torch.tensor([math.nan], device=DEVICE)
    for law in STEERING:
        assert bool(case.run(law, **{"setpoint" if law in SETPOINT_LAWS else "alpha": nan})[0].isnan().any()), law


def test_strides_are_free():
    case = DecodeCall(seed=10, k_heads=2, group=2, batch=2)
    wanted = case.run("conserving", splits=2)[0]
    for name in "qkv":
        setattr(case, name, getattr(case, name).transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(case.run("conserving", splits=2)[0], wanted)
    case.k, case.v = (t[:1, :1].expand(2, 2, -1, -1) for t in (case.k, case.v))
    out = case.run("conserving", splits=2)[0]
    case.k, case.v = case.k.contiguous(), case.v.contiguous()
    assert torch.equal(out, case.run("conserving", splits=2)[0])


def test_values_narrower_than_keys():
    case = DecodeCall(seed=11, head=96, dtype=torch.float16)
    case.v = case.v[..., :64].contiguous()
    case.check("share")


@pytest.mark.parametrize("law", ["none", "conserving"])
def test_fp8_cache(law):
    """Exact for the values that the cache holds; what FP8 itself costs is measured and bounded."""
    case = DecodeCall(seed=12, group=6, capacity=130, length=120, dtype=torch.float16)
    exact = case.expect(law)[0]
    scales = []
    for name in "kv":
        tensor = getattr(case, name)
        scales.append(float(tensor[:, :, : case.length].abs().max()) / 448)
        codes = (tensor.float() / scales[-1]).to(E4M3)
        setattr(case, name, codes)
    out, _ = case.run(law, splits=2, kv_scales=tuple(scales))
    case.k, case.v = (t.double() * s for t, s in zip((case.k, case.v), scales))
    case.q = case.q.double()
    held = case.expect(law)[0]
    assert float((out.double() - held).abs().max()) < 1e-3 * float(held.abs().max()) + 1e-3
    error = float((out.double() - exact).norm() / exact.norm())
    assert 0.001 < error < 0.08, f"relative error of an FP8 cache: {error:.4f}"


@pytest.mark.parametrize("law", LAWS)
def test_memory_stays_within_the_budget(law):
    """2,304 tokens of R1-Distill-Qwen-1.5B: 12 query heads, 2 key heads, head size 128."""
    dense = torch.ones(2304, dtype=torch.int8)
    field = make_key_field(dense, [(0, 2304)], gains=torch.ones(12).to(E4M3))
    assert field.memory_bytes < 16 * 1024
    for processors in (132, 188):  # H100 and H200, RTX PRO 6000
        block = decoding.config("decode", 128, law, 120)["BLOCK_N"]
        splits = decoding.split_count(2304, 2, processors, block)
        assert field.memory_bytes + decoding.workspace_bytes(1, 12, 128, splits, law) < 1.5e6


def test_sizes_come_from_capacity_and_card_alone():
    count = functools.partial(decoding.split_count, processors=132, block_n=64)
    assert [count(1, 2), count(640, 2), count(8192, 2), count(8192, 300), count(10**6, 1)] == [1, 10, 66, 1, 128]
    tiles = {tuple(decoding.config("decode", 128, law, 90)[key] for key in ("BLOCK_M", "BLOCK_N")) for law in LAWS}
    assert len(tiles) == 1, "the plain row's bits would depend on the law"
