"""Over-steered answers are begun anew with less strength, within one turn; doubtful regions and focus are reported."""

import itertools
import math

import numpy as np
import pytest
import torch
from tiny_models import perceiver, reasoner, script

from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import make_scene
from steer_ros.models.decoding import GreedyDecoder
from steer_ros.models.features import VisualFeatures
from steer_ros.perception.perceiver import Perceiver
from steer_ros.reasoning import Callbacks, Limits
from steer_ros.reasoning.region_checks import BARE, content
from steer_ros.steering import Guard

PROMPT = "Pick up one object."
GOOD = "I look at it.\n</think>\n\nPick up the red beaker."
LOOP = "I look look look look look look look look look look look look"
NO_ACTION = "I look at it."
STUTTER = "I look at it.</think>Pick up the red red beaker."


@pytest.fixture
def answers(monkeypatch, thinker):
    """Put an answer into the mouth of each attempt in turn. The model runs all the same."""

    def put(*texts):
        scripts, begun = iter(texts), {}
        end = [thinker.tokenizer.eos_token_id]

        def best(self, scores=None):
            if id(self) not in begun:
                text = next(scripts)
                ids = (
                    text if isinstance(text, list) else thinker.tokenizer(text, add_special_tokens=False)["input_ids"]
                )
                begun[id(self)] = (self, iter(ids + end))  # kept, so that no later one has its id
            return next(begun[id(self)][1]), -0.7

        monkeypatch.setattr(GreedyDecoder, "best", best)
        return begun

    return put


@pytest.fixture
def factors(monkeypatch, thinker):
    """The factor of each forward pass."""
    seen, forward = [], GreedyDecoder._forward

    def step(self, *args):
        seen.append(thinker._attachment.strength_scale if thinker._attachment._state.session is not None else None)
        forward(self, *args)

    monkeypatch.setattr(GreedyDecoder, "_forward", step)
    return seen


def test_a_good_answer_is_left_alone(thinker, features, mask, answers):
    begun = answers(GOOD)
    heard = []
    turn = thinker.generate(PROMPT, features, mask, callbacks=Callbacks(on_text=lambda *said: heard.append(said)))
    assert turn.action == "Pick up the red beaker." and len(begun) == 1
    assert (turn.rollbacks, turn.scale) == (0, 1.0)
    assert "rolled_back" not in turn.timings
    assert {phase for phase, _ in heard} == {"think", "act"}


@pytest.mark.parametrize(("bad", "says"), [(LOOP, "repetition"), (NO_ACTION, "without an action"), (STUTTER, "'red'")])
def test_an_over_steered_answer_is_begun_anew_with_half_the_strength(
    thinker, features, mask, answers, factors, bad, says
):
    answers(bad, GOOD)
    heard = []
    turn = thinker.generate(
        PROMPT, features, mask, alpha=3, callbacks=Callbacks(on_text=lambda *said: heard.append(said))
    )
    assert (turn.thought, turn.action) == ("I look at it.", "Pick up the red beaker.")
    assert (turn.rollbacks, turn.scale, turn.config.law.alpha) == (1, 0.5, 3.0)
    assert not turn.cut_short and turn.cut_reason == ""
    assert turn.steered and turn.steered_tokens == len(turn.output_ids)
    first = factors.index(0.5)
    assert set(factors[:first]) == {1.0} and set(factors[first:]) == {0.5}
    assert len(factors) - first == len(turn.output_ids)
    assert turn.warnings[0].startswith("rolled back to 0.5 of the strength: ") and says in turn.warnings[0]
    assert 0 < turn.timings["rolled_back"] < turn.timings["total"]
    # Who listens is told that what was heard is void, and then hears the answer from its beginning.
    void = [i for i, (phase, _) in enumerate(heard) if phase == "rollback"]
    assert len(void) == 1 and says in heard[void[0]][1]
    again = heard[void[0] + 1 :]
    assert "".join(text for phase, text in again if phase == "think").strip() == turn.thought
    assert "".join(text for phase, text in again if phase == "act").strip() == turn.action
    assert thinker._attachment.strength_scale == 1.0 and thinker._attachment._state.session is None


