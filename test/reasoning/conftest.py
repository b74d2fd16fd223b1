"""A tiny R1, and a frame that it is asked about."""

import pytest
from tiny_models import frame, left_mask, perceiver, reasoner, script


@pytest.fixture(scope="module")
def thinker():
    return reasoner()


@pytest.fixture(scope="module")
def features():
    return perceiver().encode(frame())


@pytest.fixture(scope="module")
def mask(features):
    return left_mask(features)


@pytest.fixture
def say(monkeypatch, thinker):
    """Put an answer into the model's mouth. The model runs all the same."""
    return lambda text: script(monkeypatch, thinker.tokenizer, text)
