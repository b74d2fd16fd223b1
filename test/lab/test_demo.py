"""The demo's plan, its judge and its pictures; its processes are tested where they run (test_replay_loop)."""

import argparse

import cv2
import numpy as np
import pytest
from PIL import Image

from steer_ros.lab.bag import read_bag
from steer_ros.lab.demo import command as demo
from steer_ros.lab.demo import video
from steer_ros.lab.demo.plan import INSTRUCTION, is_hit, judge, make_plan, meant, share
from steer_ros.lab.demo.processes import StageError
from steer_ros.lab.scenes.instructions import OPEN
from steer_ros.lab.scenes.scene import COLOURS, SHAPES
from steer_ros.lab.scenes.visible_objects import VisibleObject
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import box_weights


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return make_plan(tmp_path_factory.mktemp("demo") / "bag", 7, frames=12, scenes=2, objects=3)


def turns_of(plan, text):
    """What a model would give that answers ``text(part, objects)``, with the true box as its region."""
    turns = []
    for stamp in plan.truth.frames:
        part, objects = plan.part_of(stamp), plan.truth.visible_objects(stamp)
        boxes = [[c * 336 for c in obj.box] for obj in meant(part.look_for, objects)]
        weights = [box_weights(PatchGrid(24, 24), (336, 336), box).tolist() for box in boxes]
        turns.append(
            {
                "stamp_ns": stamp,
                "text": text(part, objects),
                "instruction": INSTRUCTION,
                "cut_reason": "",
                "region_labels": [part.look_for] * len(boxes),
                "region_ids": ["1"] * len(boxes),
                "regions": [{"box": b, "weights": w} for b, w in zip(boxes, weights)],
                "focus_before": 0.1,
                "focus_after": None if stamp % 2 else 0.6,
                "total_ms": 100.0,
            }
        )
    return turns


def steered(part, objects):
    return f"Pick up the {part.look_for}."


def stubborn(part, objects):
    return f"Pick up the {objects[0].name}."


def test_the_bag_is_what_the_plan_says(plan):
    stamps = [stamp for stamp, _ in read_bag(plan.bag)]
    assert stamps == list(plan.truth.frames) == [stamp for part in plan.parts for stamp in part.stamps]
    assert len(stamps) == 12 and [part.scene for part in plan.parts] == [0, 0, 0, 1, 1, 1]
    assert {len(part.stamps) for part in plan.parts} == {2}


def test_every_object_has_its_turn(plan):
    for scene in (0, 1):
        parts = [part for part in plan.parts if part.scene == scene]
        names = {o.name for o in plan.truth.frames[parts[0].stamps[0]]}
        assert {part.look_for for part in parts} == names and len(names) == 3


def test_the_instruction_names_nothing():
    assert INSTRUCTION in OPEN["pick"]
    assert not any(word in INSTRUCTION for word in (*COLOURS, *SHAPES))


def test_two_strengths_differ_in_one_value(plan):
    a, b = plan.script(0.0), plan.script(2.0)
    (different,) = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    assert different[0] == {**different[1], "value": 0.0} and different[1]["parameter"] == "steering.alpha"
    looks = [step for step in a if step["parameter"] == "look_for"]
    assert [(step["stamp_ns"], step["value"]) for step in looks] == [(p.stamps[0], p.look_for) for p in plan.parts]


