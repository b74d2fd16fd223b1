"""Random calls of steered attention, and two ways to their answer that share no code with the package. For tests only.

`by_log_sums` takes each row of each head apart: attention over T, R and V∖R alone, merged by log-sum-exp with the
groups' sums shifted as the law says. `by_more_dimensions` gives q three more dimensions, whose products with those
of k are the law's shift, and runs plain attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from steer_ros.kernels import LAW_NAMES, KeyField, make_key_field, steered_attention

STEERING = tuple(law for law in LAW_NAMES if law != "none")
SETPOINTS = {"share": (0.0, 0.3, 0.9, 1.0), "target": (0.001, 0.3, 0.9, 0.999)}


@dataclass
class AttentionCase:
    """The arguments of one call; q, k, v in float64, rows last of `length` keys unless q_start says otherwise."""

    q: Tensor
    k: Tensor
    v: Tensor
    weights: Tensor  # [K] or [B, K]
    spans: list[tuple[int, int]]
    law: str
    alpha: float
    setpoint: float | None
    gains: Tensor | None
    rows: Tensor | None
    q_start: int
    length: int

    @property
    def scale(self) -> float:
        return self.q.shape[3] ** -0.5

    @property
    def field(self) -> KeyField | None:
        return self.field_on("cpu")

    def field_on(self, device: str) -> KeyField | None:
        return make_key_field(self.weights, self.spans, gains=self.gains, device=device) if self.spans else None

    def visual(self) -> Tensor:
        inside = torch.zeros(self.k.shape[2], dtype=torch.bool)
        for start, count in self.spans:
            inside[start : start + count] = True
        return inside

    def call(self, impl: str, dtype: torch.dtype = torch.float64, device: str = "cpu", **changes: object):
        """out and focus by an implementation, on inputs in `dtype`."""
        options = {
            "alpha": self.alpha, "setpoint": self.setpoint, "q_start": self.q_start,
            "rows": None if self.rows is None else self.rows.to(device), "valid_length": self.length,
            "focus": True, "impl": impl,
        }  # fmt: skip
        law = changes.pop("law", self.law)
        if law not in SETPOINTS:
            options["setpoint"] = None
        q, k, v = (t.to(device, dtype) for t in (self.q, self.k, self.v))
        return steered_attention(q, k, v, self.field_on(device), law, **(options | changes))

    def rounded(self, dtype: torch.dtype) -> AttentionCase:
        """The case with the inputs that a call in `dtype` gets."""
        return replace(self, **{name: getattr(self, name).to(dtype).double() for name in ("q", "k", "v")})


@st.composite
def attention_cases(draw, laws=STEERING, head_sizes=(8, 16), max_rows=6, setpoints=SETPOINTS):
    """Odd sizes on purpose: groups 1–8, one key, spans with gaps, full and empty regions, caches longer than the
    context with NaN beyond it, gates of heads and rows, a field for each of a batch."""
    group, k_heads, batch = draw(st.integers(1, 8)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    head_size = draw(st.sampled_from(head_sizes))
    spans, at = [], draw(st.integers(0, 5))
    for _ in range(draw(st.integers(0, 3))):
        count = draw(st.integers(1, 9))
        spans.append((at, count))
        at += count + draw(st.integers(0, 4))
    end = max((start + count for start, count in spans), default=0)
    length = max(1, end + draw(st.integers(0, 6)))
    n_rows = draw(st.integers(1, min(max_rows, length)))
    q_start = draw(st.integers(0, length - n_rows)) if draw(st.booleans()) else length - n_rows
    keys = length + draw(st.integers(0, 5))
    law = draw(st.sampled_from(laws))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.1, 1.0, 3.0]))
    q = torch.randn(batch, group * k_heads, n_rows, head_size, dtype=torch.float64) * spread
    k, v = torch.randn(2, batch, k_heads, keys, head_size, dtype=torch.float64)
    k[:, :, length:], v[:, :, length:] = math.nan, math.inf
    choices = [(0, 127), (127, 127), (1, 127), (0, 0), (0, 1)]
    if law not in SETPOINTS:
        choices += [(-127, 127), (-127, -1)]
    low, high = draw(st.sampled_from(choices))
    shape = (batch, keys) if draw(st.booleans()) else (keys,)
    case = AttentionCase(
        q, k, v, torch.randint(low, high + 1, shape, dtype=torch.int8), spans, law,
        draw(st.sampled_from([0.0, 0.5, 2.0, -3.0, 12.0])), draw(st.sampled_from(setpoints.get(law, (None,)))),
        None, None, q_start, length,
    )  # fmt: skip
    case.weights = case.weights * case.visual()
    if draw(st.booleans()):
        case.gains = torch.randint(-2, 3, (group * k_heads,)) / 2.0
    if draw(st.booleans()):
        case.rows = torch.rand(n_rows) < 0.7
    return case


def _log_sum(scores: Tensor) -> float:
    return float(scores.logsumexp(0)) if scores.numel() else -math.inf


def _log_add(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _row(case: AttentionCase, b: int, head: int, row: int):
    """Scores and groups of one row of one head: (scores, tilts, text, region, rest of V), over the keys it sees."""
    visible = case.q_start + row + 1
    key_head = head // (case.q.shape[1] // case.k.shape[1])
    scores = (case.k[b, key_head, :visible] @ case.q[b, head, row]) * case.scale
    weights = (case.weights[b] if case.weights.ndim == 2 else case.weights)[:visible].double() / 127
    gain = case.alpha * (1.0 if case.gains is None else float(case.gains[head]))
    visual = case.visual()[:visible]
    return scores, gain * weights, ~visual, visual & (weights > 0), visual & (weights <= 0)


def is_active(case: AttentionCase, b: int, head: int, row: int) -> bool:
    """Whether the law holds for the row, said once more."""
    _, _, text, region, rest = _row(case, b, head, row)
    weights = (case.weights[b] if case.weights.ndim == 2 else case.weights)[: len(text)][~text].tolist()
    if case.law == "none" or not bool(text[-1]) or (case.rows is not None and not bool(case.rows[row])):
        return False
    if case.gains is not None and float(case.gains[head]) == 0:
        return False
    if case.law == "additive":
        return any(weights) and case.alpha != 0
    if case.law == "conserving":
        return len(set(weights)) > 1
    return bool(region.any()) and (case.law == "target" or bool(rest.any()))


def shifted_sums(case: AttentionCase, b: int, head: int, row: int) -> tuple[list[tuple[Tensor, float]], float, float]:
    """[(group, log of its part of the row)] over T, R and V∖R, with what to add to R's and to the rest's tilted
    scores."""
    scores, tilt, text, region, rest = _row(case, b, head, row)
    tilted = scores + tilt
    log_t, log_r, log_b = _log_sum(scores[text]), _log_sum(tilted[region]), _log_sum(tilted[rest])
    log_v = _log_sum(scores[~text])
    add_r = add_b = 0.0
    if case.law in ("conserving", "share"):
        log_tilted = _log_add(log_r, log_b)
        add_r = add_b = log_v - log_tilted
        if case.law == "share" and case.setpoint > math.exp(log_r - log_tilted):
            add_r = math.log(case.setpoint) + log_v - log_r
            add_b = (math.log(1 - case.setpoint) if case.setpoint < 1 else -math.inf) + log_v - log_b
    elif case.law == "target":
        others = _log_add(log_t, log_b)
        add_r = others + math.log(case.setpoint) - math.log(1 - case.setpoint) - log_r
    return [(text, log_t), (region, log_r + add_r), (rest, log_b + add_b)], add_r, add_b


def by_log_sums(case: AttentionCase) -> tuple[Tensor, Tensor]:
    """out [B, Hq, S, Dv] and the focus [B, Hq, S, 2]."""
    batch, heads, n_rows, _ = case.q.shape
    out = torch.zeros(*case.q.shape[:3], case.v.shape[3], dtype=torch.float64)
    focus = torch.zeros(batch, heads, n_rows, 2, dtype=torch.float64)
    for b in range(batch):
        for head in range(heads):
            values = case.v[b, head // (heads // case.k.shape[1])]
            for row in range(n_rows):
                scores, tilt, _, region, _ = _row(case, b, head, row)
                plain = scores.softmax(0)
                focus[b, head, row] = plain[region].sum()
                if not is_active(case, b, head, row):
                    out[b, head, row] = plain @ values[: len(plain)]
                    continue
                parts, _, _ = shifted_sums(case, b, head, row)
                total = _log_sum(torch.tensor([log for _, log in parts], dtype=torch.float64))
                for keys, log in parts:
                    if keys.any() and log > -math.inf:
                        inner = (scores + tilt)[keys].softmax(0) @ values[: len(plain)][keys]
                        out[b, head, row] += math.exp(log - total) * inner
                focus[b, head, row, 1] = math.exp(parts[1][1] - total) if region.any() else 0.0
    return out, focus


def by_more_dimensions(case: AttentionCase) -> Tensor:
    """out, for a field that the batch shares and setpoints below 1."""
    batch, heads, n_rows, _ = case.q.shape
    extra_q = torch.zeros(batch, heads, n_rows, 3, dtype=torch.float64)
    for b in range(batch):
        for head in range(heads):
            gain = case.alpha * (1.0 if case.gains is None else float(case.gains[head]))
            for row in range(n_rows):
                if is_active(case, b, head, row):
                    _, add_r, add_b = shifted_sums(case, b, head, row)
                    _, _, _, region, rest = _row(case, b, head, row)
                    add = [x if keys.any() else 0.0 for x, keys in ((add_r, region), (add_b, rest))]
                    extra_q[b, head, row] = torch.tensor([gain, *add], dtype=torch.float64)
    visual = case.visual()
    columns = torch.stack(
        [case.weights.double() / 127, visual & (case.weights > 0), visual & (case.weights <= 0)], -1
    ).double()
    k = case.k[:, :, : case.length]
    extra_k = columns[: case.length].expand(*k.shape[:3], 3) / case.scale
    q = torch.cat([case.q, extra_q], -1)
    k = torch.cat([k, extra_k], -1).repeat_interleave(heads // k.shape[1], 1)
    v = case.v[:, :, : case.length].repeat_interleave(heads // case.v.shape[1], 1)
    last = case.q_start + torch.arange(n_rows)
    hidden = torch.arange(case.length) > last[:, None]
    return ((q @ k.transpose(-1, -2)) * case.scale).masked_fill(hidden, -math.inf).softmax(-1) @ v
