"""Steered turns of a tiny R1: the bias lands on the keys it should, when it should, or is refused."""

import functools
import math
import types

import numpy as np
import pytest
import torch
from tiny_models import frame, perceiver, r1_folder, reasoner
from transformers import Qwen2ForCausalLM

from steer_ros.models.decoding import GreedyDecoder
from steer_ros.reasoning import Callbacks, Limits, Reasoner, Turn
from steer_ros.reasoning.prompt import embed
from steer_ros.regions.mask import pool_to_tokens
from steer_ros.steering import SteeringConfig, make_law
from steer_ros.steering.head_gains import HeadGainNet
from steer_ros.steering.steering_file import SteeringFile

PROMPT = "Pick up one object."


@functools.cache
def plain_model():
    """The tiny R1 as Transformers loads it, never attached."""
    return Qwen2ForCausalLM.from_pretrained(r1_folder(), attn_implementation="sdpa").eval()


@pytest.fixture
def logits(monkeypatch):
    """The logits that each token was chosen from, in order."""
    seen, best = [], GreedyDecoder.best
    monkeypatch.setattr(
        GreedyDecoder, "best", lambda self, scores=None: seen.append(self._logits) or best(self, scores)
    )
    return seen


def spelt_out(thinker, turn, frames, weights_at, alpha):
    """The same logits by additive steering the slow way: a plain model, one pass, a dense bias as its mask.

    weights_at: row -> int8 weights of each span, as they were when that row was computed.
    """
    context = thinker.prompts.with_tokens(PROMPT, [f.tokens.shape[0] for f in frames])
    embeds = embed(thinker.model, context, [f.tokens for f in frames], thinker.bridge)
    inside = {i for start, length in context.spans for i in range(start, start + length)}
    rows = len(context.ids) + len(turn.output_ids) - 1
    bias = torch.full((rows, rows), float("-inf")).triu(1)
    for row in set(range(rows)) - inside:
        for (start, length), weights in zip(context.spans, weights_at(row), strict=True):
            if start + length <= row:
                bias[row, start : start + length] += alpha * torch.tensor(weights.reshape(-1) / 127)
    model = plain_model()
    with torch.no_grad():
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([turn.output_ids[:-1]]))], 1)
        return model(inputs_embeds=embeds, attention_mask=bias[None, None]).logits[0, len(context.ids) - 1 :]


def assert_same(logits, wanted):
    torch.testing.assert_close(torch.stack(logits), wanted, rtol=1e-3, atol=1e-3)


def tokens_of(weights):
    return pool_to_tokens(weights, 2)


def test_reads_like_the_note():
    image = frame()
    eyes, mind = perceiver(), reasoner()
    features = eyes.encode(image)
    mask = eyes.detect_roi("top-left", features)
    turn = mind.generate(prompt=PROMPT, frames=features, masks=mask, alpha=2.0, limits=Limits(max_new_tokens=4))
    assert isinstance(turn, Turn) and turn.steered and turn.bridge == "token" and turn.config.law.name == "conserving"


def test_unsteered_is_the_models_own_greedy(thinker, features):
    """Against Transformers' generate on a model that was never attached."""
    context = thinker.prompts.with_tokens(PROMPT, [16])
    embeds = embed(thinker.model, context, [features.tokens], thinker.bridge)
    wanted = plain_model().generate(inputs_embeds=embeds, do_sample=False, max_new_tokens=24)[0].tolist()
    turn = thinker.generate(PROMPT, features, limits=Limits(max_new_tokens=24))
    assert turn.output_ids == wanted
    assert not turn.steered and turn.unsteered_why == "no masks" and turn.focus_after is None


def test_another_load_leaves_a_turn_alone(thinker, mask, another_load):
    network = HeadGainNet()

    def turns():
        features = perceiver().encode(frame())
        yield features.tokens.tolist()
        for settings in (
            {"alpha": 3.3},
            {"alpha": 3.3, "gate": "layers=1-2;pairs=1.0,2.1", "schedule": "half_life=3;guidance=1"},
            {"law": "share", "setpoint": 0.9},
            {"law": "target", "setpoint": 0.3},
            {"law": "conserving", "alpha": 1.0, "head_gains": network},
        ):
            turn = thinker.generate(PROMPT, features, mask, config=settings, limits=Limits(max_new_tokens=6))
            yield turn.output_ids, turn.focus_before, turn.focus_after

    wanted = list(turns())
    with another_load():
        assert list(turns()) == wanted


