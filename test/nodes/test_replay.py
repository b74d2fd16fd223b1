"""A bag in, actions out: in lockstep word for word the same, in real time never stale, always bounded."""

import array
import threading

import numpy as np
import pytest
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_helpers import BOUND, Bench, header
from ros_loop import FRAMES, STORE, TYPES, Loop, write_bag
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from steer_ros.msg import ActionText
from steer_ros.nodes.replay import Replay, main, parse, type_named

STORAGES = [StoragePlugin.MCAP, StoragePlugin.SQLITE3]


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def play(bench, path, **options):
    """Play a bag beside the bench; returns the report."""
    replay = Replay(path, context=bench.context, **{"timeout": BOUND, **options})
    reports = []
    thread = threading.Thread(target=lambda: reports.append(replay.play()))
    thread.start()
    try:
        bench.wait(lambda: not thread.is_alive(), "the replay's end")
    finally:
        thread.join(BOUND)
        replay.end()
    return reports[0]


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_lockstep_gives_each_frame_its_action_and_the_same_ones_again(bench, tmp_path, together):
    bag = write_bag(tmp_path / "bag", FRAMES)
    loop = Loop(bench, together, perception={"look_for": "red square", "keyframe_interval": 3})
    runs = []
    for _ in range(2):
        loop.actions.clear()
        report = play(bench, bag, lockstep=True)
        assert (report.frames, report.actions, report.late, report.messages) == (6, 6, 0, 12)
        bench.wait(lambda: len(loop.actions) == 6, "the last action")  # the replay may hear it before we do
        runs.append([(a.header.stamp.sec, a.header.stamp.nanosec, a.text, a.law) for a in loop.actions])
    assert runs[0] == runs[1]
    assert [run[:2] for run in runs[0]] == [(100, i * 100_000_000) for i in range(6)]
    assert {run[2] for run in runs[0]} == {"Pick up the red one."}
    assert loop.perception.health.counted("stamps_back") == 1


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.name)
def test_real_time_drops_but_never_mixes_up(bench, tmp_path, storage):
    bag = write_bag(tmp_path / "bag", FRAMES * 3, period=0.02, storage=storage)
    loop = Loop(bench, True, perception={"look_for": "red square"})
    infos = bench.record(CameraInfo, "/camera_info")
    report = play(bench, bag, rate=0.5)
    assert report.frames == 18
    received = loop.perception.health.counted
    bench.wait(
        lambda: (
            len(loop.actions) + loop.perception.counts()["frames_dropped"] + loop.reasoning.counts()["frames_dropped"]
            == received("frames_received")
        ),
        "the last action",
    )
    stamps = [(action.header.stamp.sec, action.header.stamp.nanosec) for action in loop.actions]
    assert stamps == sorted(set(stamps))
    assert set(stamps) <= {(100, 20_000_000 * i) for i in range(18)}
    right = sum(action.text == "Pick up the red one." for action in loop.actions)
    assert right / len(loop.actions) >= 0.9
    bench.wait(lambda: len(infos) > 0, "a camera_info")


def test_clock_goes_with_the_messages_and_nodes_may_live_by_it(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:3], period=0.3)
    loop = Loop(
        bench,
        True,
        perception={"look_for": "red square", "use_sim_time": True},
        reasoning={"use_sim_time": True, "deadline_ms": 1},
    )
    ticks = bench.record(Clock, "/clock")
    report = play(bench, bag, lockstep=True)
    # Simulated time stands still while a turn runs in lockstep: no deadline passes.
    assert report.late == 0
    bench.wait(lambda: len(loop.actions) == 3, "the last action")  # the replay may hear it before we do
    assert [action.cut_reason for action in loop.actions] == [""] * 3
    times = [tick.clock.sec + tick.clock.nanosec / 1e9 for tick in ticks]
    assert times == sorted(times)
    assert set(np.round(times, 3)) <= {100.0, 100.3, 100.6}
    ticks.clear()
    play(bench, bag, rate=0.5)  # long enough for the clock's reader to be discovered on a busy machine
    bench.wait(lambda: len(ticks) > 3, "the clock between messages")
    times = [tick.clock.sec + tick.clock.nanosec / 1e9 for tick in ticks]
    assert all(100 - 1e-6 <= time <= 100.6 + 1e-6 for time in times)


