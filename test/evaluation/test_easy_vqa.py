"""The vqa suite: what its questions mean, its mosaics, what its models learn from, and how answers are judged."""

import argparse
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from steer_ros.evaluation.suites.easy_vqa import data as easy_vqa_data
from steer_ros.evaluation.suites.easy_vqa import suite as vqa
from steer_ros.evaluation.suites.easy_vqa.data import (
    COLOURS,
    SHAPES,
    TILE,
    Mosaic,
    draw_mosaic,
    load_tiles,
    read_question,
    tile_from,
)
from steer_ros.evaluation.suites.easy_vqa.train import add_arguments, run
from steer_ros.evaluation.suites.easy_vqa.training_samples import OPENING, draw_question, question_sampler, sentences
from steer_ros.lab.training.tokenizers import r1_tokenizer
from steer_ros.perception import Perceiver
from steer_ros.reasoning import Limits, Reasoner
from steer_ros.regions.grid import PatchGrid

RGB = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
FORMS = (
    "what color is the shape?",
    "what is the color of the {shape}?",
    "what shape is in the image?",
    "what is the {colour} shape?",
    "is there a {colour} shape?",
    "is there not a {shape} in the image?",
)


def drawn(colour, shape, at=(30, 34), size=10):
    """An image such as the set's: one shape on a pale ground."""
    image = np.full((64, 64, 3), (240, 236, 250), np.uint8)
    x, y = at
    if shape == "circle":
        cv2.circle(image, at, size, RGB[colour], -1)
    elif shape == "rectangle":
        cv2.rectangle(image, (x - size, y - size), (x + size, y + size), RGB[colour], -1)
    else:
        cv2.fillPoly(image, [np.array([(x, y - size), (x - size, y + size), (x + size, y + size)])], RGB[colour])
    return image


def asked_of(colour, shape):
    """Questions about it with their answers, worked out here."""
    answers = (colour, colour, shape, shape, "yes", "no")
    said = [(form.format(colour=colour, shape=shape), answer) for form, answer in zip(FORMS, answers)]
    said.append(("is no red shape present?", "no" if colour == "red" else "yes"))
    for word in COLOURS:
        said.append((f"does the image contain a {word} shape?", "yes" if word == colour else "no"))
    return said + [(f"is a {word} present?", "yes" if word == shape else "no") for word in SHAPES]


def tile(number, colour, shape, **where):
    return tile_from(number, drawn(colour, shape, **where), asked_of(colour, shape))


