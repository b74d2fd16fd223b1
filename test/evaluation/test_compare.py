"""Suite compare: what each method shows and asks, how strengths are chosen, and where the table says ours trails."""

import json

import numpy as np
import pytest
from evaluation_helpers import World, count_scenes

from steer_ros.evaluation import report
from steer_ros.evaluation.harness.cases import cases
from steer_ros.evaluation.harness.eval_config import EvalConfig, silent
from steer_ros.evaluation.harness.intervals import share
from steer_ros.evaluation.harness.results import Results, run_parallel
from steer_ros.evaluation.harness.steering_setup import SteeringSetup
from steer_ros.evaluation.suites import compare
from steer_ros.evaluation.suites.baselines import DESCRIPTIONS, PEN, blanked, crop, drawn, methods
from steer_ros.lab.seeds import COMPARE_SEEDS, COMPARE_TUNING_SEEDS
from steer_ros.steering import Gate, SteeringConfig, make_law
from steer_ros.steering.head_gains import HeadGainNet
from steer_ros.steering.steering_file import SteeringFile

OURS = SteeringSetup("ours", SteeringConfig(make_law("conserving", 2.0)))


def by_name(world=None):
    return {method.name: method for method in methods(world or World(), OURS)}


def test_all_methods_are_there_and_described():
    names = set(by_name())
    assert names == set(DESCRIPTIONS) - {
        "gaze_heads",
        "gaze_heads_tuned",
    }  # no heads were discovered: their control stands alone
    world = World()
    world.steering_file = SteeringFile(
        SteeringConfig(make_law("conserving", 2.0), Gate(pairs=((0, 1), (2, 3), (3, 3))))
    )
    found = by_name(world)
    assert set(found) == set(DESCRIPTIONS)
    assert found["gaze_heads_tuned"].setup.config.gate == found["gaze_heads"].setup.config.gate
    assert found["gaze_heads"].setup.config.gate.pairs == ((0, 1), (2, 3), (3, 3))
    assert len(found["random_heads"].setup.config.gate.pairs) == 3
    assert list(found)[-1] == "ours" and found["ours"].setup is OURS
    assert all(
        not method.setup.config.guard for name, method in found.items() if name != "ours" and method.setup.steers
    )


def test_what_each_method_shows():
    case = next(cases(World(), COMPARE_SEEDS.start, 1, names=2))
    target, found, world = case.objects[0], by_name(), World()
    for name, method in found.items():
        features = method.features(world, case, target)
        assert (features is case.features) is (name not in ("crop", "blanked", "drawn_box"))
        assert (method.weights(case, target) is not None) is method.setup.steers
    assert found["box_in_words"].prompt("Pick up one object.", case, target) == (
        f"Look at the {target.place}. Pick up one object."
    )
    rest = found["pasta"].setup.mask(case.weights(target))
    assert rest.dtype == np.int8 and rest.max() <= 0
    np.testing.assert_array_equal(rest.astype(int) + 127, case.weights(target))


@pytest.mark.parametrize("box", [(10.0, 20.0, 40.0, 80.0), (0.0, 0.0, 5.0, 5.0), (90.0, 90.0, 100.0, 100.0)])
def test_frames_of_a_method_s_own(box):
    image = np.arange(100 * 100 * 3, dtype=np.uint32).reshape(100, 100, 3).astype(np.uint8)
    before = image.copy()
    cut, marked, alone = crop(image, box), drawn(image, box), blanked(image, box, 0.0)
    np.testing.assert_array_equal(image, before)
    assert 0 not in cut.shape and max(cut.shape[:2]) <= 1.5 * max(box[2] - box[0], box[3] - box[1]) + 2
    assert marked.shape == image.shape and tuple(marked[int(box[1]), int(box[0])]) == PEN
    assert alone.shape == image.shape and len(np.unique(alone.reshape(-1, 3), axis=0)) <= 1 + 60 * 30
    middle = int((box[1] + box[3]) / 2), int((box[0] + box[2]) / 2)
    assert tuple(alone[middle]) == tuple(image[middle])
    assert box[2] - box[0] <= 10 or tuple(marked[middle]) == tuple(image[middle])


