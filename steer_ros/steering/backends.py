"""The backends of steered attention: PyTorch's own attention, the reference, and Triton's kernels.

Each keeps what it derived from one version of the field for as long as that version holds.
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
from .forward_plan import RowLayout, RowSegment
from .laws import Law


@dataclass(eq=False)
class LayerGains:
    """A law over a model's heads.

    table: the gains of layers and heads, gates included [layers, Hq]. on: bool, the same shape, which heads the law
    holds for. first_equal_layer: for each layer the first layer with the same gains. strength_scale: what scales the
    law in the forward pass under way.
    """

    law: Law
    table: Tensor
    on: Tensor
    first_equal_layer: list[int]
    strength_scale: float = 1.0

    @property
    def alpha(self) -> float:
        """Alpha in force."""
        return self.law.alpha * self.strength_scale

    @property
    def setpoint(self) -> float | None:
        """The setpoint in force."""
        return None if self.law.setpoint is None else self.law.setpoint * self.strength_scale

    @classmethod
    def from_law(cls, law: Law, table: Tensor) -> LayerGains:
        """From the law and the gains, float32 on the CPU."""
        on = table != 0 if law.steers else torch.zeros_like(table, dtype=torch.bool)
        rows = [tuple(row) for row in table.tolist()]
        return cls(law, table, on, [rows.index(row) for row in rows])

    def set_layer(self, layer: int, gains: Tensor) -> None:
        """Set a layer's gains [Hq], rounded to e4m3 as a field's are. What was derived from the old ones is void."""
        self.table = self.table.clone()
        self.table[layer] = gains.to(torch.float8_e4m3fn).float()
        self.on = self.table != 0 if self.law.steers else self.on
        self.first_equal_layer = list(range(len(self.table)))


class SdpaBackend:
    """The steered rows of a call, segment by segment, by PyTorch's attention; and the focus of any rows."""

    def __init__(self, field: SteeringField, gains: LayerGains, regions: Tensor | None) -> None:
        self._field, self._gains, self._regions = field, gains, regions
        self._row_biases: dict[tuple[int, int, torch.device], RowBias] = {}  # of the version and scale below
        self._made_for = (-1, 1.0)

    def attend(
        self, snapshot: FieldSnapshot, layout: RowLayout, segment: RowSegment, layer: int, q: Tensor, k: Tensor,
        v: Tensor, scale: float,
    ) -> Tensor:  # fmt: skip
        """The steered rows of one segment: [B, rows, Hq, Dv]."""
        row_bias = self.row_bias(snapshot, layer, segment.prefix, q, k)
        pieces = [
            attend_rows(q[:, :, first:last], k[:, :, :keys], v[:, :, :keys], row_bias, scale)
            for first, last, keys in layout.chunks(segment, q)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def clear_cache(self) -> None:
        """The gains are others now."""
        self._row_biases = {}

    def focus(self, q: Tensor, k: Tensor, row_bias: RowBias, scale: float) -> Tensor:
        """[B, Hq, rows, 2, 1 + regions], as `focus_rows`."""
        return focus_rows(q, k, row_bias, scale)

    def row_bias(self, snapshot: FieldSnapshot, layer: int, prefix: int, q: Tensor, k: Tensor) -> RowBias:
        """What rows that see the spans 0…prefix need in this layer."""
        made_for = snapshot.version, self._gains.strength_scale
        if made_for != self._made_for:
            self._row_biases, self._made_for = {}, made_for
        key = (self._gains.first_equal_layer[layer], prefix, q.device)
        row_bias = self._row_biases.get(key)
        if row_bias is None:
            law, table, on = self._gains.law, self._gains.table[layer], self._gains.on[layer]
            if not law.has_effect(snapshot.low[prefix], snapshot.high[prefix]):
                on = torch.zeros_like(on)  # such rows are measured, not steered
            n = self._field.ordered[prefix].end - self._field.start
            row_bias = self._row_biases[key] = make_row_bias(
                snapshot.weights[:n].to(q.device),
                snapshot.visual[:n].to(q.device),
                self._field.start,
                table * self._gains.alpha,
                (table != 0).float(),
                k.shape[1],
                law=law.name,
                setpoint=self._gains.setpoint,
                has_gaps=self._field.has_gaps and prefix > 0,
                regions=None if self._regions is None else self._regions[:n].to(q.device),
                on=on,
                dtype=torch.float64 if q.dtype == torch.float64 else torch.float32,
            )
        return row_bias


class ReferenceBackend:
    """The steered rows of a call, segment by segment, by the reference."""

    def __init__(self, field: SteeringField, gains: LayerGains) -> None:
        self._field, self._gains = field, gains

    def attend(
        self, snapshot: FieldSnapshot, layout: RowLayout, segment: RowSegment, layer: int, q: Tensor, k: Tensor,
        v: Tensor, scale: float,
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
                law=self._gains.law.name,
                gain=self._gains.table[layer] * self._gains.alpha,
                setpoint=self._gains.setpoint,
                heads=self._gains.on[layer].to(q.device),
                scale=scale,
                q_start=layout.start + first,
                valid_length=keys,
            ).out
            for first, last, keys in layout.chunks(segment, q)
        ]
        return torch.cat(pieces, dim=2).transpose(1, 2)


