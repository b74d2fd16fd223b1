"""Every encoding that is taken comes out in the right colours; every broken image is refused by name."""

import array

import cv2
import numpy as np
import pytest
from cv_bridge import CvBridge
from hypothesis import given, settings
from hypothesis import strategies as st
from ros_helpers import header, image
from sensor_msgs.msg import CompressedImage, Image

from steer_ros.nodes.images import ENCODINGS, BadImage, check, shrunk, to_message, to_rgb

BRIDGE = CvBridge()
LIMIT = 40_000_000
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def refusal(message, limit=LIMIT):
    with pytest.raises(BadImage) as caught:
        to_rgb(message, BRIDGE, limit)
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("8UC3", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, RGB[..., :1]])),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., :1]])),
    ],
)
def test_colours_survive(encoding, pixels):
    assert np.array_equal(to_rgb(image(pixels, 1, encoding), BRIDGE, LIMIT), RGB)


def test_grey_becomes_grey():
    grey = RGB[..., 0]
    assert np.array_equal(to_rgb(image(grey, 1, "mono8"), BRIDGE, LIMIT), np.dstack([grey] * 3))


@pytest.mark.parametrize(("name", "at"), [("rggb", (0, 0)), ("bggr", (1, 1)), ("gbrg", (1, 0)), ("grbg", (0, 1))])
def test_bayer_patterns_put_red_where_they_say(name, at):
    mosaic = np.zeros((16, 16), np.uint8)
    mosaic[at[0] :: 2, at[1] :: 2] = 200
    rgb = to_rgb(image(mosaic, 1, f"bayer_{name}8"), BRIDGE, LIMIT)[4:-4, 4:-4].reshape(-1, 3).mean(0)
    assert rgb[0] > 150
    assert rgb[2] < 20


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", [1, 0]), ("uyvy", [1, 0]), ("yuyv", [0, 1])])
def test_yuv_is_read_in_its_order(encoding, order):
    packed = np.stack([np.full((4, 4), 90, np.uint8), np.full((4, 4), 128, np.uint8)], -1)[..., order]
    rgb = to_rgb(image(packed, 1, encoding), BRIDGE, LIMIT)
    assert np.abs(rgb.astype(int) - 86).max() <= 2  # luma 90 of 16…235, no colour


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_padded_rows_are_read_by_their_step(width, height, padding):
    rgb = RNG.integers(0, 256, (height, width, 3), np.uint8)
    padded = np.full((height, width * 3 + padding), 7, np.uint8)
    padded[:, : width * 3] = rgb.reshape(height, -1)
    data = array.array("B", padded.tobytes())
    message = Image(height=height, width=width, encoding="rgb8", step=width * 3 + padding, data=data)
    assert np.array_equal(to_rgb(message, BRIDGE, LIMIT), rgb)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (dict(width=0, height=0, step=0, data=array.array("B")), "size", "0x0"),
        (dict(height=0), "size", "8x0"),
        (dict(encoding="mono16"), "encoding", "'mono16'"),
        (dict(encoding="rgb16"), "encoding", "'rgb16'"),
        (dict(encoding="16UC1"), "encoding", "'16UC1'"),
        (dict(encoding="32FC1"), "encoding", "'32FC1'"),
        (dict(encoding="bayer_rggb16"), "encoding", "'bayer_rggb16'"),
        (dict(encoding="%s%n{0}"), "encoding", "'%s%n{0}'"),
        (dict(encoding=""), "encoding", "''"),
        (dict(step=23), "step", "step 23"),
        (dict(step=25), "length", "144 bytes"),
        (dict(step=2**31), "length", "144 bytes"),
        (dict(data=array.array("B", [1] * 143)), "length", "143 bytes"),
        (dict(data=array.array("B")), "length", "0 bytes"),
        (dict(width=2**32 - 1, height=2**32 - 1), "size", "max_image_pixels"),
    ],
)
def test_broken_images_are_refused_by_name(changes, kind, words):
    message = image(RGB, 1, **changes)
    found, text = refusal(message)
    assert found == kind
    assert words in text
    assert "\n" not in text
    with pytest.raises(BadImage):
        check(message, LIMIT)


