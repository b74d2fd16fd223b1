"""Frames to visual tokens, on a tiny Qwen2-VL."""

import threading

import numpy as np
import pytest
import torch
from tiny_models import frame, perceiver, reference_patches, save_vl, vl_folder

from steer_ros.perception import Perceiver
from steer_ros.regions.grid import PatchGrid


@pytest.fixture(scope="module")
def eyes():
    return perceiver()


@pytest.fixture(scope="module")
def features(eyes):
    return eyes.encode(frame())


def test_encode(eyes):
    image = frame()
    seen = eyes.encode(image, stamp=7)
    assert (seen.grid, seen.frame_size, seen.stamp, seen.model) == (PatchGrid(8, 8), (112, 112), 7, str(vl_folder()))
    with torch.no_grad():
        wanted = eyes.model.get_image_features(reference_patches(image), torch.tensor([[1, 8, 8]])).pooler_output[0]
    torch.testing.assert_close(seen.tokens, wanted)


@pytest.mark.parametrize("size", [(112, 112), (640, 480), (480, 640), (33, 91), (1280, 720), (100, 5)])
def test_preprocessing_is_the_processors(eyes, size):
    """Within two grey levels, 0.02 on average over the frame: Pillow rounds after each axis."""
    pytest.importorskip("PIL")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil.from_pretrained(vl_folder())
    image = frame(*size)
    theirs = processor(images=image, return_tensors="pt")
    grid = eyes.preprocessor.grid_for(*size)
    assert theirs["image_grid_thw"].tolist() == [[1, grid.rows, grid.cols]]
    ours = eyes.preprocessor.patches(image, grid, torch.device("cpu"))
    level = 1 / 255 / min(eyes.preprocessor.std)
    error = (ours - theirs["pixel_values"]).abs()
    assert error.max() <= 2.02 * level
    assert error.mean() <= 0.02 * level
    if size == (112, 112):
        assert error.max() < 1e-5


@pytest.mark.parametrize("size", [(640, 480), (33, 91), (1, 1), (1280, 720), (2000, 10)])
def test_other_sizes(eyes, size):
    seen = eyes.encode(frame(*size))
    assert seen.tokens.shape == (seen.grid.num_tokens, 32)
    assert seen.frame_size == size
    assert torch.isfinite(seen.tokens).all()


def test_views_and_read_only_frames(eyes, features):
    image = frame()
    flipped = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    image.setflags(write=False)
    assert torch.equal(eyes.encode(image).tokens, features.tokens)
    assert torch.equal(eyes.encode(flipped).tokens, features.tokens)


@pytest.mark.parametrize(
    "image",
    [None, [[0]], frame().astype(np.float32), frame()[..., 0], frame()[..., :1], np.zeros((0, 5, 3), np.uint8),
     np.zeros((9, 9, 4), np.uint8), np.zeros((4, 900, 3), np.uint8), np.zeros((9, 9, 3), np.uint16)],
)  # fmt: skip
def test_bad_frames(eyes, image):
    with pytest.raises(ValueError, match="image"):
        eyes.encode(image)


def test_from_a_worker_thread(eyes, features):
    """Tokens made under inference mode in one thread serve another."""
    found = []

    def work():
        with torch.inference_mode():
            found.append(eyes.encode(frame()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert torch.equal(found[0].tokens, features.tokens)
    eyes.ground("cube", found[0], max_new_tokens=2)
    assert eyes.saliency("cube", found[0]).shape == (8, 8)


def test_half_precision(tmp_path):
    eyes = Perceiver.from_pretrained(str(save_vl(tmp_path / "vl")), dtype="bfloat16")
    seen = eyes.encode(frame())
    assert seen.tokens.dtype == torch.bfloat16
    eyes.ground("cube", seen, max_new_tokens=2)
