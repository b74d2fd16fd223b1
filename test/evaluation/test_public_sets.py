"""The public suite: regions, prompts and rows, with stand-ins for the models."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from steer_ros.evaluation.harness.eval_config import EvalConfig
from steer_ros.evaluation.suites.public_sets import suite as public
from steer_ros.evaluation.suites.public_sets.loaders import Benchmark, BenchmarkError, Item
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import Mask, box_weights


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), np.full((56, 84, 3), 90, np.uint8))
    return path


class Models:
    """Perception finds snowboards and boards; the reasoner says yes, or `seen`, when it is steered, else no."""

    steering_file = None

    def __init__(self, name="builtin:stand-in", bridge="token", seen="Yes."):
        self.name, self.bridge, self.seen, self.asked = name, bridge, seen, []

    def encode(self, frame):
        height, width = frame.shape[:2]
        return SimpleNamespace(frame_size=(width, height), grid=PatchGrid.for_image(width, height))

    def detect_regions(self, prompt, features):
        if "board" not in prompt:
            return []
        box = (28.0, 0.0, 56.0, 28.0)
        return [Mask(box_weights(features.grid, features.frame_size, box), label="board", source="grounding", box=box)]

    def bridge_for(self, features):
        return self.bridge

    def generate(self, prompt, features, masks=None, **given):
        self.asked.append((prompt, masks, given))
        return SimpleNamespace(action=self.seen if masks else "No.", thought="", cut_short=False)


def measure(items, kind, models):
    rows = public.measure(Benchmark(kind, tuple(items)), models, models, public.SETUP)
    assert set(rows) <= set(public.KEYS), "each row is explained"
    return rows


def test_pope_is_steered_to_what_perception_finds(image):
    items = [
        Item("1", "Is there a snowboard in the image?", image, ("yes",), "random", thing="snowboard"),
        Item("2", "Is there an apple in the image?", image, ("no",), "random", thing="apple"),
        Item("1", "Is there a surfboard in the image?", image, ("no",), "adversarial", thing="surfboard"),
    ]
    models = Models()
    rows = measure(items, "pope", models)
    assert rows["accuracy"]["value"] == pytest.approx(2 / 3) == rows["accuracy_unsteered"]["value"]
    assert rows["random_accuracy"]["value"] == 1.0 and rows["random_accuracy_unsteered"]["value"] == 0.5
    assert rows["adversarial_accuracy"]["value"] == 0.0
    assert rows["recall"]["value"] == 1.0 and rows["precision"]["value"] == 0.5
    assert rows["yes_share"]["value"] == pytest.approx(2 / 3) and rows["yes_share_unsteered"]["value"] == 0.0
    assert rows["with_region"]["value"] == pytest.approx(2 / 3) and rows["gain"]["value"] == 0.0
    assert len(models.asked) == 5, "a question without a region is asked once"


def test_gqa_is_steered_to_its_scene_graphs_boxes(image):
    items = [
        Item("1", "What is the bird called?", image, ("parrot",), regions=(("bird", (0.0, 0.0, 28.0, 28.0)),)),
        Item("2", "Is it overcast?", image, ("no",)),
        Item("3", "Who?", image, ("no",), regions=(("a box beside the frame", (200.0, 0.0, 220.0, 9.0)),)),
    ]
    models = Models(seen="Parrot.\nIt is green.")
    rows = measure(items, "gqa", models)
    assert rows["accuracy"]["value"] == 1.0 and rows["accuracy_unsteered"]["value"] == pytest.approx(2 / 3)
    assert rows["with_region"]["n"] == 3 and rows["with_region"]["value"] == pytest.approx(1 / 3)
    (mask,) = models.asked[1][1]
    assert mask.label == "bird" and mask.weights[0, 0] > 0 and mask.weights[-1, -1] == 0


def test_vqav2_is_scored_by_answer_type(image):
    people = ("yes",) * 3 + ("no",) * 7
    items = [
        Item("1", "Is there a board?", image, people, "yes/no"),
        Item("2", "How many?", image, ("2",) * 10, "number"),
    ]
    rows = measure(items, "vqav2", Models())
    assert rows["accuracy_yes/no"]["value"] == pytest.approx(0.9)
    assert rows["accuracy_yes/no_unsteered"]["value"] == 1.0
    assert rows["accuracy_number"]["value"] == 0.0
    assert rows["accuracy"]["value"] == pytest.approx(0.45) and rows["accuracy"]["n"] == 2


def test_other_models_are_asked_for_a_short_answer_and_read_regions_as_words(image):
    models = Models("somebody/reasoner", bridge="text")
    measure([Item("1", "Is there a board?", image, ("yes",) * 10, "yes/no")], "vqav2", models)
    for prompt, _, given in models.asked:
        assert prompt == "Is there a board?" + public.SHORT
        assert given["regions"] == [("board", (28.0, 0.0, 56.0, 28.0))], "steered or not"


def test_what_is_merely_salient_has_no_words_to_be_steered_to(image, monkeypatch):
    models = Models("somebody/reasoner", bridge="text")
    salient = Mask(np.full((4, 6), 90, np.int8), label="", source="saliency")
    monkeypatch.setattr(models, "detect_regions", lambda prompt, features: [salient])
    rows = measure([Item("1", "What is it?", image, ("no",) * 10, "other")], "vqav2", models)
    assert [(mask, given["regions"]) for _, mask, given in models.asked] == [(None, [])], "asked once, unsteered"
    assert rows["with_region"]["value"] == 0.0 and rows["accuracy"]["value"] == 1.0


def test_a_broken_image_is_named(image):
    Path(image).write_bytes(b"no picture")
    with pytest.raises(BenchmarkError, match=r"question 7: image .*frame\.png: broken"):
        measure([Item("7", "Is it?", image, ("no",))], "gqa", Models())


def test_the_suite_takes_a_folder(image, tmp_path, monkeypatch):
    line = '{"question_id": 1, "image": "frame.png", "text": "Is there a board in the image?", "label": "yes"}\n'
    (tmp_path / "coco_pope_popular.json").write_text(2 * line)
    said = []
    options = EvalConfig(data=tmp_path, progress=said.append)
    monkeypatch.setattr(EvalConfig, "perceiver", lambda self, default: Models())
    monkeypatch.setattr(EvalConfig, "reasoner", lambda self, default: Models())
    assert public.run(options)["accuracy"] == {**public.run(options)["accuracy"], "value": 1.0, "n": 2}
    assert "2 pope questions" in said[0]
    with pytest.raises(BenchmarkError, match="no gqa files"):
        public.run(replace(options, kind="gqa"))