def test_slivers_and_odd_yuv_are_refused():
    assert refusal(image(np.zeros((1, 201, 3), np.uint8), 1))[0] == "size"
    assert refusal(image(np.zeros((4, 3, 2), np.uint8), 1, "uyvy"))[0] == "size"


def test_the_size_limit_is_inclusive():
    assert to_rgb(image(RGB, 1), BRIDGE, 48).shape == (6, 8, 3)
    assert refusal(image(RGB, 1), limit=47)[0] == "size"


@given(st.binary(max_size=400), st.sampled_from(list(ENCODINGS)), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_no_bytes_do_worse_than_a_refusal(data, encoding, width, height):
    message = Image(height=height, width=width, encoding=encoding, data=array.array("B", data))
    message.step = len(data) // height if height else 0
    try:
        rgb = to_rgb(message, BRIDGE, LIMIT)
    except BadImage:
        return
    assert rgb.shape == (height, width, 3)
    assert rgb.dtype == np.uint8


def compressed(data, text="jpeg"):
    return CompressedImage(header=header(1), format=text, data=array.array("B", bytes(data)))


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed_images_are_read(extension):
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    data = cv2.imencode(extension, flat[..., ::-1])[1]
    rgb = to_rgb(compressed(data, extension[1:]), BRIDGE, LIMIT)
    assert rgb.shape == (16, 24, 3)
    assert np.abs(rgb.astype(int) - flat).max() <= 4


PNG = cv2.imencode(".png", RGB)[1].tobytes()


@pytest.mark.parametrize("data", [b"", b"garbage", PNG[:20], b"\xff\xd8\xff\xe0" + b"\0" * 100])
def test_compressed_garbage_is_refused(data):
    assert refusal(compressed(data))[0] == "data"


def test_a_compressed_bomb_is_refused_before_it_is_unpacked():
    bomb = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    assert refusal(compressed(bomb, "png"))[0] in ("size", "data")
    large = cv2.imencode(".png", np.zeros((100, 100, 3), np.uint8))[1]
    assert refusal(compressed(large, "png"), limit=9_999)[0] == "size"


def test_compressed_depth_is_refused_by_name():
    kind, text = refusal(compressed(PNG, "16UC1; compressedDepth png"))
    assert (kind, "compressedDepth" in text) == ("encoding", True)


def test_shrinking_keeps_the_aspect_and_the_limit():
    wide = np.zeros((4320, 7680, 3), np.uint8)
    small = shrunk(wide, 2_000_000)
    assert small.shape[0] * small.shape[1] <= 2_000_000
    assert abs(small.shape[1] / small.shape[0] - 16 / 9) < 0.01
    assert shrunk(small, 2_000_000) is small


def test_messages_go_and_come_back():
    message = to_message(RGB[..., ::-1], "bgr8", header(5))
    assert np.array_equal(to_rgb(message, BRIDGE, LIMIT), RGB)
    assert message.header == header(5)
    with pytest.raises(ValueError, match="bgr8"):
        to_message(RGB[..., 0], "bgr8", header(5))


@pytest.mark.parametrize("original", ["16UC1", "mono16", "rgb16", "32FC1"])
def test_compressed_images_of_more_than_8_bits_are_refused_as_raw_ones_are(original):
    channels = 3 if original == "rgb16" else 1
    deep = cv2.imencode(".png", np.full((8, 8, channels), 4000, np.uint16))[1]
    kind, text = refusal(compressed(deep, f"{original}; png compressed "))
    assert (kind, original in text) == ("encoding", True)
    assert refusal(compressed(deep, "png"))[0] == "encoding"  # whatever the format says, the data does not lie


def test_a_compressed_bayer_pattern_keeps_its_colours():
    mosaic = np.zeros((16, 16), np.uint8)
    mosaic[::2, ::2] = 200  # red, where bayer_rggb8 has it
    data = cv2.imencode(".png", mosaic)[1]
    rgb = to_rgb(compressed(data, "bayer_rggb8; png compressed "), BRIDGE, LIMIT)
    assert rgb[4:12, 4:12].mean((0, 1)).argmax() == 0 and rgb[4:12, 4:12, 2].max() == 0
    grey = to_rgb(compressed(data, "mono8; png compressed "), BRIDGE, LIMIT)
    assert (grey == mosaic[..., None]).all()
