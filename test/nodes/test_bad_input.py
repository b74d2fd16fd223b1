"""A message never kills a node: what is broken is counted and named, and the next good frame works."""

import array
import threading

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from ros_helpers import BOUND, Bench, header, image, scene
from ros_loop import FRAME, Loop, report
from sensor_msgs.msg import CompressedImage, RegionOfInterest

from steer_ros.msg import ActionText, RoiMaskArray, VisualTokens
from steer_ros.nodes.messages import masks_message, tokens_message
from steer_ros.regions.mask import Mask, box_weights


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def loop(bench):
    return Loop(bench, True, perception={"look_for": "red square"})


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        (dict(width=0, height=0, step=0, data=array.array("B")), "size"),
        (dict(encoding="mono16"), "encoding"),
        (dict(encoding="bayer_rggb16"), "encoding"),
        (dict(step=1), "step"),
        (dict(data=array.array("B", [1, 2, 3])), "length"),
    ],
)
def test_a_broken_image_is_counted_and_the_next_good_frame_works(loop, changes, kind):
    loop.send()
    for _ in range(3):
        loop.camera.publish(image(FRAME, 5000, **changes))
        loop.bench.wait(lambda: True)
    loop.bench.wait(lambda: loop.perception.health.counted(f"bad_image_{kind}") >= 1, "the refusal")
    status, values = report(loop, loop.perception)
    assert status.level == DiagnosticStatus.WARN
    assert f"bad_image_{kind}" in status.message
    assert int(values["bad_images"]) >= 1
    assert values["last_refusal"].startswith(f"bad_image_{kind}: ")
    assert loop.send(stamp=6000).text == "Pick up the red one."
    assert report(loop, loop.perception)[0].level == DiagnosticStatus.OK


def test_an_8k_frame_is_scaled_down_and_boxes_stay_in_its_pixels(loop):
    large = scene(red=(4, 4)).repeat(45, 0).repeat(60, 1)  # 7680 x 4320
    loop.send()
    answer = loop.send(large)
    assert answer.text == "Pick up the red one."
    loop.bench.wait(lambda: len(loop.masks) == 2, "the masks")
    box = loop.masks[-1].masks[0].box
    assert (loop.masks[-1].image_width, loop.masks[-1].image_height) == (7680, 4320)
    assert box.width > 1000
    assert box.x_offset + box.width <= 7680
    loop.perception.parameters["max_image_pixels"] = 7680 * 4320 - 1
    loop.camera.publish(image(large, 9000))
    loop.bench.wait(lambda: loop.perception.health.counted("bad_image_size"), "the refusal")
    assert loop.send().text == "Pick up the red one."


def test_compressed_garbage_is_counted_and_the_next_good_frame_works(bench):
    import cv2

    loop = Loop.__new__(Loop)
    original = Bench.publisher
    bench.publisher = lambda kind, topic, *a, **k: original(
        bench,
        CompressedImage if topic == "image" else kind,
        "image/compressed" if topic == "image" else topic,
        *a,
        **k,
    )
    loop.__init__(bench, True, perception={"transport": "compressed", "look_for": "red square"})

    def send(data, stamp):
        loop.camera.publish(CompressedImage(header=header(stamp), format="png", data=array.array("B", data)))

    send(b"garbage", 1000)
    bench.wait(lambda: loop.perception.health.counted("bad_image_data"), "the refusal")
    send(cv2.imencode(".png", FRAME[..., ::-1])[1].tobytes(), 1100)
    bench.wait(lambda: loop.actions, "the action")
    assert loop.actions[0].header == header(1100)
    assert loop.actions[0].text == "Pick up the red one."


def test_stamps_that_go_back_reset_the_tracker_and_go_on(loop):
    first = [loop.send(stamp=stamp) for stamp in (5000, 5100)]
    again = [loop.send(stamp=stamp) for stamp in (1000, 1100)]
    assert {answer.text for answer in first + again} == {"Pick up the red one."}
    assert loop.perception.health.counted("stamps_back") == 1
    assert loop.perceiver.grounded == ["red square"] * 2


def test_a_late_frame_is_dropped_and_a_row_of_them_is_a_new_time(loop):
    loop.send(stamp=5000)
    loop.send(stamp=5200)
    late = loop.perception.health.counted
    for number, stamp in enumerate((5100, 5150), 1):
        loop.camera.publish(image(FRAME, stamp))
        loop.bench.wait(lambda number=number: late("frames_late") == number, "the late frame")
    ids = {tuple(loop.send(stamp=5300).region_ids)}
    assert (len(loop.actions), late("stamps_back")) == (3, 0)
    assert ids == {tuple(loop.actions[0].region_ids)}  # it is followed all the same
    for number, stamp in enumerate((5050, 5060, 5070), 3):
        loop.camera.publish(image(FRAME, stamp))
        loop.bench.wait(lambda number=number: late("frames_late") == number, "the late frame")
    assert loop.send(stamp=5080).text == "Pick up the red one."
    assert late("stamps_back") == 1


