"""Boxes and pixel masks to weights: exact coverage, unions, pooling, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steer_ros.regions.boxes import area, clip_box
from steer_ros.regions.coverage import box_coverage, pixel_coverage
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import Mask, box_weights, check_weights, pixel_weights, pool_to_tokens, union

settings.register_profile("regions", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("regions")

grids = st.builds(lambda r, c: PatchGrid(2 * r, 2 * c), st.integers(1, 24), st.integers(1, 24))
sizes = st.tuples(st.integers(1, 2000), st.integers(1, 2000))
fractions = st.floats(-0.5, 1.5)
int8s = st.integers(-127, 127)


@st.composite
def framed_boxes(draw):
    """A frame size and a box that may hang over its edges, at least 1e-3 of the frame wide and high."""
    width, height = draw(sizes)
    x, y = sorted((draw(fractions), draw(fractions))), sorted((draw(fractions), draw(fractions)))
    return (width, height), (x[0] * width, y[0] * height, (x[1] + 1e-3) * width, (y[1] + 1e-3) * height)


def weights_like(shape=(4, 6)):
    return hnp.arrays(np.int8, shape, elements=int8s)


@given(grids, framed_boxes())
def test_a_box_covers_its_area(grid, framed):
    size, box = framed
    inside = clip_box(box, size)
    cell = size[0] * size[1] / grid.num_patches
    total = box_coverage(grid, size, box).sum() * cell
    assert total == pytest.approx(area(inside) if inside else 0.0, rel=1e-9, abs=1e-9 * size[0] * size[1])


@given(grids, framed_boxes(), st.floats(0.05, 0.95))
def test_two_halves_of_a_box_cover_what_it_covers(grid, framed, at):
    size, (x0, y0, x1, y1) = framed
    middle = x0 + at * (x1 - x0)
    parts = box_coverage(grid, size, (x0, y0, middle, y1)) + box_coverage(grid, size, (middle, y0, x1, y1))
    np.testing.assert_allclose(parts, box_coverage(grid, size, (x0, y0, x1, y1)), atol=1e-9)


@given(grids, framed_boxes())
def test_a_flipped_box_has_flipped_coverage(grid, framed):
    (width, height), (x0, y0, x1, y1) = framed
    plain = box_coverage(grid, (width, height), (x0, y0, x1, y1))
    mirrored = box_coverage(grid, (width, height), (width - x1, y0, width - x0, y1))
    upended = box_coverage(grid, (width, height), (x0, height - y1, x1, height - y0))
    np.testing.assert_allclose(mirrored, plain[:, ::-1], atol=1e-9)
    np.testing.assert_allclose(upended, plain[::-1], atol=1e-9)


def test_partial_and_complete_coverage_by_hand():
    grid = PatchGrid(2, 4)  # in a frame of 40x20 px: patches of 10x10
    box = (5, 0, 25, 15)
    assert box_weights(grid, (40, 20), box).tolist() == [[64, 127, 64, 0], [32, 64, 32, 0]]
    assert box_weights(grid, (40, 20), box, -1.0).tolist() == [[-64, -127, -64, 0], [-32, -64, -32, 0]]
    assert box_weights(grid, (40, 20), box, coverage="complete").tolist() == [[0, 127, 0, 0], [0, 0, 0, 0]]
    assert box_weights(grid, (40, 20), (-9e9, -1, 9e9, 99), 0.5).tolist() == [[64] * 4] * 2


@given(grids, framed_boxes(), st.floats(-1, 1))
def test_weights_are_coverage_times_strength(grid, framed, strength):
    size, box = framed
    if clip_box(box, size) is None:
        with pytest.raises(ValueError, match="overlaps the frame"):
            box_weights(grid, size, box, strength)
        return
    weights = box_weights(grid, size, box, strength)
    assert weights.dtype == np.int8
    assert weights.shape == (grid.rows, grid.cols)
    assert np.abs(weights - box_coverage(grid, size, box) * strength * 127).max() <= 0.5 + 1e-9


@given(grids, st.data())
def test_a_pixel_mask_covers_what_its_pixels_do(grid, data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    pixels = np.zeros((height, width), bool)
    pixels[y0:y1, x0:x1] = True
    expected = box_coverage(grid, (width, height), (x0, y0, x1, y1))
    for mask in (pixels, pixels.astype(np.uint8) * 255, pixels.astype(np.float32)):
        np.testing.assert_allclose(pixel_coverage(grid, mask), expected, atol=1e-9)


@given(hnp.arrays(np.float64, (13, 17), elements=st.floats(0, 1)), grids)
def test_soft_masks_keep_their_total(mask, grid):
    assert pixel_coverage(grid, mask).mean() == pytest.approx(mask.mean(), abs=1e-9)


def test_an_empty_pixel_mask_has_no_weights():
    assert Mask(pixel_weights(PatchGrid(4, 4), np.zeros((30, 40), bool))).empty


@pytest.mark.parametrize(
    ("mask", "named"),
    [(np.zeros((0, 5), bool), "shape"), (np.zeros((2, 2, 3), np.uint8), "shape"),
     (np.full((4, 4), np.nan), "fractions"),
     (np.full((4, 4), 2.0), "fractions"), (np.full((2, 2), "x"), "accepted: bool")],
)  # fmt: skip
def test_bad_pixel_masks_are_refused(mask, named):
    with pytest.raises(ValueError, match=f"mask: .*{named}"):
        pixel_weights(PatchGrid(4, 4), mask)


@pytest.mark.parametrize(
    ("box", "named"),
    [((float("nan"), 0, 5, 5), "finite"), ((0, 0, float("inf"), 5), "finite"), ((5, 0, 5, 5), "x0 < x1"),
     ((9, 9, 1, 1), "x0 < x1"), ((40, 0, 50, 9), "overlaps the frame"), ((-9, -9, 0, 0), "overlaps the frame"),
     ((1, 2, 3), "four numbers"), ("abcd", "four numbers"), (None, "four numbers")],
)  # fmt: skip
def test_bad_boxes_are_refused(box, named):
    with pytest.raises(ValueError, match=f"box: got .*{named}"):
        box_weights(PatchGrid(4, 4), (40, 40), box)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (-4, 4), (1.5, 2), (1,), 7])
def test_bad_frame_sizes_are_refused(size):
    with pytest.raises(ValueError, match="frame_size: got"):
        box_weights(PatchGrid(4, 4), size, (0, 0, 1, 1))


@pytest.mark.parametrize("strength", [1.01, -2, float("nan"), float("inf"), "strong", None])
def test_strengths_outside_the_unit_are_refused(strength):
    with pytest.raises(ValueError, match="strength: got"):
        box_weights(PatchGrid(4, 4), (40, 40), (0, 0, 9, 9), strength)


def test_unknown_coverage_is_refused():
    with pytest.raises(ValueError, match="coverage: got 'most', accepted: partial, complete"):
        box_weights(PatchGrid(4, 4), (40, 40), (0, 0, 9, 9), coverage="most")


@given(st.lists(weights_like(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_union_has_no_order_and_is_idempotent(parts, random):
    merged = union(parts)
    shuffled = parts[:]
    random.shuffle(shuffled)
    np.testing.assert_array_equal(union(shuffled), merged)
    np.testing.assert_array_equal(union([*parts, parts[0]]), merged)
    np.testing.assert_array_equal(union([-part for part in parts]), -merged)


@given(st.lists(weights_like().map(lambda w: np.abs(w)), min_size=3, max_size=3))
def test_unions_of_one_sign_nest(parts):
    a, b, c = parts
    np.testing.assert_array_equal(union([union([a, b]), c]), union([a, b, c]))
    np.testing.assert_array_equal(union([a, union([b, c])]), np.maximum(np.maximum(a, b), c))


def test_a_union_lets_signs_conflict():
    rows = [np.array([[100, -5, 127, 0, 3]], np.int8), np.array([[-30, -90, -127, 0, 7]], np.int8)]
    assert union(rows).tolist() == [[70, -90, 0, 0, 7]]


def test_unions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="got none"):
        union([])
    with pytest.raises(ValueError, match=r"weights\[1\]: got shape \(2, 3\)"):
        union([np.zeros((2, 2), np.int8), np.zeros((2, 3), np.int8)])


@given(weights_like((4, 8)), st.sampled_from([1, 2, 4]))
def test_pooling_is_the_mean_rounded_half_to_even(weights, merge):
    tokens = pool_to_tokens(weights, merge)
    assert tokens.dtype == np.int8
    for row in range(4 // merge):
        for col in range(8 // merge):
            patches = weights[row * merge : (row + 1) * merge, col * merge : (col + 1) * merge]
            assert tokens[row, col] == round(int(patches.sum(dtype=int)) / merge**2)
    np.testing.assert_array_equal(pool_to_tokens(-weights, merge), -tokens)


def test_pooling_needs_whole_tokens():
    with pytest.raises(ValueError, match="merge = 2"):
        pool_to_tokens(np.zeros((3, 4), np.int8))


@pytest.mark.parametrize(
    ("weights", "named"),
    [(np.zeros((4, 5), np.int8), r"shape \(4, 5\), accepted: \[4, 6\]"), (np.zeros(23, np.int8), "23 values"),
     (np.zeros((6, 4), np.int8), r"\(6, 4\)"), (np.full((4, 6), -128, np.int8), "-128"),
     (np.full((4, 6), 128), "128"), (np.zeros((4, 6)), "float64"), (np.zeros((4, 6), bool), "bool"),
     ([[1, 2], [3]], "different lengths"), (None, "object"), ([], "float64")],
)  # fmt: skip
def test_weights_that_do_not_fit_the_grid_are_named(weights, named):
    with pytest.raises(ValueError, match=f"weights: .*{named}"):
        check_weights(PatchGrid(4, 6), weights)


@given(weights_like())
def test_weights_that_fit_come_back_as_they_are(weights):
    grid = PatchGrid(4, 6)
    for form in (weights, weights.ravel(), weights.tolist(), weights.astype(np.int64)):
        checked = check_weights(grid, form)
        assert checked.dtype == np.int8
        np.testing.assert_array_equal(checked, weights)


def test_a_mask_keeps_a_copy_of_its_own():
    weights = np.ones((4, 4), np.int8)
    mask = Mask(weights, label="red beaker", strength=1, box=[0, 0, 5, 5])
    weights[:] = 9
    assert mask.weights.max() == 1
    assert not mask.empty
    assert mask.box == (0.0, 0.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="read-only"):
        mask.weights[0, 0] = 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("score", 1.5), ("score", float("nan")), ("strength", -1.1), ("source", "hunch"), ("box", (3, 3, 1, 1)),
     ("weights", np.zeros(4, np.int8)), ("weights", np.zeros((2, 2)))],
)  # fmt: skip
def test_a_mask_names_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=f"{field}: got"):
        Mask(**{"weights": np.ones((2, 2), np.int8), field: value})
