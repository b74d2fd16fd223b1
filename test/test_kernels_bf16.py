"""The Triton kernels in bfloat16 against float64. Triton's interpreter keeps bfloat16 as 16 bits of a whole number and
multiplies those, so here its matrix product is given what they stand for; on a card nothing is changed."""

import pytest
import torch

pytest.importorskip("triton")

import numpy as np
import triton.language as tl
from test_kernels_decode import Case
from test_kernels_prefill import Call
from triton.runtime import interpreter

from steer_ros.kernels.reference import LAWS

STEERING = [law for law in LAWS if law != "none"]


@pytest.fixture(autouse=True)
def product_of_bfloat16(monkeypatch):
    plain = interpreter.InterpreterBuilder.create_dot

    def values(handle):
        return (handle.data.astype(np.uint32) << 16).view(np.float32)

    def create_dot(self, a, b, d, *rest):
        if a.dtype.scalar != tl.bfloat16:
            return plain(self, a, b, d, *rest)
        product = np.matmul(values(a), values(b), dtype=d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("head", "group"), [(64, 5), (128, 16)])
def test_decode(law, head, group):
    Case(seed=21, head=head, group=group, capacity=130, length=117, dtype=torch.bfloat16).check(law, splits=2)


@pytest.mark.parametrize("law", STEERING)
def test_prefill(law):
    Call(law, dtype=torch.bfloat16).check()
    Call(law, rows=9, q_start=40, spans=((6, 30),), head_size=128, gate=True, dtype=torch.bfloat16).check()
