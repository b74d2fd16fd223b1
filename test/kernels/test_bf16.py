"""The Triton kernels in bfloat16 against float64: on a card, and in Triton's interpreter, which can't multiply it."""

import pytest
import torch

pytest.importorskip("triton")

from triton_calls import DecodeCall, PrefillCall

from steer_ros.kernels.impl.reference import LAWS

STEERING = [law for law in LAWS if law != "none"]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("head", "group"), [(64, 5), (128, 16)])
def test_decode(law, head, group):
    DecodeCall(seed=21, head=head, group=group, capacity=130, length=117, dtype=torch.bfloat16).check(law, splits=2)


@pytest.mark.parametrize("law", STEERING)
def test_prefill(law):
    PrefillCall(law, dtype=torch.bfloat16).check()
    PrefillCall(law, rows=9, q_start=40, spans=((6, 30),), head_size=128, gate=True, dtype=torch.bfloat16).check()