def test_gains_multiply_the_alpha_head_by_head(thinker, features, mask, monkeypatch):
    half = torch.full((thinker.attachment.num_layers, thinker.attachment.num_heads), 0.5)
    want = thinker.generate(PROMPT, features, mask, alpha=4.0, limits=Limits(max_new_tokens=4))
    given = thinker.generate(
        PROMPT, features, mask, config={"alpha": 8.0, "head_gains": half}, limits=Limits(max_new_tokens=4)
    )
    assert (given.output_ids, given.focus_after) == (want.output_ids, want.focus_after)
    own = SteeringConfig(make_law("conserving", 8.0), head_gains=half)
    monkeypatch.setattr(thinker, "steering_file", SteeringFile(own))
    own = thinker.generate(PROMPT, features, mask, limits=Limits(max_new_tokens=4))
    assert (own.config.law.alpha, own.output_ids, own.focus_after) == (8.0, want.output_ids, want.focus_after)
    whole = thinker.generate(
        PROMPT, features, mask, alpha=8.0, limits=Limits(max_new_tokens=4)
    )  # without the model's own
    assert whole.focus_after > own.focus_after
    with pytest.raises(ValueError, match="head_gains: shape"):
        thinker.generate(PROMPT, features, mask, config={"head_gains": half[:1]}, limits=Limits(max_new_tokens=4))


def test_strength_zero_changes_nothing(thinker, features, mask):
    plain = thinker.generate(PROMPT, features, limits=Limits(max_new_tokens=16))
    zero = thinker.generate(PROMPT, features, mask, alpha=0, limits=Limits(max_new_tokens=16))
    none = thinker.generate(PROMPT, features, mask, config={"law": "none"}, limits=Limits(max_new_tokens=16))
    assert plain.output_ids == zero.output_ids == none.output_ids
    assert plain.prompt_ids == zero.prompt_ids
    assert not zero.steered and zero.unsteered_why == "alpha 0"
    assert zero.focus_before == pytest.approx(zero.focus_after)


def test_steering_lands_on_the_tokens(thinker, features, mask, logits):
    turn = thinker.generate(
        PROMPT, features, mask, config={"law": "additive", "alpha": 3, "guard": "off"}, limits=Limits(max_new_tokens=8)
    )
    assert_same(logits, spelt_out(thinker, turn, [features], lambda row: [tokens_of(mask.weights)], 3))
    unsteered = spelt_out(thinker, turn, [features], lambda row: [tokens_of(mask.weights)], 0)
    assert (torch.stack(logits) - unsteered).abs().max() > 0.1
    assert turn.focus_after > turn.focus_before > 0


def test_masks_of_several_frames(thinker, features, mask, logits):
    later = perceiver().encode(frame(seed=1))
    frames = [features, later]
    right = np.ascontiguousarray(mask.weights[:, ::-1])
    turn = thinker.generate(
        PROMPT,
        frames,
        [mask, right],
        config={"law": "additive", "alpha": 3, "guard": "off"},
        limits=Limits(max_new_tokens=4),
    )
    assert_same(logits, spelt_out(thinker, turn, frames, lambda row: [tokens_of(mask.weights), tokens_of(right)], 3))
    assert len(turn.spans) == 2 and turn.spans[0][0] < turn.spans[1][0]
    logits.clear()
    turn = thinker.generate(
        PROMPT,
        frames,
        [None, right],
        config={"law": "additive", "alpha": 3, "guard": "off"},
        limits=Limits(max_new_tokens=4),
    )
    zero = np.zeros(16, np.int8)
    assert_same(logits, spelt_out(thinker, turn, frames, lambda row: [zero, tokens_of(right)], 3))


def test_several_masks_of_one_frame_are_merged(thinker, features, mask, logits):
    right = np.ascontiguousarray(mask.weights[:, ::-1])
    turn = thinker.generate(
        PROMPT,
        features,
        [mask, right],
        config={"law": "additive", "alpha": 3, "guard": "off"},
        limits=Limits(max_new_tokens=4),
    )
    assert_same(logits, spelt_out(thinker, turn, [features], lambda row: [np.full(16, 127, np.int8)], 3))


def test_a_new_mask_counts_from_the_next_token_on(thinker, features, mask, logits):
    """Rows computed before the update keep the old mask, the ones after it have the new one."""
    right = np.ascontiguousarray(mask.weights[:, ::-1])
    polls = iter([None, None, right])  # before the prefill, before the second token, before the third
    turn = thinker.generate(
        PROMPT,
        features,
        mask,
        config={"law": "additive", "alpha": 3, "guard": "off"},
        limits=Limits(max_new_tokens=8),
        callbacks=Callbacks(update_masks=lambda: next(polls, None)),
    )
    changed = len(turn.prompt_ids) + 1

    def weights_at(row):
        return [tokens_of(right if row >= changed else mask.weights)]

    assert_same(logits, spelt_out(thinker, turn, [features], weights_at, 3))
    assert turn.mask_updates == 1
    kept = spelt_out(thinker, turn, [features], lambda row: [tokens_of(mask.weights)], 3)
    change = (torch.stack(logits) - kept).abs().amax(1)
    assert change[:2].max() < 1e-3 and change[2:].max() > 1e-2


