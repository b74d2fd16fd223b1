"""The demo's processes: `vta` as anyone would start it, and `scripted_replay`, which plays the bag to it over DDS."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .plan import DemoPlan

CHECK_SECONDS = 0.5  # how often the processes are looked at while nothing is said
STOP_SECONDS = 15.0
FRAMES, INFOS = "/image", "/camera_info"  # the bag's topics
_numbers = itertools.count(1)


class StageError(RuntimeError):
    """The demo can't go on; the message is one line and names the log that says more."""


class Stage:
    """A running `vta`, in a namespace of its own, so that no other robot on the network and no other stage hears it.

    out: folder of the logs. perception, reasoning: models. timeout: seconds that the start, and each turn, may take.
    """

    def __init__(self, out: Path, *, perception: str, reasoning: str, timeout: float = 120.0) -> None:
        self._out = out.resolve()
        self._timeout = timeout
        self.namespace = f"/demo_{os.getpid()}_{next(_numbers)}"
        self._env = {**os.environ}
        self._env.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        # The built-in models are so small that a second thread costs more than it gives, above all on a busy machine.
        self._env.setdefault("OMP_NUM_THREADS", "1")
        self._env.setdefault("ROS_LOG_DIR", str(self._out / "log"))
        # In lockstep a lost frame is waited for in vain: here, unlike on a robot, frames are to come for certain.
        certain = {f"qos_overrides.{self.namespace}{FRAMES}.subscription.reliability": "reliable"}
        settings = {
            f"{self.namespace}/perception": {"ros__parameters": {"model": perception, **certain}},
            f"{self.namespace}/reasoning": {"ros__parameters": {"model": reasoning}},
        }
        file = self._out / "vta.yaml"
        file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")  # what JSON is, YAML is too
        command = [str(find_executable("vta")), "--ros-args", "-r", f"__ns:={self.namespace}"]
        command += ["--params-file", str(file)]
        self._vta = self._start(command, "vta", subprocess.DEVNULL)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._vta)

    def run(self, plan: DemoPlan, script: Sequence[Mapping[str, Any]], name: str) -> Iterator[dict[str, Any]]:
        """Play the plan's bag in lockstep by the script; each frame's turn as it comes.

        Raises:
            StageError: a process ended, or something did not come in time.
        """
        script_file = self._out / f"{name}.script.json"
        script_file.write_text(json.dumps(list(script), indent=1) + "\n", encoding="utf-8")
        remaps = [part for topic in (FRAMES, INFOS) for part in ("-r", f"{topic}:={self.namespace}{topic}")]
        command = [
            sys.executable,
            "-m",
            "steer_ros.nodes.scripted_replay",
            str(plan.bag.resolve()),
            "--script",
            str(script_file),
        ]
        command += ["--timeout", str(self._timeout), "--ros-args", "-r", f"__ns:={self.namespace}", *remaps]
        process = self._start(command, name, subprocess.PIPE)
        try:
            for line in self._lines(process, name):
                yield json.loads(line)
            if process.wait(STOP_SECONDS):
                raise StageError(self._last_words(process.returncode, name))
        finally:
            stop(process)

    def _start(self, command: Sequence[str], name: str, out: int) -> subprocess.Popen[str]:
        # From the logs' folder: -m looks there first, and a source tree with another steer_ros may be where we are.
        with (self._out / f"{name}.log").open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                command, stdout=out, stderr=log, stdin=subprocess.DEVNULL, text=True, cwd=self._out, env=self._env
            )

    def _lines(self, process: subprocess.Popen[str], name: str) -> Iterator[str]:
        """What a process says, line by line, as long as `vta` lives and nothing takes too long."""
        lines: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        silent = 0.0
        while True:
            try:
                line = lines.get(timeout=CHECK_SECONDS)
            except queue.Empty:
                silent += CHECK_SECONDS
                if self._vta.poll() is not None:
                    raise StageError(self._last_words(self._vta.returncode, "vta")) from None
                if silent > 2 * self._timeout:  # it has time limits of its own; this is for when they fail
                    raise StageError(f"{name} has said nothing for {silent:g} s; see {self._out / name}.log") from None
                continue
            if line is None:
                return
            silent = 0.0
            yield line

    def _last_words(self, code: int | None, name: str) -> str:
        log = self._out / f"{name}.log"
        said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
        # The other node may say something harmless after the one that failed.
        errors = [line for line in said if line.startswith(("[ERROR]", "[FATAL]"))]
        last = (errors or said or ["nothing said"])[-1]
        last = re.sub(r"^(\[[^]]*\] ?)+: ", "", last)  # [ERROR] [time] [node]
        return f"{name} ended with {code}: {last[:300]} (all of it in {log})"


def find_executable(name: str) -> Path:
    """An executable of this package, where colcon has installed it.

    Raises:
        StageError: it is nowhere: the package was not built for ROS, or its environment is not sourced.
    """
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    for prefix in prefixes:
        path = Path(prefix) / "lib" / "steer_ros" / name
        if path.is_file():
            return path
    raise StageError(f"no lib/steer_ros/{name} under {', '.join(prefixes)}: run `make setup`, or source the workspace")


def stop(process: subprocess.Popen[str]) -> None:
    """End a process: asked first, then made to."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
