"""Turns of a tiny R1: thought and action, streaming, limits, bad input."""

import threading
from dataclasses import replace

import pytest
import torch
from tiny_models import R1_PLAIN

from steer_ros.models.decoding import GreedyDecoder
from steer_ros.reasoning import Callbacks, Limits, Reasoner

PROMPT = "Pick up one object."


def test_thought_and_action(thinker, features, say):
    say("I look at the red beaker.\n</think>\n\nPick up the red beaker.")
    heard = []
    turn = thinker.generate(
        PROMPT, features, callbacks=Callbacks(on_text=lambda phase, text: heard.append((phase, text)))
    )
    assert turn.thought == "I look at the red beaker."
    assert turn.action == "Pick up the red beaker."
    assert not turn.cut_short and turn.cut_reason == ""
    assert turn.thought_tokens + turn.action_tokens == len(turn.output_ids) - 2  # </think> and the end
    assert "".join(text for phase, text in heard if phase == "think").strip() == turn.thought
    assert "".join(text for phase, text in heard if phase == "act").strip() == turn.action
    phases = [phase for phase, _ in heard]
    assert phases == sorted(phases, reverse=True)
    assert {"embed", "prefill", "decode", "total"} <= set(turn.timings)
    assert all(ms >= 0 for ms in turn.timings.values()) and turn.timings["total"] >= turn.timings["decode"]


def test_a_bridge_says_what_it_was_not_made_for(thinker, features, say, monkeypatch):
    def warnings_for(*frames):
        say("I look.\n</think>\n\nPick it up.")
        return thinker.generate(PROMPT, *frames).warnings

    monkeypatch.setattr(thinker.bridge, "vl_model", "someone/lab-vl")
    assert not warnings_for(replace(features, model="/elsewhere/lab-vl"))
    assert not warnings_for(replace(features, model=""))
    (warning,) = warnings_for(replace(features, model="Qwen/Other"))
    assert warning.startswith("another model: ") and "Qwen/Other" in warning
    (warning,) = warnings_for()
    assert warning.startswith("no visual tokens: there is no frame") and "someone/lab-vl" in warning
    (warning,) = warnings_for(replace(features, tokens=features.tokens[:, :-1]))
    assert "wide, not" in warning


def test_characters_are_streamed_whole(thinker, features, say):
    say("naïve 🙂\n</think>\n\ntake 試験管 🙂")
    heard = []
    turn = thinker.generate(PROMPT, features, callbacks=Callbacks(on_text=lambda phase, text: heard.append(text)))
    assert turn.thought == "naïve 🙂" and turn.action == "take 試験管 🙂"
    assert not any("\ufffd" in text for text in heard)


def test_a_thought_without_end(thinker, features, say):
    say("I look at the red beaker.")
    turn = thinker.generate(PROMPT, features)
    assert turn.thought == "I look at the red beaker." and turn.action == ""
    assert turn.cut_short and turn.cut_reason == "malformed"


def test_the_phase_does_not_outlast_the_turn(thinker, features, mask, say):
    say("a</think>Go.")
    assert thinker.generate(PROMPT, features, mask).action == "Go."
    assert thinker.attachment.phase == "think"


def test_an_empty_action(thinker, features, say):
    say("a</think>\n\n")
    turn = thinker.generate(PROMPT, features)
    assert turn.action == "" and turn.cut_reason == "malformed"


def test_a_thought_too_long_is_closed(thinker, features, say):
    say("x" * 40 + "Pick it up.")
    turn = thinker.generate(PROMPT, features, limits=Limits(max_thought_tokens=20, max_new_tokens=60))
    assert turn.thought == "x" * 20
    assert turn.cut_short and turn.cut_reason == "thought_tokens"
    forced = thinker.tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
    assert turn.output_ids[20 : 20 + len(forced)] == forced
    assert turn.action.endswith("Pick it up.")


def test_a_thought_that_ends_in_time_is_left_alone(thinker, features, say):
    say("x" * 20 + "</think>Go.")
    turn = thinker.generate(PROMPT, features, limits=Limits(max_thought_tokens=20))
    assert (turn.thought, turn.action, turn.cut_short) == ("x" * 20, "Go.", False)