def test_a_loop_is_noticed_long_before_the_limit(thinker, features, mask, answers, factors):
    answers("a" * 200, GOOD)
    turn = thinker.generate(PROMPT, features, mask, limits=Limits(max_new_tokens=256))
    assert factors.index(0.5) == 6 and turn.rollbacks == 1


def test_twice_over_steered_is_answered_plainly_and_that_is_the_end(thinker, features, mask, answers, factors):
    begun = answers(LOOP, STUTTER, STUTTER)
    turn = thinker.generate(PROMPT, features, mask)
    assert len(begun) == 3
    assert turn.action == "Pick up the red red beaker."  # plain is not judged: there is nothing weaker
    assert (turn.rollbacks, turn.scale, turn.steered, turn.steered_tokens) == (2, 0.0, False, 0)
    assert turn.focus_after is None
    assert turn.unsteered_why.startswith("rolled back: malformed answer")
    assert [w.split(":")[0] for w in turn.warnings] == [
        "rolled back to 0.5 of the strength",
        "rolled back to 0 of the strength",
    ]
    assert set(factors[-len(turn.output_ids) :]) == {None}  # no steering was in force at all


def test_the_plain_answer_of_a_rollback_is_the_unsteered_one(thinker, features, mask):
    plain = thinker.generate(PROMPT, features, limits=Limits(max_new_tokens=16))
    never = Guard(
        well_formed=lambda thought, action: False,
        min_repeated_tokens=2,
        min_repeats=2,
        min_repeated_symbols=2,
        retry_scales=(1.0, 0.0),
    )
    turn = thinker.generate(
        PROMPT,
        features,
        mask,
        config={"law": "additive", "alpha": 40, "guard": never},
        limits=Limits(max_new_tokens=16),
    )
    assert turn.rollbacks == 1
    assert (turn.output_ids, turn.cut_reason) == (plain.output_ids, plain.cut_reason)


def test_control_tokens_within_an_answer_are_malformed(thinker, features, mask, answers):
    stray = thinker.tokenizer("a<think>b", add_special_tokens=False)["input_ids"]
    answers(stray, GOOD)
    turn = thinker.generate(PROMPT, features, mask)
    assert turn.rollbacks == 1 and "control tokens" in turn.warnings[0]


def test_a_thought_that_was_closed_for_the_model_may_be_closed_by_it_too(thinker, features, mask, answers):
    """The budget closes the thought; the model's own end of it is then no control token astray."""
    forced = thinker.tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
    said = thinker.tokenizer("I</think>Pick up the red beaker.", add_special_tokens=False)["input_ids"]
    answers([said[0], *forced, *said[1:]])
    turn = thinker.generate(PROMPT, features, mask, limits=Limits(max_thought_tokens=1))
    assert (turn.action, turn.rollbacks, turn.cut_reason) == ("Pick up the red beaker.", 0, "thought_tokens")
    assert not any(text.startswith("rolled back") for text in turn.warnings)


def test_text_that_loses_its_attention_is_noticed(thinker, features, mask, answers):
    answers(GOOD, GOOD, GOOD)
    turn = thinker.generate(PROMPT, features, mask, config={"law": "additive", "alpha": 40})
    assert turn.rollbacks == 2 and all("visual share collapsed: the text" in w for w in turn.warnings)
    answers(GOOD)
    unmeasured = thinker.generate(PROMPT, features, mask, measure_focus=False, config={"law": "additive", "alpha": 40})
    assert unmeasured.rollbacks == 0


def test_a_collapse_late_in_the_answer_is_noticed(thinker, features, mask, answers):
    """Many rows before it kept their attention: what counts are the rows since the last look."""
    answers(*[GOOD + " Then put it on the blue dish at the left." * 3] * 3)
    late = "prompt=0.01;think=0.01;act=1"
    turn = thinker.generate(PROMPT, features, mask, config={"law": "additive", "alpha": 50, "schedule": late})
    assert turn.rollbacks >= 1 and "visual share collapsed: the text" in turn.warnings[0]


