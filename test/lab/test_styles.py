"""Scenes in drawn styles: the truth stays a truth, and what teaches the tower compares like with like."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros import cli
from steer_ros.lab.scenes.ground_truth import extent
from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import SHAPES, Scene, SceneObject, make_scene
from steer_ros.lab.scenes.styles import render_styled
from steer_ros.lab.training.distillation import distillation, read_heads
from steer_ros.lab.training.image_dataset import Frames, arrays_of

few = settings(max_examples=6, deadline=None)


def iou(a, b):
    x0, y0, x1, y1 = *np.maximum(a[:2], b[:2]), *np.minimum(a[2:], b[2:])
    both = max(0, x1 - x0) * max(0, y1 - y0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@few
@given(seed=st.integers(0, 10**6), style=st.integers(0, 10**6), size=st.sampled_from([(336, 336), (364, 280)]))
def test_truth_is_what_is_seen_and_where_the_plain_bench_has_it(seed, style, size):
    scene = make_scene(seed)
    styled, plain = render_styled(scene, style, *size), render(scene, *size)
    assert styled.image.shape == plain.image.shape and styled.image.dtype == np.uint8
    assert sum(o.mask.astype(int) for o in styled.objects).max() <= 1
    for mine, theirs in zip(styled.objects, plain.objects, strict=True):
        assert (mine.id, mine.name, mine.box) == (theirs.id, theirs.name, extent(mine.mask))
        assert 0 <= mine.visibility <= 1
        if theirs.visibility > 0.95 and mine.visibility > 0.95:
            assert iou(mine.box, theirs.box) > 0.6


def test_a_style_is_its_seeds_and_changes_the_picture():
    scene = make_scene(5)
    first, again, other = (render_styled(scene, seed).image for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


@pytest.mark.parametrize(("colour", "low", "high"), [("red", -25, 20), ("green", 80, 165), ("blue", 195, 255)])
def test_a_colour_stays_what_a_person_would_call_it(colour, low, high):
    """In the middle of an object, in most styles: some have an opening, a cap, or a highlight there."""
    right = 0
    for seed in range(15):
        shape = SHAPES[seed % len(SHAPES)]
        scene = Scene(seed, (SceneObject("object_1", colour, shape, 0.5, 0.5, 0.2),))
        frame = render_styled(scene, seed)
        pixel = np.median(frame.image[frame.objects[0].mask], axis=0) / 255
        hue, saturation, _ = colorsys.rgb_to_hsv(*pixel)
        right += low <= (hue * 360 + 90) % 360 - 90 <= high and saturation > 0.15
    assert right >= 13


def frames(pictures):
    return Frames(*(torch.from_numpy(np.stack(arrays)) for arrays in zip(*map(arrays_of, pictures), strict=True)))


def test_distillation_asks_nothing_where_the_two_pictures_differ():
    scenes = [make_scene(seed) for seed in range(4)]
    plain = frames([render(scene) for scene in scenes])
    drawn = frames([render_styled(scene, 3) for scene in scenes])
    taught = torch.randn(4, 144, 8, generator=torch.Generator().manual_seed(0))
    differ = (drawn.object_index != plain.object_index) | (drawn.kind < 0) | (plain.kind < 0)
    assert 0 < differ.float().mean() < 0.2
    assert distillation(taught + differ[..., None], taught, drawn, plain) == 0
    assert distillation(taught + 1, taught, drawn, plain) == pytest.approx(1)


def test_heads_read_from_the_tokens_what_they_hold():
    plain = frames([render(make_scene(seed)) for seed in range(2)])
    tokens = torch.cat(
        [torch.nn.functional.one_hot(plain.kind.clamp(min=0), 31), plain.box.nan_to_num(0.5)], -1
    ).float()
    torch.manual_seed(0)
    heads = read_heads(tokens, plain, steps=150, batch=2)
    known = plain.kind >= 0
    assert (heads.kind(heads.norm(tokens)).argmax(-1) == plain.kind)[known].float().mean() > 0.97
    assert not any(p.requires_grad for p in heads.parameters())


def test_the_stage_needs_a_model_to_go_on_from(tmp_path, capsys):
    assert cli.main(["train", "--stage", "styles", "--out", str(tmp_path), "--work", str(tmp_path / "work")]) == 2
    assert (
        capsys.readouterr().err == f"steer-ros train: {tmp_path / 'lab-vl'}: no model here for styles to go on from\n"
    )
    assert not (tmp_path / "work").exists()