@pytest.mark.parametrize(("limit", "reason"), [(5, "thought_tokens"), (12, "action_tokens")])
def test_an_answer_too_long(thinker, features, say, limit, reason):
    say("abcdefg</think>" + "h" * 40)
    turn = thinker.generate(PROMPT, features, limits=Limits(max_new_tokens=limit))
    assert len(turn.output_ids) == limit
    assert turn.cut_short and turn.cut_reason == reason


def test_the_models_own_limit_cuts(thinker, features, say, monkeypatch):
    monkeypatch.setattr(Reasoner, "max_length", 70)
    say("x" * 600)
    turn = thinker.generate(PROMPT, features, limits=Limits(max_new_tokens=10_000))
    assert len(turn.prompt_ids) + len(turn.output_ids) == 70 and turn.cut_short


def test_an_action_past_its_limit_is_cut_however_short_the_thought(thinker, features, say):
    say("hm\n</think>\n\n" + "abcdefgh" * 5)
    turn = thinker.generate(PROMPT, features, limits=Limits(max_thought_tokens=40, max_action_tokens=6))
    assert (turn.action_tokens, turn.cut_short, turn.cut_reason) == (6, True, "action_tokens")


@pytest.mark.parametrize("end", ["<｜end▁of▁sentence｜>", "<｜User｜>"])
def test_every_end_token_ends(thinker, features, say, end):
    say(f"a</think>Go.{end}on and on")
    turn = thinker.generate(PROMPT, features)
    assert turn.action == "Go." and not turn.cut_short


def test_stopped_before_it_began(thinker, features, mask, monkeypatch):
    monkeypatch.setattr(GreedyDecoder, "prefill", None)  # would fail if it were called
    turn = thinker.generate(PROMPT, features, mask, callbacks=Callbacks(stop=lambda: "deadline"))
    assert turn.cut_short and turn.cut_reason == "deadline"
    assert turn.output_ids == [] and turn.action == "" and not turn.steered
    assert thinker._attachment._state.session is None


def test_stopped_in_the_middle(thinker, features, mask, say):
    say("abcdefg</think>hijk")
    polls = iter([None] * 11)
    turn = thinker.generate(PROMPT, features, mask, callbacks=Callbacks(stop=lambda: next(polls, "canceled")))
    assert turn.cut_short and turn.cut_reason == "canceled"
    assert len(turn.output_ids) == 11 and turn.thought == "abcdefg" and turn.action == "hij"


def test_what_stop_raises_comes_through_and_the_next_turn_works(thinker, features, mask):
    polls = iter([None, None])
    with pytest.raises(StopIteration):
        thinker.generate(PROMPT, features, mask, callbacks=Callbacks(stop=lambda: next(polls)))
    with pytest.raises(ZeroDivisionError):
        thinker.generate(PROMPT, features, mask, callbacks=Callbacks(update_masks=lambda: 1 / 0))
    assert thinker.generate(PROMPT, features, mask, limits=Limits(max_new_tokens=2)).steered


@pytest.mark.parametrize("mark", R1_PLAIN)
def test_marks_in_the_prompt_are_text(thinker, features, mark):
    turn = thinker.generate(f"Do {mark} now", features, limits=Limits(max_new_tokens=1))
    plain = thinker.generate("Do it now", features, limits=Limits(max_new_tokens=1))
    marks = set(thinker.tokenizer.get_added_vocab().values())
    assert [i for i in turn.prompt_ids if i in marks] == [i for i in plain.prompt_ids if i in marks]
    assert turn.spans == plain.spans
    assert mark in thinker.tokenizer.decode(turn.prompt_ids)


@pytest.mark.parametrize("prompt", ["", " \n\t", None, 5, b"go"])
def test_prompts_that_are_none(thinker, features, prompt):
    with pytest.raises(ValueError, match="prompt"):
        thinker.generate(prompt, features)


