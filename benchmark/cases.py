"""The shapes that are timed, their tensors, and what a float64 reference says about an implementation's error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steer_ros.kernels import make_key_field, steered_attention

TEXT_ROWS = 64  # rows after the image
HEAD_SIZE = 128
# (query heads, key heads) of models that have each group; the R1 distils are 4 (Llama-8B), 5 (14B, 32B), 6 (1.5B),
# 7 (7B) and 8 (Llama-70B)
HEADS = {6: (12, 2), 7: (28, 4), 5: (40, 8), 4: (32, 8), 8: (64, 8), 1: (16, 16)}
LAWS = {  # law → (alpha, setpoint): those that the docs use
    "none": (0.0, None),
    "additive": (2.0, None),
    "conserving": (4.0, None),
    "share": (0.0, 0.9),
    "target": (0.0, 0.5),
}
TOLERANCE = 2.0  # an implementation's error, in errors of plain PyTorch in the same dtype
ROW_TOLERANCE = 4.0  # that of its worst row, of which a call may have only a few


@dataclass(frozen=True)
class BenchmarkCase:
    """One attention call. All keys but the last 64 are one image's; rows are the last ones of the context.

    stage: "decode" (one row), "prefill" (every row, the last 64 of them text) or "text rows" (these 64 alone, the
    image's keys being in the cache).
    """

    stage: str
    keys: int
    group: int
    head_size: int = HEAD_SIZE

    @property
    def heads(self) -> tuple[int, int]:
        """(query heads, key heads)."""
        return HEADS[self.group]

    @property
    def rows(self) -> int:
        """How many rows the call has."""
        return {"decode": 1, "text rows": min(TEXT_ROWS, self.keys // 2), "prefill": self.keys}[self.stage]

    @property
    def image(self) -> int:
        """How many keys are visual: the first ones."""
        return self.keys - min(TEXT_ROWS, self.keys // 2)

    @property
    def flop(self) -> int:
        """Multiplications and additions of the two products, over the keys that rows can see."""
        visible = self.rows * (2 * self.keys - self.rows + 1) // 2
        return 4 * self.heads[0] * self.head_size * visible

    def bytes_moved(self, item: int) -> int:
        """The least that must go through memory: K, V, q and out once each, `item` bytes an element."""
        q_heads, k_heads = self.heads
        return 2 * item * self.head_size * (k_heads * self.keys + q_heads * self.rows)


def decode_cases(quick: bool = False) -> Iterator[BenchmarkCase]:
    """Decode: 640, 2,560 and 8,192 keys for every group."""
    for group in (6,) if quick else HEADS:
        for keys in (640,) if quick else (640, 2560, 8192):
            yield BenchmarkCase("decode", keys, group)


def prefill_cases(quick: bool = False) -> Iterator[BenchmarkCase]:
    """Prefill of R1-1.5B's heads: 640, 1,024 and 2,560 keys, whole and text rows alone."""
    for keys in (640,) if quick else (640, 1024, 2560):
        yield BenchmarkCase("prefill", keys, 6)
        yield BenchmarkCase("text rows", keys, 6)


class Inputs:
    """Random tensors of a case. q [1, Hq, S, D], k and v [copies, 1, Hk, K, D]; a fifth of the image is the region,
    at weight 1: a bias of 2 that half precision holds exactly, so that everybody computes the same; the field's gains
    are 1, as a float8 table."""

    def __init__(self, case: BenchmarkCase, dtype: torch.dtype, device: torch.device, copies: int = 1) -> None:
        self.case, self.dtype, self.device = case, dtype, device
        q_heads, k_heads = case.heads
        generator = torch.Generator(device).manual_seed(case.keys * 100 + case.group)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

        self.q = normal(1, q_heads, case.rows, case.head_size)
        self.k = normal(copies, 1, k_heads, case.keys, case.head_size)
        self.v = normal(copies, 1, k_heads, case.keys, case.head_size)
        weights = torch.zeros(case.keys, dtype=torch.int8)
        first, last = int(case.image * 0.4), int(case.image * 0.6)
        weights[first:last] = 127
        gains = torch.ones(q_heads).to(torch.float8_e4m3fn)
        self.field = make_key_field(weights, [(0, case.image)], gains=gains, device=device)
        self.w = (weights.float() / 127).to(device)  # [K]
        self.text = torch.arange(case.keys - case.rows, case.keys, device=device) >= case.image  # [S]
        self.length = torch.tensor([case.keys], dtype=torch.int32, device=device)
        self.alpha = {law: torch.tensor([alpha], device=device) for law, (alpha, _) in LAWS.items()}
        self.setpoint = {law: None if m is None else torch.tensor([m], device=device) for law, (_, m) in LAWS.items()}

    def bias(self, law: str, dtype: torch.dtype) -> Tensor | None:
        """What other implementations are given: the causal mask with the additive law's bias, [1, 1, S, K]; for one
        row the bias alone; None for a row that needs neither. Only the laws none and additive are a fixed bias."""
        case, alpha = self.case, LAWS[law][0]
        if case.stage == "decode" and law == "none":
            return None
        bias = self.text[:, None] * (alpha * self.w)[None, :]  # [S, K]
        if case.rows > 1:
            bias = bias.masked_fill(~self.causal(), float("-inf"))
        return bias.to(dtype)[None, None]

    def causal(self) -> Tensor:
        """bool [S, K]: which keys a row sees."""
        ones = torch.ones(self.case.rows, self.case.keys, dtype=torch.bool, device=self.device)
        return ones.tril_(self.case.keys - self.case.rows)


@dataclass(frozen=True)
class Error:
    """Against float64: relative error of the whole output and of its worst row (of one head)."""

    whole: float
    worst_row: float

    def within(self, plain: Error) -> bool:
        """Whether this is an error such as plain PyTorch makes."""
        return self.whole <= TOLERANCE * plain.whole and self.worst_row <= ROW_TOLERANCE * plain.worst_row


def error_of(out: Tensor, exact: Tensor) -> Error:
    """out and exact: [1, Hq, S, D]; exact in float64. Infinite where out is not finite or of another shape."""
    if out.shape != exact.shape or not bool(torch.isfinite(out).all()):
        return Error(float("inf"), float("inf"))
    wrong = out.double() - exact
    return Error(float(wrong.norm() / exact.norm()), float((wrong.norm(dim=-1) / exact.norm(dim=-1)).max()))


def exact_outputs(inputs: Inputs, laws: tuple[str, ...]) -> dict[str, Tensor]:
    """The reference in float64, of the first copy, for each law."""
    q, k, v = (t.double() for t in (inputs.q, inputs.k[0], inputs.v[0]))
    return {
        law: steered_attention(
            q, k, v, inputs.field, law, alpha=LAWS[law][0], setpoint=LAWS[law][1], impl="reference"
        )[0]
        for law in laws
    }


def plain_error(calls: Sequence[tuple[str, Callable[[], Tensor]]], exact: dict[str, Tensor]) -> Error:
    """The largest error of plain PyTorch, given its calls by law."""
    errors = [error_of(call(), exact[law]) for law, call in calls]
    return Error(max(e.whole for e in errors), max(e.worst_row for e in errors))
