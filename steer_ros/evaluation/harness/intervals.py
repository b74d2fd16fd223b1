"""Shares, means and paired differences as rows: ``{"value", "n", "low", "high"}``, with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

Row = dict[str, float]
RESAMPLES = 2000
Z = 1.96
# How alike answers about one scene are is told from the scenes; they count as no less alike than so many scenes more
# would make them that correlate by so much (in the suites 0.2 to 0.3 is usual). test_intervals.py counts how
# often intervals then hold the truth: nine times in ten or more, unless nearly all answers go with their scene.
MORE_SCENES, CORRELATION = 5, 0.3


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
            scene: as one answer).
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
    numbers: dict[Hashable, int] = {}
    scene = np.array([numbers.setdefault(group, len(numbers)) for group in groups or range(len(yes))], int)

    def of(hits: np.ndarray, among: np.ndarray) -> Row:
        return share(hits[among].tolist(), None if groups is None else scene[among].tolist())

    hits, asked = yes & true, yes.astype(float) + true
    value = 2 * float(hits.sum()) / float(asked.sum()) if asked.any() else 0.0
    low, high = _ratio(2.0 * hits, asked, scene.tolist(), ((2, 2), (0, 1), (0, 1))) if asked.any() else (0.0, 1.0)
    f1 = {"value": value, "n": len(yes), "low": max(0.0, min(low, value)), "high": min(1.0, max(high, value))}
    return {
        "accuracy": of(yes == true, np.ones_like(yes)),
        "precision": of(true, yes),
        "recall": of(yes, true),
        "f1": f1,
        "yes_share": of(yes, np.ones_like(yes)),
    }


def errors_cut(right: Sequence[bool], plain: Sequence[bool], groups: Sequence[Hashable] | None = None) -> Row:
    """The part of the errors of `plain` that `right` is without, net: 1 − its errors / those of `plain`.

    Below 0 where more was broken than mended, by the number of errors where `plain` has none. The interval is that of
    a ratio, with half an error mended, broken and left as it was added.

    Args:
        right, plain: whether each question was answered rightly, either way.
        groups: as in `share`.
    """
    now, before = ~np.asarray(right, bool), ~np.asarray(plain, bool)
    value = (float(before.sum()) - float(now.sum())) / max(1.0, float(before.sum()))
    low, high = _ratio(before.astype(float) - now, before.astype(float), groups, ((1, 1), (-1, 0), (0, 1)))
    return {"value": value, "n": len(now), "low": min(low, value), "high": min(1.0, max(high, value))}


def _ratio(
    above: np.ndarray, below: np.ndarray, groups: Sequence[Hashable] | None, kinds: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """95% interval of sum(above) / sum(below), with half an item more of each of the kinds (above, below)."""
    counts = (above != 0) | (below != 0)
    above, below = above[counts], below[counts]
    more = np.array(kinds, float).T
    total = float(below.sum() + more[1].sum() / 2)
    middle = float(above.sum() + more[0].sum() / 2) / total
    left = above - middle * below
    spread = float((left**2).sum() + ((more[0] - middle * more[1]) ** 2).sum() / 2)
    if groups is not None and len(left):
        members = _members([group for group, counted in zip(groups, counts, strict=True) if counted])
        spread *= _design_effect(left, members, len(members))
    half = Z * math.sqrt(spread) / total
    return middle - half, middle + half


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
    """How many independent answers spread as much: n over the design effect, and fewer where few scenes tell that
    (Student's t in place of the normal quantile). Never more than n; 1 for one scene."""
    members = _members(groups)
    if len(members) == 1:
        return 1.0
    rarer = values != np.median(values)
    seen = sum(bool(rarer[rows].any()) for rows in members.values())
    spread = len(values) / _design_effect(values - values.mean(), members, seen)
    return max(1.0, spread * (Z / _student(len(members) - 1)) ** 2)


def _student(freedom: int) -> float:
    """Student's t for 95%, by the normal quantile's expansion (Abramowitz and Stegun, 26.7.5)."""
    z, v = Z, float(freedom)
    first, second = z**3 + z, 5 * z**5 + 16 * z**3 + 3 * z
    return z + first / (4 * v) + second / (96 * v**2) + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)


def _design_effect(left: np.ndarray, members: Mapping[Hashable, np.ndarray], seen: int) -> float:
    """By how much the answers' sum spreads more than that of independent ones, at least 1.

    Args:
        left: each answer less what is expected of it.
        members: the answers of each scene.
        seen: scenes that say something of it.
    """
    n, k = len(left), len(members)
    sizes = np.array([len(rows) for rows in members.values()], float)
    usual = 1 + (float((sizes**2).sum()) / n - 1) * CORRELATION
    each = float((left**2).sum())
    if each == 0 or k < 2:
        return max(1.0, usual)
    observed = k / (k - 1) * sum(float(left[rows].sum()) ** 2 for rows in members.values()) / each
    return max(1.0, observed, (seen * observed + MORE_SCENES * usual) / (seen + MORE_SCENES))
