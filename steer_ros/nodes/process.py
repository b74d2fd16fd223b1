"""How a process runs its nodes: one executor, one interrupt, half of the processor."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import rclpy
import torch
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.utilities import remove_ros_args
from transformers.utils.logging import disable_progress_bar

from steer_ros.nodes.base import StartError, SteerNode
from steer_ros.nodes.errors import describe_error


@contextlib.contextmanager
def one_interrupt() -> Iterator[Callable[[], None]]:
    """Only the first SIGINT raises KeyboardInterrupt, and none once the given function has been called.

    Ctrl-C under `ros2 launch` comes twice, from the terminal and from launch: the second must not tear the clean-up.
    Enter before rclpy.init, whose own handler then calls this one.
    """
    heeded = False

    def handle(number: int, frame: Any) -> None:
        nonlocal heeded
        if not heeded:
            heeded = True
            raise KeyboardInterrupt

    def off() -> None:
        nonlocal heeded
        heeded = True

    if threading.current_thread() is not threading.main_thread():
        yield off  # signals are the main thread's business
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield off
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def spinning(no_more_interrupts: Callable[[], None]) -> Iterator[None]:
    """Around whatever spins: shutdown ends it with ExternalShutdownException, and an interrupt is but a shutdown.

    rclpy's own handler shuts the context down on SIGINT. An exception out of nowhere on top of that would tear
    whatever rclpy is building at that moment.
    """
    no_more_interrupts()
    try:
        yield
    except RuntimeError as error:
        # rclpy's RCLError: the context was shut down between the executor's look at it and its wait.
        if rclpy.ok():
            raise
        raise ExternalShutdownException from error


def is_ours(error: BaseException) -> bool:
    """Whether an error came out of this package's own code, below the function that caught it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame.f_globals.get("__name__", "").startswith("steer_ros.") for frame in frames[1:])


def non_ros_args(given: Sequence[str]) -> list[str]:
    """The process's arguments without its name and those of ROS. Exits, as argparse would, on what ROS can't read."""
    try:
        return remove_ros_args(given)[1:]
    except RuntimeError as error:
        print(f"{Path(given[0]).name}: {describe_error(error)}", file=sys.stderr)
        raise SystemExit(2) from error


def share_processor() -> None:
    """Leave half of the processor to the other lane and to ROS, unless OMP_NUM_THREADS says otherwise.

    PyTorch takes it all, and threads that outnumber the cores wait for each other: a small model's turn on two busy
    cores took seven times as long with two threads as with one.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))


def run(make_nodes: Callable[[], list[SteerNode]], args: Sequence[str] | None = None, about: str = "") -> int:
    """Run nodes under one single-threaded executor until shutdown. Returns the process's exit code.

    args: of ROS; None: those of the process. about: said for --help.
    """
    given = list(sys.argv if args is None else ["steer_ros", *args])
    epilog = "Parameters and remappings follow --ros-args: -p look_for:=beaker -r image:=/camera/image_raw"
    parser = argparse.ArgumentParser(prog=Path(given[0]).name, description=about, epilog=epilog)
    parser.parse_args(non_ros_args(given))
    share_processor()
    disable_progress_bar()  # a log is no terminal
    with one_interrupt() as no_more_interrupts:
        return _run(make_nodes, given, no_more_interrupts)


def _run(
    make_nodes: Callable[[], list[SteerNode]], args: Sequence[str] | None, no_more_interrupts: Callable[[], None]
) -> int:
    nodes: list[SteerNode] = []
    try:
        try:
            rclpy.init(args=args)
            executor = SingleThreadedExecutor()
            nodes = make_nodes()
            for node in nodes:
                executor.add_node(node)
            # In reverse: whoever is fed is ready before whoever feeds.
            for node in reversed(nodes):
                node.autostart()
        except StartError:
            return 2  # the node has logged the line that says why
        except (ValueError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "rclpy" not in type(error).__module__:
                raise
            print(describe_error(error), file=sys.stderr)  # rclpy's RuntimeErrors here are about --ros-args
            return 2
        with spinning(no_more_interrupts):
            while True:
                try:
                    executor.spin()
                    break
                except (TypeError, ValueError) as error:
                    if is_ours(error):
                        raise
                    get_logger("steer_ros").error(f"rclpy can't take a message: {describe_error(error)}")
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        no_more_interrupts()
        for node in nodes:
            node.end()
        rclpy.try_shutdown()
    return 0
