"""A frame in, one action out, through real lifecycle nodes and DDS; the models are stand-ins that read colours."""

import math

import numpy as np
import pytest
from ros_helpers import Bench, header, image
from ros_loop import FRAME, Loop
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import String

from steer_ros.msg import RoiMask, RoiMaskArray
from steer_ros.nodes.images import to_rgb


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(params=[True, False], ids=["together", "apart"])
def loop(bench, request):
    return Loop(bench, request.param, perception={"look_for": "red square", "keyframe_interval": 3})


def test_each_frame_gives_one_action_about_what_is_looked_for(loop):
    answers = [loop.send() for _ in range(5)]
    assert [answer.text for answer in answers] == ["Pick up the red one."] * 5
    assert len(loop.actions) == 5
    assert len({answer.turn_id for answer in answers}) == 5
    answer = answers[0]
    assert (answer.law, answer.alpha) == ("conserving", 8.0)
    assert list(answer.region_labels) == ["red square"]
    assert answer.focus_after > answer.focus_before > 0
    assert (answer.thought_tokens, answer.cut_short, answer.cut_reason) == (2, False, "")
    assert answer.perceive_ms > 0
    assert answer.total_ms >= answer.perceive_ms
    assert answer.instruction == "Pick up one object."
    # Ids stay, keyframes come every third frame.
    assert len({tuple(answer.region_ids) for answer in answers}) == 1
    assert loop.perceiver.grounded == ["red square"] * 2
    loop.bench.wait(lambda: len(loop.masks) == 5 and len(loop.texts) == 5 and len(loop.thoughts) == 10, "all topics")
    assert [masks.header for masks in loop.masks] == [answer.header for answer in answers]
    sources = [masks.masks[0].source for masks in loop.masks]
    keyframe, between = RoiMask.SOURCE_GROUNDING, RoiMask.SOURCE_TRACK
    assert sources == [keyframe, between, between, keyframe, between]
    assert [text.data for text in loop.texts] == ["Pick up the red one."] * 5
    assert [text.data for text in loop.thoughts[:2]] == ["I look at ", "I look at the red one."]


def test_tokens_are_handed_over_without_a_copy(bench):
    loop = Loop(bench, True)
    loop.send()
    assert loop.reasoner.calls[0]["features"].tokens is loop.perceiver.tokens
    assert not [name for name, _ in bench.peer.get_topic_names_and_types() if name.endswith("visual_tokens")]


def test_the_same_frame_unsteered_differs_in_the_field_alone(loop):
    steered = loop.send()
    loop.reasoning.parameters["steering.law"] = "none"
    unsteered = loop.send()
    loop.reasoning.parameters["steering.law"] = "conserving"
    loop.reasoning.parameters["steering.alpha"] = 0
    zero = loop.send()
    assert [steered.text, unsteered.text, zero.text] == [f"Pick up the {c} one." for c in ("red", "blue", "blue")]
    assert (unsteered.law, unsteered.alpha) == ("", 0.0)
    assert math.isnan(unsteered.focus_after)
    calls = loop.reasoner.calls
    for call in calls[1:]:
        assert call["prompt"] == calls[0]["prompt"]
        assert call["features"].tokens.equal(calls[0]["features"].tokens)
        assert np.array_equal(call["mask"][0].weights, calls[0]["mask"][0].weights)


def test_what_to_look_for_changes_while_running(loop):
    assert loop.send().text == "Pick up the red one."
    speaker = loop.bench.publisher(String, "/perception/look_for")
    speaker.publish(String(data="blue thing"))
    loop.bench.wait(lambda: loop.perception.parameters["look_for"] == "blue thing", "look_for")
    answer = loop.send()
    assert (answer.text, list(answer.region_labels)) == ("Pick up the blue one.", ["blue thing"])
    loop.perception.parameters["look_for"] = ""
    answer = loop.send()
    assert (answer.text, list(answer.region_labels), answer.law) == ("Pick up the blue one.", [], "")
    speaker.publish(String(data="x" * 3000))
    loop.bench.wait(lambda: loop.perception.health.counted("bad_look_for"), "the refusal")
    assert loop.perception.parameters["look_for"] == ""


