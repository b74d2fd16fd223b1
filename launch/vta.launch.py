"""The VTA loop: camera frames in, action texts out.

    ros2 launch steer_ros vta.launch.py image:=/camera/image_raw look_for:="the red beaker"

`ros2 launch steer_ros vta.launch.py --show-args` lists the arguments. One that is left empty leaves its parameter as
params_file has it; one that is given goes before the file.
"""

import atexit
import os
import tempfile

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace, SetParameter

from launch import LaunchDescription

BOTH = ("perception", "reasoning")

# launch argument: (nodes, parameter, description)
FORWARDED = {
    "transport": (("perception",), "transport", "Form of the image topic: raw or compressed."),
    "perception_model": (("perception",), "model", "Vision-language model: builtin:<name>, a folder or a hub id."),
    "reasoning_model": (("reasoning",), "model", "Reasoning model: builtin:<name>, a folder or a hub id."),
    "device": (BOTH, "device", "Where the models run: auto, cpu, cuda or cuda:<n>."),
    "dtype": (BOTH, "dtype", "Type of the weights: auto, float32, float16 or bfloat16."),
    "law": (
        ("reasoning",),
        "steering.law",
        "How weights change attention: model, none, additive, conserving, share or target.",
    ),
    "alpha": (("reasoning",), "steering.alpha", "The law's alpha, or model; 0 steers nothing."),
    "setpoint": (
        ("reasoning",),
        "steering.setpoint",
        "Share: the region's part of the attention to the image; target: its part of all attention; or model.",
    ),
    "gate": (("reasoning",), "steering.gate", "Layers, heads and phases that the law holds for: model, all, ..."),
    "schedule": (("reasoning",), "steering.schedule", "What scales the law over an answer: model, constant, ..."),
    "guard": (("reasoning",), "steering.guard", "When an over-steered answer is rolled back: model, on, off, ..."),
    "policy": (
        ("reasoning",),
        "policy",
        "An action that contradicts its region's label, or has lost its region: publish or hold.",
    ),
    "instruction": (("reasoning",), "instruction", "What the robot is told."),
    "look_for": (("perception",), "look_for", "What to look for: a thing, a place, or both."),
}
NUMBERS = ("alpha", "setpoint")
RENAMED = {"share": "setpoint", "target": "setpoint", "mark": "setpoint"}  # arguments of release 0.1


def generate_launch_description() -> LaunchDescription:
    config = os.path.join(get_package_share_directory("steer_ros"), "config", "vta.yaml")
    arguments = [
        DeclareLaunchArgument("image", default_value="image", description="Topic of the camera's images."),
        *(
            DeclareLaunchArgument(name, default_value="", description=f"{text} Empty: as in params_file.")
            for name, (_, _, text) in FORWARDED.items()
        ),
        DeclareLaunchArgument("params_file", default_value=config, description="Parameters of both nodes (YAML)."),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes and their topics."),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=["true", "false"],
            description="Take the time from /clock, as when a bag is replayed.",
        ),
        DeclareLaunchArgument(
            "composed",
            default_value="true",
            choices=["true", "false"],
            description="true: both nodes in one process, tokens handed over without a copy; false: two processes.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="What the nodes log.",
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=nodes)])


def nodes(context) -> list:
    """The nodes, once the arguments have values."""
    refuse_renamed(context.argv)
    values = {name: LaunchConfiguration(name).perform(context) for name in FORWARDED}
    params_file = LaunchConfiguration("params_file").perform(context)
    remappings = [("image", LaunchConfiguration("image"))]
    given = overrides(values)
    parameters = [written(content) for content in (without(rooted(params_file), given), given) if content]
    composed = LaunchConfiguration("composed").perform(context) == "true"
    return [
        GroupAction(
            [
                PushRosNamespace(LaunchConfiguration("namespace")),
                SetParameter("use_sim_time", LaunchConfiguration("use_sim_time")),
                *(
                    Node(
                        package="steer_ros",
                        executable=executable,
                        output="screen",
                        parameters=parameters,
                        remappings=remappings,
                        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
                        on_exit=Shutdown(reason=f"{executable} has ended"),
                    )
                    for executable in (("vta",) if composed else BOTH)
                ),
            ]
        )
    ]


def refuse_renamed(command_line: list) -> None:
    """ValueError for an argument of an earlier release on the command line, of which launch itself says nothing. (A
    launch file that includes this one may have arguments of its own by those names.)"""
    for argument in command_line:
        name, assigned, _ = argument.partition(":=")
        if assigned and name in RENAMED:
            raise ValueError(f"launch argument {name}: is now {RENAMED[name]}")


def rooted(params_file: str) -> dict:
    """The file's parameters; a section named by a node alone then holds for it in every namespace."""
    with open(params_file, encoding="utf-8") as file:
        content = yaml.safe_load(file) or {}
    if not isinstance(content, dict):
        raise ValueError(f"params_file: {params_file}: accepted is a map of nodes, each with ros__parameters")
    return {key if key.startswith("/") else f"/**/{key}": value for key, value in content.items()}


def overrides(values: dict) -> dict:
    """The arguments that were given, as parameters of the nodes that they are for."""
    sections = {}
    for name, value in values.items():
        if value == "":
            continue
        for node in FORWARDED[name][0]:
            section = sections.setdefault(f"/**/{node}", {"ros__parameters": {}})
            section["ros__parameters"][FORWARDED[name][1]] = yaml.safe_load(value) if name in NUMBERS else value
    return sections


def without(content: dict, given: dict) -> dict:
    """The file less what is given: of its sections for a node rcl heeds the last, wherever the override stands."""
    names = {key.rpartition("/")[2]: set(section["ros__parameters"]) for key, section in given.items()}
    # What a section for both nodes loses: not a "model" that only one of those that have one is given.
    kept = {
        parameter
        for owners, parameter, _ in FORWARDED.values()
        if any(parameter not in names.get(owner, ()) for owner in owners)
    }
    shared = set().union(*names.values()) - kept
    left = {}
    for key, section in content.items():
        node = key.rpartition("/")[2]
        gone = shared if "*" in node else names.get(node, set())
        if gone and isinstance(section, dict) and isinstance(section.get("ros__parameters"), dict):
            section = {**section, "ros__parameters": less(section["ros__parameters"], gone)}
            if not section["ros__parameters"]:
                continue
        left[key] = section
    return left


def less(parameters: dict, gone: set, prefix: str = "") -> dict:
    """Parameters, nested or with dots in their names, without those named; rcl can't read a nest that is empty."""
    left = {}
    for name, value in parameters.items():
        if f"{prefix}{name}" in gone:
            continue
        if isinstance(value, dict):
            value = less(value, gone, f"{prefix}{name}.")
            if not value:
                continue
        left[name] = value
    return left


def written(content: dict) -> str:
    """A file for the nodes to read; it goes when the launch ends."""
    with tempfile.NamedTemporaryFile("w", prefix="steer_ros_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(content, file, sort_keys=False)
    atexit.register(lambda: os.path.exists(file.name) and os.unlink(file.name))
    return file.name
