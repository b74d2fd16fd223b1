"""Clips as real rosbag2 files: camera images, camera info, and the truth beside them. Read back for judging.

Written and read with `rosbags`, which needs no ROS; `ros2 bag play` and `steer-ros replay` play the same files.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..commands.arguments import output_folder, real_number, whole_number
from .scenes.clip import make_clip
from .scenes.ground_truth import BagTruth, write_truth
from .scenes.render import RenderedScene, Truth
from .seeds import DEMO_SEED, FIRST_TRAINING_SEED

STORAGES = ("mcap", "sqlite3")
COMPRESSIONS = (False, "jpeg", "png")
ENCODINGS = ("rgb8", "bgr8")
IMAGE, COMPRESSED, INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))
START_NS = 1_767_225_600_000_000_000  # 2026-01-01 00:00:00 UTC: the same clip gives the same stamps on any day
END_NS = 2**31 * 10**9  # a stamp's seconds are an int32
JPEG_QUALITY = 95
_TOPIC = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")
_FILES = re.compile(r"metadata\.yaml|truth\.json|.+\.(mcap|db3)(-shm|-wal|\.zstd)?")
_FOREVER = (9_223_372_036, 854_775_807)  # how rosbag2 writes a duration without end


class BagError(ValueError):
    """A bag that can't be written or read; the message names it and says why."""


def write_bag(
    path: str | Path,
    frames: Iterable[RenderedScene],
    *,
    storage: str = "mcap",
    compressed: bool | str = False,
    encoding: str = "rgb8",
    fps: float = 10.0,
    topic: str = "/image",
    info_topic: str = "/camera_info",
    frame_id: str = "bench_camera",
    start_ns: int = START_NS,
    force: bool = False,
) -> BagTruth:
    """Write frames into a new bag, and their truth to ``truth.json`` in it.

    Args:
        path: the bag's folder, which must not exist unless ``force`` lets a bag that is there be replaced.
        frames: rendered frames, all of one size.
        storage: ``mcap`` or ``sqlite3``.
        compressed: ``False`` for sensor_msgs/Image on ``topic``; ``"jpeg"`` or ``"png"`` for
            sensor_msgs/CompressedImage on ``<topic>/compressed``.
        encoding: of raw images, ``rgb8`` or ``bgr8``.
        fps: frames per second; the stamps follow from it and from ``start_ns``, nanoseconds of the first frame.
        topic, info_topic: absolute topic names of the images and of their sensor_msgs/CameraInfo.
        frame_id: of every header.

    Returns:
        the truth that was written.

    Raises:
        BagError: a folder that is there already, no frames, or frames of several sizes.
        ValueError: an argument that is not accepted.
    """
    path = Path(path)
    for name, value, accepted in (
        ("storage", storage, STORAGES),
        ("compressed", compressed, COMPRESSIONS),
        ("encoding", encoding, ENCODINGS),
    ):
        if value not in accepted:
            raise ValueError(f"{name}={value!r}: accepted are {', '.join(map(str, accepted))}")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps={fps}: accepted are rates above 0, up to 1000")
    if not 0 <= start_ns < END_NS:
        raise ValueError(f"start_ns={start_ns}: accepted are nanoseconds since 1970, from 0 to before {END_NS}")
    for name, value in (("topic", topic), ("info_topic", info_topic)):
        if not _TOPIC.fullmatch(value):
            raise ValueError(f"{name}={value!r}: accepted are absolute topic names, like /camera/image_raw")
    check_room(path, force)
    image_topic = f"{topic}/compressed" if compressed else topic
    truths: dict[int, tuple[Truth, ...]] = {}
    size: tuple[int, int] | None = None
    with _in_place_of(path) as made, _writer(made, storage) as (writer, types):
        images = _connect(writer, types, image_topic, COMPRESSED if compressed else IMAGE)
        infos = _connect(writer, types, info_topic, INFO)
        for index, frame in enumerate(frames):
            height, width = frame.image.shape[:2]
            if size not in (None, (width, height)):
                raise BagError(
                    f"{path}: frame {index} has {width}x{height} pixels, those before it {size[0]}x{size[1]}"
                )
            size = (width, height)
            if index * 1e9 / fps >= END_NS - start_ns:
                raise BagError(f"{path}: at fps={fps:g} frame {index} comes after what a stamp holds, 2^31 seconds")
            stamp = start_ns + round(index * 1e9 / fps)
            truths[stamp] = frame.objects
            header = _header(types, stamp, frame_id)
            message = _image(types, header, frame.image, compressed, encoding)
            writer.write(images, stamp, types.serialize_cdr(message, images.msgtype))
            info = _camera_info(types, header, width, height)
            writer.write(infos, stamp, types.serialize_cdr(info, INFO))
        if size is None:
            raise BagError(f"{path}: no frames to write")
        truth = BagTruth(*size, truths)
        write_truth(made, truth)
    return truth