@pytest.fixture(scope="module")
def tiles():
    """Every colour and shape once."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    return [tile(number, *pair) for number, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("text", "kind", "word", "negated"),
    [
        ("what color is the shape?", "colour", "", False),
        ("what is the color of the circle?", "colour", "circle", False),
        ("what shape does the image contain?", "shape", "", False),
        ("what is the teal shape?", "shape", "teal", False),
        ("is a red shape present?", "whether", "red", False),
        ("Is there not a gray shape in the image?", "whether", "gray", True),
        ("is no rectangle present?", "whether", "rectangle", True),
        ("does the image not contain a triangle?", "whether", "triangle", True),
    ],
)
def test_what_a_question_means(text, kind, word, negated):
    question = read_question(text)
    assert (question.kind, question.word, question.negated) == (kind, word, negated)


@pytest.mark.parametrize("text", ["", "how many shapes are there?", "is there a shape?", "what is the pink shape?"])
def test_another_question_is_refused(text):
    with pytest.raises(ValueError, match="none of easy-VQA's forms"):
        read_question(text)


def test_an_image_is_known_by_its_questions_and_pixels(tiles):
    for one in tiles:
        assert all(one.answer(question) == answer for question, answer in one.asked)
        assert one.image.shape == (TILE, TILE, 3) and one.kind
    assert sorted(one.kind for one in tiles) == list(range(1, 25))
    small = tile(0, "red", "circle", at=(8, 56), size=4)
    assert small.object_cells.reshape(4, 4)[3, 0] and small.object_cells.sum() == 1
    assert small.cover.reshape(4, 4)[:3].sum() == 0
    untold = tile_from(1, drawn("red", "circle"), [("is there a red shape?", "yes")])
    assert untold.colour == "red" and untold.shape == "" and untold.kind == 0


def test_a_mosaic_keeps_its_tiles_apart(tiles):
    mosaic = draw_mosaic(np.random.default_rng(0), tiles, 3, tiles[7])
    assert mosaic.side == 3 and mosaic.image.shape == (336, 336, 3)
    assert sum(one is tiles[7] for one in mosaic.tiles) == 1
    assert len({one.id for one in mosaic.tiles}) == 9
    for i, one in enumerate(mosaic.tiles):
        x0, y0, x1, y1 = mosaic.box(i)
        assert np.array_equal(mosaic.image[y0:y1, x0:x1], one.image)
        inside = np.zeros((12, 12), bool)
        inside[y0 // 28 : y1 // 28, x0 // 28 : x1 // 28] = True
        cells = mosaic.object_cells[i].reshape(12, 12)
        assert cells.any() and not (cells & ~inside).any()
    assert Mosaic((tiles[0],)).box(0) == (0, 0, TILE, TILE)


def test_a_mosaic_needs_as_many_tiles(tiles):
    with pytest.raises(ValueError, match=r"side 3: .* 9 tiles .* there are 5"):
        draw_mosaic(np.random.default_rng(0), tiles[:5], 3)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """easy-vqa's own functions over a few files: every colour and shape once, two thirds for training."""
    pairs = list(enumerate((colour, shape) for shape in SHAPES for colour in COLOURS))
    questions = [(text, answer, n) for n, pair in pairs for text, answer in asked_of(*pair)]
    for n, pair in pairs:
        cv2.imwrite(str(tmp_path / f"{n}.png"), drawn(*pair)[:, :, ::-1])
    columns = tuple(map(list, zip(*questions)))
    paths = {n: str(tmp_path / f"{n}.png") for n, _ in pairs}
    fake = SimpleNamespace(
        get_train_questions=lambda: columns,
        get_test_questions=lambda: columns,
        get_train_image_paths=lambda: paths,
        get_test_image_paths=lambda: paths,
    )
    monkeypatch.setattr(easy_vqa_data, "import_optional", lambda module, *packages: fake)
    monkeypatch.setattr(easy_vqa_data, "TUNE_FROM", 16)
    return tmp_path


def test_the_splits_of_the_set(stored):
    assert [one.id for one in load_tiles("train")] == list(range(16))
    assert [one.id for one in load_tiles("tune")] == list(range(16, 24))
    assert [one.id for one in load_tiles("test", 5)] == [0, 1, 2, 3, 4]
    assert [one.colour for one in load_tiles("test")] == list(COLOURS) * 3
    with pytest.raises(ValueError, match="split 'val'"):
        load_tiles("val")
    (stored / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"3\.png: broken"):
        load_tiles("train")
    (stored / "3.png").unlink()
    with pytest.raises(ValueError, match=r"3\.png: missing"):
        load_tiles("train")


def test_the_question_does_not_say_which_tile_is_meant(tiles):
    questions = {f"whether {word}": [word] for word in (*COLOURS, *SHAPES)}
    for kind in ("colour", "shape", *(f"colour {s}" for s in SHAPES), *(f"shape {c}" for c in COLOURS)):
        questions[kind] = [kind]
    nine = [*[t for t in tiles if t.colour != "red"][:8], next(t for t in tiles if t.colour == "red")]
    rng = np.random.default_rng(1)
    drawn_for_red = [target for _ in range(4000) for q, target in [draw_question(rng, questions, nine)] if q == "red"]
    assert len(drawn_for_red) > 100
    assert np.mean([target == 8 for target in drawn_for_red]) == pytest.approx(1 / 9, abs=0.08)


def test_a_sample_is_answered_in_r1s_format(tiles):
    questions = sorted({q for one in tiles for q, _ in one.asked}, key=lambda q: q.text)
    tokenizer = r1_tokenizer(sentences(questions))
    sample_of = question_sampler(tokenizer, questions)
    rng = np.random.default_rng(0)
    mosaic = draw_mosaic(rng, tiles, 2)
    for _ in range(40):
        sample = sample_of(rng, mosaic.tiles)
        text = tokenizer.decode(sample.answer)
        thought, action = text.removesuffix("<｜end▁of▁sentence｜>").split("\n</think>\n\n")
        told = [one for one in mosaic.tiles if thought.startswith(f"{OPENING} {one.name}.")]
        after = tokenizer.decode(sample.after)
        question = read_question(after.removeprefix("<|vision_end|>").split("<｜")[0])
        assert len(told) == 1 and action == told[0].answer(question)
        assert tokenizer.decode(sample.answer[: sample.undecided]) == OPENING
        weighty = [tokenizer.decode(t).strip() for t, w in zip(sample.answer, sample.weights) if w != 1.0]
        if question.kind == "whether":
            verdict = "Yes" if told[0].has(question.word) else "No"
            assert thought.endswith(f"{question.word}? {verdict}.") and weighty == [verdict, action]
        else:
            assert thought == f"{OPENING} {told[0].name}." and weighty == [action]
        assert mosaic.tiles.index(told[0]) in sample.candidates
        assert all(
            question.kind == "whether" or not question.word or mosaic.tiles[i].has(question.word)
            for i in sample.candidates
        )