def test_the_conserving_law_never_collapses(thinker, features, mask, answers):
    answers(GOOD)
    assert thinker.generate(PROMPT, features, mask, alpha=40).rollbacks == 0


def test_without_a_guard_nothing_is_judged(thinker, features, mask, answers):
    answers(LOOP)
    turn = thinker.generate(PROMPT, features, mask, config={"guard": "off"})
    assert (turn.rollbacks, turn.warnings) == (0, ()) and turn.thought.startswith("I look look")


@pytest.mark.parametrize("settings", [{"config": {"law": "none"}}, {"alpha": 0}, {"masks": None}])
def test_what_is_not_steered_is_not_judged(thinker, features, mask, answers, settings):
    answers(LOOP)
    turn = thinker.generate(**{"prompt": PROMPT, "frames": features, "masks": mask} | settings)
    assert turn.rollbacks == 0 and turn.cut_reason == "malformed"


def test_a_deadline_holds_for_all_attempts_together(thinker, features, mask, answers):
    answers(LOOP, GOOD)
    polls = iter([None] * 20)
    heard = []
    turn = thinker.generate(
        PROMPT,
        features,
        mask,
        callbacks=Callbacks(stop=lambda: next(polls, "deadline"), on_text=lambda *said: heard.append(said)),
    )
    assert turn.rollbacks == 1 and turn.cut_reason == "deadline" and turn.action == ""
    assert ("rollback", turn.warnings[0].split(": ", 1)[1]) in heard


def test_a_deadline_between_two_attempts(thinker, features, mask, answers):
    begun = answers("a" * 60, GOOD)
    polls = iter([None] * 6)  # before the prefill and five tokens; the sixth makes the loop
    turn = thinker.generate(PROMPT, features, mask, callbacks=Callbacks(stop=lambda: next(polls, "canceled")))
    assert len(begun) == 1
    assert (turn.cut_short, turn.cut_reason, turn.thought, turn.action) == (True, "canceled", "", "")
    assert turn.output_ids == [] and turn.rollbacks == 1


def test_the_limits_hold_for_each_attempt(thinker, features, mask, answers):
    answers(LOOP, "x1y2z3" * 40, GOOD)
    turn = thinker.generate(
        PROMPT, features, mask, config={"guard": Guard(max_period=5)}, limits=Limits(max_new_tokens=14)
    )
    assert len(turn.output_ids) == 14 and turn.cut_reason == "thought_tokens"


def test_an_answer_cut_by_its_limit_is_not_malformed(thinker, features, mask, answers):
    answers("abcdefghijklmnop")
    turn = thinker.generate(PROMPT, features, mask, limits=Limits(max_new_tokens=5))
    assert turn.rollbacks == 0 and turn.cut_reason == "thought_tokens"


