"""Bags: real rosbag2 files in both storages, raw and compressed, that give back what went in."""

import argparse

import numpy as np
import pytest

pytest.importorskip("rosbags")
from rosbags.highlevel import AnyReader

from steer_ros.lab import bag as bag_module
from steer_ros.lab.bag import START_NS, BagError, read_bag, write_bag
from steer_ros.lab.scenes.clip import make_clip
from steer_ros.lab.scenes.ground_truth import read_truth

FORMS = [(storage, form) for storage in ("mcap", "sqlite3") for form in (False, "jpeg", "png")]


@pytest.fixture(scope="module")
def frames():
    return list(make_clip(7, 4, objects=4, width=168, height=112))


@pytest.mark.parametrize(("storage", "compressed"), FORMS)
def test_what_is_written_is_what_is_read(tmp_path, frames, storage, compressed):
    written = write_bag(tmp_path / "clip", frames, storage=storage, compressed=compressed, fps=5)
    images = list(read_bag(tmp_path / "clip"))
    assert [stamp for stamp, _ in images] == [START_NS + i * 200_000_000 for i in range(4)] == list(written.frames)
    for (_, image), frame in zip(images, frames):
        if compressed == "jpeg":
            assert np.abs(image.astype(int) - frame.image).mean() < 6
        else:
            np.testing.assert_array_equal(image, frame.image)
    truth = read_truth(tmp_path / "clip")
    assert list(truth.frames) == list(written.frames)
    assert [o.id for o in truth.frames[START_NS]] == [o.id for o in frames[0].objects]


@pytest.mark.parametrize(("storage", "compressed"), FORMS)
def test_the_messages_are_what_ros_expects(tmp_path, frames, storage, compressed):
    write_bag(tmp_path / "clip", frames, storage=storage, compressed=compressed, frame_id="eye")
    image_topic = "/image/compressed" if compressed else "/image"
    with AnyReader([tmp_path / "clip"]) as reader:  # by the definitions in the file, not by our own store
        topics = {c.topic: c for c in reader.connections}
        assert set(topics) == {image_topic, "/camera_info"}
        assert all(c.msgdef.data and c.digest.startswith("RIHS01_") for c in reader.connections)
        messages = [(c.topic, t, reader.deserialize(data, c.msgtype)) for c, t, data in reader.messages()]
    images = [m for topic, _, m in messages if topic == image_topic]
    infos = [m for topic, _, m in messages if topic == "/camera_info"]
    assert len(images) == len(infos) == 4
    for image, info in zip(images, infos):
        assert image.header == info.header and image.header.frame_id == "eye"
        assert (info.width, info.height) == (168, 112)
        k, p = info.k.reshape(3, 3), info.p.reshape(3, 4)
        np.testing.assert_array_equal(k, p[:, :3])
        assert k[0, 0] == k[1, 1] > 100 and (k[0, 2], k[1, 2]) == (83.5, 55.5)
    if compressed:
        assert images[0].format == compressed
    else:
        assert (images[0].encoding, images[0].step, images[0].is_bigendian) == ("rgb8", 3 * 168, 0)
        assert (images[0].width, images[0].height, images[0].data.size) == (168, 112, 168 * 112 * 3)
    for _, time, message in messages:
        assert time == message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_rclpy_reads_the_bytes(tmp_path, frames):
    serialization = pytest.importorskip("rclpy.serialization")
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

    kinds = {"sensor_msgs/msg/" + kind.__name__: kind for kind in (CameraInfo, CompressedImage, Image)}
    for compressed in (False, "png"):
        write_bag(tmp_path / "clip", frames, compressed=compressed, force=True)
        with AnyReader([tmp_path / "clip"]) as reader:
            for connection, time, data in reader.messages():
                message = serialization.deserialize_message(data, kinds[connection.msgtype])
                assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == time
                if isinstance(message, Image):
                    index = round((time - START_NS) / 1e8)
                    assert bytes(message.data) == frames[index].image.tobytes()


def test_bgr(tmp_path, frames):
    write_bag(tmp_path / "clip", frames, encoding="bgr8")
    for (_, image), frame in zip(read_bag(tmp_path / "clip", "/image"), frames):
        np.testing.assert_array_equal(image, frame.image)


