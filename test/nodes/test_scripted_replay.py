"""Scripted replays: a bag in lockstep by a script, each turn as plain data. The models are stand-ins."""

import json
import threading

import pytest
from rclpy.parameter_client import AsyncParameterClient
from rclpy.task import Future
from ros_helpers import BOUND, Bench
from ros_loop import FRAMES, Loop, write_bag

from steer_ros.nodes import scripted_replay
from steer_ros.nodes.scripted_replay import ScriptedReplay, ScriptedReplayError, check_script, main

STAMPS = [100_000_000_000 + i * 100_000_000 for i in range(len(FRAMES))]


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def step(index, parameter, value, node="perception"):
    return {"stamp_ns": STAMPS[index], "node": node, "parameter": parameter, "value": value}


def play_script(bench, bag, script, **options):
    """Play a bag by a script beside the bench; returns the turns, or raises what the replay raised."""
    turns, raised = [], []
    replay = ScriptedReplay(bag, script, turns.append, context=bench.context, **{"timeout": BOUND, **options})

    def play():
        try:
            replay.play()
        except ScriptedReplayError as error:
            raised.append(error)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        bench.wait(lambda: not thread.is_alive(), "the end of the replay")
    finally:
        thread.join(BOUND)
        replay.end()
    if raised:
        raise raised[0]
    return turns


def test_a_step_holds_from_its_frame_on(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES)
    loop = Loop(bench, True)
    script = [
        step(0, "look_for", "red square"),
        step(3, "look_for", "green square"),
        step(5, "instruction", "Go.", "reasoning"),
    ]
    turns = play_script(bench, bag, script)
    assert [turn["stamp_ns"] for turn in turns] == STAMPS
    assert [turn["text"] for turn in turns] == ["Pick up the red one."] * 3 + ["Pick up the green one."] * 3
    assert [turn["instruction"] for turn in turns] == ["Pick up one object."] * 5 + ["Go."]
    assert [turn["region_labels"] for turn in turns] == [["red square"]] * 3 + [["green square"]] * 3
    assert loop.perceiver.grounded == ["red square", "green square"]


def test_a_frame_out_of_order_has_no_turn(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:4], stamps=[100.0, 100.2, 100.1, 100.3])
    Loop(bench, True)
    turns = play_script(bench, bag, [step(0, "look_for", "red square")])
    assert [turn["stamp_ns"] for turn in turns] == [STAMPS[0], STAMPS[2], STAMPS[3]]


def test_a_step_that_no_frame_has_is_named(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:2])
    Loop(bench, True)
    unused = step(0, "look_for", "red square") | {"stamp_ns": 7}
    with pytest.raises(ScriptedReplayError, match=r"no frame of the bag has: 7$"):
        play_script(bench, bag, [step(0, "look_for", "red square"), unused])


def test_a_turn_is_plain_data_with_its_masks(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:1])
    Loop(bench, True)
    (turn,) = play_script(bench, bag, [step(0, "look_for", "red square")])
    assert json.loads(json.dumps(turn)) == json.loads(json.dumps(turn, allow_nan=False))
    (region,) = turn["regions"]
    assert (region["label"], region["source"]) == ("red square", "grounding")
    assert len(region["weights"]) == len(region["weights"][0]) == 8 and max(map(max, region["weights"])) == 127
    x0, y0, x1, y1 = region["box"]
    assert x0 < 18 < x1 and y0 < 34 < y1
    assert (turn["law"], turn["frame_id"], turn["cut_short"]) == ("conserving", "camera", False)
    assert turn["focus_after"] == pytest.approx(0.7, abs=1e-6)


def test_what_was_not_measured_is_none(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:1])
    Loop(bench, True)
    (turn,) = play_script(bench, bag, [step(0, "steering.alpha", 0.0, "reasoning"), step(0, "look_for", "red square")])
    assert turn["focus_before"] is None and turn["law"] == "" and len(turn["regions"]) == 1


