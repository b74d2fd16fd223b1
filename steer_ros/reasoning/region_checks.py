"""A region that can't be steered to with effect: nothing in it, an attention sink, or focus that never came."""

from __future__ import annotations

import math

from torch import Tensor

from ..steering.laws import Law

BARE = 0.5  # a region whose tokens stand out by less than this part of what the frame's do shows nothing
FLAT = 0.1  # a frame whose tokens stand out by less than this part of their size shows nothing anywhere
SINK = 3.0  # a bare key with this many times the attention of an average one is a sink
SIDE = 4  # grids with fewer rows or columns than this have no ground by row and column to speak of

# What each warning begins with; the rest says how much.
EMPTY, BARE_REGION, SINK_REGION, MISSED = (
    "region is empty",
    "region is empty of content",
    "region lies on an attention sink",
    "focus never reached",
)


def content(tokens: Tensor, inside: Tensor) -> float:
    """How much a region's tokens stand out from the frame's ground, as part of how much the frame's do.

    The ground is what a token has because of its row and its column: their medians, taken out in turn (Tukey's median
    polish), so that a wide region on a bare bench is as bare as a small one.

    Args:
        tokens: [rows, cols, hidden], the frame's visual tokens.
        inside: bool [rows, cols], the region's; at least one.

    Returns:
        Root mean square of what is left in the region over that of the whole frame; 0 for a frame in which nothing
        stands out. With lab-vl, squares on the bare bench have less than BARE in 97 of 100 cases or more, an object's
        box has more than 0.75 (test_guarded_turns.py).
    """
    tokens = tokens.detach().float()
    left = tokens - tokens.flatten(0, 1).median(0).values
    if min(left.shape[:2]) >= SIDE:
        for along in (1, 0, 1, 0):
            left = left - left.median(along, keepdim=True).values
    whole = _rms(left)
    return 0.0 if whole <= FLAT * _rms(tokens) else _rms(left[inside.to(tokens.device)]) / whole


def region_warning(
    inside: float | None, keys: int, visual_keys: int, focus: float | None, visual: float | None
) -> str:
    """What is wrong with the place that a region lies on, else "".

    Args:
        inside: `content` of the region; None: not known (a text bridge's words are content).
        keys, visual_keys: how many keys R and V have.
        focus, visual: shares of R and of V in a row's attention without the law; None: not measured.
    """
    if inside is None or inside >= BARE or not keys:
        return ""
    if focus and visual:
        times = (focus / keys) / (visual / visual_keys)
        if times >= SINK:
            return f"{SINK_REGION}: {times:.1f} times an average key's attention and no content to show for it"
    return f"{BARE_REGION}: its tokens stand out by {inside:.2f} of what the frame's do"


def focus_warning(
    law: Law,
    scale: float,
    weight: float,
    focus: tuple[float, float] | None,
    visual: tuple[float, float] | None,
    unsteered: str = "",
) -> str:
    """What is wrong if the region did not get the attention that was asked for, else "".

    Args:
        law: as asked for.
        scale: the smallest scale that steered rows had, the schedule's times the guard's.
        weight: the region's largest weight, 0 to 1.
        focus, visual: shares of R and of V, before and after the law; None: not measured.
        unsteered: why no row was steered; "" if one was.
    """
    if not law.steers or not scale or weight <= 0 or (law.alpha < 0 and law.setpoint is None):
        return ""
    if unsteered:
        return f"{MISSED}: {unsteered}"
    if focus is None or visual is None:
        return ""
    share = [part / whole if whole > 0 else 0.0 for part, whole in zip(focus, visual, strict=True)]
    if law.setpoint is not None:
        whole, got = ("attention", focus[1]) if law.name == "target" else ("image's attention", share[1])
        asked = law.setpoint * scale
        return (
            f"{MISSED}: the region got {got:.2f} of the {whole}, {asked:.2f} was asked for"
            if got < asked - 0.02
            else ""
        )
    # A tilt of α multiplies the region's odds within the image by e^α, row by row; a tenth of that is hardly any.
    rise = _log_odds(share[1]) - _log_odds(share[0])
    if share[1] >= 0.9 or rise >= 0.1 * law.alpha * scale * weight:
        return ""
    return f"{MISSED}: the region's part of the image's attention went from {share[0]:.3f} to {share[1]:.3f}"


def _rms(tokens: Tensor) -> float:
    """Root mean square length of [..., hidden]."""
    return float(tokens.square().sum(-1).mean().sqrt())


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-9), 1 - 1e-9)
    return math.log(share) - math.log1p(-share)
