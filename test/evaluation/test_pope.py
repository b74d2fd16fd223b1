"""Suite `pope`: its questions, its regions, and a batch that is answered as each question alone is."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import tiny_models

from steer_ros.evaluation.harness.cases import Case, cases
from steer_ros.evaluation.harness.eval_config import EvalConfig
from steer_ros.evaluation.harness.results import Results
from steer_ros.evaluation.harness.steering_setup import UNSTEERED, SteeringSetup
from steer_ros.evaluation.harness.turns import ask
from steer_ros.evaluation.suites.pope import suite as pope
from steer_ros.evaluation.suites.pope.batched_answers import Answerer
from steer_ros.evaluation.suites.pope.regions import BatchGrounder, Found, TrueBoxes, regions
from steer_ros.lab.scenes.visible_objects import VisibleObject
from steer_ros.regions.boxes import iou
from steer_ros.steering import Gate, Schedule, SteeringConfig, make_law

SEED = 300_040  # not a seed that is judged
STEERED = SteeringSetup("test", SteeringConfig(make_law("conserving", 3.0), guard=None))


def quiet(_: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def options():
    return EvalConfig(limit=2, seed=SEED, progress=quiet, parallel=False)


@pytest.fixture(scope="module")
def case(options):
    """One scene of the lab's bench."""
    return next(cases(options.perceiver(), SEED + 1, 1, names=2))


def visible(name, at=0.1):
    colour, shape = name.split()
    return VisibleObject(name, colour, shape, (at, at, at + 0.2, at + 0.2))


def scene(*names, key=1):
    objects = tuple(visible(name, i / 10) for i, name in enumerate(names))
    return Case(key, None, objects, SimpleNamespace(frame_size=(336, 336)))


def test_as_many_questions_for_yes_as_for_no_in_each_split():
    asked = pope.ask_about(scene("red beaker", "blue vial", "blue dish"), {"red beaker", "blue vial", "blue dish"}, [])
    for split in pope.SPLITS:
        answers = Counter(q.there for q in asked if split in q.splits)
        assert answers[True] == answers[False] == 3
    assert len({q.name for q in asked}) == len(asked)
    assert all((q.name in {"red beaker", "blue vial", "blue dish"}) == q.there for q in asked)
    assert asked[0].prompt == f"Is there a {asked[0].name}?"


def test_adversarial_things_have_both_words_in_the_scene():
    held = ("red beaker", "blue vial", "green dish")
    asked = pope.ask_about(scene(*held), set(held), [])
    near = [q.name.split() for q in asked if not q.there and "adversarial" in q.splits]
    assert all(c in ("red", "blue", "green") and s in ("beaker", "vial", "dish") for c, s in near)


def test_where_no_such_thing_is_left_one_word_is_shared():
    asked = pope.ask_about(scene("red beaker", "red vial"), {"red beaker", "red vial"}, [])
    near = [q.name.split() for q in asked if not q.there and "adversarial" in q.splits]
    assert near and all(c == "red" or s in ("beaker", "vial") for c, s in near)


def test_popular_things_are_those_that_are_absent_and_occur_most():
    popular = ["red beaker", "cyan cube", "green cube", "blue dish"]
    asked = pope.ask_about(scene("red beaker", "blue vial"), {"red beaker", "blue vial"}, popular)
    assert {q.name for q in asked if not q.there and "popular" in q.splits} == {"cyan cube", "green cube"}


def test_what_is_mostly_hidden_is_not_asked_about():
    hidden = {f"{colour} vial" for colour in pope.COLOURS}
    for key in range(20):
        asked = pope.ask_about(scene("red beaker", "blue dish", key=key), {"red beaker", "blue dish"} | hidden, [])
        assert not hidden & {q.name for q in asked}


def test_questions_hang_on_the_scene_alone():
    one = pope.ask_about(scene("red beaker", "blue vial"), set(), [])
    assert one == pope.ask_about(scene("red beaker", "blue vial"), set(), [])
    assert one != pope.ask_about(scene("red beaker", "blue vial", key=2), set(), [])


