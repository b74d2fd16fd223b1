"""Schedules in a turn: factors by phase and token, and the confidence gate, against forward passes spelt out."""

import numpy as np
import pytest
import torch
from tiny_models import perceiver
from torch.utils._python_dispatch import TorchDispatchMode

from steer_ros.models.decoding import GreedyDecoder
from steer_ros.reasoning import Callbacks, Limits
from steer_ros.reasoning.mask_inputs import as_masks, token_weights
from steer_ros.reasoning.prompt import embed
from steer_ros.steering import Span, SteeringField, make_law
from steer_ros.steering.attachment import Attachment

PROMPT = "Pick up one object."
LAW = make_law("additive", 3.0)


@pytest.fixture
def passes(monkeypatch):
    """Each forward pass in order: (rows, phase, factor, cache length before it)."""
    seen, forward = [], GreedyDecoder._forward
    attachments = []
    steer = Attachment.steer

    def noted(self, *args, **kwargs):
        attachments.append(self)
        return steer(self, *args, **kwargs)

    def step(self, embeds, position_ids):
        attachment = attachments[-1]
        seen.append((embeds.shape[1], attachment.phase, round(attachment.strength_scale, 6), self.length))
        forward(self, embeds, position_ids)

    monkeypatch.setattr(Attachment, "steer", noted)
    monkeypatch.setattr(GreedyDecoder, "_forward", step)
    return seen


def confident(monkeypatch, probability):
    """The model says how sure it is of each pass: probability(rows of the pass so far)."""
    best, count = GreedyDecoder.best, [0]

    def told(self, scores=None):
        count[0] += 1
        return best(self, scores)[0], float(torch.tensor(probability(count[0] - 1)).log())

    monkeypatch.setattr(GreedyDecoder, "best", told)


def scripted(monkeypatch, thinker, text):
    """An answer word for word, however often a row is run: the token follows from the cache's length."""
    ids = [*thinker.tokenizer(text, add_special_tokens=False)["input_ids"], thinker.tokenizer.eos_token_id]
    start = []

    def best(self, scores=None):
        start.append(self.length)
        return ids[self.length - start[0]], -0.7

    monkeypatch.setattr(GreedyDecoder, "best", best)
    return ids


def ask(thinker, features, mask, *, stop=None, measure_focus=True, schedule="constant", gate="all", **limits):
    return thinker.generate(
        PROMPT,
        features,
        mask,
        config={"law": LAW, "guard": "off", "schedule": schedule, "gate": gate},
        limits=Limits(**{"max_new_tokens": 6, **limits}),
        callbacks=Callbacks(stop=stop),
        measure_focus=measure_focus,
    )


def test_factors_follow_phase_and_token(thinker, features, mask, passes, monkeypatch):
    scripted(monkeypatch, thinker, "ab</think>cd")
    turn = ask(thinker, features, mask, schedule="prompt=0.5;act=0.8;half_life=2;floor=0.1", max_new_tokens=20)
    rows = len(turn.prompt_ids)
    decay = [round(0.1 + 0.9 * 0.5 ** (n / 2), 6) for n in range(6)]
    assert passes == [
        (rows, "think", 0.5, 0),
        (1, "think", decay[1], rows),
        (1, "think", decay[2], rows + 1),
        (1, "act", round(0.8 * decay[3], 6), rows + 2),
        (1, "act", round(0.8 * decay[4], 6), rows + 3),
        (1, "act", round(0.8 * decay[5], 6), rows + 4),
    ]
    assert str(turn.config.schedule) == "prompt=0.5;act=0.8;half_life=2;floor=0.1"
    assert turn.steered_tokens == len(turn.output_ids) == 6
    assert thinker._attachment.strength_scale == 1.0


def test_a_phase_left_alone_is_plain(thinker, features, mask, monkeypatch):
    scripted(monkeypatch, thinker, "ab</think>cd")
    turn = ask(thinker, features, mask, schedule="prompt=0;act=0", max_new_tokens=20)
    assert turn.steered_tokens == 2  # b and </think>, chosen after a and b were read
    turn = ask(thinker, features, mask, schedule="prompt=0;think=0;act=0", max_new_tokens=20)
    assert turn.steered_tokens == 0 and not turn.steered
    assert turn.focus_before is None and "scale 0" in turn.unsteered_why


def test_a_schedule_of_nothing_is_the_plain_answer(thinker, features, mask):
    plain = thinker.generate(PROMPT, features, limits=Limits(max_new_tokens=12))
    none = ask(thinker, features, mask, schedule="prompt=0;think=0;act=0", max_new_tokens=12)
    assert none.output_ids == plain.output_ids


