"""Clips move smoothly, follow their seeds, and start where the scene stands."""

from itertools import pairwise

import numpy as np
import pytest

from steer_ros.lab.scenes.clip import make_clip
from steer_ros.lab.scenes.ground_truth import extent
from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import make_scene


def test_a_clip_follows_its_seed():
    first, again, other = (list(make_clip(seed, 5, objects=4)) for seed in (7, 7, 8))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a.image, b.image)
    assert (first[0].image != other[0].image).any()


def test_a_longer_clip_begins_like_a_shorter_one():
    for a, b in zip(make_clip(3, 4), make_clip(3, 9)):
        np.testing.assert_array_equal(a.image, b.image)


def test_it_starts_at_the_scene_itself():
    frame = next(make_clip(7, 1, objects=3, duplicates=0.0))
    still = render(make_scene(7, 3, duplicates=0.0))
    for a, b in zip(frame.objects, still.objects):
        assert (a.id, a.name) == (b.id, b.name)
        np.testing.assert_allclose(a.box, b.box, atol=1)


@pytest.mark.parametrize("seed", [1, 7, 21])
def test_everything_moves_and_nothing_jumps(seed):
    frames = list(make_clip(seed, 30, objects=4))
    ids = [[o.id for o in frame.objects] for frame in frames]
    assert all(i == ids[0] for i in ids), "objects keep their ids"
    for before, after in pairwise(frames):
        for a, b in zip(before.objects, after.objects):
            assert b.box == extent(b.mask)
            if min(a.visibility, b.visibility) > 0.95:
                assert np.abs(np.subtract(a.centre, b.centre)).max() <= 7
    moved = [np.abs(np.subtract(a.centre, b.centre)).max() for a, b in zip(frames[0].objects, frames[-1].objects)]
    assert max(moved) > 10


def test_noise_is_new_in_each_frame():
    a, b = (f.image.astype(int) for f in make_clip(5, 2, speed=0.0, camera_motion=0.0))
    assert (a != b).mean() > 0.2 and np.abs(a - b).mean() < 20


def test_a_still_camera_and_still_objects_leave_the_truth_as_it_is():
    first, *_, last = make_clip(5, 20, speed=0.0, camera_motion=0.0)
    for a, b in zip(first.objects, last.objects):
        np.testing.assert_array_equal(a.mask, b.mask)


def test_the_camera_alone_moves_all_objects():
    first, *_, last = make_clip(5, 12, objects=3, speed=0.0, camera_motion=2.0)
    assert all(a.box != b.box for a, b in zip(first.objects, last.objects))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"frames": 0}, "frames=0"),
        ({"frames": 10, "speed": -0.1}, "speed=-0.1"),
        ({"frames": 10, "speed": float("nan")}, "speed=nan"),
        ({"frames": 10, "camera_motion": 9}, "camera_motion=9"),
        ({"frames": 10, "objects": 12}, "objects=12"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(wrong, says):
    with pytest.raises(ValueError, match=says):
        next(make_clip(1, **wrong))
