"""What the rows of a call need of a field, worked out once for each version of it (rows.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ...checks import SETPOINT_LAWS
from ..reference import WEIGHT_ONE

_NEVER = float("-inf")
_SPARE_KEYS = 1024  # a padded row is made this much longer than asked, so that decoding seldom has to remake it


@dataclass(eq=False)
class RowBias:
    """One version of the field over the spans that come before the rows, for one layer's heads and one law.

    start, end: the key positions that these spans cover, n = end − start of them, text between frames (gaps)
        included.
    group: query heads of a key head, G.
    bias: g·w, added to the scores [1, 1, n], or [Hk, G, n] where heads differ; 0 in gaps and for heads that are
        off.
    visual, region: bool [n], V and R. region_keys: the positions of R.
    has_gaps: whether any of the n is not in V. has_bias: whether any bias is not 0.
    on: bool [Hk, G, 1], the heads that the law holds for; None if it is all.
    columns: 1.0 where a key is in R, in a region to be measured [n, 1 + regions].
    heads: 1.0 for query heads whose focus counts [Hq], heads_on of them.
    """

    law: str
    setpoint: float
    start: int
    end: int
    group: int
    bias: Tensor
    visual: Tensor
    region: Tensor
    region_keys: Tensor
    has_gaps: bool
    has_bias: bool
    on: Tensor | None
    columns: Tensor
    heads: Tensor
    heads_on: int
    _padded: dict[str, Tensor] = field(default_factory=dict)
    _cuts: dict[str, tuple[int, Tensor]] = field(default_factory=dict)
    _scaling: tuple[int, tuple[Tensor, Tensor, Tensor]] | None = None

    def padded(self, name: str, keys: int) -> Tensor:
        """By key position over the first `keys` positions, whatever the spans cover of them:

        "bias": the bias, 0 off V [1, 1 | Hk, 1 | G, keys].
        "rest": the bias, but −inf on R: what target leaves to the other keys. 0 everywhere for heads that are off.
        "exp": e^bias, scaled so that its largest over V is 1 (under target, over R and over all other keys); same
            shape.
        "groups": what the law multiplies each by: V (conserving), R, V∖R (share), or R, all others (target)
            [1 | 2, keys]; e^bias there, 0 elsewhere, where heads do not differ, else 1.
        "text": 1.0 for what is in none of the groups [keys].
        "sides": of target, the bias of all but R and −inf on R, then the bias of R and −inf on all others, for each
            head of a group [1, 1 | Hk, 2 · G, keys].
        "sums": the sums that it needs: V without the bias (not under target), then the groups [2 | 3, keys].
        """
        kept = self._cuts.get(name)
        if kept is None or kept[0] != keys:  # (all layers of a token ask for the same)
            row = self._padded.get(name)
            if row is None or row.shape[-1] < keys:
                row = self._padded[name] = self._pad(name, keys + _SPARE_KEYS)
            kept = self._cuts[name] = keys, row[..., :keys]
        return kept[1]

    def scaling(self, keys: int) -> tuple[Tensor, Tensor, Tensor]:
        """sums [keys, 2 | 3], groups and text of `padded`: cut once for all layers of a token."""
        kept = self._scaling
        if kept is None or kept[0] != keys:
            cut = self.padded("sums", keys).t(), self.padded("groups", keys), self.padded("text", keys)
            kept = self._scaling = keys, cut
        return kept[1]

    def _pad(self, name: str, keys: int) -> Tensor:
        v = slice(self.start, self.end)
        row = self.bias.new_zeros(1, *self.bias.shape[:-1], keys)
        row[..., v] = self.bias
        if name == "bias":
            return row
        visual, region = torch.zeros(2, keys, dtype=torch.bool, device=row.device)
        visual[v], region[v] = self.visual, self.region
        if name == "rest":
            barred = row.masked_fill(region, _NEVER)
            return barred if self.on is None else torch.where(self.on, barred, 0.0)
        if name == "exp":
            for side in (region, ~region) if self.law == "target" else (visual,):
                most = row.masked_fill(~side, _NEVER).amax(-1, keepdim=True)
                row = torch.where(side, row - most, row)
            return row.exp()
        if name == "sides":
            return self._for_groups(self._pad("rest", keys), row.masked_fill(~region, _NEVER))
        groups = {"conserving": [visual], "share": [region, visual & ~region], "target": [region, ~region]}[self.law]
        members = torch.stack(groups).to(row.dtype)
        if name == "text":
            return 1.0 - members.sum(0)
        if not self.by_head:
            members = members * self._pad("exp", keys).view(keys)
        if name == "groups" or self.law == "target":
            return members
        return torch.cat([visual[None].to(row.dtype), members])

    @cached_property
    def by_head(self) -> bool:
        """Whether heads have biases of their own."""
        return self.bias.shape[:2].numel() > 1

    @cached_property
    def lift(self) -> Tensor | None:
        """log(e^t − 1) where t is the bias of all of R's keys, at least 0, and the rest of V has none: by how much R's
        scores are to be raised for what R gets beside V as it is. [1 | Hk, 1 | G, 1]; None if it is otherwise."""
        others = self.visual & ~self.region
        bias = self.bias[..., self.region]
        if bias.shape[-1] == 0 or bool((bias != bias[..., :1]).any()) or bool((bias < 0).any()):
            return None
        if bool((self.bias[..., others] != 0).any()):
            return None
        bias = bias[..., :1].double()
        return (bias + torch.log(-torch.expm1(-bias))).to(self.bias.dtype)

    @cached_property
    def span(self) -> slice:
        """The spans' key positions."""
        return slice(self.start, self.end)

    @cached_property
    def copies(self) -> Tensor:
        """Masks over the spans, −inf off V, then off R; under conserving V's bias instead. For each head of a group
        [1, 1 | Hk, 2 · G, n]."""
        plain = torch.zeros_like(self.bias[None])
        off, other = (~self.visual, self.bias[None]) if self.law == "conserving" else (~self.region, plain)
        return self._for_groups(plain.masked_fill(~self.visual, _NEVER), other.masked_fill(off, _NEVER))

    def _for_groups(self, *masks: Tensor) -> Tensor:
        """[1, 1 | Hk, 1 | G, keys] each → [1, 1 | Hk, masks · G, keys]."""
        heads = max(mask.shape[1] for mask in masks)
        return torch.cat([mask.expand(-1, heads, self.group, -1) for mask in masks], dim=2)

    @cached_property
    def visual_keys(self) -> Tensor:
        """The positions of V's keys."""
        return self.visual.nonzero().squeeze(1) + self.start

    @cached_property
    def gap_keys(self) -> Tensor:
        """The positions of the text keys between frames."""
        return (~self.visual).nonzero().squeeze(1) + self.start

    def region_filled(self, multiple: int) -> tuple[Tensor, Tensor | None]:
        """R's positions, their number filled up to a multiple, and a mask that hides the filling [1, 1, 1, number]."""
        keys, spare = self.region_keys, -len(self.region_keys) % multiple
        if not spare:
            return keys, None
        mask = self.bias.new_zeros(1, 1, 1, len(keys) + spare)
        mask[..., -spare:] = _NEVER
        return torch.cat([keys, keys[:1].expand(spare)]), mask

    @cached_property
    def exp_v(self) -> Tensor:
        """e^bias over the spans, scaled so that V's largest is 1; 1 in gaps. [1 | Hq, n]."""
        most = self.bias.masked_fill(~self.visual, _NEVER).amax(-1, keepdim=True)
        return torch.where(self.visual, self.bias - most, 0.0).exp().flatten(0, 1)

    @cached_property
    def sides_v(self) -> Tensor:
        """1.0 for R, 1.0 for V∖R [2, n]."""
        return torch.stack([self.region, self.visual & ~self.region]).to(self.bias.dtype)

    @cached_property
    def setpoint_pair(self) -> Tensor:
        """The setpoint and 1 − it: [2]."""
        return self.bias.new_tensor([self.setpoint, 1.0 - self.setpoint])

    @cached_property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Share only raises R and only lowers V∖R: the least and the most that it multiplies them by, [2] each."""
        return self.bias.new_tensor([1.0, 0.0]), self.bias.new_tensor([float("inf"), 1.0])


def make_row_bias(
    weights: Tensor,
    visual: Tensor,
    start: int,
    gains: Tensor,
    heads: Tensor,
    key_heads: int,
    *,
    law: str,
    setpoint: float | None,
    has_gaps: bool,
    regions: Tensor | None,
    dtype: torch.dtype,
    on: Tensor | None = None,
) -> RowBias:
    """weights int8 [n], visual bool [n] and regions bool [n, r] or None, at key positions from `start`, on the
    model's device; gains (α · gain), heads (whose focus counts) float32 [Hq] and `on` (which heads the law holds
    for; None: share and target for `heads`, the others where the gain is not 0) bool [Hq], on the CPU; dtype that
    of the bias."""
    device = weights.device
    if on is None:
        on = heads != 0 if law in SETPOINT_LAWS else gains != 0
    gains = torch.where(on, gains, 0.0)
    w = weights.to(dtype) / WEIGHT_ONE
    if bool((gains == gains[0]).all()):
        bias = (float(gains[0]) * w).view(1, 1, -1)
    else:
        bias = gains.to(device, dtype).view(key_heads, -1, 1) * w
    region = (weights > 0) & visual
    columns = region[:, None]
    if regions is not None:
        columns = torch.cat([columns, regions], dim=1)
    return RowBias(
        law=law,
        setpoint=0.0 if setpoint is None else setpoint,
        start=start,
        end=start + weights.shape[0],
        group=len(gains) // key_heads,
        bias=bias,
        visual=visual,
        region=region,
        region_keys=region.nonzero().squeeze(1) + start,
        has_gaps=has_gaps,
        has_bias=bool((gains != 0).any()),
        on=None if bool(on.all()) else on.to(device).view(key_heads, -1, 1),
        columns=columns.to(dtype),
        heads=heads.to(device),
        heads_on=int((heads != 0).sum()),
    )