def logits_of(thinker, features, mask, factors):
    """The logits of each row when pass i runs at factors[i]; the prompt's last row is a pass of its own."""
    context = thinker.prompts.with_tokens(PROMPT, [16])
    embeds = embed(thinker.model, context, [features.tokens], thinker.bridge)
    weights = token_weights(as_masks(mask, features, [features]), [features])
    field = SteeringField([Span(*span) for span in context.spans], weights)
    attachment, decoder, found = thinker._attachment, GreedyDecoder(thinker.model), []
    with torch.no_grad(), attachment.steer(field, LAW):
        attachment.strength_scale = factors[0]
        decoder.prefill(embeds[:, :-1])
        for index, strength_scale in enumerate(factors[1:]):
            attachment.strength_scale = strength_scale
            if index:
                decoder.feed(int(found[-1].argmax()))
            else:
                decoder.extend(embeds[:, -1:])
            found.append(decoder._logits)
    attachment.strength_scale = 1.0
    return torch.stack(found)


def test_sure_tokens_are_left_alone_and_unsure_ones_run_again(thinker, features, mask, passes, monkeypatch):
    # Passes in order: the prompt's last row plain (unsure) and steered, then a sure one, an unsure one, a sure one.
    sure = {1: 0.2, 3: 0.95, 4: 0.2, 6: 0.95}
    chosen, best, count = [], GreedyDecoder.best, [0]

    def told(self, scores=None):
        count[0] += 1
        chosen.append(self._logits)
        return best(self, scores)[0], float(torch.tensor(sure.get(count[0], 0.5)).log())

    monkeypatch.setattr(GreedyDecoder, "best", told)
    # `best` is not asked after the prompt's first rows, so the count is that of the passes after it.
    turn = ask(thinker, features, mask, schedule="prompt=0.5;confidence_threshold=0.9", max_new_tokens=4)
    rows = len(turn.prompt_ids)
    assert [(n, strength_scale, before) for n, _, strength_scale, before in passes] == [
        (rows - 1, 0.5, 0),
        (1, 0.0, rows - 1),
        (1, 0.5, rows - 1),
        (1, 0.0, rows),
        (1, 0.0, rows + 1),
        (1, 1.0, rows + 1),
        (1, 0.0, rows + 2),
    ]
    assert turn.steered_tokens == 2 and len(turn.output_ids) == 4
    monkeypatch.undo()
    kept = torch.stack([chosen[i] for i in (1, 2, 4, 5)])
    wanted = logits_of(thinker, features, mask, [0.5, 0.5, 0.0, 1.0, 0.0])
    torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=1e-4)


def test_always_sure_is_plain_but_for_the_prompt(thinker, features, mask, monkeypatch):
    confident(monkeypatch, lambda count: 1.0)
    turn = ask(thinker, features, mask, schedule="confidence_threshold=0.5", max_new_tokens=5)
    assert turn.steered_tokens == 0 and turn.steered  # the prompt's other rows were
    turn = ask(thinker, features, mask, schedule="prompt=0;confidence_threshold=0.5", max_new_tokens=5)
    assert turn.output_ids == thinker.generate(PROMPT, features, limits=Limits(max_new_tokens=5)).output_ids


def test_never_sure_is_steered_throughout(thinker, features, mask):
    gated = ask(thinker, features, mask, schedule="confidence_threshold=1", max_new_tokens=8)
    constant = ask(thinker, features, mask, max_new_tokens=8)
    assert gated.output_ids == constant.output_ids
    assert gated.steered_tokens == constant.steered_tokens == 8
    # Plain passes are not measured: the means are those of the steered rows.
    assert gated.focus_before == pytest.approx(constant.focus_before, rel=1e-3)
    assert gated.focus_after == pytest.approx(constant.focus_after, rel=1e-3)


def test_no_pass_is_run_twice_where_nothing_would_be_steered(thinker, features, mask, passes, monkeypatch):
    confident(monkeypatch, lambda count: 0.1)
    ask(thinker, features, mask, schedule="confidence_threshold=0.9", gate="phases=act", max_new_tokens=4)
    assert len(passes) == 4
    passes.clear()
    thinker.generate(
        PROMPT,
        features,
        mask,
        config={"alpha": 0, "schedule": "confidence_threshold=0.9"},
        limits=Limits(max_new_tokens=4),
    )
    assert len(passes) == 4
    passes.clear()
    ask(thinker, features, np.zeros((8, 8), np.int8), schedule="confidence_threshold=0.9", max_new_tokens=4)
    assert len(passes) == 4


