"""One steering in force: what each forward pass of the model reads, and what each attention call does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from steer_ros.kernels import steered_attention_reference

from .field import FieldSnapshot, SteeringField
from .gate import Gate
from .laws import MAX_ALPHA, Law
from .plan import Forward, Plan, Segment, refuse_call
from .report import FocusRows, SteeringReport
from .sdpa import Terms, attend_rows, focus_rows, make_terms

IMPLS = ("auto", "reference", "sdpa")
NO_ROW = "no text row came after a visual span"


class Run:
    """A law over a field through a gate, in force on one attached model.

    Used by one thread at a time, the model's; `SteeringField.update` may come from any. Arguments are those
    of `Attachment.steer`; shape is the model's (layers, query heads); regions bool [keys from the first span
    on, regions].
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
    ) -> None:
        if impl not in IMPLS:
            raise ValueError(f"impl: {impl!r}; accepted are {', '.join(IMPLS)}")
        if measure_focus not in (False, True, "rows"):
            raise ValueError(f'measure_focus: {measure_focus!r}; accepted are False, True, "rows"')
        self.field, self.law, self.gate = steering_field, law, gate
        self.use_reference = impl == "reference"
        self.keep_rows, self.regions = measure_focus == "rows", regions
        self.report = SteeringReport()
        on = gate.table(*shape)
        if steering_field.gain is not None:
            if tuple(steering_field.gain.shape) != shape:
                given = tuple(steering_field.gain.shape)
                raise ValueError(f"gain: shape {given}; accepted is [layers, heads] = {list(shape)}")
            on = on * steering_field.gain
            most = float(on.abs().max())
            if abs(law.alpha) * most > MAX_ALPHA:
                raise ValueError(f"gain: alpha {law.alpha:g} times a gain of {most:g} is beyond {MAX_ALPHA:g}")
        self.heads = (on != 0).float()  # [layers, Hq]: the heads whose focus counts
        self.gains = on * law.alpha if law.steers else torch.zeros_like(on)
        self.steers_layer = (self.gains != 0).any(1).tolist()
        self.measures_layer = [bool(measure_focus) and bool(h.any()) for h in self.heads]
        self._forward: Forward | None = None
        self._last_layer = -1
        rows = [tuple(g + h) for g, h in zip(self.gains.tolist(), self.heads.tolist(), strict=True)]
        self._like = [rows.index(row) for row in rows]  # layer → the first layer with the same gains
        self._terms: dict[tuple[int, int, torch.device], Terms] = {}  # of the field's version below
        self._terms_version = -1

    def attend(
        self,
        module: nn.Module,
        layer: int,
        phase: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        kwargs: Mapping[str, object],
    ) -> tuple[Tensor, None]:
        """The attention call of `layer`: q [B, Hq, S, D], k and v [B, Hk, K, D], mask as Transformers' sdpa
        gets it → ([B, S, Hq, D], None). What is not steered is Transformers' own sdpa, bit for bit."""
        refuse_call(module, layer, k.shape[2], kwargs)
        forward, report = self._forward, self.report
        if forward is None or layer <= self._last_layer:
            forward = self._begin(phase)
        self._last_layer = layer
        report.calls_seen += 1
        steers, measures = self.steers_layer[layer], self.measures_layer[layer]
        segments: list[Segment] = []
        if (steers or measures) and forward.gate_open:
            plan = forward.plan(self.field, module, q.shape[2], k.shape[2], mask)
            scale = q.shape[-1] ** -0.5 if scaling is None else scaling
            if measures:
                self._measure(forward, plan, layer, q, k, scale)
            if steers:
                segments = [s for s in plan.segments if self._moves(forward.snapshot, s.prefix)]
        if not segments:
            return sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **kwargs)
        report.attention_calls += 1
        if not forward.steered:
            forward.steered = True
            report.steered_rows += q.shape[0] * sum(s.last - s.first for s in segments)
        steer = self._steer_reference if self.use_reference else self._steer_sdpa
        if segments[0].last - segments[0].first == q.shape[2]:  # every row is steered
            return steer(forward, plan, segments[0], layer, q, k, v, scale), None
        out, _ = sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **kwargs)
        pieces, done = [], 0
        for segment in segments:
            pieces += [out[:, done : segment.first], steer(forward, plan, segment, layer, q, k, v, scale)]
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
        elif not self._moves(snapshot, len(snapshot.low) - 1):
            zero = snapshot.low[-1] == snapshot.high[-1] == 0
            skipped["all weights are 0" if zero else "the weights are the same on all visual keys"] += 1
        elif not forward.gate_open:
            skipped[f"gate closed in phase {forward.phase}"] += 1
        else:
            skipped[NO_ROW] += 1

    def _begin(self, phase: str) -> Forward:
        """A new forward pass: all its layers read what holds now."""
        self.end()
        snapshot = self.field.snapshot()
        if snapshot.version != self._terms_version:
            self._terms, self._terms_version = {}, snapshot.version
        self._forward = Forward(snapshot, phase, phase in self.gate.phases)
        self.report.forwards += 1
        self.report.field_version = snapshot.version
        return self._forward

    def _moves(self, snapshot: FieldSnapshot, prefix: int) -> bool:
        """Whether the weights on the spans 0…prefix change a row's attention."""
        low, high = snapshot.low[prefix], snapshot.high[prefix]
        return low != high if self.law.name == "conserving" else not low == high == 0

    def _layer_terms(self, snapshot: FieldSnapshot, layer: int, prefix: int, q: Tensor, k: Tensor) -> Terms:
        key = (self._like[layer], prefix, q.device)
        terms = self._terms.get(key)
        if terms is None:
            start, end = self.field.start, self.field.ordered[prefix].end
            terms = self._terms[key] = make_terms(
                snapshot.weights[: end - start].to(q.device),
                snapshot.visual[: end - start].to(q.device),
                start,
                self.gains[layer],
                self.heads[layer],
                k.shape[1],
                conserving=self.law.name == "conserving",
                gapless=self.field.gapless or prefix == 0,
                regions=None if self.regions is None else self.regions[: end - start].to(q.device),
                dtype=torch.float64 if q.dtype == torch.float64 else torch.float32,
            )
        return terms

    def _steer_sdpa(
        self,
        forward: Forward,
        plan: Plan,
        segment: Segment,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
    ) -> Tensor:
        """The steered rows of one segment by the fast path: [B, rows, Hq, D]."""
        terms = self._layer_terms(forward.snapshot, layer, segment.prefix, q, k)
        pieces = [
            attend_rows(q[:, :, first:last], k[:, :, :keys], v[:, :, :keys], terms, scale)
            for first, last, keys in plan.chunks(segment, q)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _steer_reference(
        self,
        forward: Forward,
        plan: Plan,
        segment: Segment,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
    ) -> Tensor:
        """The same by the specification."""
        snapshot, start, end = forward.snapshot, self.field.start, self.field.ordered[segment.prefix].end
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
                law=self.law.name,
                gain=self.gains[layer],
                scale=scale,
                q_start=plan.start + first,
                valid_length=keys,
            ).out
            for first, last, keys in plan.chunks(segment, q)
        ]
        return torch.cat(pieces, dim=2).transpose(1, 2)

    def _measure(self, forward: Forward, plan: Plan, layer: int, q: Tensor, k: Tensor, scale: float) -> None:
        """Add up the focus of this call's text rows after V. Heads that the gate leaves out do not count."""
        for segment in plan.segments:
            if forward.snapshot.high[segment.prefix] <= 0 and self.regions is None:
                continue  # R is empty: there is no focus to speak of
            terms = self._layer_terms(forward.snapshot, layer, segment.prefix, q, k)
            for first, last, keys in plan.chunks(segment, q):
                both = focus_rows(q[:, :, first:last], k[:, :, :keys], terms, scale)
                self.report.add_focus(forward.phase, both, terms.heads, terms.heads_on)
                if self.keep_rows:
                    self.report.rows.append(FocusRows(layer, forward.phase, plan.start + first, both.float()))
