"""The ways to the same steered attention: the fast one of PyTorch's own, the specification, and Triton's kernels.

Each keeps what it worked out of one version of the field for as long as that version holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steer_ros.kernels import (
    KeyField,
    RowBias,
    attend_rows,
    focus_rows,
    make_row_bias,
    steered_attention,
    steered_attention_reference,
    update_field,
)

from .field import FieldSnapshot, SteeringField
from .forward_plan import Plan, Segment
from .laws import Law


@dataclass(eq=False)
class Strengths:
    """A law over a model. table: the gains of layers and heads, gates included [layers, Hq]; on: bool, the same
    shape, which heads it holds for; like: for each layer the first layer with the same gains; factor: the part of
    the law's strength that the forward pass under way gets."""

    law: Law
    table: Tensor
    on: Tensor
    like: list[int]
    factor: float = 1.0

    @property
    def alpha(self) -> float:
        """The tilt in force."""
        return self.law.alpha * self.factor

    @property
    def mark(self) -> float | None:
        """The mark in force."""
        return None if self.law.mark is None else self.law.mark * self.factor

    @classmethod
    def over(cls, law: Law, table: Tensor) -> Strengths:
        """From the law and the gains, float32 on the CPU."""
        on = table != 0 if law.steers else torch.zeros_like(table, dtype=torch.bool)
        rows = [tuple(row) for row in table.tolist()]
        return cls(law, table, on, [rows.index(row) for row in rows])

    def set_layer(self, layer: int, gains: Tensor) -> None:
        """Other gains [Hq] for a layer, rounded to e4m3 as a field's are. What was made of the old ones is void."""
        self.table = self.table.clone()
        self.table[layer] = gains.to(torch.float8_e4m3fn).float()
        self.on = self.table != 0 if self.law.steers else self.on
        self.like = list(range(len(self.table)))