class Fixed:
    """Finds what it is told to."""

    def __init__(self, **found):
        self.found, self.asked = {key.replace("_", " "): boxes for key, boxes in found.items()}, []

    def ground(self, phrases, features):
        self.asked += list(phrases)
        return {phrase: list(self.found.get(phrase, [])) for phrase in phrases}


def test_a_region_is_the_name_or_the_colour_or_the_shape():
    a, b, c = (0, 0, 9, 9), (9, 9, 20, 20), (40, 40, 50, 50)
    grounder = Fixed(red_beaker=[a], blue_object=[b, c], vial=[c])
    found = regions(grounder, ["red beaker", "blue beaker", "cyan vial", "green dish"], None)
    assert found["red beaker"] == Found((a,), True)
    assert found["blue beaker"] == Found((b, c), False)
    assert found["cyan vial"] == Found((c,), False)
    assert found["green dish"] == Found((), False)
    assert len(grounder.asked) == len(set(grounder.asked))  # nothing twice
    assert "red object" not in grounder.asked


def test_elsewhere_is_elsewhere_and_names_are_counted_in_one_order():
    bench = scene("red beaker")
    for left in range(0, 240, 20):
        box = (float(left), 40.0, left + 90.0, 120.0)
        assert iou(pope.elsewhere(bench, box), box) == 0.0
    whole = (0.0, 0.0, 336.0, 336.0)
    assert pope.elsewhere(bench, whole) == whole
    assert pope.by_frequency([{"b", "a"}, {"c", "b"}, {"d"}]) == ["b", "a", "c", "d"]


def test_regions_from_truth_follow_the_same_rule():
    bench = scene("red beaker", "blue vial", "blue dish")
    found = regions(TrueBoxes(bench), ["red beaker", "blue beaker", "green vial", "green cube"], None)
    red, vial, dish = (bench.box(obj) for obj in bench.objects)
    assert found["red beaker"] == Found((red,), True)
    assert found["blue beaker"] == Found((vial, dish), False)
    assert found["green vial"] == Found((vial,), False)
    assert found["green cube"] == Found((), False)


def test_boxes_in_a_batch_are_those_one_by_one(options, case):
    perceiver = options.perceiver()
    phrases = [*(o.name for o in case.objects), "purple vial", "red object", "beaker"]
    found = BatchGrounder(perceiver).ground(dict.fromkeys(phrases), case.features)
    assert any(found.values())
    for phrase in found:
        assert found[phrase] == [item.box for item in perceiver.ground(phrase, case.features)], phrase


def test_nothing_to_ground_is_no_work(options, case):
    assert BatchGrounder(options.perceiver()).ground([], case.features) == {}


@pytest.mark.parametrize(
    "setup",
    [
        UNSTEERED,
        STEERED,
        SteeringSetup(
            "gated", SteeringConfig(make_law("additive", 2.0), gate=Gate.parse("layers=1-3;phases=think"), guard=None)
        ),
        SteeringSetup("act", SteeringConfig(make_law("conserving", 8.0), gate=Gate.parse("phases=act"), guard=None)),
        SteeringSetup(
            "sure",
            SteeringConfig(
                make_law("conserving", 8.0), schedule=Schedule.parse("confidence_threshold=0.999"), guard=None
            ),
        ),
        SteeringSetup(
            "contrast",
            SteeringConfig(
                make_law("conserving", 4.0), schedule=Schedule.parse("guidance=2;plausibility=0.01"), guard=None
            ),
        ),
        SteeringSetup(
            "late",
            SteeringConfig(
                make_law("conserving", 8.0),
                schedule=Schedule.parse("prompt=0;confidence_threshold=0.9999"),
                guard=None,
            ),
        ),
    ],
    ids=lambda setup: setup.name,
)
def test_a_batch_answers_as_the_reasoner_does(options, case, setup):
    answerer = Answerer(options.reasoner())
    prompts = [f"Is there a {name}?" for name in (*(o.name for o in case.objects), "purple vial", "cyan cube", "vial")]
    weights = case.weights(case.objects[0])
    answers = answerer.answer(answerer.prefill(case.features), prompts, setup, weights)
    alone = [ask(options.reasoner(), case.features, p, setup, weights).action for p in prompts]
    assert answers == alone
    assert set(answers) <= {"Yes.", "No."}


