"""What is learnt through a model's attention: an attention function of one's own in the model's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers import AttentionInterface

NAME = "steer_ros_learning"


@contextmanager
def attending(model, attend: Callable) -> Iterator[None]:
    """Inside, a Transformers model's attention is `attend`, an attention function as Transformers calls them."""
    AttentionInterface.register(NAME, attend)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
