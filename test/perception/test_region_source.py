"""Keyframes, tracking between them, and what the region source reports about a target that it can't use."""

import itertools

import numpy as np
import pytest
from ros_helpers import FakePerceiver, scene

from steer_ros.perception.region_source import RegionSource, resized
from steer_ros.regions.drawing import label_image, overlay

MS = 1_000_000


class Harness:
    def __init__(self, **options):
        self.source, self.perceiver = RegionSource(**options), FakePerceiver()

    def step(self, pixels, milliseconds, frame_size=None):
        features = self.perceiver.encode(pixels, milliseconds * MS)
        features = resized(features, frame_size or features.frame_size)
        return self.source.step(pixels, features, self.perceiver, milliseconds * MS)


FRAME = scene(red=(20, 30), blue=(80, 40))


def test_without_a_target_there_are_no_masks():
    regions = Harness().step(FRAME, 0)
    assert regions.masks is None
    assert not regions.keyframe


def test_a_target_that_is_not_found_gives_an_empty_list():
    harness = Harness()
    harness.source.look_for("green")
    assert harness.step(FRAME, 0).masks == []


@pytest.mark.parametrize(("interval", "keyframes"), [(1, [1] * 7), (3, [1, 0, 0, 1, 0, 0, 1]), (10, [1] + [0] * 6)])
def test_keyframes_come_every_interval(interval, keyframes):
    harness = Harness(interval=interval)
    harness.source.look_for("red")
    assert [harness.step(FRAME, 10 * i).keyframe for i in range(7)] == [bool(k) for k in keyframes]
    assert len(harness.perceiver.grounded) == sum(keyframes)


def test_words_said_again_change_nothing():
    harness = Harness(interval=10)
    ids = set()
    for step in range(5):
        harness.source.look_for("red" if step % 2 else " red ")
        ids |= {mask.track_id for mask in harness.step(FRAME, 100 * step).masks}
    assert len(ids) == 1 and harness.perceiver.grounded == ["red"]


def test_a_mask_that_is_carried_never_gets_older_than_its_limit():
    harness = Harness(interval=100, max_age=1000 * MS)
    harness.source.look_for("red")
    assert [harness.step(FRAME, t).keyframe for t in (0, 600, 999, 1000, 1001)] == [True, False, False, True, False]


def test_a_moving_object_is_tracked_under_one_id():
    harness = Harness(interval=4)
    harness.source.look_for("red")
    ids, centres = set(), []
    for step in range(6):
        masks = harness.step(scene(red=(10 + 6 * step, 30)), 100 * step).masks
        ids |= {mask.track_id for mask in masks}
        centres.append((masks[0].box[0] + masks[0].box[2]) / 2)
    assert len(ids) == 1
    assert centres[-1] - centres[0] > 15
    assert all(later > earlier - 1 for earlier, later in itertools.pairwise(centres))


@pytest.mark.parametrize("change", ["look_for", "reset", "size"])
def test_what_was_tracked_is_grounded_again_after_a_change(change):
    harness = Harness(interval=100)
    harness.source.look_for("red")
    harness.step(FRAME, 0)
    frame = FRAME
    if change == "look_for":
        harness.source.look_for("blue")
    elif change == "reset":
        harness.source.reset()
    else:
        frame = FRAME[:90]
    regions = harness.step(frame, 10)
    assert regions.keyframe
    assert [mask.label for mask in regions.masks] == ["blue" if change == "look_for" else "red"]
    assert regions.masks[0].source == "grounding"
    assert not harness.step(frame, 20).keyframe


def test_a_grounding_that_raises_is_tried_again_on_the_next_frame():
    harness = Harness(interval=100)
    harness.source.look_for("mauve")  # the stand-in knows no such colour
    for time in (0, 10):
        with pytest.raises(KeyError):
            harness.step(FRAME, time)
    harness.source.look_for("red")
    assert len(harness.step(FRAME, 20).masks) == 1


def test_words_that_the_model_cannot_take_leave_the_frame_without_them_and_no_more(monkeypatch):
    harness = Harness(interval=2)
    harness.source.look_for("red")
    assert harness.step(FRAME, 0).masks

    def refuse(text, features):
        raise ValueError("prompt: 2904 tokens; accepted are up to 2048")

    with monkeypatch.context() as patch:
        patch.setattr(type(harness.perceiver), "detect_regions", staticmethod(refuse))
        harness.source.look_for("红" * 920)
        regions = harness.step(FRAME, 10)
        assert regions.errors == {"bad_look_for": "look_for: prompt: 2904 tokens; accepted are up to 2048"}
        assert regions.masks == []
        assert harness.step(FRAME, 20).masks == []  # nothing that was tracked before is left
    harness.source.look_for("red")
    assert harness.step(FRAME, 30).masks


def test_a_place_holds_between_keyframes_and_a_box_joins_it():
    harness = Harness(interval=100)
    harness.source.look_for("left")
    harness.source.set_roi((64.0, 0.0, 500.0, 96.0))
    for time in (0, 10):
        masks = harness.step(FRAME, time).masks
        assert [(mask.label, mask.source) for mask in masks] == [("left", "phrase"), ("roi", "roi")]
        assert masks[1].box == (64.0, 0.0, 128.0, 96.0)
    harness.source.set_roi(None)
    assert len(harness.step(FRAME, 20).masks) == 1


def test_a_box_outside_the_frame_is_reported_once():
    harness = Harness()
    harness.source.set_roi((1000.0, 0.0, 1100.0, 50.0))
    regions = harness.step(FRAME, 0)
    assert "~/roi" in regions.errors["bad_roi"]
    assert regions.masks == []  # somebody said where to look, and nothing is there
    regions = harness.step(FRAME, 10)
    assert regions.masks == [] and not regions.errors
    harness.source.set_roi(None)
    assert harness.step(FRAME, 20).masks is None


def test_boxes_are_in_the_pixels_of_the_frame_not_of_its_small_copy():
    harness = Harness(interval=2)
    harness.source.look_for("red")
    small = Harness()
    small.source.look_for("red")
    expected = np.array(small.step(FRAME, 0).masks[0].box) * 10
    for time in (0, 10):
        box = harness.step(FRAME, time, frame_size=(1280, 960)).masks[0].box
        assert np.abs(np.array(box) - expected).max() < 15


def test_pictures_have_the_frames_size_and_number_the_masks():
    harness = Harness()
    harness.source.look_for("red")
    harness.source.set_roi((100.0, 60.0, 120.0, 90.0))
    masks = harness.step(FRAME, 0).masks
    labels = label_image(masks, (128, 96))
    assert labels.shape == (96, 128)
    assert (labels[70, 110], labels[5, 5]) == (2, 0)
    x0, y0, x1, y1 = (int(value) for value in masks[0].box)
    assert set(np.unique(labels[y0:y1, x0:x1])) == {1}
    picture = overlay(FRAME, masks, (256, 192))
    assert picture.shape == (192, 256, 3)
    assert picture.dtype == np.uint8