def test_the_strength_is_what_did_best_on_the_tuning_scenes():
    tuning = Results()
    for method in methods(World(), OURS):
        for number, strength in enumerate(method.strengths):
            for scene in range(4):
                tuning.add(f"{method.name}.{strength:g}", scene < (3 if number in (1, 2, 3) else 1), scene)
    counts = compare.counted(methods(World(), OURS), tuning)
    assert counts["additive_tuned"]["1.5"] == [3, 4] and "additive" not in counts
    chosen, rows = compare.choose(methods(World(), OURS), counts)
    found = {method.name: method for method in chosen}
    assert found["additive_tuned"].setup.config.law.alpha == 2.0  # the middle one of three equals
    assert found["spotlight"].setup.config.law.setpoint == 0.1 and found["spotlight"].setup.config.law.alpha == 0.0
    assert found["crop"].context == 1.0 and found["additive"].setup.config.law.alpha == 2.0
    assert "additive.strength" not in rows
    assert rows["additive_tuned.strength"] == {"value": 2.0, "n": 4, "low": 1.0, "high": 4.0}
    del counts["crop"]["0.5"]
    with pytest.raises(ValueError, match=r"crop was not tried at 0\.5"):
        compare.choose(methods(World(), OURS), counts)


def test_what_is_kept_covers_what_is_compared():
    world = World()
    world.steering_file = SteeringFile(SteeringConfig(make_law("conserving", 2.0), Gate(pairs=((0, 1), (2, 3)))))
    kept = json.loads(compare.KEPT.read_text())
    assert kept["models"] == compare.pair(EvalConfig())  # weights that change want strengths chosen anew
    compare.choose(methods(world, OURS), kept["tried"])
    assert set(kept["tried"]) == {method.name for method in methods(world, OURS) if method.strengths}


def test_all_are_asked_the_same():
    world = World("follow")
    world.learn_seeds(COMPARE_SEEDS.start, 4)
    world.learn_seeds(COMPARE_TUNING_SEEDS.start, 4)
    rows = compare.run(world.options(limit=1, setup=OURS))
    assert rows["ours.whole_answer"]["value"] == 1.0 == rows["ours.range4x_min"]["value"]
    assert rows["unsteered.whole_answer"]["value"] < 1.0 and "unsteered.range4x_min" not in rows
    assert rows["crop.malformed"]["value"] == 1.0  # a frame that the paper world knows nothing of
    assert rows["pasta.whole_answer"]["value"] == 1.0
    n = {rows[f"{name}.whole_answer"]["n"] for name in by_name()}
    assert len(n) == 1
    assert rows["unsteered.off_region_loss"]["value"] == 0.0
    assert {key.partition(".")[2] for key in rows} == {*compare.MEASURES, "strength"}
    table = "\n".join(report.method_table(rows, compare.MEASURES))
    assert "| ours |" in table and "**1.000**" in table


def test_the_table_says_where_ours_does_not_lead():
    rows = {
        "unsteered.whole_answer": share([True, False] * 50),
        "unsteered.malformed": share([False] * 100),
        "additive.whole_answer": share([True] * 95 + [False] * 5),
        "additive.malformed": share([True] * 30 + [False] * 70),
        "ours.whole_answer": share([True] * 93 + [False] * 7),
        "ours.malformed": share([True] * 20 + [False] * 80),
    }
    measures = {"whole_answer": ("right", True), "malformed": ("broken", False)}
    lines = report.not_leading(report.split(rows), {name: more for name, (_, more) in measures.items()})
    assert lines == [
        "`whole_answer`: additive 0.950 (not told apart), against 0.930.",
        "`malformed`: unsteered 0.000, against 0.200.",
    ]
    table = report.method_table(rows, measures)
    assert any(line.startswith("| additive | **0.950** | 0.300") for line in table)
    ahead = {key: row for key, row in rows.items() if not key.startswith("additive") and "malformed" not in key}
    assert report.method_table(ahead, measures)[-1] == "Ours leads, or shares the lead, in every column."


def test_two_processes_give_what_one_gives():
    alone = run_parallel(EvalConfig(limit=9, progress=silent, parallel=False), count_scenes, 9)
    both = Results()
    for index in (1, 0):
        both.merge(count_scenes(EvalConfig(limit=9), index, 2))
    assert both.scenes("scene") == alone.scenes("scene") and both.share("scene") == alone.share("scene")
    ours = SteeringSetup(
        "ours", SteeringConfig(make_law("conserving", 1.0), head_gains=HeadGainNet())
    )  # goes along to the other process
    spawned = run_parallel(
        EvalConfig(limit=9, progress=silent, setup=ours), count_scenes, 9
    )  # where there are two cores
    assert spawned.values("scene") == alone.values("scene")
