"""Patch grids: the same as Qwen2-VL's own, for any size it allows."""

import ast
import importlib.util
import math
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steer_ros.regions.grid import PatchGrid

settings.register_profile("regions", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("regions")


@pytest.fixture(scope="module")
def smart_resize():
    """transformers' function, cut out of its source: its module needs torchvision, which we do without."""
    spec = importlib.util.find_spec("transformers")
    if spec is None:
        pytest.skip("transformers is not installed")
    path = Path(spec.origin).parent / "models/qwen2_vl/image_processing_qwen2_vl.py"
    tree = ast.parse(path.read_text())
    body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "smart_resize"]
    scope = {"math": math}
    exec(compile(ast.Module(body, []), str(path), "exec"), scope)
    return scope["smart_resize"]


@given(
    width=st.integers(1, 8000),
    height=st.integers(1, 8000),
    limits=st.one_of(
        st.none(), st.tuples(st.integers(784, 10**6), st.integers(0, 10**7)).map(lambda t: (t[0], sum(t)))
    ),
)
def test_the_grid_is_that_of_transformers(smart_resize, width, height, limits):
    assume(max(width, height) <= 200 * min(width, height))
    kwargs = {} if limits is None else {"min_pixels": limits[0], "max_pixels": limits[1]}
    tall, wide = smart_resize(height, width, factor=28, **kwargs)
    grid = PatchGrid.for_image(width, height, **kwargs)
    assert (grid.height, grid.width) == (tall, wide)
    assert (grid.rows, grid.cols) == (tall // 14, wide // 14)
    assert (grid.token_rows, grid.token_cols) == (tall // 28, wide // 28)
    assert grid.num_patches == 4 * grid.num_tokens


@pytest.mark.parametrize(
    ("size", "patches", "tokens"),
    [((336, 336), (24, 24), 144), ((672, 672), (48, 48), 576), ((640, 480), (34, 46), 391)],
)
def test_known_sizes(size, patches, tokens):
    grid = PatchGrid.for_image(*size)
    assert (grid.rows, grid.cols) == patches
    assert grid.num_tokens == tokens


def test_a_larger_budget_gives_48_by_48_tokens():
    grid = PatchGrid.for_image(1344, 1344, max_pixels=1344 * 1344)
    assert (grid.token_rows, grid.token_cols) == (48, 48)


def test_an_8k_frame_stays_within_the_budget():
    grid = PatchGrid.for_image(7680, 4320)
    assert grid.width * grid.height <= 28 * 28 * 1280
    assert grid.cols > grid.rows


@pytest.mark.parametrize(
    ("size", "named"),
    [((0, 0), "image: got 0x0"), ((-1, 5), "image"), ((1000, 4), "1:200"), ((3.5, 4), "image"), (("a", 1), "image")],
)
def test_frames_without_a_grid_are_refused(size, named):
    with pytest.raises(ValueError, match=named):
        PatchGrid.for_image(*size)


def test_contradicting_limits_are_refused():
    with pytest.raises(ValueError, match="min_pixels"):
        PatchGrid.for_image(100, 100, min_pixels=2000, max_pixels=1000)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((3, 4), "rows: got 3"), ((4, 5), "cols: got 5"), ((0, 4), "rows"), ((4, 2.5), "cols"), ((4, 4, 0), "patch"),
     ((4, 4, 14, True), "merge")],
)  # fmt: skip
def test_impossible_grids_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        PatchGrid(*arguments)