def test_a_bag_is_replaced_only_by_force(tmp_path, frames):
    write_bag(tmp_path / "clip", frames)
    with pytest.raises(BagError, match="there already"):
        write_bag(tmp_path / "clip", frames[:1])
    assert len(list(read_bag(tmp_path / "clip"))) == 4
    write_bag(tmp_path / "clip", frames[:1], storage="sqlite3", force=True)
    assert len(list(read_bag(tmp_path / "clip"))) == 1


def test_force_replaces_nothing_but_a_bag(tmp_path, frames):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BagError, match="is no bag"):
        write_bag(tmp_path, frames, force=True)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("what", ["metadata of another kind", "a thesis in a bag", "a link to a bag"])
def test_force_deletes_nothing_that_is_not_the_bags(tmp_path, frames, what):
    path = tmp_path / "there"
    if what == "metadata of another kind":
        path.mkdir()
        (path / "metadata.yaml").write_text("name: my helm chart")
    else:
        write_bag(tmp_path / "bag", frames[:1])
        (tmp_path / "bag" / "thesis.tex").write_text("years of work")
        path = tmp_path / "bag"
    if what == "a link to a bag":
        (path / "thesis.tex").unlink()
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "bag")
    before = sorted(file.name for file in path.iterdir())
    with pytest.raises(BagError, match="is not replaced"):
        write_bag(path, frames, force=True)
    assert sorted(file.name for file in path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments", [{"start_ns": 2**31 * 10**9}, {"start_ns": 2**31 * 10**9 - 1}, {"fps": 1e-9}, {"fps": 1e-300}]
)
def test_stamps_that_no_message_holds_are_refused(tmp_path, frames, arguments):
    with pytest.raises(ValueError, match=r"start_ns=|fps="):
        write_bag(tmp_path / "clip", frames, **arguments)
    assert not (tmp_path / "clip").exists()


@pytest.mark.parametrize("fault", ["none", "sizes", "raises"])
def test_a_bag_that_fails_leaves_nothing_behind(tmp_path, frames, fault):
    def broken():
        if fault == "none":
            return
        yield frames[0]
        if fault == "raises":
            raise RuntimeError("the renderer fell over")
        yield next(make_clip(1, 1))

    expected = {"none": "no frames", "sizes": "frame 1 has 336x336", "raises": "fell over"}[fault]
    with pytest.raises((BagError, RuntimeError), match=expected):
        write_bag(tmp_path / "clip", broken())
    assert not (tmp_path / "clip").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"storage": "rosbag1"}, "storage='rosbag1': accepted are mcap, sqlite3"),
        ({"compressed": "gif"}, "compressed='gif'"),
        ({"encoding": "mono8"}, "encoding='mono8'"),
        ({"fps": 0}, "fps=0"),
        ({"start_ns": -1}, "start_ns=-1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(tmp_path, frames, wrong, says):
    with pytest.raises(ValueError, match=says):
        write_bag(tmp_path / "clip", frames, **wrong)
    assert not (tmp_path / "clip").exists()


def test_reading_what_is_not_there(tmp_path, frames):
    with pytest.raises(BagError, match="no rosbag2"):
        next(read_bag(tmp_path))
    write_bag(tmp_path / "clip", frames)
    with pytest.raises(BagError, match="/other; found none"):
        next(read_bag(tmp_path / "clip", "/other"))


def test_the_command(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    bag_module.add_arguments(parser)
    out = tmp_path / "new" / "clip"
    args = ["--out", str(out), "--seed", "9", "--frames", "2", "--storage", "sqlite3", "--compressed", "png"]
    assert bag_module.main(parser.parse_args([*args, "--objects", "3"])) == 0
    assert "2 frames of 336x336" in capsys.readouterr().out
    expected = list(make_clip(9, 2, objects=3))
    for (_, image), frame in zip(read_bag(out), expected):
        np.testing.assert_array_equal(image, frame.image)
    assert bag_module.main(parser.parse_args(args)) == 1
    assert "there already" in capsys.readouterr().err