def test_two_strengths_differ_in_the_field_alone(bench, tmp_path):
    """Prompts, tokens and masks of both runs are the same, to the bit; only the strength is another."""
    bag = write_bag(tmp_path / "bag", FRAMES)
    loop = Loop(bench, True)
    calls = {}
    for alpha in (0.0, 2.0):
        loop.reasoner.calls.clear()
        turns = play_script(
            bench, bag, [step(0, "steering.alpha", alpha, "reasoning"), step(0, "look_for", "green square")]
        )
        calls[alpha] = (list(loop.reasoner.calls), turns)
    (plain, unsteered), (tilted, steered) = calls[0.0], calls[2.0]
    assert len(plain) == len(tilted) == len(FRAMES)
    for a, b in zip(plain, tilted):
        differ = {name for name in a if name not in ("features", "mask") and a[name] != b[name]}
        assert differ == {"config"}
        assert b["config"] == a["config"].override(alpha=2.0)
        assert a["features"].tokens.equal(b["features"].tokens)
        for one, other in zip(a["mask"], b["mask"], strict=True):
            assert (one.weights == other.weights).all() and one.box == other.box
    assert {turn["text"] for turn in unsteered} != {turn["text"] for turn in steered} == {"Pick up the green one."}


def test_a_refused_step_ends_it_with_the_reason(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:2])
    Loop(bench, True)
    with pytest.raises(ScriptedReplayError, match=r"node reasoning: steering\.alpha = 1000\.0 was refused: .*1000"):
        play_script(bench, bag, [step(0, "steering.alpha", 1000.0, "reasoning")])


def test_a_node_whose_answer_is_lost_is_asked_again(bench, tmp_path, monkeypatch):
    """DDS: a node may know a client's requests before it knows the client's way back."""
    bag = write_bag(tmp_path / "bag", FRAMES[:2])
    Loop(bench, True)
    ask, lost = AsyncParameterClient.set_parameters, []

    def ask_in_vain_first(client, parameters):
        answer = ask(client, parameters)
        if lost:
            return answer
        lost.append(answer)
        return Future()

    monkeypatch.setattr(AsyncParameterClient, "set_parameters", ask_in_vain_first)
    monkeypatch.setattr(scripted_replay, "ASK_AGAIN", 0.1)
    turns = play_script(bench, bag, [step(0, "look_for", "red square")])
    assert lost and [turn["text"] for turn in turns] == ["Pick up the red one."] * 2


def test_a_node_that_never_answers_is_named(bench, tmp_path, monkeypatch):
    bag = write_bag(tmp_path / "bag", FRAMES[:2])
    Loop(bench, True)
    monkeypatch.setattr(AsyncParameterClient, "set_parameters", lambda *_: Future())
    with pytest.raises(ScriptedReplayError, match="node perception: no answer within 1 s to look_for = 'red square'"):
        play_script(bench, bag, [step(0, "look_for", "red square")], timeout=1.0)


def test_a_node_that_is_not_there_is_named(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:2])
    Loop(bench, True)
    with pytest.raises(ScriptedReplayError, match="node nobody: its parameters can't be reached"):
        play_script(bench, bag, [step(0, "look_for", "red square", "nobody")], timeout=0.5)


def test_a_frame_without_an_action_ends_it(bench, tmp_path):
    bag = write_bag(tmp_path / "bag", FRAMES[:2])
    Loop(bench, True, perception={"max_image_pixels": 1})
    with pytest.raises(ScriptedReplayError, match=f"frame {STAMPS[0]}: no action within 0.5 s"):
        play_script(bench, bag, [], timeout=0.5)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ({}, "script: dict; accepted is a list"),
        ([{"stamp_ns": 1}], r"script\[0\]: accepted is an object of stamp_ns"),
        ([step(0, "look_for", "x"), step(0, "look_for", ["x"])], r"script\[1\]\.value: \['x'\]"),
        ([{**step(0, "look_for", "x"), "stamp_ns": "1"}], r"script\[0\]\.stamp_ns: '1'"),
    ],
)
def test_scripts_are_checked(script, says):
    with pytest.raises(ValueError, match=says):
        check_script(script)


@pytest.mark.parametrize("content", ["", "{}", '[{"node": 1}]'])
def test_the_command_names_what_is_wrong_in_one_line(tmp_path, capsys, content):
    (tmp_path / "script.json").write_text(content)
    bag = write_bag(tmp_path / "bag", FRAMES[:1])
    assert main([str(bag), "--script", str(tmp_path / "script.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("scripted_replay: ") and error.count("\n") == 1
