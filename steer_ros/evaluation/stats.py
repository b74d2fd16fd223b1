"""Shares, means and paired differences as rows: ``{"value", "n", "low", "high"}``, with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np

Row = dict[str, float]
RESAMPLES = 2000
Z = 1.96


def wilson(hits: float, n: float, z: float = Z) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927); (0, 1) when nothing was asked."""
    if n <= 0:
        return 0.0, 1.0
    p, d = hits / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(max(0.0, p * (1 - p) / n + z * z / (4 * n * n)))
    return max(0.0, (middle - half) / d), min(1.0, (middle + half) / d)


def share(hits: Sequence[float], groups: Sequence[Hashable] | None = None) -> Row:
    """The share of hits, or the mean of scores between 0 and 1.

    Args:
        hits: one answer each, True or False, or a score 0-1.
        groups: the scene that each answer is about. Answers about one scene are alike, so that n of them say less
            than n scenes would: the interval is then that of the smaller number that spreads as the scenes do (one
            scene: as one answer). Where all answers are the same, nothing is known of that, and each counts.
    """
    n = len(hits)
    if n == 0:
        return {"value": 0.0, "n": 0, "low": 0.0, "high": 1.0}
    scores = np.asarray(hits, float)
    p = float(scores.mean())
    counted = n if groups is None else _effective(scores, groups)
    low, high = wilson(p * counted, counted)
    return {"value": p, "n": n, "low": min(low, p), "high": max(high, p)}


def yes_no(said: Sequence[bool], there: Sequence[bool], groups: Sequence[Hashable] | None = None) -> dict[str, Row]:
    """POPE's measures of answers to yes/no questions: accuracy, precision, recall, f1, yes_share.

    Args:
        said: whether each was answered with yes.
        there: whether it should have been.
        groups: the scene of each, as in `share`.
    Raises:
        ValueError: columns of different lengths.
    """
    if len(said) != len(there):
        raise ValueError(f"columns: lengths {[len(said), len(there)]}; accepted are columns of one length")
    yes, true = np.asarray(said, bool), np.asarray(there, bool)
    scene = np.arange(len(yes)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]

    def of(hits: np.ndarray, among: np.ndarray) -> Row:
        return share(hits[among].tolist(), None if groups is None else scene[among].tolist())

    counted = yes | true
    # F1 is no share; where it is 1 or 0, all resamples are, and it is as sure as so many right (wrong) answers.
    sure = of(yes & true, counted)
    f1 = sure if sure["value"] in (0.0, 1.0) else bootstrap(_f1, yes, true, groups=scene.tolist())
    return {
        "accuracy": of(yes == true, np.ones_like(yes)),
        "precision": of(true, yes),
        "recall": of(yes, true),
        "f1": {**f1, "n": len(yes)},
        "yes_share": of(yes, np.ones_like(yes)),
    }


def _f1(said: np.ndarray, there: np.ndarray) -> float:
    asked = float(said.sum() + there.sum())
    return 2 * float((said * there).sum()) / asked if asked else math.nan


def mean_row(values: Sequence[float]) -> Row:
    """The mean with a normal interval."""
    n = len(values)
    if n == 0:
        return {"value": 0.0, "n": 0, "low": 0.0, "high": 0.0}
    mean = float(np.mean(values))
    spread = Z * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return {"value": mean, "n": n, "low": mean - spread, "high": mean + spread}


def bootstrap(
    statistic: Callable[..., float],
    *columns: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Row:
    """A statistic of paired columns with its percentile interval over resampled rows; the same for the same input.

    Args:
        statistic: called with one numpy array a column, all of one length; resamples for which it is not finite
            are left out.
        groups: the scene of each row: whole scenes are then drawn, not rows.
    Raises:
        ValueError: columns of different lengths.
    """
    arrays = [np.asarray(column, float) for column in columns]
    n = len(arrays[0])
    if any(len(array) != n for array in arrays) or (groups is not None and len(groups) != n):
        raise ValueError(f"columns: lengths {[len(a) for a in arrays]}; accepted are columns of one length")
    if n == 0:
        return {"value": 0.0, "n": 0, "low": 0.0, "high": 0.0}
    rng = np.random.default_rng(seed)
    members = [np.array([i]) for i in range(n)] if groups is None else list(_members(groups).values())
    found = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(members), len(members))
        rows = drawn if groups is None else np.concatenate([members[i] for i in drawn])
        found.append(statistic(*(array[rows] for array in arrays)))
    value = float(statistic(*arrays))
    finite = [v for v in found if math.isfinite(v)]
    low, high = np.percentile(finite, (2.5, 97.5)) if finite else (value, value)
    return {"value": value, "n": n, "low": float(low), "high": float(high)}


def difference(a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable] | None = None) -> Row:
    """Mean of a less mean of b, of answers to the same questions in the same order, each 0-1.

    The interval is Agresti and Min's (2005) for matched pairs: half a pair is added to each of the four kinds, so that
    answers which never differ still say only so much. `groups` as in `share`.

    Raises:
        ValueError: columns of different lengths.
    """
    if len(a) != len(b) or (groups is not None and len(groups) != len(a)):
        raise ValueError(f"columns: lengths {[len(a), len(b)]}; accepted are columns of one length")
    n = len(a)
    if n == 0:
        return {"value": 0.0, "n": 0, "low": -1.0, "high": 1.0}
    less = np.asarray(a, float) - np.asarray(b, float)
    value, square = float(less.mean()), float((less**2).mean())
    counted = n if groups is None else _effective(less, groups)
    more = counted + 2
    middle, spread = value * counted / more, (square * counted + 1) / more
    half = Z * math.sqrt(max(0.0, spread - middle**2) / more)
    return {
        "value": value,
        "n": n,
        "low": max(-1.0, min(middle - half, value)),
        "high": min(1.0, max(middle + half, value)),
    }


def worst(rows: Sequence[Row]) -> Row:
    """The row of the smallest value (its interval does not know that it was chosen: it is that of one point)."""
    return dict(min(rows, key=lambda row: row["value"]))


def _members(groups: Sequence[Hashable]) -> dict[Hashable, np.ndarray]:
    found: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        found.setdefault(group, []).append(index)
    return {group: np.array(rows) for group, rows in found.items()}


def _effective(values: np.ndarray, groups: Sequence[Hashable]) -> float:
    """How many independent answers spread as much: n over the design effect, never more than n."""
    n, mean = len(values), float(values.mean())
    members = _members(groups)
    k = len(members)
    if k == 1:
        return 1.0
    each = float(((values - mean) ** 2).mean())
    residuals = sum(float((values[rows] - mean).sum()) ** 2 for rows in members.values())
    variance = k / (k - 1) * residuals / n**2
    return float(n) if each == 0 or variance <= 0 else min(float(n), max(1.0, each / variance))
