"""Calls of the Triton kernels, drawn from a seed, that check themselves against the reference in float64."""

import math
from dataclasses import dataclass, field

import pytest
import torch

from steer_ros.kernels import SETPOINT_LAWS, KeyField, make_key_field, steered_attention_reference

pytest.importorskip("triton")

from steer_ros.kernels.impl.triton import decode as decoding
from steer_ros.kernels.impl.triton import prefill as prefill_module

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = tuple(prefill_module.TileConfig(32, block_n, num_warps=4, num_stages=1) for block_n in (32, 16))


class DecodeCall:
    """One call's arguments, made from a seed."""

    def __init__(self, seed=0, batch=1, k_heads=1, group=2, head=64, capacity=70, length=None,
                 spans=((5, 20), (30, 9)), weights="graded", gains=None, batched=False, dtype=torch.float32,
                 setpoint=0.8, alpha=2.0):  # fmt: skip
        rng = torch.Generator().manual_seed(seed)
        self.length = capacity if length is None else length
        heads = k_heads * group
        self.q = torch.randn(batch, heads, 1, head, generator=rng).to(DEVICE, dtype)
        self.k = torch.randn(batch, k_heads, capacity, head, generator=rng).to(DEVICE, dtype)
        self.v = torch.randn(batch, k_heads, capacity, head, generator=rng).to(DEVICE, dtype)
        for tensor in (self.k, self.v):  # what a static cache holds there may be anything
            tensor[:, :, self.length :: 2] = math.nan
            tensor[:, :, self.length + 1 :: 2] = math.inf
        dense = torch.zeros((batch, capacity) if batched else capacity, dtype=torch.int8)
        for first, count in spans:
            drawn = torch.randint(0, 128, (*dense.shape[:-1], count), generator=rng)
            values = {
                "graded": torch.where(drawn < 50, 0, drawn),
                "signed": drawn * 2 - 127,
                "negative": -drawn - (drawn == 0).long(),
                "empty": drawn * 0,
                "full": drawn * 0 + 127,
                "binary": (drawn > 63) * 127,
            }[weights]
            dense[..., first : first + count] = values.clamp(-127, 127).to(torch.int8)
        self.field = make_key_field(dense, spans, gains=gains, device=DEVICE)
        self.alpha, self.setpoint = (torch.tensor([x], device=DEVICE) for x in (alpha, setpoint))
        self.rows, self.scale = None, head**-0.5

    def run(self, law, **kwargs):
        """The kernel's (out, focus)."""
        arguments = dict(rows=self.rows, scale=self.scale, length=self.length, focus=False) | kwargs
        field = arguments.pop("field", self.field)
        alpha, setpoint = arguments.pop("alpha", self.alpha), arguments.pop("setpoint", self.setpoint)
        return decoding.decode(self.q, self.k, self.v, field, law, alpha, setpoint, **arguments)

    def expect(self, law, dtype=torch.float64):
        """The specification's (out, focus), computed in `dtype`."""
        heads = self.q.shape[1]
        field, row = self.field, self.length - 1
        weights = torch.zeros(*field.weights.shape[:-1], self.k.shape[2], dtype=torch.int8, device=DEVICE)
        visual = weights.bool()
        weights[..., field.start : field.end] = field.weights
        visual[..., field.start : field.end] = field.visual
        gains = torch.ones(heads, device=DEVICE) if field.gains is None else field.gains
        text = ~visual[..., row : row + 1]
        q, k, v = (t.double() if dtype == torch.float64 else t for t in (self.q, self.k, self.v))
        result = steered_attention_reference(
            q, k, v, weights, visual, law=law, gain=self.alpha.double() * gains.double(), heads=gains.double() != 0,
            setpoint=float(self.setpoint) if law in SETPOINT_LAWS else None,
            rows=text if self.rows is None else text & self.rows, scale=self.scale, q_start=row,
            valid_length=self.length, compute_dtype=dtype,
        )  # fmt: skip
        return result.out, torch.stack([result.focus_before, result.focus_after], dim=-1)

    def check(self, law, **kwargs):
        """The error against float64 is within twice that of plain PyTorch in the same dtype."""
        out, focus = self.run(law, focus=True, **kwargs)
        exact, exact_focus = self.expect(law)
        plain, _ = self.expect(law, self.q.dtype)
        floor = torch.finfo(self.q.dtype).eps * float(exact.abs().max())  # plain PyTorch may be exact by luck
        allowed = 2 * max(float((plain.double() - exact).abs().max()), floor)
        error = float((out.double() - exact).abs().max())
        assert error <= allowed, f"{law}: error {error:.3g}, plain PyTorch's {allowed / 2:.3g}"
        assert float((focus - exact_focus).abs().max()) < 2e-6


