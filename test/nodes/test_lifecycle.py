"""Lifecycle: autostart, models kept while inactive, nothing heard while inactive, failures in one line."""

import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_helpers import Bench, FakePerceiver, FakeReasoner, image
from ros_loop import FRAME, Loop
from sensor_msgs.msg import Image

from steer_ros.nodes.base import StartError
from steer_ros.nodes.perception import PerceptionNode
from steer_ros.nodes.reasoning import ReasoningNode


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def call(bench, kind, name, request):
    client = bench.peer.create_client(kind, name)
    bench.wait(client.service_is_ready, name)
    future = client.call_async(request)
    bench.wait(future.done, name)
    return future.result()


def state(bench, node):
    return call(bench, GetState, f"/{node}/get_state", GetState.Request()).current_state.id


def change(bench, node, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return call(bench, ChangeState, f"/{node}/change_state", request).success


def test_without_autostart_a_manager_leads_and_models_load_once(bench):
    loads = []

    def load(*arguments, **options):
        loads.append(options)
        return FakePerceiver()

    node = bench.start(PerceptionNode, load_model=load, parameters={"autostart": False})
    assert state(bench, "perception") == State.PRIMARY_STATE_UNCONFIGURED
    assert not loads
    assert change(bench, "perception", Transition.TRANSITION_CONFIGURE)
    assert state(bench, "perception") == State.PRIMARY_STATE_INACTIVE
    assert loads == [{"device": "auto", "dtype": "auto"}]
    assert bench.peer.count_subscribers("image") == 0
    for _ in range(2):
        assert change(bench, "perception", Transition.TRANSITION_ACTIVATE)
        bench.wait(lambda: bench.peer.count_subscribers("image") == 1, "the subscription")
        assert change(bench, "perception", Transition.TRANSITION_DEACTIVATE)
        bench.wait(lambda: bench.peer.count_subscribers("image") == 0, "its end")
    assert len(loads) == 1
    assert change(bench, "perception", Transition.TRANSITION_CLEANUP)
    assert node._perceiver is None
    assert change(bench, "perception", Transition.TRANSITION_CONFIGURE)
    assert len(loads) == 2
    assert change(bench, "perception", Transition.TRANSITION_INACTIVE_SHUTDOWN)
    assert state(bench, "perception") == State.PRIMARY_STATE_FINALIZED


def test_a_model_that_does_not_load_fails_in_one_line_and_may_be_mended(bench):
    def load(name, **options):
        if name == "builtin:nope":
            raise ValueError("model 'builtin:nope': unknown\nbuilt-in")
        return FakeReasoner()

    node = bench.start(ReasoningNode, load_model=load, parameters={"model": "builtin:nope"}, start=False)
    with pytest.raises(StartError, match=r"^reasoning: model 'builtin:nope': unknown built-in$"):
        node.autostart()
    assert state(bench, "reasoning") == State.PRIMARY_STATE_UNCONFIGURED
    node.parameters["model"] = "builtin:lab-r1"
    node.autostart()
    assert state(bench, "reasoning") == State.PRIMARY_STATE_ACTIVE


def test_a_gate_beyond_the_model_is_refused_at_start_and_at_run_time(bench):
    def load(*arguments, **options):
        return FakeReasoner()

    node = bench.start(ReasoningNode, load_model=load, parameters={"steering.gate": "layers=9"}, start=False)
    with pytest.raises(StartError, match=r"parameter steering\.gate: 'layers=9'.*0 to 3"):
        node.autostart()
    node.parameters["steering.gate"] = "layers=3"
    node.autostart()
    with pytest.raises(ValueError, match=r"steering\.gate"):
        node.parameters["steering.gate"] = "heads=4"
    assert node.parameters["steering.gate"] == "layers=3"


def test_strength_is_set_by_service_as_an_integer(bench):
    loop = Loop(bench, True, perception={"look_for": "red square"})

    def put(value):
        parameter = ParameterMessage(name="steering.alpha", value=value)
        request = SetParameters.Request(parameters=[parameter])
        return call(bench, SetParameters, "/reasoning/set_parameters", request).results[0]

    assert put(ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=3)).successful
    assert loop.send().alpha == 3.0
    refused = put(ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=float("nan")))
    assert not refused.successful
    assert "steering.alpha" in refused.reason
    assert loop.send().alpha == 3.0