def test_a_frame_without_an_action_is_waited_for_within_bounds_only(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", [FRAMES[0], FRAMES[1], FRAMES[2]])
    loop = Loop(bench, True, perception={"look_for": "red square", "max_image_pixels": 1})
    report = play(bench, bag, lockstep=True, timeout=0.2)
    assert (report.frames, report.actions, report.late) == (3, 0, 3)
    assert not loop.actions


def test_whoever_answers_is_found_under_a_remapped_name(bench, tmp_path, monkeypatch):
    bag = write_bag(tmp_path / "bag", FRAMES[:1])
    bench.record(Image, "/cam/image_raw")
    bench.peer.create_publisher(ActionText, "/robot/action", 10)
    remaps = ["--ros-args", "-r", "/image:=/cam/image_raw", "-r", "action:=/robot/action"]
    replay = Replay(bag, context=bench.context, lockstep=True, timeout=BOUND, cli_args=remaps)
    found = []
    spin = replay._spin_until
    monkeypatch.setattr(replay, "_spin_until", lambda *a: found.append(spin(*a)))
    try:
        replay._wait_for_peers()
    finally:
        replay.end()
    assert found == [True]


def test_a_bag_that_loops_goes_back_in_time_until_it_is_stopped(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:2])
    loop = Loop(bench, True, perception={"look_for": "red square"})
    replay = Replay(bag, context=bench.context, lockstep=True, loop=True, timeout=BOUND)
    ends = []

    def play_on():
        try:
            replay.play()
        except ExternalShutdownException:
            ends.append("stopped")

    thread = threading.Thread(target=play_on)
    thread.start()
    bench.wait(lambda: loop.perception.health.counted("stamps_back") >= 2, "two times round")
    bench.context.shutdown()
    thread.join(BOUND)
    assert ends == ["stopped"]
    assert {action.text for action in loop.actions} == {"Pick up the red one."}
    replay.end()


def test_names_that_are_no_topics_are_skipped(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:2], topic="/a//b")
    report = play(bench, bag, timeout=0.1, rate=100.0)
    assert report.skipped == ["/a//b"] and report.messages == 2  # the camera_infos


def record_answers(bag, frames):
    """The bag of these frames again, with what a node said as it was recorded."""
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        images = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=STORE)
        texts = writer.add_connection("/robot/action_text", "std_msgs/msg/String", typestore=STORE)
        others = {
            topic: writer.add_connection(topic, kind, msgdef="int32 a\n", rihs01="RIHS01_" + "0" * 64)
            for topic, kind in (
                ("/robot/action", "steer_ros/msg/ActionText"),
                ("/robot/visual_tokens", "steer_ros/msg/VisualTokens"),
                ("/robot/roi_masks", "steer_ros/msg/RoiMaskArray"),
            )
        }
        for connection in others.values():
            writer.write(connection, 100_000_000_000, b"\0\1\0\0\5\0\0\0")
        for stamp in range(100_000_000_000, 100_000_000_000 + frames * 100_000_000, 100_000_000):
            head = TYPES["std_msgs/msg/Header"](
                TYPES["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9), "camera"
            )
            message = TYPES["sensor_msgs/msg/Image"](head, 96, 128, "rgb8", 0, 384, FRAMES[0].reshape(-1))
            writer.write(images, stamp, STORE.serialize_cdr(message, message.__msgtype__))
            said = TYPES["std_msgs/msg/String"]("Pick up what was there then.")
            writer.write(texts, stamp, STORE.serialize_cdr(said, said.__msgtype__))
    return bag


def test_recorded_answers_are_not_said_again(bench, tmp_path):
    loop = Loop(bench, True, perception={"look_for": "red square"})
    report = play(bench, record_answers(tmp_path / "bag", 3), lockstep=True)
    assert (report.frames, report.messages) == (3, 3)
    assert sorted(report.skipped) == [f"/robot/{n}" for n in ("action", "action_text", "roi_masks", "visual_tokens")]
    bench.wait(lambda: len(loop.texts) == 3, "the actions")
    assert {text.data for text in loop.texts} == {"Pick up the red one."}


def test_frames_in_disorder_do_not_stop_lockstep(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES, stamps=[100.0, 100.2, 100.1, 100.3, 100.4, 100.5])
    loop = Loop(bench, True, perception={"look_for": "red square"})
    report = play(bench, bag, lockstep=True)
    assert (report.frames, report.late) == (6, 1)
    bench.wait(lambda: len(loop.actions) == 5, "the actions")
    assert loop.perception.health.counted("frames_late") == 1


def test_nobody_there_is_waited_for_within_bounds_only(bench, tmp_path):
    report = play(bench, write_bag(tmp_path / "bag", FRAMES[:2]), timeout=0.1, rate=100.0)
    assert report.frames == 2


def test_a_loop_with_nothing_to_play_ends(bench, tmp_path):
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/strange", "nowhere_msgs/msg/Thing", msgdef="int32 a\n", rihs01="RIHS01_" + "0" * 64)
    assert play(bench, tmp_path / "bag", loop=True).messages == 0


def test_what_was_latched_is_latched_and_a_clock_of_the_bags_own_is_the_only_one(bench, tmp_path):
    make_time, make_text = TYPES["builtin_interfaces/msg/Time"], TYPES["std_msgs/msg/String"]
    make_clock = STORE.types["rosgraph_msgs/msg/Clock"]
    latched = Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, *[QosTime(0, 0)] * 2,
        QosLiveliness.AUTOMATIC, QosTime(0, 0), False,
    )  # fmt: skip
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        text = writer.add_connection(
            "/robot_description", "std_msgs/msg/String", typestore=STORE, offered_qos_profiles=[latched]
        )
        clock = writer.add_connection("/clock", "rosgraph_msgs/msg/Clock", typestore=STORE)
        writer.write(text, 100 * 10**9, STORE.serialize_cdr(make_text("robot"), "std_msgs/msg/String"))
        writer.write(clock, 100 * 10**9, STORE.serialize_cdr(make_clock(make_time(7, 0)), "rosgraph_msgs/msg/Clock"))
    late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    descriptions, times = bench.record(String, "/robot_description", late), bench.record(Clock, "/clock")
    replay = Replay(tmp_path / "bag", context=bench.context)
    bench.wait(lambda: replay.count_subscribers("/clock") and replay.count_subscribers("/robot_description"), "ears")
    replay.play()
    bench.wait(lambda: descriptions and times, "what was played")
    replay.end()
    assert descriptions[0].data == "robot"
    assert [message.clock.sec for message in times] == [7]