def test_a_camera_without_stamps_is_told(loop):
    assert {loop.send(stamp=0).text for _ in range(3)} == {"Pick up the red one."}
    assert loop.perception.health.counted("stamps_repeated") == 2
    assert "the stamp 0 ns" in report(loop, loop.perception)[1]["last_refusal"]


def test_without_stamps_no_frame_is_steered_by_a_dropped_ones_masks(loop):
    assert loop.send(stamp=0).region_labels
    going, held = threading.Event(), threading.Event()
    loop.reasoner.before_token = lambda: (going.set(), held.wait(BOUND))
    seen = loop.perception.health.counted

    def perceive():
        before = seen("frames_seen")
        loop.camera.publish(image(FRAME, 0))
        loop.bench.wait(lambda: seen("frames_seen") > before, "perception")

    perceive()
    loop.bench.wait(going.is_set, "a turn that takes long")
    perceive()  # waits, with its masks
    loop.perception.parameters["look_for"] = ""
    perceive()  # displaces it; nobody says any more where to look
    held.set()
    loop.reasoner.before_token = lambda: None
    loop.bench.wait(lambda: len(loop.actions) == 3, "the actions")
    answers = [loop.actions[-1], loop.send(stamp=0), loop.send(stamp=0)]
    assert [list(answer.region_labels) for answer in answers] == [[], [], []]
    assert {answer.law for answer in answers} == {""}


def test_masks_of_frames_that_never_come_are_told(bench):
    loop = Loop(bench, True)
    masks = bench.publisher(RoiMaskArray, "/roi_masks", readers=2)
    masks.publish(
        RoiMaskArray(header=header(9000), grid_rows=8, grid_cols=8, merge_size=1, image_width=128, image_height=96)
    )
    bench.wait(lambda: loop.reasoning._synchronizer._masks, "the masks")
    assert not loop.send(stamp=1100).region_labels
    _, values = report(loop, loop.reasoning)
    assert values["masks_unused"] == "1" and "7900 ms after frame 1100000000" in values["last_refusal"]


def test_a_box_outside_the_image_is_named_and_forgotten(loop):
    pointer = loop.bench.publisher(RegionOfInterest, "/perception/roi")
    pointer.publish(RegionOfInterest(x_offset=4000, y_offset=4, width=28, height=28))
    loop.bench.wait(lambda: loop.perception._region_source._roi is not None, "the box")
    assert list(loop.send().region_labels) == ["red square"]
    assert "roi" in report(loop, loop.perception)[1]["last_refusal"]
    assert loop.perception._region_source._roi is None


@pytest.mark.parametrize("where", ["perceiver", "reasoner"])
def test_a_model_that_raises_is_reported_and_the_loop_goes_on(loop, where):
    loop.send()
    getattr(loop, where).fail = RuntimeError("out of\nmemory")
    node = {"perceiver": loop.perception, "reasoner": loop.reasoning}[where]
    if where == "reasoner":
        answer = loop.send()  # whoever waits for the action is told that there is none
        assert (answer.text, answer.cut_short, answer.cut_reason) == ("", True, ActionText.CUT_ERROR)
        assert len(loop.texts) <= 1
    else:
        loop.camera.publish(image(FRAME, 2000))
        loop.bench.wait(lambda: node.health.counted("perception_errors"), "the error")
    status, values = report(loop, node)
    assert status.level == DiagnosticStatus.ERROR
    assert values["last_error"].endswith("out of memory")
    assert loop.send(stamp=3000).text == "Pick up the red one."


def test_a_turn_past_its_deadline_is_cut_and_says_so(bench):
    loop = Loop(bench, True, reasoning={"deadline_ms": 30})
    clock = loop.reasoning.get_clock()

    def slow():
        begun = clock.now()
        while (clock.now() - begun).nanoseconds < 30_000_000:
            pass

    loop.reasoner.before_token = slow
    answer = loop.send()
    assert (answer.text, answer.cut_short, answer.cut_reason) == ("", True, ActionText.CUT_DEADLINE)
    assert not loop.texts
    loop.reasoning.parameters["deadline_ms"] = 0
    assert loop.send().text == "Pick up the blue one."


def test_half_an_action_is_never_sent_to_the_robot(loop):
    loop.reasoner.action = ""
    assert loop.send().text == ""
    loop.reasoner.action = None
    assert loop.send().text == "Pick up the red one."
    loop.bench.wait(lambda: loop.texts, "the whole action")
    assert [text.data for text in loop.texts] == ["Pick up the red one."]


