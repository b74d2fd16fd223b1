"""VQAv2, GQA and POPE: files in their published formats are read, broken ones named, scores are the official ones."""

import json

import cv2
import numpy as np
import pytest

from steer_ros.evaluation.suites.public_sets.loaders import BenchmarkError, load_benchmark
from steer_ros.evaluation.suites.public_sets.metrics import (
    gqa_correct,
    normalised,
    pope_says_yes,
    vqa_accuracy,
    without_signs,
)

IMAGE_ID = 262148


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def picture(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size[1], size[0], 3), 200, np.uint8))
    return path


@pytest.fixture
def vqav2(tmp_path):
    """Two questions about one image, as the set has them."""
    head = {
        "info": {"description": "This is v2.0 of the VQA dataset."},
        "data_type": "mscoco",
        "data_subtype": "val2014",
        "license": {},
    }
    questions = [
        {"image_id": IMAGE_ID, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": IMAGE_ID, "question": "How many boards?", "question_id": 262148001},
    ]
    people = [["down"] * 4 + ["at table"] * 6, ["1"] * 10]
    annotations = [
        {
            "question_id": q["question_id"],
            "image_id": IMAGE_ID,
            "question_type": "none of the above",
            "answer_type": kind,
            "multiple_choice_answer": given[0],
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i + 1} for i, a in enumerate(given)],
        }
        for q, kind, given in zip(questions, ("other", "number"), people)
    ]
    write(
        tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json",
        {**head, "task_type": "Open-Ended", "questions": questions},
    )
    write(tmp_path / "v2_mscoco_val2014_annotations.json", {**head, "annotations": annotations})
    picture(tmp_path / "val2014" / f"COCO_val2014_{IMAGE_ID:012d}.jpg")
    return tmp_path