def test_a_forced_end_of_the_thought_was_not_chosen_by_steering(thinker, features, mask, monkeypatch):
    scripted(monkeypatch, thinker, "x" * 40)
    turn = ask(thinker, features, mask, max_thought_tokens=5, max_new_tokens=12)
    forced = thinker.tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
    assert turn.steered_tokens == len(turn.output_ids) - len(forced)


@pytest.mark.parametrize("schedule", ["", "act=2", "confidence_threshold=0", "sure=0.9", "never", 3])
def test_bad_schedules_are_refused(thinker, features, mask, schedule):
    with pytest.raises(ValueError, match="schedule"):
        ask(thinker, features, mask, schedule=schedule)


def test_stop_is_asked_once_a_token(thinker, features, mask, monkeypatch):
    confident(monkeypatch, lambda count: 0.1)
    asked = []
    turn = ask(thinker, features, mask, schedule="confidence_threshold=0.9", stop=lambda: asked.append(1))
    assert len(turn.output_ids) == 6 and len(asked) == 6


def test_a_row_taken_back_leaves_no_trace():
    """M-RoPE too: a row run again has the position that it had."""
    eyes = perceiver()
    model = eyes.model
    table = model.get_input_embeddings()
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        embeds = table(ids)
        positions = torch.arange(7).expand(3, 1, -1)
        once, twice = GreedyDecoder(model), GreedyDecoder(model)
        for decoder in (once, twice):
            decoder.prefill(embeds, positions, rope_delta=-2)
        once.feed(9)
        twice.feed(33)
        twice.retract()
        assert twice.length == 7
        twice.feed(9)
        assert torch.equal(once._logits, twice._logits) and once.best() == twice.best()
        once.feed(4)
        twice.feed(4)
    assert torch.equal(once._logits, twice._logits)


def test_every_token_is_plausible_at_the_tiniest_part(thinker, features, mask):
    free = ask(thinker, features, mask, schedule="constant")
    assert ask(thinker, features, mask, schedule="plausibility=1e-30").output_ids == free.output_ids


def test_no_implausible_token_is_said(thinker, features, mask, monkeypatch):
    part, seen, best = 0.5, [], GreedyDecoder.best

    def told(self, scores=None):
        token, logprob = best(self, scores)
        if scores is None:
            seen.append(self._logits.softmax(-1))  # the plain pass
        else:
            assert seen[-1][token] >= part * seen[-1].max() * (1 - 1e-6)
            assert torch.equal(scores > -torch.inf, seen[-1] >= part * seen[-1].max() * (1 - 1e-6))
        return token, logprob

    monkeypatch.setattr(GreedyDecoder, "best", told)
    turn = ask(thinker, features, mask, schedule=f"plausibility={part}")
    assert turn.steered_tokens == len(turn.output_ids) == len(seen)


def test_contrast_weighs_what_steering_does_to_the_logits(thinker, features, mask, monkeypatch):
    contrast, plain, best = 1.5, [], GreedyDecoder.best

    def told(self, scores=None):
        if scores is None:
            plain.append(self._logits)
        else:
            doubt = 1 - plain[-1].softmax(-1).amax()
            assert torch.allclose(scores, self._logits + contrast * doubt * (self._logits - plain[-1]), atol=1e-5)
        token, logprob = best(self, scores)
        chosen = self._logits if scores is None else scores
        assert token == int(chosen.argmax())
        assert logprob == pytest.approx(float(self._logits.log_softmax(-1)[token]), abs=1e-6)
        return token, logprob

    monkeypatch.setattr(GreedyDecoder, "best", told)
    turn = ask(thinker, features, mask, schedule=f"guidance={contrast}")
    assert turn.steered_tokens == len(turn.output_ids) == len(plain)


def test_a_choice_does_not_wait_for_the_device(thinker, features):
    """Each value that Python reads on the way to the token would be one more wait, at every token."""
    context = thinker.prompts.with_tokens(PROMPT, [16])
    decoder, read = GreedyDecoder(thinker.model), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            read.extend([op] if op is torch.ops.aten._local_scalar_dense.default else [])
            return op(*args, **(kwargs or {}))

    with torch.no_grad():
        decoder.prefill(embed(thinker.model, context, [features.tokens], thinker.bridge))
        with Watch():
            decoder.logits.sum().item()
            assert len(read) == 1  # it is seen
            assert decoder.best() == decoder.best(decoder.logits)
    assert len(read) == 1


def test_a_tiny_contrast_is_none(thinker, features, mask):
    free = ask(thinker, features, mask, schedule="constant")
    assert ask(thinker, features, mask, schedule="guidance=1e-30").output_ids == free.output_ids
