"""One steering in force: what each forward pass of the model reads, and what each attention call does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from steer_ros.kernels import IMPLS, triton_unsupported_reason

from .backends import ReferencePath, RowsPath, Strengths, WholePath
from .field import SteeringField
from .forward_plan import Forward, Plan, Segment, refuse_call
from .gate import Gate
from .head_gains import StrengthNet, head_features
from .laws import MAX_ALPHA, Law
from .report import FocusRows, SteeringReport

NO_ROW = "no text row came after a visual span"


@dataclass
class Now:
    """What may be set between forward passes, and counts from the next one on. phase: "think" or "act". factor: the
    part of the law's strength, 0 to 1; at 0 the pass is plain, and nothing is measured in it. watch: whether it
    measures the regions asked for; where a kernel measures the focus, they take a pass of their own."""

    phase: str = "think"
    factor: float = 1.0
    watch: bool = True


class Run:
    """A law over a field through a gate, in force on one attached model.

    Used by one thread at a time, the model's; `SteeringField.update` may come from any. Arguments are those
    of `Attachment.steer`; shape is the model's (layers, query heads); regions bool [keys from the first span
    on, regions]; adaptive: a network whose alphas take the place of the field's gains, from what the row of the
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
        adaptive: StrengthNet | None = None,
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
        self.strengths = Strengths.over(law, table)
        self.steers_layer = self.strengths.on.any(1).tolist()
        self.measures_layer = [bool(measure_focus) and bool(row.any()) for row in table]
        self._rows = RowsPath(steering_field, self.strengths, regions)
        self._by_segment = ReferencePath(steering_field, self.strengths) if impl == "reference" else self._rows
        self._whole = WholePath(steering_field, self.strengths)
        self._forward: Forward | None = None
        self._last_layer = -1
        self._adaptive, self._context, self._adapted = adaptive, context, set()

    def attend(
        self,
        module: nn.Module,
        layer: int,
        now: Now,
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
                return self.attend(module, layer, now, q, k, v, mask, scaling, kwargs)
        refuse_call(module, layer, q.shape[2], k.shape[2], kwargs)
        forward, report = self._forward, self.report
        if forward is None or layer <= self._last_layer:
            forward = self._begin(now)
        self._last_layer = layer
        report.calls_seen += 1
        steers, measures = self.steers_layer[layer], self.measures_layer[layer]
        segments: list[Segment] = []
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        if steers and self._adaptive is not None and self.field.spans and layer not in self._adapted:
            plan = forward.plan(self.field, module, q.shape[2], k.shape[2], mask)
            self._adapt(forward, plan, layer, q, k, scale)
        if (steers or measures) and forward.gate_open:
            plan = forward.plan(self.field, module, q.shape[2], k.shape[2], mask)
            if steers:
                low, high = forward.snapshot.low, forward.snapshot.high
                segments = [s for s in plan.segments if self.law.moves(low[s.prefix], high[s.prefix])]
        whole = bool(segments) and self._takes_triton(q, k, v)
        by_kernel = whole and (self.regions is None or not forward.watched)
        if measures and forward.gate_open and not by_kernel:
            self._measure(forward, plan, layer, q, k, scale)
        if not segments:
            return sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **kwargs)
        report.attention_calls += 1
        if not forward.steered:
            forward.steered = True
            report.steered_rows += q.shape[0] * sum(s.last - s.first for s in segments)
        if whole:
            out, masses = self._whole.attend(forward.snapshot, plan, layer, q, k, v, scale, measures and by_kernel)
            if masses is not None:
                self._take_focus(forward, plan, layer, masses, q, k)
            return out, None
        steer = self._by_segment.attend
        if segments[0].last - segments[0].first == q.shape[2]:  # every row is steered
            return steer(forward.snapshot, plan, segments[0], layer, q, k, v, scale), None
        out, _ = sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **kwargs)
        pieces, done = [], 0
        for segment in segments:
            steered = steer(forward.snapshot, plan, segment, layer, q, k, v, scale)
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
        elif not self.law.moves(snapshot.low[-1], snapshot.high[-1]):
            skipped[_no_move(self.law, snapshot.low[-1], snapshot.high[-1])] += 1
        elif not forward.factor:
            skipped["factor 0, by the schedule"] += 1
        elif not forward.gate_open:
            skipped[f"gate closed in phase {forward.phase}"] += 1
        else:
            skipped[NO_ROW] += 1

    def _begin(self, now: Now) -> Forward:
        """A new forward pass: all its layers read what holds now."""
        self.end()
        snapshot = self.field.snapshot()
        gate_open = now.phase in self.gate.phases and now.factor > 0
        if gate_open:
            self.strengths.factor = now.factor
        self._forward = Forward(snapshot, now.phase, gate_open, now.factor, now.watch)
        self.report.forwards += 1
        self.report.field_version = snapshot.version
        return self._forward

    def _adapt(self, forward: Forward, plan: Plan, layer: int, q: Tensor, k: Tensor, scale: float) -> None:
        """Set the gains of a layer from what its heads do in the context's last row, once, whether or not the law
        holds there. Where rows before it are steered in a pass of their own, from that pass's last row: they need
        gains too. A region that is empty yet is waited for. Waits for the device."""
        snapshot, rows = forward.snapshot, q.shape[2]
        left = rows if self._context is None else self._context - plan.start  # of the context, from the first row on
        row = (min(rows, left) if left > 0 else rows) - 1
        keys = plan.start + row + 1
        n = min(self.field.end, keys) - self.field.start
        if rows < left - (1 if forward.gate_open else 0) or n <= 0 or snapshot.high[-1] <= 0:
            return
        self._adapted.add(layer)
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
        gains = self._adaptive.to(q.device)(features).cpu().clamp(max=most)
        self.strengths.set_layer(layer, gains * (self.strengths.table[layer] != 0))
        self._rows.forget()
        self._whole.forget()

    def _takes_triton(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Whether this call is Triton's: always if it was asked for by name, else on CUDA where it can."""
        if self.impl != "auto":
            return self.impl == "triton"
        return q.is_cuda and not triton_unsupported_reason(q, k, v)

    def _measure(self, forward: Forward, plan: Plan, layer: int, q: Tensor, k: Tensor, scale: float) -> None:
        """Add up the focus of this call's text rows after V. Heads that the gate leaves out do not count."""
        columns = None if forward.watched else 1
        for segment in plan.segments:
            high = forward.snapshot.high
            if high[segment.prefix] <= 0 and (high[-1] > 0 or self.regions is None or columns):
                continue  # these rows don't see R, or it is empty: there is no focus to speak of
            terms = self._rows.terms(forward.snapshot, layer, segment.prefix, q, k)
            for first, last, keys in plan.chunks(segment, q):
                both = self._rows.focus(q[:, :, first:last], k[:, :, :keys], terms, scale)
                both = both[..., :columns]
                self._add_focus(forward, layer, plan.start + first, both, terms.heads, terms.heads_on)

    def _take_focus(self, forward: Forward, plan: Plan, layer: int, masses: Tensor, q: Tensor, k: Tensor) -> None:
        """The same from what a kernel measured: [B, Hq, S, 2]."""
        for segment in plan.segments:
            if forward.snapshot.high[segment.prefix] > 0:
                terms = self._rows.terms(forward.snapshot, layer, segment.prefix, q, k)
                both = masses[:, :, segment.first : segment.last, :, None]
                self._add_focus(forward, layer, plan.start + segment.first, both, terms.heads, terms.heads_on)

    def _add_focus(self, forward: Forward, layer: int, first: int, both: Tensor, heads: Tensor, heads_on: int) -> None:
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