class TritonBackend:
    """Whole calls, visual rows and text rows alike, by Triton's kernels.

    The field's tensors on the device are made once and written in place when a new version comes, in the order of
    the stream that attention runs on: a token that is being decoded keeps the version it began with, and captured
    graphs read the newest.
    """

    def __init__(self, field: SteeringField, gains: LayerGains) -> None:
        self._field, self._gains = field, gains
        self._fields: dict[torch.device, KeyField] = {}
        self._versions: dict[torch.device, int] = {}
        self._layer_gains: dict[tuple[int, torch.device], Tensor | None] = {}
        self._numbers: dict[torch.device, tuple[Tensor, Tensor | None]] = {}
        self._scales: dict[torch.device, float] = {}

    def attend(
        self, snapshot: FieldSnapshot, layout: RowLayout, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float,
        focus: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """All rows of a call: [B, S, Hq, Dv], and the focus of each [B, Hq, S, 2] if it is asked for."""
        length = layout.start + q.shape[2]
        key_field = replace(self._on_device(snapshot, q.device), gains=self._gains_of(layer, q.device))
        key_field = key_field.truncated(length)
        alpha, setpoint = self._numbers_on(q.device)
        out, masses = steered_attention(
            q, k, v, key_field, self._gains.law.name, alpha=alpha, setpoint=setpoint, scale=scale,
            q_start=layout.start, valid_length=length, focus=focus, impl="triton",
        )  # fmt: skip
        return out.transpose(1, 2), masses

    def clear_cache(self) -> None:
        """The gains are others now."""
        self._layer_gains = {}

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
        key = (self._gains.first_equal_layer[layer], device)
        if key not in self._layer_gains:
            table = self._gains.table[layer]
            everywhere = bool((table == 1).all())
            self._layer_gains[key] = None if everywhere else table.to(torch.float8_e4m3fn).to(device)
        return self._layer_gains[key]

    def _numbers_on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """α and the setpoint on the device, written in place when the scale changes."""
        gains = self._gains
        if device not in self._numbers:
            made = {"dtype": torch.float32, "device": device}
            setpoint = None if gains.setpoint is None else torch.full((1,), gains.setpoint, **made)
            self._numbers[device] = torch.full((1,), gains.alpha, **made), setpoint
        elif self._scales[device] != gains.strength_scale:
            alpha, setpoint = self._numbers[device]
            alpha.fill_(gains.alpha)
            if setpoint is not None:
                setpoint.fill_(gains.setpoint)
        self._scales[device] = gains.strength_scale
        return self._numbers[device]