@pytest.fixture
def gqa(tmp_path):
    """One question about an object of a scene graph, and one of an image that has none."""
    write(
        tmp_path / "val_balanced_questions.json",
        {
            "05451384": {
                "question": "What is the bird called?",
                "imageId": "2382986",
                "answer": "parrot",
                "fullAnswer": "The bird is a parrot.",
                "isBalanced": True,
                "semantic": [{"operation": "select", "dependencies": [], "argument": "bird (329774)"}],
                "annotations": {"answer": {"0": "329774"}, "question": {"3": "329774"}, "fullAnswer": {"1": "329774"}},
            },
            "07333408": {
                "question": "Is it overcast?",
                "imageId": "n161313",
                "answer": "no",
                "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            },
        },
    )
    bird = {"name": "bird", "x": 10, "y": 5, "w": 20, "h": 30, "attributes": ["green"], "relations": []}
    write(
        tmp_path / "sceneGraphs" / "val_sceneGraphs.json",
        {"2382986": {"width": 64, "height": 48, "objects": {"329774": bird}}},
    )
    for name in ("2382986", "n161313"):
        picture(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


@pytest.fixture
def pope(tmp_path):
    """Two splits of one question each and a third line in one of them."""
    name = "COCO_val2014_000000310196.jpg"
    lines = [
        {"question_id": 1, "image": name, "text": "Is there a snowboard in the image?", "label": "yes"},
        {"question_id": 2, "image": name, "text": "Is there an apple in the image?", "label": "no"},
    ]
    write(tmp_path / "coco_pope_random.json", "\n".join(map(json.dumps, lines)) + "\n")
    write(tmp_path / "coco_pope_adversarial.json", json.dumps(lines[1]) + "\n")
    picture(tmp_path / "val2014" / name)
    return tmp_path


def test_vqav2_is_read(vqav2):
    found = load_benchmark(vqav2)
    assert found.kind == "vqav2" and [i.id for i in found.items] == ["262148000", "262148001"]
    first = found.items[0]
    assert first.question == "Where is he looking?" and first.group == "other" and len(first.answers) == 10
    assert first.image.name == f"COCO_val2014_{IMAGE_ID:012d}.jpg"


def test_gqa_is_read_with_its_regions(gqa):
    found = load_benchmark(gqa)
    assert found.kind == "gqa"
    bird, sky = found.items
    assert bird.answers == ("parrot",) and bird.regions == (("bird", (10.0, 5.0, 30.0, 35.0)),)
    assert sky.regions == ()
    (gqa / "sceneGraphs" / "val_sceneGraphs.json").unlink()
    assert all(item.regions == () for item in load_benchmark(gqa, "gqa").items)


def test_pope_is_read_with_its_splits(pope):
    found = load_benchmark(pope)
    assert found.kind == "pope"
    assert [(i.group, i.answers, i.thing) for i in found.items] == [
        ("adversarial", ("no",), "apple"),
        ("random", ("yes",), "snowboard"),
        ("random", ("no",), "apple"),
    ]
    assert len(load_benchmark(pope, limit=1).items) == 2, "one of each file"


@pytest.mark.parametrize(
    "text",
    [
        "Is there an umbrella in the imange?",  # as the published files have it
        "Is there an umbrella in the image?\nAnswer the question using a single word or phrase.",
        "Is there an umbrella in the image?\u2028",
    ],
)
def test_popes_questions_are_read_as_they_are_published(pope, text):
    line = {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": text, "label": "yes"}
    body = "\n".join([json.dumps(line, ensure_ascii=False)] * 2)
    (pope / "coco_pope_random.json").write_text(f"\ufeff{body}", encoding="utf-8")
    things = [item.thing for item in load_benchmark(pope).items if item.group == "random"]
    assert things == ["umbrella"] * 2


def test_several_objects_of_one_word_are_a_region_each(gqa):
    path = gqa / "val_balanced_questions.json"
    content = json.loads(path.read_text())
    content["05451384"]["annotations"]["question"] = {"3": "329774,5"}
    path.write_text(json.dumps(content))
    scenes = gqa / "sceneGraphs" / "val_sceneGraphs.json"
    graph = json.loads(scenes.read_text())
    graph["2382986"]["objects"]["5"] = {"name": "twig", "x": 1, "y": 2, "w": 3, "h": 4}
    scenes.write_text(json.dumps(graph))
    assert [label for label, _ in load_benchmark(gqa, "gqa").items[0].regions] == ["bird", "twig"]


def test_what_is_no_such_set_is_refused(tmp_path, pope):
    with pytest.raises(BenchmarkError, match="nowhere: no such folder"):
        load_benchmark(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"kind 'coco'.*vqav2, gqa, pope"):
        load_benchmark(pope, "coco")
    with pytest.raises(BenchmarkError, match=r"no gqa files; found pope"):
        load_benchmark(pope, "gqa")
    with pytest.raises(ValueError, match="limit 0"):
        load_benchmark(pope, limit=0)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BenchmarkError, match="no question file"):
        load_benchmark(empty)


def test_two_sets_in_one_folder_want_a_kind(pope, tmp_path):
    write(
        tmp_path / "q.json", {"1": {"question": "Is it wet?", "imageId": "COCO_val2014_000000310196", "answer": "no"}}
    )
    with pytest.raises(BenchmarkError, match="gqa and pope"):
        load_benchmark(tmp_path)
    assert load_benchmark(tmp_path, "gqa").items[0].answers == ("no",)


def test_missing_files_are_named(vqav2):
    (vqav2 / "val2014" / f"COCO_val2014_{IMAGE_ID:012d}.jpg").unlink()
    with pytest.raises(
        BenchmarkError, match=rf"questions\[0\]: its image COCO_val2014_{IMAGE_ID:012d}.jpg is missing"
    ):
        load_benchmark(vqav2)
    (vqav2 / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(BenchmarkError, match="VQAv2 questions, but no file of annotations"):
        load_benchmark(vqav2)


@pytest.mark.parametrize("kind", [None, "vqav2"])
def test_cocos_own_annotations_beside_are_no_vqav2(vqav2, kind):
    caption = {"image_id": IMAGE_ID, "id": 1, "caption": "A man on a board."}
    write(vqav2 / "annotations" / "captions_val2014.json", {"info": {}, "images": [], "annotations": [caption]})
    assert len(load_benchmark(vqav2, kind).items) == 2


def test_files_of_questions_without_published_answers_are_passed_over(vqav2, gqa):
    test = {"data_subtype": "test2015", "questions": [{"image_id": 1, "question": "What?", "question_id": 10}]}
    write(vqav2 / "v2_OpenEnded_mscoco_test2015_questions.json", test)
    write(gqa / "test_all_questions.json", {"201640614": {"question": "Who?", "imageId": "n1", "isBalanced": True}})
    assert len(load_benchmark(vqav2, "vqav2").items) == len(load_benchmark(gqa, "gqa").items) == 2
    (vqav2 / "v2_OpenEnded_mscoco_val2014_questions.json").unlink()
    with pytest.raises(BenchmarkError, match=r"no question of v2_OpenEnded_mscoco_test2015_questions\.json has its"):
        load_benchmark(vqav2, "vqav2")
    (gqa / "val_balanced_questions.json").unlink()
    with pytest.raises(BenchmarkError, match=r"no question of test_all_questions\.json has its answer here"):
        load_benchmark(gqa, "gqa")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (
            "v2_mscoco_val2014_annotations.json",
            lambda d: d["annotations"].pop(),
            "262148001 has no annotation",
        ),
        ("v2_mscoco_val2014_annotations.json", lambda d: d["annotations"][0]["answers"].clear(), "no answers"),
        (
            "v2_mscoco_val2014_annotations.json",
            lambda d: d["annotations"][0]["answers"][3].update(answer=7),
            r"annotations\[0\].answers\[3\]: answer is 7",
        ),
        (
            "v2_OpenEnded_mscoco_val2014_questions.json",
            lambda d: d["questions"][1].pop("question"),
            r"questions\[1\]: 'question' is missing",
        ),
        (
            "v2_OpenEnded_mscoco_val2014_questions.json",
            lambda d: d["questions"].insert(0, "what?"),
            r"questions\[0\]: str in place of an object",
        ),
    ],
)
def test_broken_entries_are_named(vqav2, file, change, said):
    content = json.loads((vqav2 / file).read_text())
    change(content)
    write(vqav2 / file, content)
    with pytest.raises(BenchmarkError, match=said) as error:
        load_benchmark(vqav2)
    assert "\n" not in str(error.value) and "v2_" in str(error.value)


def test_broken_files_are_named(pope, gqa):
    path = pope / "coco_pope_random.json"
    whole = path.read_text()
    path.write_text(whole + '{"question_id": 3, "image": ')
    with pytest.raises(BenchmarkError, match=r"coco_pope_random.json: line 3"):
        load_benchmark(pope, "pope")
    path.write_text(whole.replace('"yes"', '"maybe"'))
    with pytest.raises(BenchmarkError, match=r"coco_pope_random.json: entry 1: label 'maybe'"):
        load_benchmark(pope, "pope")
    path.write_text(whole)
    graphs = gqa / "sceneGraphs" / "val_sceneGraphs.json"
    graphs.write_text(graphs.read_text()[:-9])
    with pytest.raises(BenchmarkError, match=r"val_sceneGraphs.json"):
        load_benchmark(gqa, "gqa")


def test_a_broken_scene_is_named(gqa):
    graphs = gqa / "sceneGraphs" / "val_sceneGraphs.json"
    graphs.write_text(graphs.read_text().replace('"w": 20', '"w": "wide"'))
    with pytest.raises(BenchmarkError, match="scene 2382986, object 329774: w is 'wide'"):
        load_benchmark(gqa)


def test_vqav2_accuracy_leaves_each_person_out_once():
    people = ["yes"] * 3 + ["no"] * 7
    assert vqa_accuracy("yes", people) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert vqa_accuracy("no", people) == 1.0
    assert vqa_accuracy("maybe", people) == 0.0
    assert vqa_accuracy("blue", ["blue"] + ["red"] * 9) == pytest.approx(9 * (1 / 3) / 10)
    assert vqa_accuracy("Two.", ["2"] * 10) == 1.0
    with pytest.raises(ValueError, match="answers"):
        vqa_accuracy("yes", [])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The red one!", "red 1"),
        ("none", "0"),
        ("an apple, a pear", "apple pear"),
        ("1,000", "1000"),
        ("2.50", "2.50"),
        ("Yes.", "yes"),
        ("dont know", "don't know"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("t-shirt", "t shirt"),
        ("black/white", "black white"),
        ("tall\nman\t", "tall man"),
    ],
)
def test_answers_are_normalised_as_vqav2_does(text, plain):
    assert normalised(text) == plain


def test_signs_are_dropped_beside_a_blank_and_else_become_one():
    assert without_signs("black- white") == "black white"
    assert without_signs("black-white") == "black white"
    assert without_signs("it's 5 p.m.") == "it's 5 pm"


def test_people_who_all_say_the_same_are_taken_by_the_letter():
    assert vqa_accuracy("t shirt", ["t-shirt"] * 10) == 0.0, "the official script's own way"
    assert vqa_accuracy("t shirt", ["t-shirt"] * 9 + ["shirt"]) == 1.0


def test_gqa_wants_the_answer_itself():
    assert gqa_correct("Parrot.", "parrot") and gqa_correct(" no", "no")
    assert not gqa_correct("a parrot", "parrot") and not gqa_correct("", "no")


@pytest.mark.parametrize(
    ("text", "yes"),
    [("Yes, there is.", True), ("No.", False), ("There is not. Yes", False), ("Sure", True), ("no, none", False)],
)
def test_pope_reads_the_first_sentence(text, yes):
    assert pope_says_yes(text) is yes