class Eyes:
    """Stands for both models: it sees exactly what it is steered to, and the first tile of a frame otherwise."""

    name = "builtin:eyes"

    def __init__(self, tiles):
        self.known = {one.image.tobytes(): one for one in tiles}

    def encode(self, image):
        height, width = image.shape[:2]
        grid = PatchGrid.for_image(width, height)
        return SimpleNamespace(image=image, frame_size=(width, height), grid=grid)

    def generate(self, prompt, features, masks=None, *, config, **given):
        assert config.law.name == ("none" if masks is None else "conserving")
        x0, y0, x1, y1 = (0, 0, TILE, TILE) if masks is None else map(round, masks.box)
        seen = self.known[np.ascontiguousarray(features.image[y0:y1, x0:x1]).tobytes()]
        action = seen.answer(read_question(prompt))
        return SimpleNamespace(action=action, thought=f"{OPENING} {seen.name}.", cut_short=False)


def test_answers_are_judged(tiles):
    eyes = Eyes(tiles)
    asked = vqa.draw_tile_questions(tiles, 60, seed=3)
    assert len({(one.tile.id, one.question.text) for one in asked}) == 60
    rows = vqa.measure(vqa.Judge(eyes, eyes, vqa.SETUP), tiles, asked, seed=3)
    assert set(rows) == set(vqa.KEYS)
    for key in ("single", "mosaic2", "mosaic3", "mosaic3_crop", "mosaic3_named", "mosaic3_random_tile_followed"):
        assert rows[key]["value"] == 1.0, key
    assert rows["single"]["n"] == rows["mosaic3"]["n"] == 60
    assert rows["mosaic3_malformed"]["value"] == rows["mosaic3_loss"]["value"] == 0.0
    for key in ("mosaic2_unsteered", "mosaic3_unsteered", "mosaic3_random_tile"):
        assert 0.1 < rows[key]["value"] < 0.9, key
    assert rows["mosaic3_gain"]["value"] == pytest.approx(1 - rows["mosaic3_unsteered"]["value"])
    kinds = [rows[f"mosaic3_{kind}"]["n"] for kind in ("whether", "colour", "shape")]
    assert sum(kinds) == 60 and min(kinds) > 0


def test_the_models_are_trained_and_loaded(stored, tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    made = tmp_path / "made"
    assert run(parser.parse_args(["--out", str(made), "--steps", "1", "--mosaics", "2", "--threads", "1"])) == 0
    perceiver = Perceiver.from_pretrained(str(made / "vqa-vl"))
    reasoner = Reasoner.from_pretrained(str(made / "vqa-r1"))
    for side, cells in ((1, 16), (2, 64), (3, 144)):
        mosaic = draw_mosaic(np.random.default_rng(side), load_tiles("test"), side)
        features = perceiver.encode(mosaic.image)
        assert features.tokens.shape == (cells, 96) and reasoner.bridge_for(features) == "token"
    assert features.grid.width == 336
    turn = reasoner.generate(
        "is there a red shape?",
        features,
        vqa.tile_mask(features, mosaic, 4),
        alpha=6.0,
        limits=Limits(max_new_tokens=3),
    )
    assert turn.steered and len(turn.output_ids) == 3


def test_the_shipped_models_follow_the_region():
    pytest.importorskip("easy_vqa")
    perceiver, reasoner = Perceiver.from_pretrained(vqa.PERCEPTION), Reasoner.from_pretrained(vqa.REASONING)
    tiles = load_tiles("tune", 60)
    asked = vqa.draw_tile_questions(tiles, 12, seed=0)
    rows = vqa.measure(vqa.Judge(perceiver, reasoner, vqa.SETUP), tiles, asked, seed=0)
    assert rows["single"]["value"] >= 0.8 and rows["mosaic3"]["value"] >= 0.75
    assert rows["mosaic3_malformed"]["value"] <= 0.1
