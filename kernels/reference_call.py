"""A whole call by the specification: the arguments of the operator in the words of kernels/reference.py."""

from __future__ import annotations

import torch
from torch import Tensor

from .fields import KeyField
from .reference import steered_attention_reference


def steered_attention_by_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    field: KeyField | None,
    law: str,
    alpha: Tensor,
    mark: Tensor | None,
    rows: Tensor | None,
    scale: float,
    q_start: int,
    length: int,
    focus: bool,
) -> tuple[Tensor, Tensor | None]:
    """Arguments, checked, and results as of api.steered_attention."""
    batch, _, n_rows, _ = q.shape
    shape = (k.shape[2],) if field is None or field.weights.ndim == 1 else (batch, k.shape[2])
    weights = torch.zeros(shape, dtype=torch.int8, device=q.device)
    visual = torch.zeros(shape, dtype=torch.bool, device=q.device)
    gain, heads = alpha.double().reshape(1), None
    if field is None:
        law, mark = "none", None
    else:
        weights[..., field.start : field.end] = field.weights
        visual[..., field.start : field.end] = field.visual
        if field.gains is not None:
            table = field.gains.double()
            gain, heads = gain * table, table != 0
        text = ~visual[..., q_start : q_start + n_rows]  # [S] or [B, S]
        rows = text if rows is None else text & rows
    result = steered_attention_reference(
        q, k, v, weights, visual, law=law, gain=gain, mark=None if mark is None else float(mark), heads=heads,
        rows=rows, scale=scale, q_start=q_start, valid_length=length,
    )  # fmt: skip
    masses = torch.stack([result.focus_before, result.focus_after], dim=-1).float() if focus else None
    return result.out, masses
