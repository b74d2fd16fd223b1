"""Run a Transformers model with an attention function of one's own, as for learning through its attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers import AttentionInterface

NAME = "steer_ros_learning"


@contextmanager
def override_attention(model, attend: Callable) -> Iterator[None]:
    """Within the context the model's attention function is `attend`, called as Transformers calls its own."""
    AttentionInterface.register(NAME, attend)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
