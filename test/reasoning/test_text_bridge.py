"""Turns without a bridge: regions are words in the prompt, and their words are steered."""

import math

import numpy as np
import pytest
import torch
from tiny_models import frame, left_mask, perceiver, reasoner

from steer_ros.models import VisualFeatures
from steer_ros.reasoning import Callbacks, Limits
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import Mask

PROMPT = "Pick up one object."


@pytest.fixture(scope="module")
def words_only():
    return reasoner(bridged=False)


@pytest.fixture(scope="module")
def features():
    return perceiver().encode(frame())


@pytest.fixture(scope="module")
def mask(features):
    return left_mask(features)


REGIONS = [("red beaker", (0, 0, 56, 112)), ("blue dish", (56, 0, 112, 112))]


def test_without_a_bridge_regions_are_words(words_only, features, mask):
    turn = words_only.generate(PROMPT, features, mask, regions=REGIONS, alpha=4, limits=Limits(max_new_tokens=6))
    assert turn.bridge == "text" and turn.steered and turn.focus_after > turn.focus_before
    spelt = [words_only.tokenizer.decode(turn.prompt_ids[start : start + length]) for start, length in turn.spans]
    assert spelt == [" red beaker at the left", " blue dish at the right"]


def test_the_masked_regions_words_get_the_weight(words_only, features, mask, monkeypatch):
    fields = []
    steer = words_only._attachment.steer
    monkeypatch.setattr(
        words_only._attachment, "steer", lambda field, *a, **k: fields.append(field) or steer(field, *a, **k)
    )
    turn = words_only.generate(PROMPT, features, mask, regions=REGIONS, limits=Limits(max_new_tokens=1))
    weights, visual = fields[0].dense(len(turn.prompt_ids))
    for (start, length), weight in zip(turn.spans, (127, 0), strict=True):
        assert (weights[start : start + length] == weight).all() and visual[start : start + length].all()
    assert int(visual.sum()) == sum(length for _, length in turn.spans)


def test_words_without_boxes(words_only, mask):
    """No frame at all: labels alone, matched by name."""
    turn = words_only.generate(
        PROMPT, None, mask, regions=[("red beaker", None), ("cube", None)], limits=Limits(max_new_tokens=2)
    )
    assert turn.bridge == "text" and turn.steered


def test_masks_with_labels_list_themselves(words_only, features, mask):
    other = Mask(np.ascontiguousarray(-mask.weights[:, ::-1]), label="blue dish", box=(56, 0, 112, 112), strength=-1)
    turn = words_only.generate(PROMPT, features, [mask, other], limits=Limits(max_new_tokens=2))
    assert len(turn.spans) == 2 and turn.steered


def test_unsteered_words_read_the_same(words_only, features, mask):
    steered = words_only.generate(PROMPT, features, mask, regions=REGIONS, limits=Limits(max_new_tokens=4))
    plain = words_only.generate(PROMPT, features, regions=REGIONS, limits=Limits(max_new_tokens=4))
    assert steered.prompt_ids == plain.prompt_ids and not plain.steered


def test_words_follow_an_update(words_only, features, mask):
    right = np.ascontiguousarray(mask.weights[:, ::-1])
    polls = iter([None, right])
    turn = words_only.generate(
        PROMPT,
        features,
        mask,
        regions=REGIONS,
        limits=Limits(max_new_tokens=4),
        callbacks=Callbacks(update_masks=lambda: next(polls, None)),
    )
    assert turn.mask_updates == 1 and turn.steered


def test_a_mask_without_words_is_refused(words_only, features):
    with pytest.raises(ValueError, match="regions"):
        words_only.generate(PROMPT, features, np.full((8, 8), 127, np.int8))
    turn = words_only.generate(PROMPT, features, np.zeros((8, 8), np.int8), limits=Limits(max_new_tokens=2))
    assert not turn.steered


@pytest.mark.parametrize(
    "regions",
    [
        [("", None)],
        ["cube"],
        [(3, None)],
        [("cube", (0, 0, 0, 9))],
        [("cube", (0, 0, math.nan, 9))],
        [("cube", "abcd")],
    ],
)
def test_bad_regions(words_only, features, regions):
    with pytest.raises(ValueError, match="regions"):
        words_only.generate(PROMPT, features, regions=regions)


def test_tokens_of_another_width_go_by_words(mask):
    thinker = reasoner()
    strange = VisualFeatures(torch.randn(16, 48), PatchGrid(8, 8), (112, 112), "other")
    assert thinker.bridge_for(strange) == "text"
    assert thinker.generate(PROMPT, strange, mask, regions=REGIONS, limits=Limits(max_new_tokens=2)).bridge == "text"