def test_a_silent_camera_is_a_diagnostic_and_nothing_is_repeated(bench):
    loop = Loop(bench, True, perception={"camera_timeout_ms": 1})
    loop.send()
    spoken = len(loop.texts), len(loop.actions)
    status, _ = report(loop, loop.perception)
    assert status.level == DiagnosticStatus.ERROR
    assert "camera silent: no frame on /image" in status.message
    assert (len(loop.texts), len(loop.actions)) >= spoken
    assert len(loop.actions) == 1
    loop.perception.parameters["camera_timeout_ms"] = 60_000
    assert report(loop, loop.perception)[0].level == DiagnosticStatus.OK


def test_masks_on_another_grid_are_refused_and_named(bench):
    loop = Loop(bench, False, reasoning={"mask_wait_ms": 60_000})
    features = loop.perceiver.encode(FRAME)
    tokens = bench.publisher(VisualTokens, "visual_tokens")
    masks = bench.publisher(RoiMaskArray, "roi_masks", readers=2)

    def turn(stamp, array):
        count = len(loop.actions)
        masks.publish(array)
        tokens.publish(tokens_message(features, header(stamp), True, 1.0))
        bench.wait(lambda: len(loop.actions) > count, "the action")
        return loop.actions[-1]

    other = masks_message([], features, header(100))
    other.grid_rows = 12
    answer = turn(100, other)
    assert (answer.text, answer.law) == ("Pick up the blue one.", "")
    assert "grid 12x8 does not match the frame's 8x8" in report(loop, loop.reasoning)[1]["last_refusal"]

    broken = masks_message([], features, header(200))
    broken.merge_size = 3
    masks.publish(broken)
    bench.wait(lambda: loop.reasoning.health.counted("bad_masks") >= 2, "the refusal")
    odd = tokens_message(features, header(200), False, 1.0)
    odd.hidden_size = 4
    tokens.publish(odd)
    bench.wait(lambda: loop.reasoning.health.counted("bad_tokens") == 1, "the refusal")
    assert loop.send().text == "Pick up the blue one."


def test_masks_that_never_come_leave_the_turn_unsteered(bench):
    loop = Loop(bench, False, reasoning={"mask_wait_ms": 1})
    features = loop.perceiver.encode(FRAME)
    tokens = bench.publisher(VisualTokens, "visual_tokens")
    tokens.publish(tokens_message(features, header(100), True, 1.0))
    bench.wait(lambda: loop.actions, "the action")
    assert (loop.actions[0].text, loop.actions[0].law) == ("Pick up the blue one.", "")
    assert loop.reasoning.health.counted("masks_late") == 1


@pytest.mark.parametrize("label", ["", "red square"])
def test_masks_without_a_label_do_not_steer_a_model_that_knows_regions_by_their_words(bench, label):
    loop = Loop(bench, False, reasoning={"mask_wait_ms": 60_000})
    loop.reasoner.bridge = "text"
    features = loop.perceiver.encode(FRAME)
    tokens = bench.publisher(VisualTokens, "visual_tokens")
    masks = bench.publisher(RoiMaskArray, "roi_masks", readers=2)
    box = (0.0, 0.0, 40.0, 40.0)
    mask = Mask(box_weights(features.grid, features.frame_size, box), label, source="phrase", box=box)
    masks.publish(masks_message([mask], features, header(100)))
    tokens.publish(tokens_message(features, header(100), True, 1.0))
    bench.wait(lambda: loop.actions, "the action")
    assert not loop.actions[0].cut_short
    assert bool(loop.reasoner.calls[0]["mask"]) == bool(label)
    assert loop.reasoning.health.counted("masks_unlabelled") == int(not label)


@pytest.mark.parametrize(("law", "steered"), [("share", False), ("conserving", True)])
def test_weights_below_0_do_not_steer_under_a_law_that_can_t_take_them(bench, law, steered):
    steering = {"steering.law": law, "steering.setpoint": 0.9}
    loop = Loop(bench, False, reasoning={"mask_wait_ms": 60_000, **steering})
    features = loop.perceiver.encode(FRAME)
    tokens = bench.publisher(VisualTokens, "visual_tokens")
    masks = bench.publisher(RoiMaskArray, "roi_masks", readers=2)
    box = (0.0, 0.0, 40.0, 40.0)
    weights = -box_weights(features.grid, features.frame_size, box)
    masks.publish(masks_message([Mask(weights, "not this", source="roi", box=box)], features, header(100)))
    tokens.publish(tokens_message(features, header(100), True, 1.0))
    bench.wait(lambda: loop.actions, "the action")
    assert loop.actions[0].text and not loop.actions[0].cut_short
    assert bool(loop.reasoner.calls[0]["mask"]) == steered
    assert loop.reasoning.health.counted("bad_masks") == int(not steered)
