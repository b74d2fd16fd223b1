"""Held-out scenes: the lab's own and foreign folders; what is missing or broken is named before anything is asked."""

import cv2
import numpy as np
import pytest
from evaluation_helpers import World

from steer_ros.evaluation.harness.cases import DataError, cases, check
from steer_ros.lab.bag import write_bag
from steer_ros.lab.scenes.clip import make_clip
from steer_ros.lab.scenes.ground_truth import BagTruth, TruthError, write_truth
from steer_ros.lab.scenes.visible_objects import visible_objects_of
from steer_ros.regions.boxes import area, iou

SEED = 400_000


@pytest.fixture(scope="module")
def frames():
    return list(make_clip(70, 3, objects=3, width=112, height=112))


@pytest.fixture
def folder(tmp_path, frames):
    """Three frames as PNG and JPEG with their truth."""
    truth = BagTruth(112, 112, {(i + 1) * 1000: frame.objects for i, frame in enumerate(frames)})
    write_truth(tmp_path, truth)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{(i + 1) * 1000}.{'jpg' if i else 'png'}"), frame.image[..., ::-1])
    return tmp_path


def test_lab_scenes_are_held_out_and_each_is_encoded_once():
    world = World()
    found = list(cases(world, SEED, 3, names=2))
    assert [case.key >= SEED for case in found] == [True] * 3
    assert world.encoded == 3
    assert all(len({o.name for o in case.objects}) >= 2 for case in found)


def test_parts_are_the_whole():
    world = World()
    whole = [case.key for case in cases(world, SEED, 5, names=2)]
    parts = [[case.key for case in cases(world, SEED, 5, names=2, part=(i, 2))] for i in range(2)]
    assert parts == [whole[0::2], whole[1::2]]


def test_regions_of_a_case():
    case = next(cases(World(), SEED, 1))
    obj = case.objects[0]
    weights = case.weights(obj)
    assert weights.dtype == np.int8 and weights.any() and weights is case.weights(obj)
    rng = case.rng(1)
    for _ in range(20):
        other = case.elsewhere(obj, rng)
        assert area(other) == pytest.approx(area(case.box(obj)))
        assert other[0] >= 0 and other[2] <= case.features.frame_size[0] + 1e-6
        assert iou(other, case.box(obj)) < 0.5
    assert case.rng(1).random() == case.rng(1).random() != case.rng(2).random()


def test_a_folder_of_foreign_frames(folder, frames):
    found = list(cases(World(), 0, 10, folder))
    assert [case.key for case in found] == [1000, 2000, 3000]
    assert [o.name for o in found[0].objects] == [o.name for o in visible_objects_of(frames[0])]
    np.testing.assert_array_equal(found[0].image, frames[0].image)  # RGB again
    assert len(list(cases(World(), 0, 2, folder))) == 2


def test_frames_of_one_clip_are_one_scene(folder, frames):
    assert [case.scene for case in cases(World(), 0, 10, folder)] == [1000, 1000, 1000]
    other = next(iter(make_clip(71, 1, objects=3, width=112, height=112)))
    write_truth(folder, BagTruth(112, 112, {1000: frames[0].objects, 2000: other.objects, 3000: frames[2].objects}))
    assert [case.scene for case in cases(World(), 0, 10, folder)] == [1000, 2000, 1000]
    assert [case.scene for case in cases(World(), SEED, 2)] == [SEED, SEED + 1]


@pytest.mark.parametrize(
    ("seed", "count", "says"),
    [
        (499_990, 20, "--seed: 499,990 with 20 scenes; .* 500,000 to 599,999, on which settings are chosen"),
        (599_999, 1, "500,000 to 599,999"),
        (899_995, 5, "900,000 up, on which the built-in models were trained"),
        (3_000_000, 5, "900,000 up"),
    ],
)
def test_scenes_that_something_was_made_from_are_not_judged_on(seed, count, says):
    options = World().options(seed=seed, limit=count)
    with pytest.raises(ValueError, match=says):
        check(options, 40)


def test_seeds_off_those_are_taken(folder):
    for seed in (0, 400_000, 499_900, 600_000, 899_900):
        check(World().options(seed=seed, limit=5), 40)
    check(World().options(seed=900_000, data=folder), 40)  # a folder's frames have no seeds


def test_a_bag_with_its_truth(tmp_path, frames):
    pytest.importorskip("rosbags")
    write_bag(tmp_path / "bag", frames)
    found = list(cases(World(), 0, 10, tmp_path / "bag"))
    assert len(found) == 3
    np.testing.assert_array_equal(found[2].image, frames[2].image)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: (f / "2000.jpg").unlink(), "missing: 2000.png"),
        (lambda f: (f / "2000.jpg").write_bytes(b"no image"), "broken: stamp 2000: can't be decoded"),
        (lambda f: (f / "2000.jpg").write_bytes(b""), "broken: stamp 2000: can't be decoded"),
        (
            lambda f: cv2.imwrite(str(f / "2000.jpg"), np.zeros((56, 84, 3), np.uint8)),
            "stamp 2000: 84x56 pixels, truth.json says 112x112",
        ),
        (lambda f: (f / "truth.json").unlink(), "truth.json"),
        (lambda f: (f / "truth.json").write_text("{"), "truth.json"),
        (lambda f: (f / "truth.json").write_text('{"version": 2}'), "version 2"),
        (lambda f: write_truth(f, BagTruth(112, 112, {1000: ()})), "none of the 1 frames shows 1 different objects"),
    ],
)
def test_what_is_missing_or_broken_is_named(folder, harm, says):
    harm(folder)
    world = World()
    with pytest.raises((DataError, TruthError), match=says.replace(".", r"\.")) as error:
        list(cases(world, 0, 10, folder))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert world.encoded == 0  # before anything is asked


def test_a_bag_that_is_none(folder):
    pytest.importorskip("rosbags")
    (folder / "metadata.yaml").write_text("nonsense")
    with pytest.raises(DataError, match="no rosbag2 that can be read"):
        list(cases(World(), 0, 10, folder))


def test_many_missing_files_are_counted(tmp_path, frames):
    write_truth(tmp_path, BagTruth(112, 112, {i: frames[0].objects for i in range(9)}))
    with pytest.raises(DataError, match=r"missing: 0\.png .*; 4\.png .* and 4 more"):
        list(cases(World(), 0, 10, tmp_path))


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        list(cases(World(), 0, 1, tmp_path / "nowhere"))