def test_the_plan_follows_its_seed(tmp_path, plan):
    again = make_plan(tmp_path / "bag", 7, frames=12, scenes=2, objects=3)
    assert again.parts == plan.parts
    for (_, a), (_, b) in zip(read_bag(plan.bag), read_bag(again.bag)):
        np.testing.assert_array_equal(a, b)
    assert make_plan(tmp_path / "bag", 8, frames=12, scenes=2, objects=3).parts != plan.parts


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"seed": 900_000}, "below the training seeds"),
        ({"seed": -1}, "seed=-1"),
        ({"frames": 5}, "frames=5, scenes=2"),
        ({"objects": 1}, "objects=1"),
        ({"scenes": 0}, "scenes=0"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(tmp_path, wrong, says):
    options = {"seed": 1, "frames": 12, "scenes": 2, "objects": 3} | wrong
    with pytest.raises(ValueError, match=says):
        make_plan(tmp_path / "bag", options.pop("seed"), **options)


def visible(number, x, colour="red", shape="beaker"):
    return VisibleObject(f"object_{number}", colour, shape, (x - 0.05, 0.4, x + 0.05, 0.5))


@pytest.mark.parametrize(
    ("action", "hit"),
    [
        ("Pick up the red beaker.", True),
        ("Pick up the blue cube.", False),
        ("Pick up the red beaker", False),
        ("Pick up the red beaker. Pick up the red beaker.", False),
        ("pick up the red beaker.", False),
        ("Pick up the red.", False),
        ("", False),
    ],
)
def test_a_hit_is_a_whole_action_about_the_right_object(action, hit):
    objects = [visible(1, 0.2), visible(2, 0.7, "blue", "cube")]
    assert is_hit(action, "red beaker", objects) is hit


def test_what_is_out_of_sight_is_not_judged():
    assert is_hit("Pick up the red beaker.", "red beaker", [visible(2, 0.7, "blue", "cube")]) is None


def test_phrases_with_places_mean_one_of_the_twins():
    left, right = visible(1, 0.2), visible(2, 0.8)
    assert meant("red beaker on the left", [right, left]) == [left]
    assert meant("red beaker", [right, left]) == [right, left]
    assert meant("red beaker on the left", [visible(3, 0.5)]) == []


def test_scores(plan):
    assert share(judge(plan, turns_of(plan, steered))) == 100
    guess = share(judge(plan, turns_of(plan, stubborn)))
    assert 20 <= guess <= 45, "who talks about one object of three is right a third of the time"
    with pytest.raises(ValueError, match="nothing to judge"):
        share([None, None])


def test_runs_that_are_not_alike_are_not_compared(plan):
    a, b = turns_of(plan, steered), turns_of(plan, stubborn)
    demo.check_alike(a, b)
    b[3]["instruction"] = "Pick up the red beaker."
    with pytest.raises(StageError, match="instruction differs"):
        demo.check_alike(a, b)
    b = turns_of(plan, stubborn)
    b[5]["regions"][0]["weights"][3][3] = 55
    with pytest.raises(StageError, match="weights differ"):
        demo.check_alike(a, b)


def test_the_pictures(plan, tmp_path):
    runs = {"unsteered": turns_of(plan, stubborn), "steered": turns_of(plan, steered)}
    sheet = video.write_contact_sheet(tmp_path / "sheet.png", plan, runs, columns=4, side=140)
    with Image.open(sheet) as opened:
        assert opened.width > 4 * 140 and opened.height > 2 * 140
    film = video.write_film(tmp_path / "vta", plan, runs)
    assert video.count_frames(film) == len(runs["steered"])
    if film.suffix == ".mp4":
        capture = cv2.VideoCapture(str(film))
        assert capture.read()[1].std() > 20
        capture.release()


def test_a_gif_where_there_is_no_codec(plan, tmp_path, monkeypatch):
    class NoWriter:
        def __init__(self, *_):
            pass

        def isOpened(self):
            return False

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoWriter", NoWriter)
    runs = {"unsteered": turns_of(plan, stubborn)[:12], "steered": turns_of(plan, steered)[:12]}
    film = video.write_film(tmp_path / "vta", plan, runs)
    assert film.suffix == ".gif" and video.count_frames(film) == 12


def test_the_steered_region_stands_out(plan):
    turn = turns_of(plan, steered)[0]
    image = np.full((336, 336, 3), 200, np.uint8)
    lit = np.asarray(video.spotlight(image, turn, 336, steered=True)).astype(int)
    x0, y0, x1, y1 = (round(value) for value in turn["regions"][0]["box"])
    inside, outside = lit[y0 + 20 : y1 - 20, x0 + 20 : x1 - 20], lit[-5:, :5]
    assert inside.mean() > 1.5 * outside.mean()
    plain = np.asarray(video.spotlight(image, turn, 336, steered=False))
    assert (plain == 200).mean() > 0.9


def test_long_actions_are_cut_to_fit():
    draw = video.ImageDraw.Draw(Image.new("RGB", (300, 50)))
    text = video.fitted(draw, "book " * 60, 16, 300)
    assert text.endswith("…") and draw.textlength(text, font=video.font(16)) <= 300
    assert video.fitted(draw, "Pick up.", 16, 300) == "Pick up."


def test_a_row_of_the_table(plan):
    turn = turns_of(plan, steered)[0]
    row = demo.line(plan, 1, {**turn, "focus_after": 0.55})
    assert turn["text"] in row and "10% -> 55%" in row and "100 ms" in row and row.endswith("hit")
    cut = demo.line(plan, 2, {**turn, "text": "", "cut_reason": "malformed", "focus_after": None})
    assert "(malformed)" in cut and cut.endswith("miss")


def test_failure_is_one_line_and_no_score(tmp_path, capsys, monkeypatch):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)

    class Broken:
        def __init__(self, *_, **__):
            raise StageError("vta ended with 2: no model")

    monkeypatch.setattr(demo, "Stage", Broken)
    args = parser.parse_args(["--out", str(tmp_path / "demo"), "--frames", "4", "--scenes", "1", "--alpha", "2"])
    assert demo.main(args) == 1
    said = capsys.readouterr()
    assert said.err == "steer-ros demo: vta ended with 2: no model\n" and "%" not in said.out