def test_types_that_are_not_installed_are_skipped_by_name(bench, tmp_path):
    frames = bench.record(Image, "/image")
    report = play(bench, write_bag(tmp_path / "bag", FRAMES[:2], odd=True), timeout=BOUND, rate=100.0)
    assert report.skipped == ["/strange"]
    assert report.messages == 4
    bench.wait(lambda: len(frames) == 2, "the frames")
    assert frames[0].header == header(100_000, "camera")
    assert frames[0].data == array.array("B", FRAMES[0].tobytes())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(rate=0.0), "--rate: 0.0"),
        (dict(rate=float("nan")), "--rate: nan"),
        (dict(timeout=-1.0), "--timeout: -1.0"),
        (dict(frame_topic="/other"), "--frames: '/other'.*/image"),
    ],
)
def test_wrong_options_are_named(bench, tmp_path, options, words):
    bag = write_bag(tmp_path / "bag", FRAMES[:1])
    with pytest.raises(ValueError, match=words):
        Replay(bag, context=bench.context, **options)


@pytest.mark.parametrize("content", [None, "", "no bag"])
def test_what_is_no_bag_is_named_in_one_line(tmp_path, capsys, content):
    path = tmp_path / "bag"
    if content is not None:
        path.mkdir()
        (path / "metadata.yaml").write_text(content)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert error.count("\n") == 1


def test_the_command_line_reads_as_documented():
    options = parse(["somewhere", "--lockstep", "--loop", "--no-clock", "--frames", "/cam", "--timeout", "5"])
    assert (options.rate, options.lockstep, options.loop, options.no_clock) == (None, True, True, True)
    assert parse(["somewhere", "--rate", "2"]).rate == 2.0
    with pytest.raises(SystemExit):
        parse(["somewhere", "--rate", "2", "--lockstep"])
    assert (options.frames, options.timeout, str(options.bag)) == ("/cam", 5.0, "somewhere")


def test_types_are_found_by_name_and_nothing_else_is_imported():
    assert type_named("sensor_msgs/msg/Image") is Image
    for name in ("os/path/join", "os", "a/msg/b.c", "..x/msg/Y", "sensor_msgs/msg/No"):
        with pytest.raises((ImportError, AttributeError, ValueError)):
            type_named(name)


def masks_bag(path, repo, change=lambda text: text):
    """A bag with one message of another node's roi_masks, whose definition was another as it was recorded."""
    store = get_typestore(Stores.ROS2_KILTED)
    for name in ("RoiMask", "RoiMaskArray"):
        text = change((repo / "msg" / f"{name}.msg").read_text())
        store.register(get_types_from_msg(text, f"steer_ros/msg/{name}"))
    head = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](100, 0), "camera")
    message = store.types["steer_ros/msg/RoiMaskArray"](head, 42, 28, 2, 3, 2, [])
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        masks = writer.add_connection("/roi_masks", message.__msgtype__, typestore=store)
        writer.write(masks, 100 * 10**9, store.serialize_cdr(message, message.__msgtype__))
    return path


def test_messages_of_ours_in_the_form_of_today_are_played(bench, tmp_path, repo):
    replay = Replay(masks_bag(tmp_path / "bag", repo), context=bench.context)
    try:
        assert list(replay._publishers_by_topic) == ["/roi_masks"]
    finally:
        replay.end()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "float32 strength",
            "float32 mark",
            "RoiMask: recorded with mark, which is none of its fields, recorded without",
        ),
        ("uint16 grid_rows ", "uint8 grid_rows ", "grid_rows recorded as uint8, not uint16"),
        ("float32 score ", "float64 score ", "score recorded as double, not float"),
    ],
)
def test_messages_of_ours_in_another_form_are_refused(bench, tmp_path, repo, old, new, says, capsys):
    bag = masks_bag(tmp_path / "bag", repo, lambda text: text.replace(old, new))
    with pytest.raises(ValueError, match=f"^/roi_masks: recorded by another release of steer_ros.*{says}"):
        Replay(bag, context=bench.context)
    assert main([str(bag)]) == 2
    assert says in capsys.readouterr().err
