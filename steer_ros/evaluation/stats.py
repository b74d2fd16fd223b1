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


def share(hits: Sequence[bool], groups: Sequence[Hashable] | None = None) -> Row:
    """The share of hits, 0-1.

    Args:
        hits: one answer each.
        groups: the scene that each answer is about. Answers about one scene are alike, so that n of them say less
            than n scenes would: the interval is then that of the smaller number that spreads as the scenes do.
    """
    n = len(hits)
    if n == 0:
        return {"value": 0.0, "n": 0, "low": 0.0, "high": 1.0}
    p = sum(map(bool, hits)) / n
    low, high = wilson(p * n, n)
    if groups is not None:
        effective = _effective(np.asarray(hits, float), groups)
        low, high = wilson(p * effective, effective)
    return {"value": p, "n": n, "low": low, "high": high}


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


def difference(a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable] | None = None, seed: int = 0) -> Row:
    """Mean of a less mean of b, of answers to the same questions in the same order, with a bootstrap interval."""
    return bootstrap(lambda x, y: float(x.mean() - y.mean()), a, b, groups=groups, seed=seed)


def worst(rows: Sequence[Row]) -> Row:
    """The row of the smallest value (its interval does not know that it was chosen: it is that of one point)."""
    return dict(min(rows, key=lambda row: row["value"]))


def _members(groups: Sequence[Hashable]) -> dict[Hashable, np.ndarray]:
    found: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        found.setdefault(group, []).append(index)
    return {group: np.array(rows) for group, rows in found.items()}


def _effective(hits: np.ndarray, groups: Sequence[Hashable]) -> float:
    """How many independent answers spread as much: n over the design effect, never more than n."""
    n, p = len(hits), float(hits.mean())
    members = _members(groups)
    k = len(members)
    if k < 2 or p in (0.0, 1.0):
        return float(n)
    residuals = sum(float((hits[rows] - p).sum()) ** 2 for rows in members.values())
    variance = k / (k - 1) * residuals / n**2
    return float(n) if variance <= 0 else min(float(n), max(1.0, p * (1 - p) / variance))
