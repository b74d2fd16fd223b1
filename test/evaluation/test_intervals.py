"""Rows: shares, means and paired differences with intervals that mean something."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.evaluation.harness.intervals import (
    bootstrap,
    difference,
    errors_cut,
    mean_row,
    share,
    wilson,
    worst,
    yes_no,
)


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
    apart = share([True, False] * 300, [i // 10 for i in range(600)])
    assert scenes["n"] == 60 and scenes["value"] == alone["value"]
    assert scenes["low"] < alone["low"] and scenes["high"] > alone["high"]
    spread = share([True, False] * 300)
    assert apart["low"] == pytest.approx(spread["low"], abs=0.002) and apart["low"] <= spread["low"]


@pytest.mark.parametrize(
    ("scenes", "answers", "p", "correlation", "least"),
    [
        (40, 5, 0.8, 0.2, 0.9),
        (40, 8, 0.98, 0.0, 0.9),
        (40, 8, 0.98, 0.9, 0.9),
        (10, 8, 0.9, 0.9, 0.9),
        (5, 8, 0.9, 0.3, 0.9),
        (12, 3, 0.97, 0.2, 0.9),
        (8, 8, 0.8, 0.9, 0.9),
        (20, 8, 0.9, 0.9, 0.8),
    ],
)
def test_intervals_cover_as_often_as_they_say(scenes, answers, p, correlation, least):
    """Few scenes, rare misses, answers of a scene that stand and fall together: 95% means 90% or more,
    and 80% where nearly all answers go with their scene."""
    rng = np.random.default_rng(3)
    groups, covered, alone = np.repeat(np.arange(scenes), answers).tolist(), 0, 0
    for _ in range(200):
        odds = (1 - correlation) / correlation if correlation else 1e6
        each = rng.beta(p * odds, (1 - p) * odds, scenes)
        hits = (rng.random((scenes, answers)) < each[:, None]).ravel().tolist()
        row = share(hits, groups)
        covered += row["low"] <= p <= row["high"]
        row = share(hits)
        alone += row["low"] <= p <= row["high"]
    assert covered >= least * 200
    assert correlation < 0.3 or alone < covered


@pytest.mark.parametrize(("scenes", "accuracy", "cut"), [(20, 0.95, 0.5), (150, 0.985, 0.4), (150, 0.985, 0.0)])
def test_the_interval_of_errors_cut_covers(scenes, accuracy, cut):
    rng = np.random.default_rng(5)
    groups, covered = np.repeat(np.arange(scenes), 6).tolist(), 0
    for _ in range(200):
        plain = rng.random(6 * scenes) < accuracy
        right = plain | (rng.random(6 * scenes) < cut)
        row = errors_cut(right.tolist(), plain.tolist(), groups)
        covered += row["low"] <= cut <= row["high"]
    assert covered >= 180


@pytest.mark.parametrize(
    ("right", "plain", "value"),
    [([1, 1, 0], [1, 0, 0], 0.5), ([1, 1, 1], [1, 1, 1], 0.0), ([0, 1], [0, 1], 0.0), ([0, 0], [1, 0], -1.0),
     ([0, 0, 1], [1, 1, 1], -2.0)],
)  # fmt: skip
def test_errors_cut(right, plain, value):
    for groups in (None, [1] * len(right)):
        row = errors_cut(right, plain, groups)
        assert row["value"] == value and row["low"] < value < row["high"] <= 1.0
        assert all(math.isfinite(number) for number in row.values())


def test_scenes_whose_answers_are_all_the_same_do_not_count_for_each():
    one, two, many = (share([1] * 300 * k, np.repeat(np.arange(k), 300).tolist())["low"] for k in (1, 2, 40))
    assert one <= two < 0.7 < many < 0.98
    never = difference([1.0] * 600, [1.0] * 600, [0] * 300 + [1] * 300)
    assert never["low"] == -never["high"] < -0.1


def test_a_paired_difference_knows_that_it_is_paired():
    rng = np.random.default_rng(0)
    a = rng.random(200) < 0.7
    b = a.copy()
    b[:10] = ~b[:10]
    row = difference(a.tolist(), b.tolist())
    assert row["value"] == pytest.approx(float(a.mean() - b.mean()))
    assert row["high"] - row["low"] < 0.08  # unpaired it would be 0.18
    assert row == difference(a.tolist(), b.tolist())


def test_answers_that_never_differ_still_say_only_so_much():
    few, many = difference([1, 0, 1], [1, 0, 1]), difference([1, 0] * 500, [1, 0] * 500)
    assert few["value"] == many["value"] == 0.0
    assert few["low"] == -few["high"] < -0.3 and -0.003 < many["low"] == -many["high"] < 0
    one = difference([1.0] * 99 + [0.0], [1.0] * 100)  # a single loss does not rule out that there is none
    assert one["low"] < one["value"] < 0 < one["high"] and one["value"] == pytest.approx(-0.01)
    assert difference([], []) == {"value": 0.0, "n": 0, "low": -1.0, "high": 1.0}


def test_a_difference_is_agresti_and_mins():
    """Their example: 1,600 voters asked twice, 150 changed one way and 86 the other."""
    a = [1] * 794 + [1] * 150 + [0] * 86 + [0] * 570
    b = [1] * 794 + [0] * 150 + [1] * 86 + [0] * 570
    row = difference(a, b)
    more, half = 64 / 1602, 1.96 * math.sqrt((237 - 64**2 / 1602) / 1602**2)
    assert (row["low"], row["high"]) == (pytest.approx(more - half), pytest.approx(more + half))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=40))
def test_values_lie_in_their_intervals(rows):
    a, b, groups = zip(*rows, strict=True)
    for row, bounds in ((difference(a, b, groups), (-1, 1)), (share(a, groups), (0, 1)), (share(a), (0, 1))):
        assert bounds[0] <= row["low"] <= row["value"] <= row["high"] <= bounds[1]


def test_one_scene_counts_as_one_answer():
    hits = [1, 1, 1, 0] * 20
    row = share(hits, [7] * 80)
    assert row["value"] == 0.75 and row["low"] < 0.3 and row["high"] > 0.95
    assert share(hits)["low"] > 0.6


def test_scores_between_0_and_1_stay_there():
    row = share([0.3, 1.0, 0.9, 1.0])
    assert row["value"] == pytest.approx(0.8) and row["high"] <= 1.0


def test_popes_measures():
    said, there = [True, True, False, False, True], [True, False, False, True, True]
    rows = yes_no(said, there)
    values = {name: row["value"] for name, row in rows.items()}
    expected = {"accuracy": 0.6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_share": 0.6}
    assert values == pytest.approx(expected)
    assert all(row["low"] < row["value"] < row["high"] for row in rows.values())
    assert {name: row["n"] for name, row in rows.items()} == dict(accuracy=5, precision=3, recall=3, f1=5, yes_share=5)
    assert yes_no([False], [False])["f1"]["value"] == 0.0
    assert yes_no([True], [True])["f1"]["low"] < 0.5  # one right answer is not sure for ever
    sure = yes_no([True, False] * 500, [True, False] * 500)["f1"]
    assert 0.99 < sure["low"] < sure["value"] == sure["high"] == 1.0
    alike = yes_no(said * 4, there * 4, [0] * 10 + [1] * 10)
    assert alike["f1"]["value"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"lengths \[1, 0\]"):
        yes_no([True], [])


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
