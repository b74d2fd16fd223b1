"""Masks and tokens survive the way through messages; what does not fit is refused by field."""

import array

import numpy as np
import pytest
import torch
from ros_helpers import header

from steer_ros.models.features import VisualFeatures
from steer_ros.nodes.messages import masks_message, read_masks, read_tokens, region_message, tokens_message
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import Mask

GRID = PatchGrid(6, 8)
HEADER = header(1234, "front")


def features(dtype=torch.float32):
    tokens = torch.randn(GRID.num_tokens, 5).to(dtype)
    return VisualFeatures(tokens, GRID, (112, 84), "builtin:lab-vl", 1_234_000_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tokens_come_back_bit_for_bit(dtype):
    before = features(dtype)
    after = read_tokens(tokens_message(before, HEADER, True, 1.5))
    assert after.tokens.dtype == dtype
    assert torch.equal(after.tokens.view(torch.uint8), before.tokens.view(torch.uint8))
    assert (after.grid, after.frame_size, after.model) == (GRID, (112, 84), "builtin:lab-vl")
    assert after.stamp == 1_234_000_000


@pytest.mark.parametrize(
    ("field", "value"),
    [("grid_rows", 4), ("grid_cols", 0), ("merge_size", 0), ("hidden_size", 0), ("dtype", 9), ("image_width", 0)],
)
def test_tokens_that_do_not_fit_are_refused_by_field(field, value):
    message = tokens_message(features(), HEADER, True, 1.5)
    setattr(message, field, value)
    with pytest.raises(ValueError, match="visual_tokens"):
        read_tokens(message)


def some_masks():
    weights = np.arange(-24, 24, dtype=np.int8).reshape(6, 8)
    return [
        Mask(weights, "red beaker", "3", 0.5, 1.0, "track", (10.0, 20.0, 30.0, 40.0)),
        Mask(-weights, "", "", 0.25, -0.5, "saliency", None),
    ]


def test_masks_come_back_as_they_were():
    message = masks_message(some_masks(), features(), HEADER)
    assert message.header == HEADER
    assert (message.image_width, message.image_height) == (112, 84)
    grid, masks = read_masks(message)
    assert (grid.rows, grid.cols, grid.merge) == (6, 8, 2)
    for before, after in zip(some_masks(), masks, strict=True):
        assert np.array_equal(before.weights, after.weights)
        for name in ("label", "track_id", "score", "strength", "source", "box"):
            assert getattr(before, name) == getattr(after, name)


def test_no_masks_is_a_message_too():
    assert read_masks(masks_message([], features(), HEADER))[1] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m, "grid_rows", 7), "grid of 7x8"),
        (lambda m: setattr(m, "merge_size", 0), "merge_size 0"),
        (lambda m: setattr(m, "grid_cols", 10), r"masks\[0\]: grid 6x8; the array's is 6x10"),
        (lambda m: setattr(m.masks[1], "weights", array.array("b", [1] * 47)), r"masks\[1\].weights: 47"),
        (lambda m: setattr(m.masks[1], "score", float("nan")), r"masks\[1\].score"),
        (lambda m: setattr(m.masks[0], "strength", 3.0), r"masks\[0\].strength"),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_field(change, words):
    message = masks_message(some_masks(), features(), HEADER)
    change(message)
    with pytest.raises(ValueError, match=words):
        read_masks(message)


def test_regions_are_whole_pixels_within_the_frame():
    region = region_message((-3.0, 1.2, 50.5, 99.0), (40, 30))
    assert (region.x_offset, region.y_offset, region.width, region.height) == (0, 1, 40, 29)