@pytest.mark.parametrize("together", [True, False])
def test_either_node_may_pause_and_come_back(bench, together):
    loop = Loop(bench, together, perception={"look_for": "red square"})
    loop.send()
    loop.reasoning.trigger_deactivate()
    # On the way through a paused reasoner a frame is lost, not kept for later.
    loop.camera.publish(image(FRAME, 2000))
    bench.wait(lambda: loop.perception.health.counted("frames_seen") == 2, "the frame")
    assert len(loop.actions) == 1
    if together:
        assert loop.perception.counts()["frames_unreceived"] == 1
    loop.reasoning.trigger_activate()
    loop.perception.trigger_deactivate()
    bench.wait(lambda: bench.peer.count_subscribers("image") == 0, "the pause")
    loop.perception.trigger_activate()
    bench.wait(lambda: loop.camera.get_subscription_count() == 1, "the camera's reader")
    if not together:
        bench.wait(lambda: loop.perception._tokens_out.get_subscription_count() > 0, "visual_tokens")
        bench.wait(lambda: loop.perception._masks_out.get_subscription_count() > 1, "roi_masks")
    reader = next(s for s in bench.peer.subscriptions if s.topic_name == "/action")
    bench.wait(lambda: reader.get_publisher_count() > 0, "action")
    assert loop.send().text == "Pick up the red one."


def test_deactivation_cuts_a_turn_short_and_says_so(bench):
    loop = Loop(bench, True)
    begun = []

    def before_token():
        # What a lifecycle manager does on the executor's thread, seen from the lane.
        if not begun:
            begun.append(1)
            loop.reasoning._synchronizer.close()

    loop.reasoner.before_token = before_token
    answer = loop.send()
    assert (answer.text, answer.cut_reason) == ("", "stopped")


def test_a_camera_may_be_remapped_and_namespaced(bench):
    arguments = ["--ros-args", "-r", "__ns:=/robot1", "-r", "image:=/cam/image_raw"]
    node = bench.start(PerceptionNode, load_model=lambda *a, **k: FakePerceiver(), cli_args=arguments)
    bench.publisher(Image, "/cam/image_raw")
    names = {name for name, _ in bench.peer.get_topic_names_and_types()}
    assert {"/robot1/roi_masks", "/robot1/perception/look_for", "/robot1/visual_tokens", "/diagnostics"} <= names
    node.trigger_deactivate()
    compressed = [*arguments, "-p", "transport:=compressed", "-r", "__node:=other"]
    bench.start(PerceptionNode, load_model=lambda *a, **k: FakePerceiver(), cli_args=compressed)
    bench.wait(lambda: bench.peer.count_subscribers("/cam/image_raw/compressed") == 1, "the compressed topic")


def test_quality_of_service_is_as_designed(bench):
    loop = Loop(bench, False)
    infos = {
        topic: bench.peer.get_publishers_info_by_topic(topic)[0].qos_profile
        for topic in ("/roi_masks", "/visual_tokens", "/action_text", "/action", "/thought")
    }
    assert {profile.reliability.name for profile in infos.values()} == {"RELIABLE"}
    image_reader = bench.peer.get_subscriptions_info_by_topic("/image")[0].qos_profile
    assert image_reader.reliability.name == "BEST_EFFORT"
    assert loop.perception._masks_out.qos_profile.depth == loop.perception._tokens_out.qos_profile.depth == 1
    assert loop.reasoning._action_out.qos_profile.depth == 10
    assert loop.perception.has_parameter("qos_overrides./image.subscription.reliability")


def test_one_topics_quality_of_service_overridden_leaves_the_others_alone(bench):
    overridden = {"qos_overrides./overlay.publisher.reliability": "best_effort"}
    bench.start(PerceptionNode, load_model=lambda *a, **k: FakePerceiver(), parameters=overridden)
    found = {
        topic: bench.peer.get_publishers_info_by_topic(topic)[0].qos_profile.reliability.name
        for topic in ("/overlay", "/roi_masks", "/roi_image", "/visual_tokens")
    }
    assert found.pop("/overlay") == "BEST_EFFORT"
    assert set(found.values()) == {"RELIABLE"}