@dataclass
class PrefillCall:
    """One call of the kernel, drawn from a seed. Keys from `length` on are NaN."""

    law: str
    seed: int = 0
    rows: int = 37
    q_start: int = 30
    spans: tuple[tuple[int, int], ...] = ((5, 20), (30, 17))
    alpha: float = 2.0
    setpoint: float = 0.6
    groups: int = 2
    key_heads: int = 1
    batch: int = 1
    head_size: int = 64
    dtype: torch.dtype = torch.float32
    weights: str = "graded"  # or "zero", "one", "full", "negative"
    gate: bool = False
    gains: tuple[float, ...] | None = None
    fp8: bool = False
    focus: bool = True
    arch: int = 90
    cut: object = field(default=SMALL)

    def __post_init__(self):
        random = torch.Generator().manual_seed(self.seed)
        self.length = self.q_start + self.rows
        heads, cache = self.groups * self.key_heads, self.length + 3
        self.q = torch.randn(self.batch, self.rows, heads, self.head_size, generator=random).transpose(1, 2)
        self.k = torch.randn(self.batch, self.key_heads, cache, self.head_size, generator=random)
        self.v = torch.randn(self.batch, self.key_heads, cache, self.head_size, generator=random)
        self.k[:, :, self.length :] = float("nan")
        self.v[:, :, self.length :] = float("nan")
        self.q, self.k, self.v = (t.to(DEVICE, self.dtype) for t in (self.q, self.k, self.v))
        shape = (self.length,) if self.batch == 1 else (self.batch, self.length)
        self.visual = torch.zeros(shape, dtype=torch.bool)
        for start, count in self.spans:
            self.visual[..., start : start + count] = True
        w = torch.randint(1, 128, shape, generator=random)
        low = 0 if self.law in SETPOINT_LAWS else -1
        if self.weights == "graded":
            w = w * torch.randint(low, 2, shape, generator=random)
        elif self.weights == "one":
            w = w * 0
            w[..., self.spans[0][0]] = 127
        else:
            w = {"zero": w * 0, "full": w, "negative": -w}[self.weights]
        self.w = torch.where(self.visual, w, 0).to(torch.int8)
        self.row_gate = torch.rand(self.rows, generator=random) > 0.4 if self.gate else None

    @property
    def field(self) -> KeyField:
        gains = None if self.gains is None else torch.tensor(self.gains)
        if self.fp8:
            gains = gains.to(torch.float8_e4m3fn)
        return make_key_field(self.w, self.spans, gains=gains, device=DEVICE)

    def run(self, **changes):
        arguments = dict(field=self.field, law=self.law, alpha=self.alpha, focus=self.focus, k=self.k, v=self.v)
        arguments.update(changes)
        gate = None if self.row_gate is None or arguments["field"] is None else self.row_gate.to(DEVICE)
        return prefill_module.prefill(
            self.q, arguments["k"], arguments["v"], arguments["field"], arguments["law"],
            torch.tensor([arguments["alpha"]], device=DEVICE), torch.tensor([self.setpoint], device=DEVICE), rows=gate,
            scale=self.head_size**-0.5, q_start=self.q_start, length=self.length, focus=arguments["focus"],
            arch=self.arch, cut=self.cut,
        )  # fmt: skip

    def reference(self, dtype: torch.dtype, compute_dtype: torch.dtype, v: torch.Tensor | None = None):
        steered = ~self.visual[..., self.q_start :]
        if self.row_gate is not None:
            steered = steered & self.row_gate
        gain, heads = self.alpha, None
        if self.gains is not None:
            table = self.field.gains.to("cpu", torch.float64)
            gain, heads = self.alpha * table, table != 0
        q, k, v = (t.to("cpu", dtype)[:, :, : self.length] for t in (self.q, self.k, self.v if v is None else v))
        return steered_attention_reference(
            q, k, v, self.w, self.visual, law=self.law, gain=gain, heads=heads, rows=steered,
            setpoint=self.setpoint if self.law in SETPOINT_LAWS else None, q_start=self.q_start,
            compute_dtype=compute_dtype,
        )  # fmt: skip

    def check(self):
        """Twice plain PyTorch's error in the same dtype, and the focus to 1e-5 (scores of half inputs are exact)."""
        out, focus = self.run()
        exact = self.reference(torch.float64, torch.float64)
        plain = self.reference(self.dtype, self.dtype).out.double()
        assert bool(torch.isfinite(plain).all()) and bool(torch.isfinite(out).all())
        spare = torch.finfo(self.dtype).eps * float(self.v[:, :, : self.length].abs().max())
        error = float((out.cpu().double() - exact.out).abs().max())
        assert error <= 2 * float((plain - exact.out).abs().max()) + spare
        if self.focus:
            masses = torch.stack([exact.focus_before, exact.focus_after], dim=-1)
            torch.testing.assert_close(focus.cpu().double(), masses, rtol=0, atol=1e-5)
        return out, focus