def test_a_schedule_is_followed(options, case):
    reasoner, prompts = options.reasoner(), [f"Is there a {o.name}?" for o in case.objects]
    answerer, weights = Answerer(reasoner), case.weights(case.objects[0])
    scene = answerer.prefill(case.features)
    off = SteeringSetup(
        "off", SteeringConfig(make_law("conserving", 8.0), schedule=Schedule.parse("prompt=0;think=0;act=0"))
    )
    assert answerer.answer(scene, prompts, off, weights) == answerer.answer(scene, prompts, UNSTEERED, None)


def test_a_reasoner_that_does_not_see_frames_is_refused():
    perceiver = tiny_models.perceiver()
    answerer = Answerer(tiny_models.reasoner(bridged=False))
    with pytest.raises(ValueError, match="token bridge"):
        answerer.prefill(perceiver.encode(tiny_models.frame()))


class Scripted:
    """Says yes to everything; steered to a region whose first box begins at 0, no."""

    def prefill(self, features):
        return None

    def answer(self, scene, prompts, setup, weights):
        return ["Yes." if weights is None or not weights[0, 0] else "No."] * len(prompts)


def test_judging(case, monkeypatch):
    questions = [
        pope.ExistenceQuestion("red beaker", True, pope.SPLITS),
        pope.ExistenceQuestion("blue beaker", False, ("adversarial",)),
        pope.ExistenceQuestion("green dish", False, ("random",)),
    ]
    monkeypatch.setattr(pope, "elsewhere", lambda case, box: (300, 300, 330, 330))
    results = Results()
    grounder = Fixed(red_beaker=[(200, 200, 250, 250)], blue_object=[(0, 0, 60, 60)])
    truth = Fixed(red_beaker=[(0, 0, 60, 60)], beaker=[(0, 0, 60, 60)], green_dish=[(0, 0, 60, 60)])
    monkeypatch.setattr(pope, "TrueBoxes", lambda case: truth)
    pope.judge(grounder, Scripted(), case, questions, STEERED, results)
    assert results.values("adversarial_right") == [1, 1]
    assert results.values("adversarial_right_unsteered") == [1, 0]
    assert results.values("adversarial_right_random_region") == [1, 0]
    assert results.values("adversarial_right_true_region") == [0, 1]
    assert results.values("random_right_true_region") == [0, 0]  # not asked outside the adversarial split
    assert results.values("adversarial_right_perception") == [1, 1]
    assert results.values("random_right") == [1, 0]  # no region: the unsteered answer
    assert results.values("region_found") == [1, 1, 0]
    assert results.values("adversarial_yes") == results.values("adversarial_there") == [1, 0]
    assert results.values("adversarial_yes_unsteered") == [1, 1]


def test_run_gives_its_keys_and_takes_no_region_from_truth(options, monkeypatch):
    def refuse(self, obj):
        raise AssertionError("a region from truth")

    monkeypatch.setattr(Case, "box", refuse)
    monkeypatch.setattr(pope, "TrueBoxes", lambda case: Fixed())  # the bound alone may look
    rows = pope.run(options)
    assert set(rows) == set(pope.KEYS)
    assert {"adversarial_gain", "adversarial_errors_cut", "adversarial_errors_followed", "yes_share_shift"} <= set(
        rows
    )
    assert all(set(row) == {"value", "n", "low", "high"} for row in rows.values())
    assert rows["adversarial_accuracy"]["value"] >= 0.5
    assert rows["malformed"]["value"] == 0.0
