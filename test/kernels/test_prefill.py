"""The prefill kernel against the reference in float64: in Triton's interpreter without a GPU, on the card with one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from triton_calls import DEVICE, SETPOINT_LAWS, SMALL, PrefillCall

from steer_ros.kernels import steered_attention

pytest.importorskip("triton")
prefill_module = pytest.importorskip("steer_ros.kernels.impl.triton.prefill")

STEERING = ("additive", "conserving", "share", "target")


@st.composite
def calls(draw):
    """Odd lengths, one to eight heads for a key head, one to three spans with gaps, chunks of a prompt, gates."""
    law = draw(st.sampled_from(STEERING))
    spans, end = [], draw(st.sampled_from([0, 1, 7, 31]))
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.sampled_from([1, 5, 18, 33]))
        spans.append((end, count))
        end += count + draw(st.sampled_from([0, 1, 9]))
    end = spans[-1][0] + spans[-1][1]
    length = end + draw(st.sampled_from([0, 1, 3, 20]))
    rows = min(length, draw(st.sampled_from([2, 3, 19, 35])))
    groups = draw(st.integers(1, 8)) if rows < 4 else draw(st.integers(1, 2))
    gains = draw(st.sampled_from([None, (1.0, 0.0), (0.0, 2.0), (0.5, -1.0)]))
    return PrefillCall(
        law,
        seed=draw(st.integers(0, 1 << 30)),
        rows=rows,
        q_start=length - rows,
        spans=tuple(spans),
        alpha=draw(st.sampled_from([-3.0, 0.0, 0.7, 2.0, 8.0])),
        setpoint=draw(st.sampled_from([0.05, 0.5, 0.9])),
        groups=groups,
        dtype=draw(st.sampled_from([torch.float32, torch.float16])),
        weights=draw(st.sampled_from(["graded", "graded", "zero", "one", "full"]))
        if law in SETPOINT_LAWS
        else draw(st.sampled_from(["graded", "graded", "one", "full", "negative"])),
        gate=draw(st.booleans()),
        gains=None if gains is None else (gains * 4)[:groups],
        fp8=gains is not None and draw(st.booleans()),
        focus=draw(st.booleans()),
    )


@settings(
    max_examples=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(calls())
def test_error_is_at_most_twice_that_of_plain_pytorch(call):
    call.check()


@pytest.mark.parametrize("law", STEERING)
def test_frames_with_gaps_between_them(law):
    PrefillCall(law, rows=30, q_start=0, spans=((3, 7), (20, 5))).check()


@pytest.mark.parametrize("arch", [90, 120])  # which look a row up each in its own way
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("spans", [((3, 20),), ((3, 9), (14, 8))])
def test_additive_biases_no_row_but_those_of_text_that_the_gate_lets_through(spans, gate, batch, arch):
    call = PrefillCall("additive", rows=44, q_start=0, spans=spans, gate=gate, groups=1, batch=batch, arch=arch)
    out, _ = call.check()
    plain, _ = call.run(law="none")
    off = call.visual.expand(batch, -1).clone()
    if gate:
        off |= ~call.row_gate
    off[:, :3] = True
    out, plain = out[:, 0], plain[:, 0]
    assert torch.equal(out[off], plain[off])
    assert not bool((out[~off] == plain[~off]).all(-1).any())


def test_a_chunk_between_frames_keeps_its_gate():
    for q_start, rows in ((0, 25), (11, 11), (15, 7), (21, 9), (22, 9), (30, 9)):  # across V's ends, within, behind
        PrefillCall("additive", rows=rows, q_start=q_start, spans=((9, 5), (16, 6)), gate=True, groups=1).check()


def test_gains_in_e4m3_are_the_same_on_cards_that_cannot_convert_them():
    gains = (2.0**-9, -7 * 2.0**-9, 0.0, 448.0, -0.8125)
    call = PrefillCall("additive", rows=3, q_start=30, spans=((2, 12),), alpha=0.1, groups=5, gains=gains, fp8=True)
    out, focus = call.run()
    call.arch = 80
    assert all(map(torch.equal, call.run(), (out, focus)))


@pytest.mark.parametrize("head_size", [80, 96, 128])
def test_other_head_sizes(head_size):
    PrefillCall("share", rows=9, q_start=40, spans=((6, 30),), head_size=head_size, groups=1).check()


def test_batches_have_fields_of_their_own_and_key_heads_their_groups():
    PrefillCall("target", rows=5, q_start=30, spans=((6, 20),), batch=2, key_heads=2, groups=1).check()


@pytest.mark.parametrize("law", SETPOINT_LAWS)
def test_two_launches_where_the_rows_are_cut_differently(law):
    call = PrefillCall(law, rows=20, q_start=15, spans=((3, 9), (17, 6)), groups=1)
    out, focus = call.check()
    call.cut = (SMALL[0], SMALL[1]._replace(block_m=16))
    apart, focus_apart = call.check()
    torch.testing.assert_close(apart, out, rtol=0, atol=1e-6)
    torch.testing.assert_close(focus_apart, focus, rtol=0, atol=1e-6)


def test_one_key_and_the_shipped_configuration():
    PrefillCall("conserving", rows=2, q_start=1, spans=((0, 1),), groups=1, weights="full", cut=None).check()
    PrefillCall("conserving", rows=36, q_start=8, spans=((2, 30),), groups=1, cut=None).check()


@pytest.mark.parametrize("law", STEERING)
def test_a_strength_of_60_loses_no_group(law):
    # e^60 against e^-60: sums that shared one maximum would be 0.
    call = PrefillCall(law, rows=6, q_start=40, spans=((4, 30),), alpha=60.0, groups=1)
    out, focus = call.run()
    exact = call.reference(torch.float64, torch.float64)
    torch.testing.assert_close(out.cpu().double(), exact.out, rtol=0, atol=60 * 1.2e-7 * 4)
    masses = torch.stack([exact.focus_before, exact.focus_after], dim=-1)
    torch.testing.assert_close(focus.cpu().double(), masses, rtol=0, atol=60 * 1.2e-7)


@pytest.fixture
def products_by_row(monkeypatch):
    """A row's product is the same wherever it stands. OpenBLAS, by which Triton's interpreter multiplies, has kernels
    (Haswell's, for processors with FMA but no AVX-512) that give it other last bits in another place."""
    matmul = np.matmul

    def by_row(a, b, dtype=None, **more):
        return matmul(a, b, dtype=np.float64, **more).astype(dtype or np.result_type(a, b))

    monkeypatch.setattr(np, "matmul", by_row)


@pytest.mark.parametrize("law", STEERING)
def test_a_null_field_is_law_none_to_the_bit(law, products_by_row):
    call = PrefillCall(law, rows=34, q_start=8, spans=((3, 20), (25, 9)), weights="zero", groups=1)
    plain, _ = call.run(field=None)
    assert torch.equal(call.run()[0], plain)


@pytest.mark.parametrize("law", ["additive", "conserving"])
def test_alpha_0_is_law_none_to_the_bit(law):
    call = PrefillCall(law, alpha=0.0, rows=34, q_start=8, spans=((3, 20),), groups=1)
    assert torch.equal(call.run()[0], call.run(law="none")[0])


@pytest.mark.parametrize("law", STEERING)
def test_rows_that_are_not_steered_are_those_of_law_none_to_the_bit(law):
    call = PrefillCall(law, rows=40, q_start=0, spans=((3, 7), (13, 9)), gate=True, gains=(1.0, 0.0))
    out, focus = call.run()
    plain, plain_focus = call.run(law="none")
    off = call.visual | ~call.row_gate
    off[:3] = True  # before the first frame
    assert torch.equal(out[:, :, off], plain[:, :, off])
    assert torch.equal(out[:, 1], plain[:, 1])
    assert torch.equal(focus[:, :, off], plain_focus[:, :, off])
    assert not bool((out[:, 0, ~off] == plain[:, 0, ~off]).all(-1).any())


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("law", SETPOINT_LAWS)
def test_share_and_target_reach_their_setpoint(law, alpha):
    # Values that say which group a key is of: the output is the groups' masses.
    call = PrefillCall(law, rows=7, q_start=50, spans=((6, 30),), alpha=alpha, setpoint=0.7)
    call.v[:] = 0
    call.v[..., : call.length, 0] = (call.w > 0).to(DEVICE, call.dtype)
    call.v[..., : call.length, 1] = call.visual.to(DEVICE, call.dtype)
    out, focus = call.run()
    region, visual = out[..., 0], out[..., 1]
    if law == "share":
        assert float((region / visual).min()) >= 0.7 - 1e-3
        biased = call.reference(torch.float64, torch.float64).out
        torch.testing.assert_close(
            (region / visual).cpu().double(), biased[..., 0] / biased[..., 1], rtol=0, atol=1e-3
        )
    else:
        assert float((region - 0.7).abs().max()) < 1e-3
    torch.testing.assert_close(focus[..., 1], region, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_share_that_the_row_has_already_moves_nothing(dtype):
    call = PrefillCall("share", rows=5, q_start=40, spans=((6, 20),), alpha=0.0, setpoint=0.0, groups=1, dtype=dtype)
    (out, focus), plain = call.run(), call.run(law="none")[0]
    if dtype == torch.float32:
        assert torch.equal(out, plain)
    ulp = torch.finfo(dtype).eps * call.run(law="none", v=call.v.abs())[0]  # of the sum of magnitudes that makes out
    assert bool(((out - plain).abs() <= ulp).all())
    torch.testing.assert_close(focus[..., 0], focus[..., 1], rtol=0, atol=4e-7)


def test_rows_that_have_their_share_are_plain_beside_some_that_have_not(products_by_row):
    call = PrefillCall("share", rows=30, q_start=24, spans=((6, 20), (30, 9)), alpha=0.0, setpoint=0.5, gate=True)
    out, focus = call.check()
    changed = focus[..., 1] - focus[..., 0] > 1e-5
    assert changed.any() and (~changed & (focus[..., 1] > 0)).any()
    assert torch.equal(out[~changed], call.run(law="none")[0][~changed])


def test_keys_and_values_of_any_stride_but_the_last():
    call = PrefillCall("additive", rows=5, q_start=20, spans=((2, 12),), key_heads=2, groups=1, focus=False)
    spread = torch.stack([call.k, call.v], dim=3)  # [B, Hk, K, 2, D]
    out, none = call.run(k=spread[:, :, :, 0], v=spread[:, :, :, 1])
    assert none is None and torch.equal(out, call.run()[0])
    one = call.k[:, :1].expand(-1, 2, -1, -1)
    assert torch.equal(call.run(k=one)[0], call.run(k=one.contiguous())[0])


def test_a_nan_strength_gives_nan_rather_than_a_wrong_answer():
    for law in ("additive", "target"):
        call = PrefillCall(law, rows=3, q_start=30, spans=((2, 12),), groups=1, alpha=math.nan)
        assert bool(call.run()[0].isnan().all())


def test_the_api_takes_chunks_of_a_prompt_to_the_kernel():
    call = PrefillCall("additive", rows=5, q_start=20, spans=((2, 12),), groups=1)
    out, focus = steered_attention(
        call.q, call.k, call.v, call.field, "additive", valid_length=call.length, focus=True, impl="triton"
    )
    exact = call.reference(torch.float64, torch.float64)
    torch.testing.assert_close(out.cpu().double(), exact.out, rtol=0, atol=1e-5)
    torch.testing.assert_close(focus[..., 1].cpu().double(), exact.focus_after, rtol=0, atol=1e-5)


def test_a_scale_that_is_not_above_0_is_refused():
    q = torch.zeros(1, 1, 2, 64, device=DEVICE)
    one = torch.ones(1, device=DEVICE)
    with pytest.raises(ValueError, match=r"scale: 0\.0; accepted"):
        prefill_module.prefill(q, q, q, None, "none", one, one, rows=None, scale=0.0, q_start=0, length=2, focus=False)


@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("head_size", [64, 80, 96, 128])
def test_the_law_changes_no_tile_of_rows_that_are_not_steered(arch, head_size):
    assert len({prefill_module.config(head_size, law, arch)[0] for law in ("none", *STEERING)}) == 1
