"""A region that can't be steered to with effect: nothing in it, an attention sink, or focus that never came."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .laws import Law

BARE = 0.5  # a region whose tokens differ by less than this part of the frame's own spread shows nothing
FLAT = 0.02  # a frame whose tokens differ by less than this part of their size shows nothing anywhere
SINK = 3.0  # a bare key with this many times the attention of an average one is a sink
FEW = 4  # regions of fewer tokens are judged with their neighbours: one token has no spread

# What each warning begins with; the rest says how much.
EMPTY, BARE_REGION, SINK_REGION, MISSED = (
    "region is empty",
    "region is empty of content",
    "region lies on an attention sink",
    "focus never reached",
)


def spread(tokens: Tensor, inside: Tensor) -> float:
    """How much a region's tokens differ among themselves, as part of how much the frame's do.

    Args:
        tokens: [rows, cols, hidden], the frame's visual tokens.
        inside: bool [rows, cols], the region's; at least one.

    Returns:
        Root mean square distance from the region's mean over the same of the whole frame; 0 for a frame whose
        tokens are all alike. Measured with lab-vl on 25 scenes of the bench (seeds from 530,200), regions of 4 to 16
        tokens: on objects 0.75 and more, on the bare bench below 0.5 in 24 of 25.
    """
    tokens = tokens.detach().float()
    inside = inside.to(tokens.device)
    if int(inside.sum()) < FEW:
        ring = torch.nn.functional.max_pool2d(inside[None, None].float(), 3, stride=1, padding=1)
        inside = ring[0, 0] > 0
    whole, size = _rms(tokens.flatten(0, 1)), float(tokens.square().sum(-1).mean().sqrt())
    return 0.0 if whole <= FLAT * size else _rms(tokens[inside]) / whole


def region_warning(
    spread_inside: float | None, keys: int, visual_keys: int, focus: float | None, visual: float | None
) -> str:
    """What is wrong with the place that a region lies on, else "".

    Args:
        spread_inside: `spread` of the region; None: not known (a text bridge's words are content).
        keys, visual_keys: how many keys R and V have.
        focus, visual: shares of R and of V in a row's attention without the law; None: not measured.
    """
    if spread_inside is None or spread_inside >= BARE or not keys:
        return ""
    if focus and visual:
        times = (focus / keys) / (visual / visual_keys)
        if times >= SINK:
            return f"{SINK_REGION}: {times:.1f} times an average key's attention and no content to show for it"
    return f"{BARE_REGION}: its tokens differ by {spread_inside:.2f} of what the frame's do"


def focus_warning(
    law: Law,
    strength: float,
    weight: float,
    focus: tuple[float, float] | None,
    visual: tuple[float, float] | None,
    unsteered: str = "",
) -> str:
    """What is wrong if the region did not get the attention that was asked for, else "".

    Args:
        law: as asked for.
        strength: the least part of it that steered rows had (the schedule's factor, the guard's scale).
        weight: the region's largest weight, 0 to 1.
        focus, visual: shares of R and of V, before and after the law; None: not measured.
        unsteered: why no row was steered; "" if one was.
    """
    if not law.steers or not strength or weight <= 0 or (law.alpha < 0 and law.mark is None):
        return ""
    if unsteered:
        return f"{MISSED}: {unsteered}"
    if focus is None or visual is None:
        return ""
    share = [part / whole if whole > 0 else 0.0 for part, whole in zip(focus, visual, strict=True)]
    if law.mark is not None:
        whole, got = ("attention", focus[1]) if law.name == "target" else ("image's attention", share[1])
        asked = law.mark * strength
        return (
            f"{MISSED}: the region got {got:.2f} of the {whole}, {asked:.2f} was asked for"
            if got < asked - 0.02
            else ""
        )
    # A tilt of α multiplies the region's odds within the image by e^α, row by row; a tenth of that is hardly any.
    rise = _log_odds(share[1]) - _log_odds(share[0])
    if share[1] >= 0.9 or rise >= 0.1 * law.alpha * strength * weight:
        return ""
    return f"{MISSED}: the region's part of the image's attention went from {share[0]:.3f} to {share[1]:.3f}"


def _rms(tokens: Tensor) -> float:
    """Root mean square distance of [n, hidden] from their mean."""
    return float((tokens - tokens.mean(0)).square().sum(-1).mean().sqrt())


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-9), 1 - 1e-9)
    return math.log(share) - math.log1p(-share)