def read_bag(path: str | Path, topic: str | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """The images of a bag in their order: (header stamp in nanoseconds, uint8 RGB ``[height, width, 3]``).

    Args:
        path: the bag's folder.
        topic: which images; ``None`` takes the bag's only image topic.

    Raises:
        BagError: no bag, no such topic, several when none is named, or an image that this does not read.
    """
    path = Path(path)
    rosbag2, types = _rosbags()
    try:
        reader = rosbag2.Reader(path)
        reader.open()
    except Exception as error:  # rosbags raises what its readers raise
        raise BagError(f"{path}: no rosbag2 that can be read: {error}") from error
    try:
        kinds = (IMAGE, COMPRESSED)
        found = [c for c in reader.connections if c.msgtype in kinds and topic in (None, c.topic)]
        if len(found) != 1:
            names = ", ".join(c.topic for c in found) or "none"
            raise BagError(f"{path}: one image topic is wanted{f', {topic}' if topic else ''}; found {names}")
        for _, _, data in reader.messages(found):
            message = types.deserialize_cdr(data, found[0].msgtype)
            yield message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, _pixels(path, message)
    finally:
        reader.close()


def check_room(path: Path, force: bool) -> None:
    """See that nothing is at ``path``; or, with ``force``, nothing but a bag.

    Raises:
        BagError: something is there that stays there.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not force:
        raise BagError(f"{path}: is there already; choose another folder, or force (--force) to replace a bag")
    if not path.is_dir() or path.is_symlink():
        raise BagError(f"{path}: is there and is no folder; it is not replaced")
    if inside := sorted(path.iterdir()):
        metadata = path / "metadata.yaml"
        if not metadata.is_file() or b"rosbag2_bagfile_information" not in metadata.read_bytes():
            raise BagError(f"{path}: is there and is no bag (no metadata.yaml of one); it is not replaced")
        others = [file.name for file in inside if not _FILES.fullmatch(file.name) or not file.is_file()]
        if others:
            raise BagError(f"{path}: holds what is not a bag's ({', '.join(others[:3])}); it is not replaced")


def _rosbags() -> tuple[Any, Any]:
    """The module and the message types. Jazzy's image messages are the same, hashes included."""
    try:
        from rosbags import rosbag2
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise BagError(f"bags need the package rosbags: pip install rosbags ({error})") from error
    return rosbag2, get_typestore(Stores.ROS2_KILTED)


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """Where to write the bag: whole, it takes the place of what is at ``path``; else it leaves no trace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".steer_ros_", dir=path.parent) as folder:
        made = Path(folder) / path.name
        yield made
        if path.exists():
            shutil.rmtree(path)
        made.rename(path)


@contextmanager
def _writer(path: Path, storage: str) -> Iterator[tuple[Any, Any]]:
    rosbag2, types = _rosbags()
    plugin = {"mcap": rosbag2.StoragePlugin.MCAP, "sqlite3": rosbag2.StoragePlugin.SQLITE3}[storage]
    with rosbag2.Writer(path, version=9, storage_plugin=plugin) as writer:
        yield writer, types


def _connect(writer: Any, types: Any, topic: str, kind: str) -> Any:
    """A topic with its message definition and the QoS that a player should offer: it suits any subscriber."""
    from rosbags import interfaces

    forever = interfaces.QosTime(*_FOREVER)
    qos = interfaces.Qos(
        interfaces.QosHistory.KEEP_LAST, 10, interfaces.QosReliability.RELIABLE, interfaces.QosDurability.VOLATILE,
        forever, forever, interfaces.QosLiveliness.AUTOMATIC, forever, False,
    )  # fmt: skip
    return writer.add_connection(topic, kind, typestore=types, offered_qos_profiles=[qos])


def _header(types: Any, stamp: int, frame_id: str) -> Any:
    time = types.types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    return types.types["std_msgs/msg/Header"](time, frame_id)


def _image(types: Any, header: Any, rgb: np.ndarray, compressed: bool | str, encoding: str) -> Any:
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    if compressed:
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if compressed == "jpeg" else []
        done, data = cv2.imencode(f".{compressed}", bgr, options)
        if not done:
            raise BagError(f"{compressed}: OpenCV can't encode an image of {rgb.shape[1]}x{rgb.shape[0]} pixels")
        return types.types[COMPRESSED](header, str(compressed), data.ravel())
    pixels = np.ascontiguousarray(rgb) if encoding == "rgb8" else bgr
    height, width = rgb.shape[:2]
    return types.types[IMAGE](header, height, width, encoding, 0, 3 * width, pixels.ravel())


def _pixels(path: Path, message: Any) -> np.ndarray:
    """A message of this file's own making to RGB."""
    if hasattr(message, "format"):
        bgr = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
        if bgr is None:
            raise BagError(f"{path}: a compressed image ({message.format!r}) can't be decoded")
        return np.ascontiguousarray(bgr[..., ::-1])
    size = message.height * message.width * 3
    if message.encoding not in ENCODINGS or message.step != 3 * message.width or len(message.data) != size:
        raise BagError(
            f"{path}: image of encoding {message.encoding!r}; read are {', '.join(ENCODINGS)} without padding"
        )
    pixels = message.data.reshape(message.height, message.width, 3)
    return np.ascontiguousarray(pixels if message.encoding == "rgb8" else pixels[..., ::-1])


def _camera_info(types: Any, header: Any, width: int, height: int) -> Any:
    """A pinhole that sees 50 degrees across, without distortion."""
    focal = width / (2 * np.tan(np.radians(25.0)))
    cx, cy = (width - 1) / 2, (height - 1) / 2
    k = np.array([focal, 0, cx, 0, focal, cy, 0, 0, 1], np.float64)
    p = np.array([focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1, 0], np.float64)
    roi = types.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return types.types[INFO](
        header, height, width, "plumb_bob", np.zeros(5), k, np.eye(3).ravel(), p, 0, 0, roi
    )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros bag``."""
    parser.add_argument("--out", type=output_folder, required=True, help="folder of the new bag")
    parser.add_argument(
        "--seed",
        type=whole_number(0),
        default=DEMO_SEED,
        help=f"seed of the clip; models are trained on {FIRST_TRAINING_SEED} and up",
    )
    parser.add_argument("--frames", type=whole_number(1), default=60, help="number of frames")
    parser.add_argument(
        "--objects", type=whole_number(1, 8), help="objects on the bench, 1 to 8 (default: 2 to 6 by the seed)"
    )
    parser.add_argument("--fps", type=real_number(0, 1000, above=True), default=10.0, help="frames per second")
    parser.add_argument("--storage", choices=STORAGES, default="mcap", help="format of the bag")
    parser.add_argument("--compressed", choices=COMPRESSIONS[1:], help="write CompressedImage instead of Image")
    parser.add_argument("--topic", default="/image", help="image topic")
    parser.add_argument("--force", action="store_true", help="replace a bag that is there")


def main(args: argparse.Namespace) -> int:
    """Write a bag of a bench clip with its truth."""
    try:
        truth = write_bag(
            args.out,
            make_clip(args.seed, args.frames, objects=args.objects),
            storage=args.storage,
            compressed=args.compressed or False,
            fps=args.fps,
            topic=args.topic,
            force=args.force,
        )
    except ValueError as error:
        print(f"steer-ros bag: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(truth.frames)} frames of {truth.image_width}x{truth.image_height}, with truth.json")
    return 0
