"""Camera messages to RGB arrays, or a BadImage that says what is wrong with one.

`check` costs nothing and runs in the callback, so that a broken frame never displaces a good one; `to_rgb` converts,
on a lane. Only 8-bit images are taken: how a 16-bit one (depth, mostly) maps to colours is not for us to guess.
"""

from __future__ import annotations

import array
import io
import math
from types import SimpleNamespace

import cv2
import numpy as np
from cv_bridge import CvBridge
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

# encoding: channels, the encoding that every cv_bridge reads the bytes as, the conversion to RGB. OpenCV names a bayer
# pattern by its second row, ROS by its first.
ENCODINGS: dict[str, tuple[int, str, int | None]] = {
    "rgb8": (3, "8UC3", None),
    "bgr8": (3, "8UC3", cv2.COLOR_BGR2RGB),
    "8UC3": (3, "8UC3", cv2.COLOR_BGR2RGB),
    "rgba8": (4, "8UC4", cv2.COLOR_RGBA2RGB),
    "bgra8": (4, "8UC4", cv2.COLOR_BGRA2RGB),
    "8UC4": (4, "8UC4", cv2.COLOR_BGRA2RGB),
    "mono8": (1, "8UC1", cv2.COLOR_GRAY2RGB),
    "8UC1": (1, "8UC1", cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, "8UC1", cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, "8UC1", cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, "8UC1", cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, "8UC1", cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, "8UC2", cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, "8UC2", cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, "8UC2", cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, "8UC2", cv2.COLOR_YUV2RGB_YUY2),
}
DEEP = ("16", "32", "64")  # how the names of encodings over 8 bits begin, if they don't end in 16
PNG_DEPTH = 24  # where a PNG has its bits per channel
MAX_ASPECT = 200  # Qwen2-VL's resizing takes no thinner image


class BadImage(ValueError):
    """An image that can't be used. `kind` is one word for counting: size, encoding, step, length, data."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def check(message: Image | CompressedImage, max_pixels: int) -> None:
    """Raise BadImage for what the message's own fields give away."""
    if isinstance(message, CompressedImage):
        if not len(message.data):
            raise BadImage("data", "compressed image without data")
        if "compressedDepth" in message.format:
            raise BadImage("encoding", f"format {message.format[:80]!r}: depth; accepted are 8-bit jpeg and png")
        return
    width, height = message.width, message.height
    _check_size(width, height, max_pixels)
    if message.encoding not in ENCODINGS:
        raise BadImage("encoding", f"encoding {message.encoding[:80]!r}; accepted are {', '.join(ENCODINGS)}")
    channels = ENCODINGS[message.encoding][0]
    if channels == 2 and width % 2:
        raise BadImage("size", f"size {width}x{height}: {message.encoding} needs an even width")
    if message.step < width * channels:
        raise BadImage("step", f"step {message.step}: {width} pixels of {message.encoding} need {width * channels}")
    if len(message.data) != message.step * height:
        raise BadImage(
            "length",
            f"{len(message.data)} bytes of data; step {message.step} x height {height} is {message.step * height}",
        )


def to_rgb(message: Image | CompressedImage, bridge: CvBridge, max_pixels: int) -> np.ndarray:
    """The frame as uint8 [height, width, 3] RGB. Raises BadImage."""
    check(message, max_pixels)
    if isinstance(message, CompressedImage):
        return _decompressed(message, bridge, max_pixels)
    channels, read_as, conversion = ENCODINGS[message.encoding]
    data = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    tight = np.ascontiguousarray(data[:, : message.width * channels])  # not every cv_bridge heeds the step
    plain = SimpleNamespace(
        height=message.height,
        width=message.width,
        encoding=read_as,
        is_bigendian=0,
        step=message.width * channels,
        data=tight.reshape(-1),
    )
    pixels = bridge.imgmsg_to_cv2(plain, "passthrough")
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


def shrunk(image: np.ndarray, max_pixels: int) -> np.ndarray:
    """The image itself, or a copy scaled down to at most `max_pixels` with its aspect kept."""
    height, width = image.shape[:2]
    if width * height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (width * height))
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def to_message(image: np.ndarray, encoding: str, header: Header) -> Image:
    """A message of uint8 [height, width] or [height, width, channels]. Raises ValueError if the encoding differs."""
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != np.uint8 or ENCODINGS[encoding][0] != channels:
        raise ValueError(
            f"image: {image.dtype} {list(image.shape)}; {encoding} wants uint8 with {ENCODINGS[encoding][0]} channels"
        )
    # As an array: rclpy takes a second and more over a list or bytes of this length.
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).tobytes())
    return Image(
        header=header,
        height=image.shape[0],
        width=image.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=image.shape[1] * channels,
        data=data,
    )


def _decompressed(message: CompressedImage, bridge: CvBridge, max_pixels: int) -> np.ndarray:
    raw = bytes(message.data)
    original = message.format.partition(";")[0].strip()  # "bayer_rggb8; png compressed "
    try:
        with PillowImage.open(io.BytesIO(raw)) as picture:  # reads the header alone: a bomb is not unpacked
            _check_size(*picture.size, max_pixels)
            deep = picture.mode.startswith(("I", "F")) or original.endswith("16") or original.startswith(DEEP)
            deep = deep or (picture.format == "PNG" and raw[PNG_DEPTH] > 8)  # Pillow's mode hides it in colour
    except BadImage:
        raise
    except Exception as error:
        raise BadImage("data", f"compressed data of format {message.format[:80]!r}: not a readable image") from error
    if deep:
        raise BadImage("encoding", f"format {message.format[:80]!r}: over 8 bits; accepted are 8-bit jpeg and png")
    try:
        pixels = bridge.compressed_imgmsg_to_cv2(SimpleNamespace(format=message.format, data=raw), "passthrough")
    except cv2.error:
        pixels = None
    if pixels is None:
        raise BadImage("data", f"compressed data of format {message.format[:80]!r}: broken off or damaged")
    if pixels.ndim == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    conversion = ENCODINGS[original][2] if original.startswith("bayer_") and original in ENCODINGS else None
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if conversion is None else conversion)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImage("size", f"size {width}x{height}: empty")
    if width * height > max_pixels:
        raise BadImage("size", f"size {width}x{height}: over the {max_pixels} pixels of max_image_pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage("size", f"size {width}x{height}: sides more than {MAX_ASPECT} to 1")
