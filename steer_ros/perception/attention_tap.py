"""Read attention probabilities of chosen rows without leaving the SDPA path.

A model under ``install`` computes its attention with Transformers' own sdpa function. While a tap is open
in the calling thread, each call also adds up what the last rows pay to a range of keys: q·k for a few rows
only, so no [length, length] matrix exists and nothing has to be switched to eager and back.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "steer_ros_tap"
_open = threading.local()


class Tap:
    """Attention of the last rows to the keys [start, stop), summed over heads, for each tapped layer."""

    def __init__(self, start: int, stop: int, rows: int, layers: frozenset[int]):
        self.start, self.stop, self.rows, self.layers = start, stop, rows, layers
        self.by_layer: dict[int, torch.Tensor] = {}  # layer -> float32 [stop - start], mean over heads and rows

    def mean(self) -> torch.Tensor:
        """float32 [stop - start]: mean over layers. RuntimeError if no tapped layer ran."""
        if not self.by_layer:
            raise RuntimeError("attention tap: no tapped layer was called")
        return torch.stack(list(self.by_layer.values())).mean(0)


@contextmanager
def tap(start: int, stop: int, rows: int, layers):
    """Open a tap for the forward passes of this thread."""
    opened = Tap(start, stop, rows, frozenset(layers))
    _open.tap = opened
    try:
        yield opened
    finally:
        _open.tap = None


def install(model, part: str = "text_config") -> None:
    """Route a part of a multimodal model through the tap; its vision tower stays on plain sdpa."""
    model.set_attn_implementation({part: NAME, "vision_config": "sdpa"})


def _tapped_sdpa(module, query, key, value, attention_mask, scaling=None, **kwargs):
    opened = getattr(_open, "tap", None)
    if opened is not None and module.layer_idx in opened.layers:
        opened.by_layer[module.layer_idx] = _row_attention(query, key, scaling, opened)
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def _row_attention(query: torch.Tensor, key: torch.Tensor, scaling: float | None, opened: Tap) -> torch.Tensor:
    batch, _, length, dim = query.shape
    rows = min(opened.rows, length)
    # Grouped queries: [B, kv heads, group, rows, D] against [B, kv heads, 1, keys, D].
    q = query[:, :, length - rows :].float().reshape(batch, key.shape[1], -1, rows, dim)
    scores = q @ key.float().unsqueeze(2).transpose(-1, -2) * (scaling if scaling is not None else dim**-0.5)
    if rows > 1:  # the row i from the end sees all but the last i keys
        hidden = torch.ones(rows, rows, dtype=torch.bool, device=q.device).triu(1)
        scores[..., -rows:].masked_fill_(hidden, float("-inf"))
    return scores.softmax(-1)[..., opened.start : opened.stop].mean(dim=(0, 1, 2, 3))


AttentionInterface.register(NAME, _tapped_sdpa)
AttentionMaskInterface.register(NAME, sdpa_mask)