def test_masks_written_while_an_answer_is_thrown_away_still_count(thinker, features, mask, answers):
    answers(LOOP, GOOD)
    polls = iter([None, None, (mask.weights // 2).astype(np.int8)])
    turn = thinker.generate(PROMPT, features, mask, callbacks=Callbacks(update_masks=lambda: next(polls, None)))
    assert turn.rollbacks == 1 and turn.mask_updates == 1


# A region that moves.
def mirrored(mask):
    return np.ascontiguousarray(mask.weights[:, ::-1])


def test_a_region_that_moves_has_the_answer_begun_anew(thinker, features, mask, answers, factors):
    answers("I look at the le", GOOD)
    polls = iter([*[None] * 9, mirrored(mask)])
    heard = []
    turn = thinker.generate(
        PROMPT,
        features,
        mask,
        callbacks=Callbacks(update_masks=lambda: next(polls, None), on_text=lambda *said: heard.append(said)),
    )
    assert (turn.action, turn.rollbacks, turn.mask_updates, turn.scale) == ("Pick up the red beaker.", 1, 1, 1.0)
    assert ("rollback", "the region moved") in heard and set(factors) == {1.0}
    assert not any("rolled back" in text for text in turn.warnings)
    assert len(factors) == 9 + len(turn.output_ids)


def test_the_new_answer_is_the_one_about_the_new_region(thinker, features, mask):
    polls = iter([None, None, mirrored(mask)])
    turn = thinker.generate(
        PROMPT,
        features,
        mask,
        config={"alpha": 3, "guard": Guard(retry_scales=(1.0,))},
        limits=Limits(max_new_tokens=8),
        callbacks=Callbacks(update_masks=lambda: next(polls, None)),
    )
    wanted = thinker.generate(
        PROMPT, features, mirrored(mask), config={"alpha": 3, "guard": "off"}, limits=Limits(max_new_tokens=8)
    )
    assert turn.rollbacks == 1 and turn.output_ids == wanted.output_ids


def test_a_region_that_moves_a_little_is_carried_along(thinker, features, mask, answers):
    answers(GOOD, GOOD, GOOD, GOOD)
    wider = mask.weights.copy()
    wider[:, 4:6] = 127
    for other in (wider, np.zeros_like(wider), (mask.weights // 2).astype(np.int8)):
        polls = iter([None, None, None, other])
        turn = thinker.generate(
            PROMPT, features, mask, callbacks=Callbacks(update_masks=lambda polls=polls: next(polls, None))
        )
        assert (turn.rollbacks, turn.mask_updates) == (0, 1)
    polls = iter([None, None, mask])  # the first mask of a turn moves nothing
    turn = thinker.generate(PROMPT, features, callbacks=Callbacks(update_masks=lambda: next(polls, None)))
    assert (turn.rollbacks, turn.mask_updates) == (0, 1)


def test_a_region_that_appears_and_then_moves_is_followed(thinker, features, mask, answers):
    answers(GOOD, GOOD)
    polls = iter([None, mask, None, None, mirrored(mask)])
    turn = thinker.generate(PROMPT, features, callbacks=Callbacks(update_masks=lambda: next(polls, None)))
    assert (turn.rollbacks, turn.mask_updates) == (1, 2) and not warned(turn, "region moved on")


def test_a_region_that_never_rests_is_followed_three_times(thinker, features, mask, answers):
    begun = answers(GOOD, GOOD, GOOD, GOOD)
    flip = [mirrored(mask), mask]
    count = iter(range(10_000))
    turn = thinker.generate(PROMPT, features, mask, callbacks=Callbacks(update_masks=lambda: flip[next(count) % 2]))
    assert len(begun) == 4 and turn.rollbacks == 3 and turn.action == "Pick up the red beaker."
    polls = iter([mask, mirrored(mask)] * 4)
    answers(GOOD, GOOD, GOOD, GOOD)
    turn = thinker.generate(PROMPT, features, mask, callbacks=Callbacks(update_masks=lambda: next(polls, None)))
    assert turn.rollbacks == 3 and warned(turn, "region moved on")  # it rests where this answer does not look


@pytest.mark.parametrize("settings", [{"guard": "off"}, {"guard": Guard(follow_moves=False)}, {"alpha": 0}])
def test_moves_are_not_followed_when_not_asked_for(thinker, features, mask, answers, settings):
    answers(GOOD)
    polls = iter([None, None, mirrored(mask)])
    turn = thinker.generate(
        PROMPT, features, mask, config=settings, callbacks=Callbacks(update_masks=lambda: next(polls, None))
    )
    assert (turn.rollbacks, turn.mask_updates) == (0, 1) and not warned(turn, "region moved on")


# Regions and focus.
def warned(turn, kind):
    return [text for text in turn.warnings if text.startswith(kind)]


def test_a_region_without_weights_is_reported(thinker, features, answers):
    answers(GOOD)
    turn = thinker.generate(PROMPT, features, np.zeros((8, 8), np.int8))
    assert turn.warnings == ("region is empty: no weight above 0",)
    answers(GOOD)
    shy = np.zeros((8, 8), np.int8)
    shy[:2] = -100  # there is no region to be empty: something is to be looked away from
    assert thinker.generate(PROMPT, features, shy).warnings == ()


def test_a_whole_frame_has_nowhere_to_look_away_from(thinker, features, answers):
    answers(GOOD)
    turn = thinker.generate(PROMPT, features, np.full((8, 8), 127, np.int8))
    assert warned(turn, "focus never reached") == [f"focus never reached: {turn.unsteered_why}"]
    assert "same on all visual keys" in turn.unsteered_why


def test_a_gate_that_never_opens_is_reported(thinker, features, mask, answers):
    answers(GOOD)
    turn = thinker.generate(PROMPT, features, mask, config={"gate": "phases=act"}, limits=Limits(max_new_tokens=3))
    assert warned(turn, "focus never reached")[0].endswith(turn.unsteered_why)


def test_a_model_that_is_confident_needs_no_focus(thinker, features, mask, monkeypatch):
    script(monkeypatch, thinker.tokenizer, GOOD, probability=0.99)
    turn = thinker.generate(PROMPT, features, mask, config={"schedule": "prompt=0;confidence_threshold=0.9"})
    assert not turn.steered and "confident of every token" in turn.unsteered_why
    assert not warned(turn, "focus never reached")


def test_lab_vls_bare_bench_is_told_from_its_objects():
    """Squares of one to five tokens, wherever no object lies, against the objects' own boxes."""
    eyes = Perceiver.from_pretrained("builtin:lab-vl")
    judged = {"bare": [], "object": []}
    for seed in range(250_000, 250_004):
        shown = render(make_scene(seed))
        seen = eyes.encode(shown.image)
        shape = (seen.grid.token_rows, seen.grid.token_cols)
        tokens = seen.tokens.reshape(*shape, -1)
        taken = torch.zeros(shape, dtype=torch.bool)
        for thing in shown.objects:
            x0, y0, x1, y1 = (side / 28 for side in thing.box)
            inside = torch.zeros(shape, dtype=torch.bool)
            inside[int(y0) : math.ceil(y1), int(x0) : math.ceil(x1)] = True
            if thing.visibility > 0.5:
                judged["object"].append(content(tokens, inside))
            taken[max(0, int(y0) - 1) : math.ceil(y1) + 1, max(0, int(x0) - 1) : math.ceil(x1) + 1] = True
        for size in range(1, 6):
            for y, x in itertools.product(range(0, shape[0] - size + 1, size), range(0, shape[1] - size + 1, size)):
                inside = torch.zeros(shape, dtype=torch.bool)
                inside[y : y + size, x : x + size] = True
                if not (inside & taken).any():
                    judged["bare"].append(content(tokens, inside))
    assert len(judged["bare"]) > 100 and min(judged["object"]) > 0.75
    assert sum(value >= BARE for value in judged["bare"]) <= 0.03 * len(judged["bare"])


def test_a_bare_region_is_reported(thinker, features, mask, answers):
    answers(GOOD, GOOD)
    tokens = features.tokens.clone().reshape(4, 4, -1)
    tokens[:, :2] = tokens[:1, :1]  # the left half all alike
    bare = VisualFeatures(tokens.reshape(16, -1), features.grid, features.frame_size, features.model, features.stamp)
    assert warned(thinker.generate(PROMPT, bare, mask), "region is empty of content")
    assert not warned(thinker.generate(PROMPT, features, mask), "region")


def test_an_even_frame_is_reported(thinker, mask, answers):
    answers(GOOD)
    even = perceiver().encode(np.full((112, 112, 3), 128, np.uint8))
    assert warned(thinker.generate(PROMPT, even, mask), "region is empty of content")


def test_words_are_content(answers, monkeypatch, features, mask):
    thinker = reasoner(bridged=False)
    monkeypatch.setattr(GreedyDecoder, "best", lambda self, scores=None: (thinker.tokenizer.eos_token_id, -0.7))
    regions = [("red beaker", (0, 0, 56, 112)), ("blue dish", (56, 0, 112, 112))]
    turn = thinker.generate(
        PROMPT, features, mask, regions=regions, config={"alpha": 2, "guard": Guard(retry_scales=(1.0,))}
    )
    assert turn.bridge == "text" and turn.steered and not warned(turn, "region")


@pytest.mark.parametrize("guard", ["yes", 1, False])
def test_bad_guards(thinker, features, mask, guard):
    with pytest.raises(ValueError, match="guard"):
        thinker.generate(PROMPT, features, mask, config={"guard": guard})
