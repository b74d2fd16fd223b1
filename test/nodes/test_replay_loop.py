"""The whole loop as it runs on a robot: built-in models, real processes, DDS, a bag in and ActionText out."""

import math
import subprocess
import time

import pytest
from ros_helpers import BOUND, Bench

from steer_ros.lab.bag import write_bag
from steer_ros.lab.demo.command import check_alike
from steer_ros.lab.demo.plan import INSTRUCTION, is_hit, judge, make_plan, share
from steer_ros.lab.demo.processes import Stage, StageError, find_executable
from steer_ros.lab.scenes.clip import make_clip
from steer_ros.msg import ActionText

MODELS = {"perception": "builtin:lab-vl", "reasoning": "builtin:lab-r1"}
FRAMES = 8
VARY = {"turn_id", "region_ids"}  # never used again, by design; and times are what they are


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with Stage(tmp_path_factory.mktemp("stage"), **MODELS) as stage:
        yield stage


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return make_plan(tmp_path_factory.mktemp("plan") / "bag", 21, frames=FRAMES, scenes=1, objects=4)


@pytest.fixture(scope="module")
def runs(stage, plan):
    scripts = {"steered": plan.script("model"), "unsteered": plan.script(0.0), "again": plan.script("model")}
    return {name: list(stage.run(plan, script, name)) for name, script in scripts.items()}


def fixed(turn):
    """What must be the same whenever a frame is replayed."""
    return {name: value for name, value in turn.items() if name not in VARY and not name.endswith("_ms")} | {
        "regions": [{k: v for k, v in region.items() if k != "track_id"} for region in turn["regions"]]
    }


def test_each_frame_gets_its_action(runs, plan):
    for turns in runs.values():
        assert [turn["stamp_ns"] for turn in turns] == list(plan.truth.frames)
        assert {turn["frame_id"] for turn in turns} == {"bench_camera"}
        assert {turn["instruction"] for turn in turns} == {INSTRUCTION}
        assert len({turn["turn_id"] for turn in turns}) == FRAMES
        assert all(turn["total_ms"] >= turn["decode_ms"] > 0 for turn in turns)


def test_lockstep_gives_the_same_actions_word_for_word(runs):
    assert [fixed(turn) for turn in runs["steered"]] == [fixed(turn) for turn in runs["again"]]


def test_steered_and_unsteered_differ_in_the_field_alone(runs, plan):
    check_alike(runs["unsteered"], runs["steered"])
    assert {turn["law"] for turn in runs["unsteered"]} == {""}
    steered = [turn for turn in runs["steered"] if turn["regions"]]
    assert steered and {(turn["law"], turn["alpha"]) for turn in steered} == {("conserving", 8.0)}  # lab-r1's own
    assert all(turn["focus_after"] > turn["focus_before"] for turn in steered)


def test_steering_carries_what_to_look_for(runs, plan):
    scores = {name: share(judge(plan, turns)) for name, turns in runs.items()}
    assert scores["steered"] >= scores["unsteered"] + 30, scores
    assert scores["steered"] >= 75, scores


def test_real_time(stage, plan, tmp_path):
    """At a camera's pace: frames may be dropped, and are counted; no action is mixed up or about another frame."""
    clip = list(make_clip(23, 40, objects=3, duplicates=0.0))
    truth = write_bag(tmp_path / "bag", clip, storage="sqlite3", fps=10)
    stamps = list(truth.frames)
    wanted = truth.visible_objects(stamps[0])[0].name
    bench = Bench()
    try:
        actions = bench.record(ActionText, f"{stage.namespace}/action")
        counts = Counts(bench, stage)
        set_look_for(bench, stage, wanted)
        before = counts.fresh()
        started = time.monotonic()
        command = [find_executable("replay"), tmp_path / "bag", "--no-clock", "--ros-args"]
        command += ["-r", f"/image:={stage.namespace}/image"]
        replay = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
        try:
            bench.wait(lambda: replay.poll() is not None, "the replay's end")
        finally:
            replay.kill()
            replay.wait()
        assert replay.returncode == 0

        gone = counts.settled(before)
        bench.wait(lambda: len(actions) >= gone["turns"], "the last action")
        took = time.monotonic() - started
    finally:
        bench.close()
    seen = [action.header.stamp.sec * 10**9 + action.header.stamp.nanosec for action in actions]
    assert seen == sorted(set(seen)) and set(seen) <= set(stamps)
    assert 0 < len(seen) == gone["turns"] and gone["received"] <= len(stamps)
    assert took < BOUND
    verdicts = [
        is_hit(action.text, wanted, truth.visible_objects(stamp)) for action, stamp in zip(actions, seen) if action.law
    ]
    assert verdicts and share(verdicts) >= 75
    assert all(not math.isnan(action.focus_after) for action in actions if action.law)


