"""truth.json: what is written is what is read, and nothing that can't be true is read."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steer_ros.lab.scenes.clip import make_clip
from steer_ros.lab.scenes.ground_truth import BagTruth, TruthError, decode_mask, encode_mask, read_truth, write_truth
from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import make_scene
from steer_ros.lab.scenes.visible_objects import visible_objects_of


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_masks_survive_their_code(mask):
    code = encode_mask(mask)
    assert code["size"] == list(mask.shape) and sum(code["counts"]) == mask.size
    assert all(count > 0 for count in code["counts"][1:])
    np.testing.assert_array_equal(decode_mask(json.loads(json.dumps(code))), mask)


def test_the_code_is_cocos():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)  # down the columns: 0 0 | 1 1 | 1 0
    assert encode_mask(mask) == {"size": [2, 3], "counts": [2, 3, 1]}
    assert encode_mask(~mask) == {"size": [2, 3], "counts": [0, 2, 3, 1]}


@pytest.mark.parametrize(
    "code",
    [
        {"size": [2, 2], "counts": [3]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2], "counts": [2]},
        {"size": [2, 2], "counts": "0000"},
        {"size": [2, 2]},
        {"size": [2.0, 2], "counts": [4]},
        {"size": [2, 2], "counts": [True, 3]},
    ],
)
def test_broken_codes_are_refused(code):
    with pytest.raises(ValueError, match="mask: "):
        decode_mask(code)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 1 << 60))
def test_truth_survives_the_file(tmp_path_factory, seed, start):
    frames = list(make_clip(seed, 3, width=112, height=84))
    written = BagTruth(112, 84, {start + i * 100: f.objects for i, f in enumerate(frames)})
    path = write_truth(tmp_path_factory.mktemp("truth") / "truth.json", written)
    read = read_truth(path)
    assert (read.image_width, read.image_height) == (112, 84)
    assert list(read.frames) == sorted(written.frames)
    for frame, (stamp, objects) in zip(frames, read.frames.items()):
        assert read.visible_objects(stamp) == visible_objects_of(frame)
        for a, b in zip(frame.objects, objects):
            assert (a.id, a.colour, a.shape, a.box) == (b.id, b.colour, b.shape, b.box)
            assert a.visibility == pytest.approx(b.visibility, abs=1e-6)
            np.testing.assert_array_equal(a.mask, b.mask)


def test_an_object_out_of_sight_is_kept(tmp_path):
    scene = make_scene(1, 2)
    away = [o.__class__(**{**o.__dict__, "x": -3.0}) for o in scene.objects[:1]]
    frame = render(scene.__class__(**{**scene.__dict__, "objects": (*away, scene.objects[1])}))
    write_truth(tmp_path, BagTruth(336, 336, {5: frame.objects}))
    read = read_truth(tmp_path)
    assert read.frames[5][0].box is None and read.frames[5][0].visibility == 0
    assert [o.id for o in read.visible_objects(5)] == [scene.objects[1].id]
    with pytest.raises(KeyError):
        read.visible_objects(6)


def spoil(content, how):
    first = content["frames"][0]["objects"][0]
    match how:
        case "version":
            content["version"] = 2
        case "stamps":
            content["frames"].reverse()
        case "box":
            first["box"][0] += 1
        case "colour":
            first["colour"] = "beige"
        case "visibility":
            first["visibility"] = 1.5
        case "mask":
            first["mask"]["counts"][0] += 1
        case "size":
            content["image_width"] = 100
        case "missing":
            del content["frames"][1]["objects"][0]["id"]
        case "width":
            content["image_width"] = "336"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("version", "version 2; this reads 1"),
        ("stamps", r"frames\[1\].*not later"),
        ("box", r"frames\[0\].objects\[0\].*extent of its mask"),
        ("colour", "'beige'"),
        ("visibility", "visibility 1.5"),
        ("mask", "counts add up"),
        ("size", "336x336 pixels; the images have 100x336"),
        ("missing", r"frames\[1\].objects\[0\]: 'id' is missing"),
        ("width", "'336' is no whole number"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path, how, says):
    frames = list(make_clip(4, 2))
    path = write_truth(tmp_path, BagTruth(336, 336, {i: f.objects for i, f in enumerate(frames)}))
    content = json.loads(path.read_text())
    spoil(content, how)
    path.write_text(json.dumps(content))
    with pytest.raises(TruthError, match=says):
        read_truth(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "7", '{"frames": []}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(TruthError, match=r"truth\.json"):
        read_truth(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(TruthError, match=r"truth\.json"):
        read_truth(tmp_path / "truth.json")
