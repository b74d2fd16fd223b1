"""The bench: scenes follow their seeds, and what is drawn is what the truth says."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.lab.scenes.ground_truth import extent
from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import COLOURS, SHAPES, Scene, SceneObject, make_scene
from steer_ros.lab.scenes.visible_objects import VISIBLE, matching, visible_objects_of
from steer_ros.lab.training.token_labels import BACKGROUND, IGNORE, kind_index, token_labels

SEEDS = st.integers(0, 10**6)
HUES = {"red": 0, "green": 120, "blue": 225, "yellow": 50, "purple": 283, "cyan": 184}
quick = settings(max_examples=20, deadline=None)


def lone(colour, shape, **where):
    thing = SceneObject("object_1", colour, shape, **{"x": 0.5, "y": 0.5, "size": 0.13, **where})
    return Scene(seed=3, objects=(thing,), noise=0.0, texture=0.0)


def test_the_bench_is_varied():
    assert len(SHAPES) >= 5 and len(COLOURS) >= 6
    scenes = [make_scene(seed) for seed in range(200)]
    assert {len(scene.objects) for scene in scenes} == {2, 3, 4, 5, 6}
    assert len({o.name for scene in scenes for o in scene.objects}) == len(SHAPES) * len(COLOURS)
    shares = [len({o.name for o in scene.objects}) < len(scene.objects) for scene in scenes]
    assert 0.05 < np.mean(shares) < 0.4  # duplicates occur, but not often


@quick
@given(SEEDS)
def test_a_seed_gives_one_scene_and_one_picture(seed):
    assert make_scene(seed) == make_scene(seed) != make_scene(seed + 1)
    a, b = render(make_scene(seed)), render(make_scene(seed))
    np.testing.assert_array_equal(a.image, b.image)
    assert a.image.shape == (336, 336, 3) and a.image.dtype == np.uint8


@quick
@given(SEEDS, st.sampled_from([(336, 336), (560, 336), (112, 196)]))
def test_truth_agrees_with_itself(seed, size):
    width, height = size
    frame = render(make_scene(seed), width, height)
    assert frame.image.shape == (height, width, 3)
    assert len({o.id for o in frame.objects}) == len(frame.objects)
    covering = np.zeros((height, width), int)
    for o in frame.objects:
        assert o.mask.shape == (height, width) and o.mask.dtype == bool
        assert o.box == extent(o.mask)
        assert 0 <= o.visibility <= 1 and (o.visibility > 0) == o.mask.any()
        covering += o.mask
    assert covering.max() <= 1, "a pixel shows one object"
    assert {o.id for o in visible_objects_of(frame)} == {o.id for o in frame.objects if o.visibility >= VISIBLE}


@quick
@given(SEEDS)
def test_objects_overlap_by_little_and_stay_on_the_bench(seed):
    frame = render(make_scene(seed))
    assert all(o.visibility > 0.45 for o in frame.objects)
    assert visible_objects_of(frame)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_under_a_mask_have_the_objects_colour(colour, shape):
    frame = render(lone(colour, shape))
    (truth,) = frame.objects
    assert truth.visibility > 0.97
    r, g, b = frame.image[truth.mask].mean(0) / 255
    hue, saturation, _ = colorsys.rgb_to_hsv(r, g, b)
    away = {name: abs((hue * 360 - h + 180) % 360 - 180) for name, h in HUES.items()}
    assert min(away, key=away.get) == colour and saturation > 0.3
    outside = frame.image[~truth.mask].astype(int)
    assert np.ptp(outside, axis=1).mean() < 15, "the bench is grey"


def test_visibility_counts_what_is_cut_off_and_what_is_covered():
    assert render(lone("red", "cube", x=0.0)).objects[0].visibility == pytest.approx(0.5, abs=0.05)
    assert render(lone("red", "cube", x=-0.5)).objects[0].box is None
    back, front = lone("red", "cube").objects[0], lone("blue", "dish", y=0.55).objects[0]
    frame = render(Scene(seed=1, objects=(back, front)))
    assert frame.objects[0].visibility < 0.8 < frame.objects[1].visibility


def test_noise_has_its_own_seed_and_leaves_the_truth():
    scene = make_scene(11)
    a, b, c = (render(scene, noise_seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.image, b.image)
    assert scene.noise > 0 and (a.image != c.image).mean() > 0.3
    for x, y in zip(a.objects, c.objects):
        np.testing.assert_array_equal(x.mask, y.mask)


@pytest.mark.parametrize("objects", [0, 9, -1])
def test_too_many_or_no_objects_are_refused(objects):
    with pytest.raises(ValueError, match=f"objects={objects}: a bench holds 1 to 8"):
        make_scene(1, objects)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="width=20"):
        render(make_scene(1), 20, 336)


@quick
@given(SEEDS)
def test_token_labels_follow_the_masks(seed):
    frame = render(make_scene(seed))
    labels = token_labels(frame)
    cells = np.stack([o.mask.reshape(12, 28, 12, 28).mean((1, 3)).ravel() for o in frame.objects])
    for token in range(144):
        object_index = labels.object_index[token]
        if object_index >= 0:
            truth = frame.objects[object_index]
            assert cells[object_index, token] == cells[:, token].max() >= 0.18
            assert labels.kind[token] == kind_index(truth.colour, truth.shape)
            np.testing.assert_allclose(labels.box[token] * 336, truth.box, atol=1e-3)
        else:
            assert labels.kind[token] in (BACKGROUND, IGNORE) and np.isnan(labels.box[token]).all()
    seen = {i for i, o in enumerate(frame.objects) if o.visibility > 0.6}
    assert seen <= set(labels.object_index.tolist())


def test_matching_goes_from_left_to_right():
    objects = visible_objects_of(render(make_scene(5, 6)))
    xs = [o.centre[0] for o in matching(objects)]
    assert xs == sorted(xs) and len(xs) == len(objects)
