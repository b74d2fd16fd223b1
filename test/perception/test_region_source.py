"""Keyframes, what is followed between them, and what the lookout says it does not know."""

import itertools

import numpy as np
import pytest
from ros_helpers import FakePerceiver, scene

from steer_ros.perception.region_source import Lookout, resized
from steer_ros.regions.drawing import label_image, overlay

MS = 1_000_000


class Watch:
    def __init__(self, **options):
        self.lookout, self.perceiver = Lookout(**options), FakePerceiver()

    def see(self, pixels, milliseconds, frame_size=None):
        features = self.perceiver.encode(pixels, milliseconds * MS)
        features = resized(features, frame_size or features.frame_size)
        return self.lookout.step(pixels, features, self.perceiver, milliseconds * MS)


FRAME = scene(red=(20, 30), blue=(80, 40))


def test_nothing_to_look_for_is_no_claim():
    sighting = Watch().see(FRAME, 0)
    assert sighting.masks is None
    assert not sighting.keyframe


def test_looked_for_and_not_found_is_an_empty_claim():
    watch = Watch()
    watch.lookout.look_for("green")
    assert watch.see(FRAME, 0).masks == []


@pytest.mark.parametrize(("interval", "keyframes"), [(1, [1] * 7), (3, [1, 0, 0, 1, 0, 0, 1]), (10, [1] + [0] * 6)])
def test_keyframes_come_every_interval(interval, keyframes):
    watch = Watch(interval=interval)
    watch.lookout.look_for("red")
    assert [watch.see(FRAME, 10 * i).keyframe for i in range(7)] == [bool(k) for k in keyframes]
    assert len(watch.perceiver.grounded) == sum(keyframes)


def test_words_said_again_change_nothing():
    watch = Watch(interval=10)
    ids = set()
    for step in range(5):
        watch.lookout.look_for("red" if step % 2 else " red ")
        ids |= {mask.track_id for mask in watch.see(FRAME, 100 * step).masks}
    assert len(ids) == 1 and watch.perceiver.grounded == ["red"]


def test_a_mask_that_is_carried_never_gets_older_than_its_limit():
    watch = Watch(interval=100, max_age=1000 * MS)
    watch.lookout.look_for("red")
    assert [watch.see(FRAME, t).keyframe for t in (0, 600, 999, 1000, 1001)] == [True, False, False, True, False]


def test_a_moving_object_is_followed_under_one_id():
    watch = Watch(interval=4)
    watch.lookout.look_for("red")
    ids, centres = set(), []
    for step in range(6):
        masks = watch.see(scene(red=(10 + 6 * step, 30)), 100 * step).masks
        ids |= {mask.track_id for mask in masks}
        centres.append((masks[0].box[0] + masks[0].box[2]) / 2)
    assert len(ids) == 1
    assert centres[-1] - centres[0] > 15
    assert all(later > earlier - 1 for earlier, later in itertools.pairwise(centres))


@pytest.mark.parametrize("change", ["look_for", "reset", "size"])
def test_what_was_followed_is_grounded_anew_after_a_change(change):
    watch = Watch(interval=100)
    watch.lookout.look_for("red")
    watch.see(FRAME, 0)
    frame = FRAME
    if change == "look_for":
        watch.lookout.look_for("blue")
    elif change == "reset":
        watch.lookout.reset()
    else:
        frame = FRAME[:90]
    sighting = watch.see(frame, 10)
    assert sighting.keyframe
    assert [mask.label for mask in sighting.masks] == ["blue" if change == "look_for" else "red"]
    assert sighting.masks[0].source == "grounding"
    assert not watch.see(frame, 20).keyframe


def test_a_grounding_that_raises_is_tried_again_on_the_next_frame():
    watch = Watch(interval=100)
    watch.lookout.look_for("mauve")  # the stand-in knows no such colour
    for time in (0, 10):
        with pytest.raises(KeyError):
            watch.see(FRAME, time)
    watch.lookout.look_for("red")
    assert len(watch.see(FRAME, 20).masks) == 1


def test_words_that_the_model_cannot_take_leave_the_frame_without_them_and_no_more(monkeypatch):
    watch = Watch(interval=2)
    watch.lookout.look_for("red")
    assert watch.see(FRAME, 0).masks

    def refuse(text, features):
        raise ValueError("prompt: 2904 tokens; accepted are up to 2048")

    with monkeypatch.context() as patch:
        patch.setattr(type(watch.perceiver), "detect_regions", staticmethod(refuse))
        watch.lookout.look_for("红" * 920)
        sighting = watch.see(FRAME, 10)
        assert sighting.complaints == {"bad_look_for": "look_for: prompt: 2904 tokens; accepted are up to 2048"}
        assert sighting.masks == []
        assert watch.see(FRAME, 20).masks == []  # nothing of what was followed before is left
    watch.lookout.look_for("red")
    assert watch.see(FRAME, 30).masks


def test_a_place_holds_between_keyframes_and_a_box_joins_it():
    watch = Watch(interval=100)
    watch.lookout.look_for("left")
    watch.lookout.set_roi((64.0, 0.0, 500.0, 96.0))
    for time in (0, 10):
        masks = watch.see(FRAME, time).masks
        assert [(mask.label, mask.source) for mask in masks] == [("left", "phrase"), ("roi", "roi")]
        assert masks[1].box == (64.0, 0.0, 128.0, 96.0)
    watch.lookout.set_roi(None)
    assert len(watch.see(FRAME, 20).masks) == 1


def test_a_box_outside_the_frame_is_complained_of_once():
    watch = Watch()
    watch.lookout.set_roi((1000.0, 0.0, 1100.0, 50.0))
    sighting = watch.see(FRAME, 0)
    assert "~/roi" in sighting.complaints["bad_roi"]
    assert sighting.masks == []  # somebody said where to look, and there is nothing there
    sighting = watch.see(FRAME, 10)
    assert sighting.masks == [] and not sighting.complaints
    watch.lookout.set_roi(None)
    assert watch.see(FRAME, 20).masks is None


def test_boxes_are_in_the_pixels_of_the_frame_not_of_its_small_copy():
    watch = Watch(interval=2)
    watch.lookout.look_for("red")
    small = Watch()
    small.lookout.look_for("red")
    expected = np.array(small.see(FRAME, 0).masks[0].box) * 10
    for time in (0, 10):
        box = watch.see(FRAME, time, frame_size=(1280, 960)).masks[0].box
        assert np.abs(np.array(box) - expected).max() < 15


def test_pictures_have_the_frames_size_and_number_the_masks():
    watch = Watch()
    watch.lookout.look_for("red")
    watch.lookout.set_roi((100.0, 60.0, 120.0, 90.0))
    masks = watch.see(FRAME, 0).masks
    labels = label_image(masks, (128, 96))
    assert labels.shape == (96, 128)
    assert (labels[70, 110], labels[5, 5]) == (2, 0)
    x0, y0, x1, y1 = (int(value) for value in masks[0].box)
    assert set(np.unique(labels[y0:y1, x0:x1])) == {1}
    picture = overlay(FRAME, masks, (256, 192))
    assert picture.shape == (192, 256, 3)
    assert picture.dtype == np.uint8
