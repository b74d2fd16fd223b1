"""Rows: shares, means and paired differences with intervals that mean something."""

import math

import numpy as np
import pytest

from steer_ros.evaluation.stats import bootstrap, difference, mean_row, share, wilson, worst


def test_wilson_is_the_published_interval():
    low, high = wilson(50, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == 1.0


@pytest.mark.parametrize(("hits", "value"), [([True, False, True, True], 0.75), ([], 0.0), ([False], 0.0)])
def test_a_share_lies_in_its_interval(hits, value):
    row = share(hits)
    assert row["value"] == value and row["n"] == len(hits)
    assert 0.0 <= row["low"] <= value <= row["high"] <= 1.0


def test_answers_that_stand_and_fall_together_are_less_sure():
    alone = share([True] * 30 + [False] * 30)
    scenes = share([True] * 30 + [False] * 30, [i // 10 for i in range(60)])
    apart = share([True, False] * 30, [i // 10 for i in range(60)])
    assert scenes["n"] == 60 and scenes["value"] == alone["value"]
    assert scenes["low"] < alone["low"] and scenes["high"] > alone["high"]
    assert apart == alone  # never more than there are answers


def test_intervals_cover_as_often_as_they_say():
    """Groups of five answers that mostly agree: the plain interval covers too rarely, the grouped one as it says."""
    rng = np.random.default_rng(3)
    covered = {"plain": 0, "grouped": 0}
    for _ in range(300):
        each = rng.beta(4, 1, 40)  # mean 0.8
        hits = (rng.random((40, 5)) < each[:, None]).ravel().tolist()
        groups = np.repeat(np.arange(40), 5).tolist()
        for name, row in (("plain", share(hits)), ("grouped", share(hits, groups))):
            covered[name] += row["low"] <= 0.8 <= row["high"]
    assert covered["grouped"] >= 273  # 91%
    assert covered["grouped"] > covered["plain"]


def test_a_paired_difference_knows_that_it_is_paired():
    rng = np.random.default_rng(0)
    a = rng.random(200) < 0.7
    b = a.copy()
    b[:10] = ~b[:10]
    row = difference(a.tolist(), b.tolist())
    assert row["value"] == pytest.approx(float(a.mean() - b.mean()))
    assert row["high"] - row["low"] < 0.08  # unpaired it would be 0.18
    assert row == difference(a.tolist(), b.tolist())
    same = difference([1, 0, 1], [1, 0, 1])
    assert (same["value"], same["low"], same["high"]) == (0.0, 0.0, 0.0)


def test_whole_scenes_are_resampled_together():
    a, b = [1.0] * 10 + [0.0] * 10, [0.0] * 20
    alone, scenes = difference(a, b), difference(a, b, [0] * 10 + [1] * 10)
    assert scenes["high"] - scenes["low"] > alone["high"] - alone["low"]


def test_a_statistic_that_is_undefined_for_some_resamples():
    row = bootstrap(lambda x: float(1 / x.sum()) if x.sum() else math.nan, [0.0, 0.0, 1.0])
    assert row["value"] == 1.0 and math.isfinite(row["low"]) and math.isfinite(row["high"])


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        difference([1.0], [1.0, 2.0])


def test_means_and_the_worst():
    row = mean_row([1.0, 2.0, 3.0])
    assert row["value"] == 2.0 and row["low"] < 2.0 < row["high"]
    assert mean_row([])["n"] == 0 and mean_row([5.0])["low"] == 5.0
    rows = [share([True]), share([False, True]), share([True, True])]
    assert worst(rows) == rows[1]
