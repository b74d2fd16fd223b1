"""The table of seeds: which scenes belong to whom.

A bench scene follows from the seed that `make_scene` gets: users of one seed get the same scene, or a near one. A
result on held-out scenes means something only if no model was trained, and no setting chosen, on the same ones, so the
ranges below are disjoint (`test/lab/test_seeds.py`). A user takes as many seeds as it needs from the start of its
range. Where two users share seeds on purpose, the comment says so.

Prompts of the `text` suite and questions of the `vqa` suite are drawn from seeds too, each in a space of its own: the
same number there has nothing to do with the scene of that seed. The ``--seed`` of a training or a search, which draws
first weights, batches and trials, is not in this table.
"""

from __future__ import annotations

# --- Scenes to look at: no suite judges on them. --------------------------------------------------------------------

# `steer-ros demo`, `steer-ros bag`, the README and tests, which share these on purpose.
DEMO_SEEDS = range(0, 100_000)
DEMO_SEED = 7  # the default of `demo` and `bag`
# Looked at, from 100,000 and from 200,000 up, while it was decided what to train: they no longer count as held out.
DEVELOPMENT_SEEDS = range(100_000, 300_000)

# --- Held-out scenes: what is reported is measured on them. ---------------------------------------------------------

EXAMINE_SEEDS = range(300_000, 400_000)  # `steer-ros examine`
REDIRECT_SEEDS = range(400_000, 410_000)  # suite `redirect`
REFER_SEEDS = range(410_000, 420_000)  # suite `refer`
POPE_SEEDS = range(420_000, 430_000)  # suite `pope`
HARM_SEEDS = range(430_000, 440_000)  # suite `harm`
COMPARE_SEEDS = range(440_000, 450_000)  # suite `compare`

# --- Tuning scenes: settings are chosen on them, and no suite takes a `--seed` among them. --------------------------

TUNING_SEEDS = range(500_000, 600_000)  # all of those below
HEADS_SEEDS = range(500_000, 510_000)  # `steer-ros tune heads`: those that choose heads, then those that check them
ALPHA_SEEDS = range(510_000, 515_000)  # `steer-ros tune alpha`
COMPARE_TUNING_SEEDS = range(515_000, 520_000)  # suite `compare`: the strengths of the methods that we compare with
GAIN_NETWORK_SEEDS = range(520_000, 525_000)  # `steer-ros tune strength`: what the network learns from
GAIN_NETWORK_JUDGED_SEEDS = range(525_000, 530_000)  # ... and what it is judged on before it is kept
POPE_TUNING_SEEDS = range(540_000, 550_000)  # suite `pope`: its rule, law, strength and schedule, chosen by hand

# --- Foreign styles: `python -m steer_ros.lab.foreign` takes its objects from these scenes, a range for each style. -

FOREIGN_SEEDS = {
    "flat": range(700_000, 702_000),
    "photo": range(702_000, 704_000),
    "ink": range(704_000, 706_000),
    "studio": range(706_000, 708_000),
}

# --- Training scenes: all from FIRST_TRAINING_SEED up, where the suites, `examine`, `demo` and `foreign` take none. --

FIRST_TRAINING_SEED = 900_000
TOKENIZER_SEEDS = range(FIRST_TRAINING_SEED, 1_000_000)  # the sentences that both tokenizers are made from
VISION_SEEDS = range(1_000_000, 2_000_000)  # `steer-ros train`, stage `vision`
LANGUAGE_SEEDS = range(2_000_000, 3_000_000)  # stages `vl` and `r1`: both learn from the tokens of the same scenes
STYLE_SEEDS = range(3_000_000, 4_000_000)  # stage `styles`: its scenes, then those of other formats

# --- Seeds that draw no scenes. -------------------------------------------------------------------------------------

TEXT_SEED = 440_000  # prompts of suite `text`: prompts alone, so that it may equal the start of COMPARE_SEEDS
TEXT_GAINS_SEED = 7  # prompts that `steer-ros tune text` learns from: of other kinds than the suite's
TEXT_GAINS_JUDGED_SEED = 11  # ... and those that it judges on
# Questions and mosaics of suite `vqa` and of `suites/easy_vqa/tune.py`: one seed for both, which draw from different
# images of the set.
VQA_SEED = 0