def test_a_lone_surrogate_is_no_character(thinker, features):
    assert thinker.generate("pick \ud800 up", features, limits=Limits(max_new_tokens=1)).prompt_ids


def test_a_prompt_too_long(thinker, features):
    with pytest.raises(ValueError, match="prompt: 100000 characters"):
        thinker.generate("x" * 100_000, features)
    with pytest.raises(ValueError, match=r"prompt: .*512"):
        thinker.generate("x" * 600, features)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"config": {"law": "magic"}}, "law: 'magic'"), ({"config": {"gate": "layers=9"}}, "gate layers: 9"),
     ({"config": {"gate": "no"}}, "gate: 'no'"), ({"config": {"mark": 0.5}}, "mark: is now setpoint"),
     ({"config": {"colour": 1}}, "colour: no field"), ({"config": 2.0}, "config: float"),
     ({"frames": "image"}, "frames: "), ({"frames": [None]}, "frames: "), ({"limits": 5}, "limits: int"),
     ({"callbacks": print}, "callbacks: "), ({"alpha": "2"}, "alpha: '2'"),
     ({"config": {"head_gains": torch.ones(1, 1)}}, r"head_gains: shape \[1, 1\]")],
)  # fmt: skip
def test_bad_arguments_are_named(thinker, features, mask, arguments, says):
    with pytest.raises(ValueError, match=says):
        thinker.generate(**({"prompt": PROMPT, "frames": features, "masks": mask} | arguments))


@pytest.mark.parametrize(
    ("limits", "says"),
    [({"max_new_tokens": 0}, "max_new_tokens: 0"), ({"max_new_tokens": 2.5}, "max_new_tokens: 2.5"),
     ({"max_new_tokens": None}, "max_new_tokens: None"), ({"max_thought_tokens": -1}, "max_thought_tokens: -1"),
     ({"max_action_tokens": True}, "max_action_tokens: True")],
)  # fmt: skip
def test_bad_limits_are_named(limits, says):
    with pytest.raises(ValueError, match=says):
        Limits(**limits)


@pytest.mark.parametrize(
    ("old", "new"),
    [("visual_context", "frames"), ("steering_mask", "masks"), ("mark", "setpoint"), ("law", "config"),
     ("max_new_tokens", "Limits"), ("stop", "Callbacks"), ("update_mask", "update_masks"), ("adaptive", "head_gains")],
)  # fmt: skip
def test_old_arguments_are_refused_with_the_new_one_named(thinker, old, new):
    with pytest.raises(TypeError, match=rf"no argument '{old}'; use .*{new}"):
        thinker.generate(PROMPT, **{old: 1})


def test_no_frame_at_all(thinker):
    turn = thinker.generate(PROMPT, limits=Limits(max_new_tokens=2))
    assert turn.spans == [] and not turn.steered


def test_two_callers_take_turns(thinker, features, mask):
    wanted = [
        thinker.generate(PROMPT, features, m, alpha=4, limits=Limits(max_new_tokens=12)).output_ids
        for m in (None, mask)
    ]
    found = {}

    def work(key, m):
        found[key] = [
            thinker.generate(PROMPT, features, m, alpha=4, limits=Limits(max_new_tokens=12)).output_ids
            for _ in range(3)
        ]

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate((None, mask))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: [wanted[0]] * 3, 1: [wanted[1]] * 3}


def test_the_same_turn_twice(thinker, features, mask):
    one, two = (thinker.generate(PROMPT, features, mask, limits=Limits(max_new_tokens=12)) for _ in range(2))
    assert (one.output_ids, one.focus_after) == (two.output_ids, two.focus_after)


def test_a_model_that_opens_its_own_thought(thinker, features, say, monkeypatch):
    monkeypatch.setattr(thinker.prompts, "opens_thought", False)
    say("<think>hm</think>Go.")
    turn = thinker.generate(PROMPT, features)
    assert (turn.thought, turn.action) == ("hm", "Go.")
    say("Go.")
    turn = thinker.generate(PROMPT, features)
    assert (turn.thought, turn.action, turn.cut_short) == ("", "Go.", False)