def test_a_place_and_a_given_box_steer_too(loop):
    loop.perception.parameters["look_for"] = "left"
    assert list(loop.send().region_labels) == ["left"]
    loop.perception.parameters["look_for"] = ""
    pointer = loop.bench.publisher(RegionOfInterest, "/perception/roi")
    pointer.publish(RegionOfInterest(x_offset=4, y_offset=4, width=28, height=28))
    loop.bench.wait(lambda: loop.perception._region_source._roi is not None, "the box")
    answer = loop.send()
    assert (answer.text, list(answer.region_labels)) == ("Pick up the red one.", ["roi"])
    pointer.publish(RegionOfInterest())
    loop.bench.wait(lambda: loop.perception._region_source._roi is None, "the empty box")
    assert list(loop.send().region_labels) == []


def test_the_instruction_changes_while_running_and_empty_is_the_default(loop):
    speaker = loop.bench.publisher(String, "instruction")
    for said, told in (("What colour is it?", "What colour is it?"), ("  ", "Pick up one object.")):
        speaker.publish(String(data=said))
        loop.bench.wait(lambda said=said: loop.reasoning.parameters["instruction"] == said, "the instruction")
        assert loop.send().instruction == told
        assert loop.reasoner.calls[-1]["prompt"] == told


def test_pictures_are_drawn_only_for_those_who_look(bench):
    loop = Loop(bench, True, perception={"look_for": "red square"})
    loop.send()
    labels = bench.record(Image, "roi_image")
    overlays = bench.record(Image, "overlay")
    for name in ("_labels_out", "_overlay_out"):
        bench.wait(lambda name=name: getattr(loop.perception, name).get_subscription_count(), "the pictures' readers")
    loop.send()
    bench.wait(lambda: labels and overlays, "the pictures")
    assert labels[0].encoding == "mono8"
    assert overlays[0].encoding == "bgr8"
    assert (labels[0].height, labels[0].width) == FRAME.shape[:2] == (overlays[0].height, overlays[0].width)
    assert labels[0].header == overlays[0].header == header(loop.stamp)
    values = np.frombuffer(labels[0].data, np.uint8).reshape(FRAME.shape[:2])
    assert set(np.unique(values)) == {0, 1}
    assert values[16, 16] == 1
    assert values[60, 70] == 0
    drawn = to_rgb(overlays[0], loop.perception._bridge, 10**6)
    assert not np.array_equal(drawn, FRAME)


def test_a_slow_model_drops_frames_and_builds_no_queue(bench):
    loop = Loop(bench, True)
    first = []

    def flood():
        if not first:
            first.append(1)
            for stamp in range(2000, 2010):
                loop.camera.publish(image(FRAME, stamp))

    loop.reasoner.before_token = flood
    loop.send(stamp=1000)

    def done():
        return loop.actions[-1].header == header(2009)

    bench.wait(done, "the newest frame's action")
    seen = loop.perception.health.counted("frames_received")
    dropped = loop.perception.counts()["frames_dropped"] + loop.reasoning.counts()["frames_dropped"]
    assert len(loop.actions) + dropped == seen
    stamps = [a.header.stamp.sec * 1000 + a.header.stamp.nanosec // 1_000_000 for a in loop.actions]
    assert stamps == sorted(set(stamps))


def test_anothers_masks_steer_when_perception_has_nothing_to_look_for(loop):
    from steer_ros.nodes.messages import masks_message
    from steer_ros.regions.mask import Mask, box_weights

    features = loop.perceiver.encode(FRAME)
    box = (0.0, 0.0, 32.0, 32.0)
    mask = Mask(box_weights(features.grid, features.frame_size, box), "theirs", source="roi", box=box)
    loop.perception.parameters["look_for"] = ""
    theirs = loop.bench.publisher(RoiMaskArray, "roi_masks", readers=2)
    theirs.publish(masks_message([mask], features, header(4000)))
    loop.bench.wait(lambda: loop.masks, "the masks")
    answer = loop.send(stamp=4500)
    assert (answer.text, list(answer.region_labels)) == ("Pick up the red one.", ["theirs"])
    answer = loop.send(stamp=5100)
    assert (answer.text, list(answer.region_labels), answer.law) == ("Pick up the blue one.", [], "")