class Counts:
    """The nodes' own counts, as /diagnostics has them."""

    def __init__(self, bench, stage):
        from diagnostic_msgs.msg import DiagnosticArray

        self.bench = bench
        self.names = [f"{stage.namespace}/{node}"[1:] for node in ("perception", "reasoning")]
        self.arrays = bench.record(DiagnosticArray, "/diagnostics")

    def now(self):
        values = {}
        for array in self.arrays:
            for status in array.status:
                values[status.name] = {pair.key: pair.value for pair in status.values}
        perception, reasoning = (values.get(name, {}) for name in self.names)

        def number(status, name):
            return int(status.get(name, 0))

        return {
            "received": number(perception, "frames_received"),
            "dropped": number(perception, "frames_dropped") + number(reasoning, "frames_dropped"),
            "turns": number(reasoning, "turns"),
        }

    def fresh(self):
        """Counts that both nodes have reported from now on."""
        self.arrays.clear()
        self.bench.wait(
            lambda: set(self.names) <= {s.name for array in self.arrays for s in array.status}, "/diagnostics"
        )
        return self.now()

    def settled(self, before):
        """What has come since then, when every frame is accounted for and two reports in a row say the same."""
        last, end = None, time.monotonic() + BOUND
        while True:
            gone = {name: value - before[name] for name, value in self.fresh().items()}
            if gone == last and gone["received"] == gone["dropped"] + gone["turns"]:
                return gone
            assert time.monotonic() < end, f"frames are not accounted for: {gone}"
            last = gone


def set_look_for(bench, stage, text):
    from rclpy.parameter import Parameter
    from rclpy.parameter_client import AsyncParameterClient

    client = AsyncParameterClient(bench.peer, f"{stage.namespace}/perception")
    bench.wait(client.services_are_ready, "perception's parameters")
    answer = bench.ask(lambda: client.set_parameters([Parameter("look_for", value=text)]), "the parameter to be taken")
    assert answer.results[0].successful


def test_what_went_wrong_is_told_whatever_was_said_after_it(tmp_path):
    stage = Stage.__new__(Stage)
    stage._out = tmp_path
    log = "[ERROR] [1.5] [perception]: model 'x': unknown\n[INFO] [1.6] [reasoning]: model y on cpu\n\n"
    (tmp_path / "vta.log").write_text(log, encoding="utf-8")
    assert stage._last_words(2, "vta").startswith("vta ended with 2: model 'x': unknown (all of it in ")


def test_a_model_that_is_not_there_ends_the_demo_with_one_clear_line(tmp_path):
    plan = make_plan(tmp_path / "bag", 3, frames=2, scenes=1, objects=2)
    with (
        Stage(tmp_path, perception="builtin:no-such-model", reasoning=MODELS["reasoning"]) as stage,
        pytest.raises(StageError, match=r"vta ended with 2: .*no-such-model.*vta\.log") as raised,
    ):
        list(stage.run(plan, plan.script(1.0), "steered"))
    assert "\n" not in str(raised.value)


def test_two_stages_of_one_process_never_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(Stage, "_start", lambda *_: None)
    stages = [Stage(tmp_path, perception="one", reasoning="two") for _ in range(2)]
    assert stages[0].namespace != stages[1].namespace