def test_the_last_two_lines_are_the_scores(tmp_path, capsys, monkeypatch):
    class Players:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, plan, script, name):
            yield from turns_of(plan, steered if script[0]["value"] else stubborn)

    monkeypatch.setattr(demo, "Stage", Players)
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    args = parser.parse_args(["--out", str(tmp_path / "demo"), "--frames", "8", "--scenes", "1"])
    assert demo.main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["unsteered: 25.0%", "steered: 100.0%"]
    assert (tmp_path / "demo" / "contact_sheet.png").exists() and list((tmp_path / "demo").glob("vta.*"))


@pytest.fixture(scope="module")
def models():
    perceiver_module = pytest.importorskip("steer_ros.perception.perceiver")
    from steer_ros.reasoning.reasoner import Reasoner

    return perceiver_module.Perceiver.from_pretrained("builtin:lab-vl"), Reasoner.from_pretrained("builtin:lab-r1")


def test_only_the_field_differs_between_the_runs(plan, models):
    """The same frame, steered and unsteered: prompt, tokens and spans are the same to the bit; no dice are thrown."""
    import torch

    perceiver, reasoner = models
    stamp, image = next(read_bag(plan.bag))
    features, again = perceiver.encode(image, stamp), perceiver.encode(image, stamp)
    assert features.tokens.equal(again.tokens), "encoding is deterministic"
    tokens, dice = features.tokens.clone(), torch.random.get_rng_state()
    mask = perceiver.detect_roi(plan.parts[0].look_for, features)
    assert not mask.empty
    turns = [reasoner.generate(INSTRUCTION, features, mask, alpha=alpha) for alpha in (0.0, 2.0, 0.0)]
    plain, tilted, after = turns
    assert plain.prompt_ids == tilted.prompt_ids and plain.spans == tilted.spans
    assert (plain.prompt, plain.bridge) == (tilted.prompt, tilted.bridge)
    assert tilted.config == plain.config.override(alpha=2.0)
    assert (plain.config.law.alpha, plain.steered) == (0.0, False) and tilted.steered
    assert plain.output_ids == after.output_ids, "steering leaves nothing behind"
    assert features.tokens.equal(tokens) and torch.random.get_rng_state().equal(dice)