def test_a_mask_may_come_first_while_decoding(thinker, features, mask):
    polls = iter([None, mask])
    turn = thinker.generate(
        PROMPT,
        features,
        alpha=4,
        limits=Limits(max_new_tokens=4),
        callbacks=Callbacks(update_masks=lambda: next(polls, None)),
    )
    assert turn.steered and turn.mask_updates == 1


def test_an_empty_mask_is_reported(thinker, features):
    empty = np.zeros((8, 8), np.int8)
    turn = thinker.generate(PROMPT, features, empty, limits=Limits(max_new_tokens=4))
    assert not turn.steered and turn.unsteered_why == "all weights are 0"
    assert turn.output_ids == thinker.generate(PROMPT, features, limits=Limits(max_new_tokens=4)).output_ids


def test_focus_is_measured_only_if_asked(thinker, features, mask):
    turn = thinker.generate(PROMPT, features, mask, measure_focus=False, limits=Limits(max_new_tokens=3))
    assert turn.steered and turn.focus_before is None and turn.focus_after is None


@pytest.mark.parametrize(("gate", "thinking", "acting"), [("all", 1, 1), ("phases=think", 1, 0), ("phases=act", 0, 1)])
def test_gates_follow_the_phase(thinker, features, mask, say, monkeypatch, gate, thinking, acting):
    say("ab</think>cd")
    steered = {"think": 0, "act": 0}
    feed, prefill = GreedyDecoder.feed, GreedyDecoder.prefill
    state = thinker._attachment._state

    def count(step):
        def counted(self, *args):
            before = state.session.report.attention_calls
            step(self, *args)
            steered[thinker._attachment.phase] += state.session.report.attention_calls - before

        return counted

    monkeypatch.setattr(GreedyDecoder, "feed", count(feed))
    monkeypatch.setattr(GreedyDecoder, "prefill", count(prefill))
    turn = thinker.generate(PROMPT, features, mask, config={"gate": gate})
    # The prompt, a and b are read while thinking; </think>, c and d while acting.
    assert steered == {"think": 3 * 4 * thinking, "act": 3 * 4 * acting}
    assert str(turn.config.gate) == gate and turn.steered


def test_gate_that_never_opens(thinker, features, mask, say):
    say("a thought without end")
    turn = thinker.generate(PROMPT, features, mask, config={"gate": "phases=act"})
    assert not turn.steered and "gate" in turn.unsteered_why


@pytest.mark.parametrize("alpha", [math.nan, math.inf, "2", True, 1e6])
def test_bad_alpha(thinker, features, mask, alpha):
    with pytest.raises(ValueError, match="alpha"):
        thinker.generate(PROMPT, features, mask, alpha=alpha)


def test_grids_that_differ(thinker, features):
    with pytest.raises(ValueError, match=r"8x10.*8x8"):
        thinker.generate(PROMPT, features, np.zeros((8, 10), np.int8))


@pytest.mark.parametrize("mask", [np.zeros((8, 8)), np.zeros(64, np.int8), "left", 3, np.full((8, 8), -128, np.int8)])
def test_bad_masks(thinker, features, mask):
    with pytest.raises(ValueError, match=r"mask|weights"):
        thinker.generate(PROMPT, features, mask)


def test_masks_must_be_one_a_frame(thinker, features, mask):
    with pytest.raises(ValueError, match="masks: 1 entries for 2 frames"):
        thinker.generate(PROMPT, [features, features], mask)


def test_a_bad_update_is_refused(thinker, features, mask):
    with pytest.raises(ValueError, match="8x8"):
        thinker.generate(PROMPT, features, mask, callbacks=Callbacks(update_masks=lambda: np.zeros((4, 4), np.int8)))


def test_close_gives_the_model_back():
    mind = Reasoner.from_pretrained(str(r1_folder()))
    assert mind.model.config._attn_implementation == "steer_ros"
    mind.close()
    assert mind.model.config._attn_implementation == "sdpa"
    Reasoner(mind.model, mind.tokenizer, "again").close()


def test_unsteerable_models_are_refused_by_name():
    from steer_ros.steering import UnsteerableModelError

    with pytest.raises(UnsteerableModelError, match="SimpleNamespace"):
        plain = reasoner()
        model = types.SimpleNamespace(config=plain.model.config, generation_config=plain.model.generation_config)
        Reasoner(model, plain.tokenizer, "odd")
