"""What a steering did: counts, focus, and why nothing happened where nothing did."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

_MOST_PENDING = 1024  # attention calls whose focus waits to be added up


@dataclass(frozen=True, eq=False)
class FocusRows:
    """The focus of one attention call's steered rows, each head apart, at key positions `first` and up.

    values: float32 [B, Hq, rows, 2, 1 + regions]: before and after the law; R first, then the regions asked
    for.
    """

    layer: int
    phase: str
    first: int
    values: Tensor

    @property
    def before(self) -> Tensor:
        """The mass of R without the law: [B, Hq, rows]."""
        return self.values[..., 0, 0]

    @property
    def after(self) -> Tensor:
        """The mass of R with the law: [B, Hq, rows]."""
        return self.values[..., 1, 0]


@dataclass
class SteeringReport:
    """Filled while the model runs inside `Attachment.steer`.

    attention_calls: attention calls in which at least one row was steered. calls_seen: all that came while
    the steering was in force. forwards: forward passes. steered_rows: text rows steered, counted once a
    forward pass, whatever the number of layers. field_version: the field's version that the last forward pass
    read. skipped: how many forward passes had nothing to steer with, by reason. rows: each call's focus, if
    asked for.
    """

    attention_calls: int = 0
    calls_seen: int = 0
    forwards: int = 0
    steered_rows: int = 0
    field_version: int = -1
    skipped: Counter[str] = field(default_factory=Counter)
    rows: list[FocusRows] = field(default_factory=list)
    _pending: list[tuple[str, Tensor, Tensor]] = field(default_factory=list, repr=False)
    _sums: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _counts: Counter[str] = field(default_factory=Counter, repr=False)
    _region_sums: tuple[Tensor | None, int] = field(
        default=(None, 0), repr=False
    )  # sums [2, 1 + regions], and of what
    _region_sums_read: tuple[Tensor | None, int] = field(default=(None, 0), repr=False)  # at `new_region_shares`

    @property
    def nothing_to_steer(self) -> str:
        """Why no attention call was steered; "" if one was."""
        if self.attention_calls or not self.skipped:
            return ""
        return self.skipped.most_common(1)[0][0]

    @property
    def focus_before(self) -> float | None:
        """The region's mean share of a row's attention without the law, over steered layers, heads and rows;
        None if it was not measured or there was no region."""
        means = self._means(None)
        return None if means is None else means[0][0]

    @property
    def focus_after(self) -> float | None:
        """The same with the law."""
        means = self._means(None)
        return None if means is None else means[1][0]

    @property
    def regions_before(self) -> list[float] | None:
        """The mean share of each region asked for, without the law; None if not measured."""
        means = self.region_shares
        return None if means is None else means[0][1:]

    @property
    def regions_after(self) -> list[float] | None:
        """The same with the law."""
        means = self.region_shares
        return None if means is None else means[1][1:]

    @property
    def region_shares(self) -> tuple[list[float], list[float]] | None:
        """Mean shares without and with the law of R, then of the regions asked for, over the rows in which those were
        measured; None if there were none."""
        self._add_up()
        sums, count = self._region_sums
        return None if sums is None else tuple((sums / count).tolist())

    def new_region_shares(self) -> tuple[float, float] | None:
        """The mean share of the first region asked for, without and with the law, over the rows in which it was
        measured since this was last called; None if there were none."""
        self._add_up()
        (sums, count), (sums_before, count_before) = self._region_sums, self._region_sums_read
        self._region_sums_read = self._region_sums
        if count == count_before:
            return None
        new = sums if sums_before is None else sums - sums_before
        return tuple((new[:, 1] / (count - count_before)).tolist())

    def focus(self, phase: str) -> tuple[float, float] | None:
        """(before, after) over the rows of one phase; None if none was measured."""
        means = self._means(phase)
        return None if means is None else (means[0][0], means[1][0])

    def add_focus(self, phase: str, both: Tensor, heads: Tensor, heads_on: int) -> None:
        """Take one call's rows: both [B, Hq, rows, 2, 1 + regions]; heads 1.0 for a head that counts, else
        0.0, [Hq] on the same device, heads_on how many count. Cheap here: the sums are made later, and
        nothing is read back."""
        count = both.shape[0] * both.shape[2] * heads_on
        self._counts[phase] += count
        if both.shape[-1] > 1:
            self._region_sums = self._region_sums[0], self._region_sums[1] + count
        self._pending.append((phase, both, heads))
        if len(self._pending) >= _MOST_PENDING:
            self._add_up()

    def _add_up(self) -> None:
        groups: dict[tuple[str, torch.Size, torch.device], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for phase, both, heads in self._pending:
            groups[phase, both.shape, both.device].append((both, heads))  # a model may lie on several GPUs
        self._pending = []
        for (phase, *_), calls in groups.items():
            values = torch.stack([both for both, _ in calls]).double()  # [calls, B, Hq, rows, 2, 1 + regions]
            weights = torch.stack([heads for _, heads in calls]).double()[:, None, :, None, None, None]
            total = (values * weights).sum((0, 1, 2, 3)).cpu()  # [2, 1 + regions]
            if total.shape[1] > 1:
                sums, count = self._region_sums
                self._region_sums = total if sums is None else sums + total, count
            total = total[:, :1]
            self._sums[phase] = self._sums[phase] + total if phase in self._sums else total

    def _means(self, phase: str | None) -> list[list[float]] | None:
        self._add_up()
        phases = [p for p in self._sums if phase in (None, p)]
        count = sum(self._counts[p] for p in phases)
        if not count:
            return None
        return (torch.stack([self._sums[p] for p in phases]).sum(0) / count).tolist()
