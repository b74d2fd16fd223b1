"""The table of seeds: training, tuning and held-out scenes never meet, and each user stays in its own range."""

import argparse
import inspect
from itertools import combinations

import pytest

from steer_ros.evaluation import examine
from steer_ros.evaluation.harness.cases import reach
from steer_ros.evaluation.suites import compare, harm, redirect, refer
from steer_ros.evaluation.suites.pope import suite as pope
from steer_ros.evaluation.suites.text.prompts import JUDGED, TUNING
from steer_ros.evaluation.tuning import alpha, gain_network, heads
from steer_ros.lab import seeds
from steer_ros.lab.foreign.__main__ import STYLES
from steer_ros.lab.training.distillation import BATCH, FORMATS
from steer_ros.lab.training.tokenizers import sentences
from steer_ros.lab.training.train import STAGES

LOOKED_AT = ("DEMO_SEEDS", "DEVELOPMENT_SEEDS")
HELD_OUT = ("EXAMINE_SEEDS", "REDIRECT_SEEDS", "REFER_SEEDS", "POPE_SEEDS", "HARM_SEEDS", "COMPARE_SEEDS")
TUNED_ON = (
    "HEADS_SEEDS",
    "ALPHA_SEEDS",
    "COMPARE_TUNING_SEEDS",
    "GAIN_NETWORK_SEEDS",
    "GAIN_NETWORK_JUDGED_SEEDS",
    "POPE_TUNING_SEEDS",
)
TRAINED_ON = ("TOKENIZER_SEEDS", "VISION_SEEDS", "LANGUAGE_SEEDS", "STYLE_SEEDS")


def ranges(*names):
    return {name: getattr(seeds, name) for name in names}


def overlapping(named):
    """Pairs of names whose ranges share a seed."""
    return [(a, b) for (a, x), (b, y) in combinations(named.items(), 2) if x.start < y.stop and y.start < x.stop]


def default_of(module, option):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.get_default(option)


def test_the_ranges_are_disjoint():
    foreign = {f"FOREIGN_SEEDS {style}": found for style, found in seeds.FOREIGN_SEEDS.items()}
    named = ranges(*LOOKED_AT, *HELD_OUT, "TUNING_SEEDS", *TRAINED_ON) | foreign
    assert overlapping(named) == []
    assert overlapping(ranges(*TUNED_ON)) == []
    assert overlapping({"a": range(0, 5), "b": range(4, 6), "c": range(6, 7)}) == [("a", "b")]


def test_every_range_of_the_table_is_checked():
    found = {name for name, value in vars(seeds).items() if isinstance(value, range)}
    assert found == {*LOOKED_AT, *HELD_OUT, "TUNING_SEEDS", *TUNED_ON, *TRAINED_ON}
    assert all(len(value) > 0 and value.step == 1 for value in ranges(*found).values())


def test_settings_are_chosen_on_tuning_scenes():
    for name, found in ranges(*TUNED_ON).items():
        assert seeds.TUNING_SEEDS.start <= found.start < found.stop <= seeds.TUNING_SEEDS.stop, name


def test_only_training_takes_seeds_from_its_first_one_up():
    assert min(found.start for found in ranges(*TRAINED_ON).values()) == seeds.FIRST_TRAINING_SEED
    others = [*ranges(*LOOKED_AT, *HELD_OUT, "TUNING_SEEDS").values(), *seeds.FOREIGN_SEEDS.values()]
    assert max(found.stop for found in others) <= seeds.FIRST_TRAINING_SEED
    assert seeds.DEMO_SEED in seeds.DEMO_SEEDS


@pytest.mark.parametrize(
    ("name", "scenes"),
    [
        ("REDIRECT_SEEDS", redirect.SCENES),
        ("REFER_SEEDS", refer.SCENES),
        ("POPE_SEEDS", pope.SCENES),
        ("HARM_SEEDS", harm.SCENES),
        ("COMPARE_SEEDS", compare.SCENES),
        ("COMPARE_TUNING_SEEDS", max(compare.TUNING_SCENES, compare.KEPT_SCENES)),
        ("HEADS_SEEDS", default_of(heads, "scenes") + heads.CONTROLS),
        ("ALPHA_SEEDS", default_of(alpha, "scenes")),
        ("GAIN_NETWORK_SEEDS", default_of(gain_network, "scenes")),
        ("GAIN_NETWORK_JUDGED_SEEDS", default_of(gain_network, "judged")),
        ("EXAMINE_SEEDS", default_of(examine, "scenes")),
        ("TOKENIZER_SEEDS", inspect.signature(sentences).parameters["scenes"].default),
        ("VISION_SEEDS", STAGES["vision"][0]),
        ("LANGUAGE_SEEDS", max(STAGES["vl"][0], STAGES["r1"][0])),
        ("STYLE_SEEDS", STAGES["styles"][0] + len(FORMATS) * max(BATCH, STAGES["styles"][0])),
    ],
)
def test_what_is_taken_by_default_lies_in_the_range(name, scenes):
    found = getattr(seeds, name)
    assert reach(found.start, scenes).stop <= found.stop


def test_each_foreign_style_has_a_range_in_the_styles_own_order():
    assert list(seeds.FOREIGN_SEEDS) == list(STYLES)  # a style's place is part of what its scenes are drawn from


def test_prompts_have_a_seed_space_of_their_own():
    """Equal numbers do no harm: no scene is drawn from them, and what tunes draws prompts of other kinds."""
    assert {kind.name for kind in JUDGED}.isdisjoint(kind.name for kind in TUNING)
    assert seeds.TEXT_SEED in seeds.COMPARE_SEEDS


def test_first_seeds_are_those_of_the_published_numbers():
    starts = {name: found.start for name, found in ranges(*HELD_OUT, *TUNED_ON, *TRAINED_ON).items()}
    assert starts == {
        "EXAMINE_SEEDS": 300_000,
        "REDIRECT_SEEDS": 400_000,
        "REFER_SEEDS": 410_000,
        "POPE_SEEDS": 420_000,
        "HARM_SEEDS": 430_000,
        "COMPARE_SEEDS": 440_000,
        "HEADS_SEEDS": 500_000,
        "ALPHA_SEEDS": 510_000,
        "COMPARE_TUNING_SEEDS": 515_000,
        "GAIN_NETWORK_SEEDS": 520_000,
        "GAIN_NETWORK_JUDGED_SEEDS": 525_000,
        "POPE_TUNING_SEEDS": 540_000,
        "TOKENIZER_SEEDS": 900_000,
        "VISION_SEEDS": 1_000_000,
        "LANGUAGE_SEEDS": 2_000_000,
        "STYLE_SEEDS": 3_000_000,
    }
    assert [found.start for found in seeds.FOREIGN_SEEDS.values()] == [700_000, 702_000, 704_000, 706_000]
    assert (seeds.DEMO_SEED, seeds.TEXT_SEED, seeds.VQA_SEED) == (7, 440_000, 0)
    assert (seeds.TEXT_GAINS_SEED, seeds.TEXT_GAINS_JUDGED_SEED) == (7, 11)