class RowsPath:
    """The steered rows of a call, segment by segment, by PyTorch's attention; and the focus of any rows."""

    def __init__(self, field: SteeringField, strengths: Strengths, regions: Tensor | None) -> None:
        self._field, self._strengths, self._regions = field, strengths, regions
        self._terms: dict[tuple[int, int, torch.device], RowBias] = {}  # of the field's version and the factor below
        self._made_for = (-1, 1.0)

    def attend(
        self, snapshot: FieldSnapshot, plan: Plan, segment: Segment, layer: int, q: Tensor, k: Tensor, v: Tensor,
        scale: float,
    ) -> Tensor:  # fmt: skip
        """The steered rows of one segment: [B, rows, Hq, Dv]."""
        terms = self.terms(snapshot, layer, segment.prefix, q, k)
        pieces = [
            attend_rows(q[:, :, first:last], k[:, :, :keys], v[:, :, :keys], terms, scale)
            for first, last, keys in plan.chunks(segment, q)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def forget(self) -> None:
        """The gains are others now."""
        self._terms = {}

    def focus(self, q: Tensor, k: Tensor, terms: RowBias, scale: float) -> Tensor:
        """[B, Hq, rows, 2, 1 + regions], as `focus_rows`."""
        return focus_rows(q, k, terms, scale)

    def terms(self, snapshot: FieldSnapshot, layer: int, prefix: int, q: Tensor, k: Tensor) -> RowBias:
        """What rows that see the spans 0…prefix need in this layer."""
        made_for = snapshot.version, self._strengths.factor
        if made_for != self._made_for:
            self._terms, self._made_for = {}, made_for
        key = (self._strengths.like[layer], prefix, q.device)
        terms = self._terms.get(key)
        if terms is None:
            law, table, on = self._strengths.law, self._strengths.table[layer], self._strengths.on[layer]
            if not law.moves(snapshot.low[prefix], snapshot.high[prefix]):
                on = torch.zeros_like(on)  # such rows are measured, not steered
            n = self._field.ordered[prefix].end - self._field.start
            terms = self._terms[key] = make_row_bias(
                snapshot.weights[:n].to(q.device),
                snapshot.visual[:n].to(q.device),
                self._field.start,
                table * self._strengths.alpha,
                (table != 0).float(),
                k.shape[1],
                law=law.name,
                setpoint=self._strengths.mark,
                has_gaps=self._field.has_gaps and prefix > 0,
                regions=None if self._regions is None else self._regions[:n].to(q.device),
                on=on,
                dtype=torch.float64 if q.dtype == torch.float64 else torch.float32,
            )
        return terms


class ReferencePath:
    """The steered rows of a call, segment by segment, by the specification."""

    def __init__(self, field: SteeringField, strengths: Strengths) -> None:
        self._field, self._strengths = field, strengths

    def attend(
        self, snapshot: FieldSnapshot, plan: Plan, segment: Segment, layer: int, q: Tensor, k: Tensor, v: Tensor,
        scale: float,
    ) -> Tensor:  # fmt: skip
        """The steered rows of one segment: [B, rows, Hq, Dv]."""
        start, end = self._field.start, self._field.ordered[segment.prefix].end
        weights = torch.zeros(k.shape[2], dtype=torch.int8, device=q.device)
        visual = torch.zeros(k.shape[2], dtype=torch.bool, device=q.device)
        weights[start:end] = snapshot.weights[: end - start]
        visual[start:end] = snapshot.visual[: end - start]
        pieces = [
            steered_attention_reference(
                q[:, :, first:last],
                k,
                v,
                weights,
                visual,
                law=self._strengths.law.name,
                gain=self._strengths.table[layer] * self._strengths.alpha,
                setpoint=self._strengths.mark,
                heads=self._strengths.on[layer].to(q.device),
                scale=scale,
                q_start=plan.start + first,
                valid_length=keys,
            ).out
            for first, last, keys in plan.chunks(segment, q)
        ]
        return torch.cat(pieces, dim=2).transpose(1, 2)


class WholePath:
    """Whole calls, visual rows and text rows alike, by Triton's kernels.

    The field's tensors on the device are made once and written in place when a new version comes, in the order of
    the stream that attention runs on: a token that is being decoded keeps the version it began with, and captured
    graphs read the newest.
    """

    def __init__(self, field: SteeringField, strengths: Strengths) -> None:
        self._field, self._strengths = field, strengths
        self._fields: dict[torch.device, KeyField] = {}
        self._versions: dict[torch.device, int] = {}
        self._gains: dict[tuple[int, torch.device], Tensor | None] = {}
        self._marks: dict[torch.device, tuple[Tensor, Tensor | None]] = {}
        self._factors: dict[torch.device, float] = {}

    def attend(
        self, snapshot: FieldSnapshot, plan: Plan, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float,
        focus: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """All rows of a call: [B, S, Hq, Dv], and the focus of each [B, Hq, S, 2] if it is asked for."""
        length = plan.start + q.shape[2]
        key_field = replace(self._on_device(snapshot, q.device), gains=self._gains_of(layer, q.device))
        key_field = key_field.truncated(length)
        alpha, mark = self._strength(q.device)
        out, masses = steered_attention(
            q, k, v, key_field, self._strengths.law.name, alpha=alpha, setpoint=mark, scale=scale, q_start=plan.start,
            valid_length=length, focus=focus, impl="triton",
        )  # fmt: skip
        return out.transpose(1, 2), masses

    def forget(self) -> None:
        """The gains are others now."""
        self._gains = {}

    def _on_device(self, snapshot: FieldSnapshot, device: torch.device) -> KeyField:
        kept = self._fields.get(device)
        if kept is None:
            kept = self._fields[device] = KeyField(
                weights=snapshot.weights.to(device, copy=True),
                visual=snapshot.visual.to(device),
                weight_extrema=snapshot.weight_extrema.to(device, copy=True),
                gains=None,
                start=self._field.start,
                has_gaps=self._field.has_gaps,
            )
        elif self._versions[device] != snapshot.version:
            update_field(kept, snapshot.weights.to(device)[None])
        self._versions[device] = snapshot.version
        return kept

    def _gains_of(self, layer: int, device: torch.device) -> Tensor | None:
        """The layer's gains as e4m3, which holds them exactly (SteeringField rounds them); None for 1 everywhere."""
        key = (self._strengths.like[layer], device)
        if key not in self._gains:
            table = self._strengths.table[layer]
            everywhere = bool((table == 1).all())
            self._gains[key] = None if everywhere else table.to(torch.float8_e4m3fn).to(device)
        return self._gains[key]

    def _strength(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """α and the mark on the device, written in place when the factor changes."""
        strengths = self._strengths
        if device not in self._marks:
            made = {"dtype": torch.float32, "device": device}
            mark = None if strengths.mark is None else torch.full((1,), strengths.mark, **made)
            self._marks[device] = torch.full((1,), strengths.alpha, **made), mark
        elif self._factors[device] != strengths.factor:
            alpha, mark = self._marks[device]
            alpha.fill_(strengths.alpha)
            if mark is not None:
                mark.fill_(strengths.mark)
        self._factors[device] = strengths.factor
        return self._marks[device]
