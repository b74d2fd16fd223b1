"""The executables, as a launch file starts them: exit codes, one line for a wrong setting, a clean end on a signal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_helpers import BOUND, Bench, image, scene
from sensor_msgs.msg import Image
from tiny_models import bridged_folder, vl_folder

from steer_ros.msg import ActionText, RoiMaskArray
from steer_ros.nodes.process import is_ours

MODELS = ["-p", f"perception:model:={vl_folder()}", "-p", f"reasoning:model:={bridged_folder()}"]
SLOW = 2 * BOUND  # a process imports PyTorch first
FEW = ["-p", "reasoning:max_thought_tokens:=4", "-p", "reasoning:max_action_tokens:=4"]


def executable(name):
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    return next(str(p) for prefix in prefixes if (p := Path(prefix) / "lib" / "steer_ros" / name).exists())


@pytest.fixture
def launch():
    started = []

    def start(name, *arguments):
        command = [executable(name), "--ros-args", *arguments]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("vta", ["-p", "reasoning:steering.alpha:=.nan"], "parameter steering.alpha: nan; accepted is"),
        ("vta", ["-p", "transport:=carrier_pigeon"], "parameter transport: 'carrier_pigeon'; accepted is one of raw"),
        ("reasoning", ["-p", "model:=builtin:nope"], "model 'builtin:nope'"),
    ],
)
def test_a_wrong_setting_is_one_line_and_a_failure(launch, name, arguments, words):
    process = launch(name, *arguments)
    _, errors = process.communicate(timeout=SLOW)
    assert process.returncode == 2
    said = [line for line in errors.splitlines() if words in line]
    assert len(said) == 1, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("names", [("vta",), ("reasoning", "perception")], ids=["together", "apart"])
def test_a_frame_goes_round_and_a_signal_ends_it_cleanly(launch, bench, names):
    processes = [launch(name, *MODELS, *FEW, "-p", "perception:look_for:=left") for name in names]
    actions, masks = bench.record(ActionText, "action"), bench.record(RoiMaskArray, "roi_masks")
    camera = bench.publisher(Image, "image", bound=SLOW)
    readers = {s.topic_name: s for s in bench.peer.subscriptions}
    bench.wait(
        lambda: readers["/action"].get_publisher_count() and readers["/roi_masks"].get_publisher_count(),
        "the nodes",
        SLOW,
    )
    # The nodes may not have found each other, or our readers, when the first frames come, and what they sent then is
    # lost: a camera goes on sending.
    stamps = iter(range(1000, 10**6, 100))

    def answered():
        seen = [m.header for m in masks]
        return [action for action in actions if action.region_labels and action.header in seen]

    def sent_and_answered():
        camera.publish(image(scene(red=(20, 30)), next(stamps)))
        return answered()

    bench.wait(sent_and_answered, "an action about a region, and the masks of the same frame")
    action = answered()[0]
    assert list(action.region_labels) == ["left"]
    assert action.header.frame_id == "camera"
    assert action.thought_tokens <= 4 + 1  # the line break before the end that a thought over its limit is given
    assert action.action_tokens <= 4
    for process in processes * 2:  # twice, as Ctrl-C under `ros2 launch` comes
        process.send_signal(signal.SIGINT)
    for process in processes:
        _, errors = process.communicate(timeout=BOUND)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


SHUT_DOWN_IN_SPIN = """
import sys, rclpy
from rclpy.executors import SingleThreadedExecutor
from steer_ros.nodes.process import run

def spin(self):
    if sys.argv[1] == "shut down":
        rclpy.shutdown()
    raise RuntimeError("failed to initialize wait set: the given context is not valid")

SingleThreadedExecutor.spin = spin
sys.exit(run(lambda: [], []))
"""


@pytest.mark.parametrize(("context", "code"), [("shut down", 0), ("up", 1)])
def test_a_signal_just_before_the_executor_waits_is_a_clean_end(context, code):
    """rclpy then raises an error of its own; the same error with the context up is one, and is not swallowed."""
    command = [sys.executable, "-c", SHUT_DOWN_IN_SPIN, context]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SLOW, check=False)
    assert ended.returncode == code, ended.stderr
    assert ("Traceback" in ended.stderr) == bool(code)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "--ros-args"),
        (["--look-for", "beaker"], 2, "unrecognized arguments"),
        (["--ros-args", "-p", "instruction:="], 2, "instruction:="),
        (["--ros-args", "--params-file", "/nowhere.yaml"], 2, "/nowhere.yaml"),
    ],
)
def test_the_command_line_is_read_or_refused(arguments, code, words):
    command = [executable("reasoning"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SLOW, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stderr
    assert words in ended.stdout + ended.stderr


def test_a_request_that_rclpy_cannot_read_ends_nobody(launch, bench):
    process = launch("reasoning", *MODELS)
    client = bench.peer.create_client(SetParameters, "/reasoning/set_parameters")
    bench.wait(client.service_is_ready, "the node", SLOW)
    strange = Parameter(name="policy", value=ParameterValue(type=99))
    client.call_async(SetParameters.Request(parameters=[strange]))
    known = Parameter(name="policy", value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="hold"))
    request = SetParameters.Request(parameters=[known])
    answer = bench.ask(lambda: client.call_async(request), "an answer to a later request")
    assert answer.results[0].successful
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=BOUND)
    assert process.returncode == 0 and "99" in errors, errors


INTERRUPTED_IN_SPIN = """
import signal, sys, time, rclpy
from rclpy.executors import SingleThreadedExecutor
from steer_ros.nodes.process import run

def spin(self):
    signal.raise_signal(signal.SIGINT)
    end = time.monotonic() + float(sys.argv[1])
    while rclpy.ok() and time.monotonic() < end:
        pass
    print("not torn, shut down" if not rclpy.ok() else "not torn, still up")

SingleThreadedExecutor.spin = spin
sys.exit(run(lambda: [], []))
"""


def test_an_interrupt_shuts_down_and_tears_nothing_that_the_executor_does():
    """An exception at any point of a spin once left rclpy's half-built task to complain of its missing attributes."""
    command = [sys.executable, "-c", INTERRUPTED_IN_SPIN, str(BOUND)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * SLOW, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "not torn, shut down"), ended.stderr


def test_what_is_ours_is_told_by_module_wherever_the_package_lies():
    def caught(module):
        space = {"__name__": module}
        path = "/home/someone/ros2_ws/src/steer_ros/.venv/lib/python3.11/site-packages/rclpy/node.py"
        exec(compile("def fail():\n    raise ValueError", path, "exec"), space)
        try:
            space["fail"]()
        except ValueError as error:
            return is_ours(error)

    assert caught("steer_ros.nodes.base") and not caught("rclpy.node")
