"""One steering in force: what each forward pass of the model reads, and what each attention call does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from steer_ros.kernels import IMPLS, triton_unsupported_reason

from .backends import LayerGains, ReferenceBackend, SdpaBackend, TritonBackend
from .field import SteeringField
from .forward_plan import ForwardPass, RowLayout, RowSegment, refuse_call
from .gate import Gate
from .head_gains import HeadGainNet, head_features
from .laws import MAX_ALPHA, Law
from .report import FocusRows, SteeringReport

NO_ROW = "no text row came after a visual span"


@dataclass
class StepControl:
    """What may be set between forward passes, and counts from the next one on.

    phase: "think" or "act". strength_scale: what scales the law, 0 to 1; at 0 the pass is plain, and nothing is
    measured in it. measure_regions: whether it measures the regions asked for; where a kernel measures the focus,
    they take a pass of their own.
    """

    phase: str = "think"
    strength_scale: float = 1.0
    measure_regions: bool = True


class SteeringSession:
    """A law over a field through a gate, in force on one attached model.

    Used by one thread at a time, the model's; `SteeringField.update` may come from any. Arguments are those
    of `Attachment.steer`; shape is the model's (layers, query heads); regions bool [keys from the first span
    on, regions]; head_gains: a network whose output takes the place of the field's gains, from what the row of the
    context's last key (context: how many it has) does.
    """

    def __init__(
        self,
        steering_field: SteeringField,
        law: Law,
        gate: Gate,
        shape: tuple[int, int],
        *,
        impl: str,
        measure_focus: bool | str,
        regions: Tensor | None,
        head_gains: HeadGainNet | None = None,
        context: int | None = None,
    ) -> None:
        if impl not in IMPLS:
            raise ValueError(f"impl: {impl!r}; accepted are {', '.join(IMPLS)}")
        if measure_focus not in (False, True, "rows"):
            raise ValueError(f'measure_focus: {measure_focus!r}; accepted are False, True, "rows"')
        self.field, self.law, self.gate, self.impl = steering_field, law, gate, impl
        self.keep_rows, self.regions = measure_focus == "rows", regions
        self.report = SteeringReport()
        table = gate.table(*shape)
        if steering_field.gain is not None:
            if tuple(steering_field.gain.shape) != shape:
                given = tuple(steering_field.gain.shape)
                raise ValueError(f"gain: shape {given}; accepted is [layers, heads] = {list(shape)}")
            table = table * steering_field.gain
            most = float(table.abs().max())
            if abs(law.alpha) * most > MAX_ALPHA:
                raise ValueError(f"gain: alpha {law.alpha:g} times a gain of {most:g} is beyond {MAX_ALPHA:g}")
        self.gains = LayerGains.from_law(law, table)
        self.steers_layer = self.gains.on.any(1).tolist()
        self.measures_layer = [bool(measure_focus) and bool(row.any()) for row in table]
        self._sdpa = SdpaBackend(steering_field, self.gains, regions)
        self._by_segment = ReferenceBackend(steering_field, self.gains) if impl == "reference" else self._sdpa
        self._triton = TritonBackend(steering_field, self.gains)
        self._forward: ForwardPass | None = None
        self._last_layer = -1
        self._gain_network, self._context, self._layers_set = head_gains, context, set()

    def attend(
        self,
        module: nn.Module,
        layer: int,
        control: StepControl,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        kwargs: Mapping[str, object],
    ) -> tuple[Tensor, None]:
        """The attention call of `layer`: q [B, Hq, S, D], k and v [B, Hk, K, D], mask as Transformers' sdpa
        gets it → ([B, S, Hq, D], None). A call with no row to steer is Transformers' own sdpa, bit for bit."""
        kind = q.device.type
        if torch.is_autocast_enabled(kind) and q.dtype != torch.float64:
            lower = torch.get_autocast_dtype(kind)  # as autocast itself would cast for PyTorch's attention
            q, k, v = q.to(lower), k.to(lower), v.to(lower)
            if mask is not None and mask.is_floating_point():
                mask = mask.to(lower)
            with torch.autocast(kind, enabled=False):
                return self.attend(module, layer, control, q, k, v, mask, scaling, kwargs)
        refuse_call(module, layer, q.shape[2], k.shape[2], kwargs)
        forward, report = self._forward, self.report
        if forward is None or layer <= self._last_layer:
            forward = self._begin(control)
        self._last_layer = layer
        report.calls_seen += 1
        steers, measures = self.steers_layer[layer], self.measures_layer[layer]
        segments: list[RowSegment] = []
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        if steers and self._gain_network is not None and self.field.spans and layer not in self._layers_set:
            layout = forward.layout(self.field, module, q.shape[2], k.shape[2], mask)
            self._set_head_gains(forward, layout, layer, q, k, scale)
        if (steers or measures) and forward.gate_open:
            layout = forward.layout(self.field, module, q.shape[2], k.shape[2], mask)
            if steers:
                low, high = forward.snapshot.low, forward.snapshot.high
                segments = [s for s in layout.segments if self.law.has_effect(low[s.prefix], high[s.prefix])]
        whole = bool(segments) and self._takes_triton(q, k, v)
        by_kernel = whole and (self.regions is None or not forward.measures_regions)
        if measures and forward.gate_open and not by_kernel:
            self._measure(forward, layout, layer, q, k, scale)
        if not segments:
            return sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **kwargs)
        report.attention_calls += 1
        if not forward.steered:
            forward.steered = True
            report.steered_rows += q.shape[0] * sum(s.last - s.first for s in segments)
        if whole:
            out, masses = self._triton.attend(forward.snapshot, layout, layer, q, k, v, scale, measures and by_kernel)
            if masses is not None:
                self._take_focus(forward, layout, layer, masses, q, k)
            return out, None
        steer = self._by_segment.attend
        if segments[0].last - segments[0].first == q.shape[2]:  # every row is steered
            return steer(forward.snapshot, layout, segments[0], layer, q, k, v, scale), None
        out, _ = sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **kwargs)
        pieces, done = [], 0
        for segment in segments:
            steered = steer(forward.snapshot, layout, segment, layer, q, k, v, scale)
            pieces += [out[:, done : segment.first], steered]
            done = segment.last
        return torch.cat([*pieces, out[:, done:]], dim=1), None

    def end(self) -> None:
        """Close the books of the last forward pass: if it steered nothing, note why."""
        forward, self._forward = self._forward, None
        if forward is None or forward.steered:
            return
        snapshot, skipped = forward.snapshot, self.report.skipped
        if not self.law.steers:
            skipped["law none" if self.law.name == "none" else "alpha 0"] += 1
        elif not self.field.spans:
            skipped["no visual span"] += 1
        elif not any(self.steers_layer):
            skipped["no head has a gain"] += 1
        elif not self.law.has_effect(snapshot.low[-1], snapshot.high[-1]):
            skipped[_no_move(self.law, snapshot.low[-1], snapshot.high[-1])] += 1
        elif not forward.strength_scale:
            skipped["scale 0, by the schedule"] += 1
        elif not forward.gate_open:
            skipped[f"gate closed in phase {forward.phase}"] += 1
        else:
            skipped[NO_ROW] += 1

    def _begin(self, control: StepControl) -> ForwardPass:
        """A new forward pass: all its layers read what holds now."""
        self.end()
        snapshot = self.field.snapshot()
        gate_open = control.phase in self.gate.phases and control.strength_scale > 0
        if gate_open:
            self.gains.strength_scale = control.strength_scale
        self._forward = ForwardPass(
            snapshot, control.phase, gate_open, control.strength_scale, control.measure_regions
        )
        self.report.forwards += 1
        self.report.field_version = snapshot.version
        return self._forward

    def _set_head_gains(
        self, forward: ForwardPass, layout: RowLayout, layer: int, q: Tensor, k: Tensor, scale: float
    ) -> None:
        """Set the gains of a layer from what its heads do in the context's last row, once, whether or not the law
        holds there. Where rows before it are steered in a pass of their own, from that pass's last row: they need
        gains too. A region that is empty yet is waited for. Waits for the device."""
        snapshot, rows = forward.snapshot, q.shape[2]
        left = rows if self._context is None else self._context - layout.start  # of the context, from the first row on
        row = (min(rows, left) if left > 0 else rows) - 1
        keys = layout.start + row + 1
        n = min(self.field.end, keys) - self.field.start
        if rows < left - (1 if forward.gate_open else 0) or n <= 0 or snapshot.high[-1] <= 0:
            return
        self._layers_set.add(layer)
        features = head_features(
            q[:1, :, row : row + 1],
            k[:1, :, :keys],
            snapshot.weights[:n].to(q.device),
            snapshot.visual[:n].to(q.device),
            self.field.start,
            scale,
            layer / max(1, len(self.steers_layer) - 1),
        )
        most = MAX_ALPHA / max(abs(self.law.alpha), 1.0)
        gains = self._gain_network.to(q.device)(features).cpu().clamp(max=most)
        self.gains.set_layer(layer, gains * (self.gains.table[layer] != 0))
        self._sdpa.clear_cache()
        self._triton.clear_cache()

    def _takes_triton(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Whether this call is Triton's: always if it was asked for by name, else on CUDA where it can."""
        if self.impl != "auto":
            return self.impl == "triton"
        return q.is_cuda and not triton_unsupported_reason(q, k, v)

    def _measure(
        self, forward: ForwardPass, layout: RowLayout, layer: int, q: Tensor, k: Tensor, scale: float
    ) -> None:
        """Add up the focus of this call's text rows after V. Heads that the gate leaves out do not count."""
        columns = None if forward.measures_regions else 1
        for segment in layout.segments:
            high = forward.snapshot.high
            if high[segment.prefix] <= 0 and (high[-1] > 0 or self.regions is None or columns):
                continue  # these rows don't see R, or it is empty: there is no focus to speak of
            row_bias = self._sdpa.row_bias(forward.snapshot, layer, segment.prefix, q, k)
            for first, last, keys in layout.chunks(segment, q):
                both = self._sdpa.focus(q[:, :, first:last], k[:, :, :keys], row_bias, scale)
                both = both[..., :columns]
                self._add_focus(forward, layer, layout.start + first, both, row_bias.heads, row_bias.heads_on)

    def _take_focus(
        self, forward: ForwardPass, layout: RowLayout, layer: int, masses: Tensor, q: Tensor, k: Tensor
    ) -> None:
        """The same from what a kernel measured: [B, Hq, S, 2]."""
        for segment in layout.segments:
            if forward.snapshot.high[segment.prefix] > 0:
                row_bias = self._sdpa.row_bias(forward.snapshot, layer, segment.prefix, q, k)
                both = masses[:, :, segment.first : segment.last, :, None]
                self._add_focus(forward, layer, layout.start + segment.first, both, row_bias.heads, row_bias.heads_on)

    def _add_focus(
        self, forward: ForwardPass, layer: int, first: int, both: Tensor, heads: Tensor, heads_on: int
    ) -> None:
        self.report.add_focus(forward.phase, both, heads, heads_on)
        if self.keep_rows:
            self.report.rows.append(FocusRows(layer, forward.phase, first, both.float()))


def _no_move(law: Law, low: int, high: int) -> str:
    """Why a law has nothing to steer with where these are the extreme weights."""
    if low == high == 0:
        return "all weights are 0"
    if law.name == "share":
        return "the region is all of V: every visual key has a weight above 0"
    return "the weights are the same on all visual keys"
