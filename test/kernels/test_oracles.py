"""Every law by two independent ways in float64: attention over groups of keys merged by log-sum-exp, and attention
with more dimensions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import SETPOINTS, STEERING, attention_cases, by_log_sums, by_more_dimensions, is_active

torch.set_num_threads(1)
FEW = settings(max_examples=60, deadline=None)
IMPLS = ("reference", "sdpa")


@FEW
@given(attention_cases(laws=("none", *STEERING)), st.sampled_from(IMPLS))
def test_laws_are_groups_of_keys_merged_by_shifted_log_sums(case, impl):
    out, focus = case.call(impl)
    wanted, wanted_focus = by_log_sums(case)
    assert torch.allclose(out, wanted, rtol=1e-9, atol=1e-11)
    assert torch.allclose(focus.double(), wanted_focus, rtol=1e-5, atol=1e-7)


@FEW
@given(attention_cases(setpoints={"share": (0.3, 0.9), "target": (0.3, 0.9)}), st.sampled_from(IMPLS))
def test_laws_are_attention_with_three_more_dimensions(case, impl):
    if case.weights.ndim == 2:
        case.weights = case.weights[0]
    out, _ = case.call(impl)
    assert torch.allclose(out, by_more_dimensions(case), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("law", ["share", "target"])
@FEW
@given(data=st.data(), impl=st.sampled_from(IMPLS), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_the_setpoint_is_reached_in_every_head_and_row(law, data, impl, dtype):
    case = data.draw(attention_cases(laws=(law,), setpoints={law: SETPOINTS[law]})).rounded(dtype)
    batch, heads, n_rows, _ = case.q.shape
    keys = case.k.shape[2]
    case.v = torch.eye(keys, dtype=torch.float64).expand(batch, case.k.shape[1], keys, keys)  # out is the attention
    attention = case.call(impl, dtype)[0].double()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for b in range(batch):
        weights = case.weights[b] if case.weights.ndim == 2 else case.weights
        for head in range(heads):
            for row in range(n_rows):
                if not is_active(case, b, head, row):
                    continue
                p = attention[b, head, row]
                got = float(p[weights > 0].sum())
                if law == "target":
                    assert got == pytest.approx(case.setpoint, abs=tolerance)
                    continue
                plain, _ = case.call(impl, dtype, law="none")
                of_v = float(p[case.visual()].sum())
                assert of_v == pytest.approx(float(plain[b, head, row][case.visual()].sum()), abs=tolerance)
                biased, _ = case.call(impl, dtype, law="conserving")
                by_bias = float(biased[b, head, row][weights > 0].sum())
                assert got == pytest.approx(max(case.setpoint * of_v, by_bias), abs=tolerance)
