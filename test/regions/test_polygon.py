"""Polygons to weights: the exact area of each patch, convex or not."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.regions.coverage import box_coverage, polygon_coverage
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import polygon_weights

settings.register_profile("regions", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("regions")

grids = st.builds(lambda r, c: PatchGrid(2 * r, 2 * c), st.integers(1, 15), st.integers(1, 15))
SIZE = (160, 120)


@st.composite
def stars(draw, reach=300.0):
    """Star-shaped polygons: any distances at rising angles round a centre; simple, mostly not convex."""
    count = draw(st.integers(3, 14))
    steps = np.array(draw(st.lists(st.floats(0.2, 1), min_size=count, max_size=count)))
    angles = np.cumsum(steps) / steps.sum() * 2 * math.pi
    if np.diff(angles, append=angles[0] + 2 * math.pi).max() >= 3.0:  # the centre must be inside
        angles = np.arange(count) * 2 * math.pi / count
    distances = np.array(draw(st.lists(st.floats(5, reach), min_size=count, max_size=count)))
    middle = np.array([draw(st.floats(-20, 180)), draw(st.floats(-20, 140))])
    return middle + distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def shoelace(points):
    x, y = points.T
    return abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def total(grid, points):
    return polygon_coverage(grid, SIZE, points).sum() * SIZE[0] * SIZE[1] / grid.num_patches


def clipped(points, axis, limit, keep_below):
    """Sutherland-Hodgman against one line: an independent way to cut; degenerate bridges have no area."""
    result = []
    for start, stop in zip(points, np.roll(points, -1, axis=0), strict=True):
        inside = [(p[axis] <= limit) == keep_below for p in (start, stop)]
        if inside[0]:
            result.append(start)
        if inside[0] != inside[1]:
            at = (limit - start[axis]) / (stop[axis] - start[axis])
            result.append(start + at * (stop - start))
    return np.array(result).reshape(-1, 2)


@given(grids, stars())
def test_a_polygon_covers_its_area_within_the_frame(grid, points):
    inside = points
    for axis, limit, below in ((0, 0, False), (0, SIZE[0], True), (1, 0, False), (1, SIZE[1], True)):
        inside = clipped(inside, axis, limit, below)
    assert total(grid, points) == pytest.approx(shoelace(inside) if len(inside) else 0.0, abs=1e-6)


@given(stars())
def test_each_patch_has_the_area_of_the_polygon_cut_to_it(points):
    grid = PatchGrid(4, 6)
    width, height = SIZE[0] / grid.cols, SIZE[1] / grid.rows
    covered = polygon_coverage(grid, SIZE, points)
    for row in range(grid.rows):
        for col in range(grid.cols):
            cell = points
            for axis, start, side in ((0, col * width, width), (1, row * height, height)):
                cell = clipped(clipped(cell, axis, start, False), axis, start + side, True)
            expected = shoelace(cell) / (width * height) if len(cell) else 0.0
            assert covered[row, col] == pytest.approx(expected, abs=1e-8)


@given(grids, stars())
def test_direction_start_and_flips_do_not_matter(grid, points):
    covered = polygon_coverage(grid, SIZE, points)
    np.testing.assert_allclose(polygon_coverage(grid, SIZE, points[::-1]), covered, atol=1e-8)
    np.testing.assert_allclose(polygon_coverage(grid, SIZE, np.roll(points, 2, axis=0)), covered, atol=1e-8)
    mirrored = points * [-1, 1] + [SIZE[0], 0]
    np.testing.assert_allclose(polygon_coverage(grid, SIZE, mirrored), covered[:, ::-1], atol=1e-8)


@given(grids, st.tuples(*[st.floats(-50, 200)] * 2, *[st.floats(0.1, 200)] * 2))
def test_a_rectangle_is_a_box(grid, shape):
    x0, y0, width, height = shape
    box = (x0, y0, x0 + width, y0 + height)
    corners = [(box[i], box[j]) for i, j in ((0, 1), (2, 1), (2, 3), (0, 3))]
    np.testing.assert_allclose(polygon_coverage(grid, SIZE, corners), box_coverage(grid, SIZE, box), atol=1e-8)


@settings(max_examples=20)
@given(stars(reach=60.0))
def test_it_agrees_with_pixels_drawn_sixteen_times_as_large(points):
    grid, fine = PatchGrid(6, 8), 16
    drawn = np.zeros((SIZE[1] * fine, SIZE[0] * fine), np.uint8)
    cv2.fillPoly(drawn, [np.rint(points * fine - 0.5).astype(np.int32)], 1)
    pixels = drawn.reshape(6, -1, 8, SIZE[0] * fine // 8).mean(axis=(1, 3))
    assert np.abs(polygon_coverage(grid, SIZE, points) - pixels).max() < 0.05  # the pixels' error, along edges


def test_a_c_shape_leaves_its_gap_free():
    c_shape = [(0, 0), (40, 0), (40, 10), (10, 10), (10, 30), (40, 30), (40, 40), (0, 40)]
    weights = polygon_weights(PatchGrid(4, 4), (40, 40), c_shape, -1.0)
    assert weights.tolist() == [[-127] * 4, [-127, 0, 0, 0], [-127, 0, 0, 0], [-127] * 4]


def test_a_contour_with_many_points():
    angle = np.linspace(0, 2 * math.pi, 2048, endpoint=False)
    circle = np.stack([80 + 50 * np.cos(angle), 60 + 50 * np.sin(angle)], axis=1)
    assert total(PatchGrid(24, 24), circle) == pytest.approx(math.pi * 50**2, rel=1e-5)


@pytest.mark.parametrize(
    ("points", "named"),
    [([(0, 0), (9, 9)], "3 <= N"), ([(0, 0, 0)] * 3, "shape"), (np.zeros((2049, 2)), "2048"), ("abc", "not numbers"),
     ([(0, 0), (9, 0), (float("nan"), 9)], "finite"), ([(0, 0), (1e300, 0), (0, 9)], "too far"),
     ([(0, 0), (9, 9), (20, 20)], "on one line"), ([(0, 0), (20, 20), (20, 0), (0, 20)], "edges 0 and 2 cross"),
     ([(0, 0), (9, 0), (9, 9), (0, 9)] * 2, "covers itself"), ([(-9, -9), (-1, -9), (-5, -1)], "outside the frame")],
)  # fmt: skip
def test_bad_polygons_are_refused(points, named):
    with pytest.raises(ValueError, match=f"points: .*{named}"):
        polygon_weights(PatchGrid(4, 4), (40, 40), points)
