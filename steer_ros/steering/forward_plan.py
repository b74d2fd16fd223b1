"""What the attention calls of one forward pass have in common: where its rows are, and which of them are steered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from steer_ros.kernels import chunk_rows

from .errors import UnsteerableModelError
from .field import FieldSnapshot, SteeringField

# What a model may hand to its attention function that steering can't give, and what it means.
_OWN_SCORES = {
    "softcap": "capped scores",
    "s_aux": "attention sinks",
    "position_bias": "a bias of its own",
    "output_attentions": "attention weights; load the model with attn_implementation='eager' for those",
}


@dataclass
class RowSegment:
    """Steered rows [first, last) of a forward pass, counted from its first row, that see the spans 0…prefix."""

    first: int
    last: int
    prefix: int


@dataclass
class RowLayout:
    """Where the rows of a forward pass are. Layers that share a mask share a layout. start: the first row's key
    position."""

    mask: Tensor | None
    keys: int
    start: int
    segments: list[RowSegment]

    def chunks(self, segment: RowSegment, q: Tensor) -> Iterator[tuple[int, int, int]]:
        """(first row, last row, keys that the last row sees) of the pieces of a segment, small enough for memory."""
        size = chunk_rows(q.shape[0], q.shape[1], self.start + segment.last)
        for first in range(segment.first, segment.last, size):
            last = min(first + size, segment.last)
            yield first, last, self.start + last


@dataclass
class ForwardPass:
    """One forward pass: every layer of it reads the same version of the field, phase and scale. measures_regions:
    whether the regions asked for are measured in it."""

    snapshot: FieldSnapshot
    phase: str
    gate_open: bool
    strength_scale: float = 1.0
    measures_regions: bool = True
    layouts: list[RowLayout] = field(default_factory=list)
    steered: bool = False

    def layout(self, spans: SteeringField, module: nn.Module, rows: int, keys: int, mask: Tensor | None) -> RowLayout:
        """The layout for calls with this mask; made at the first of them."""
        for layout in self.layouts:
            if layout.mask is mask and layout.keys == keys:
                return layout
        start = first_position(module, rows, keys, mask)
        self.layouts.append(RowLayout(mask, keys, start, text_segments(spans, start, rows)))
        return self.layouts[-1]


def text_segments(spans: SteeringField, start: int, rows: int) -> list[RowSegment]:
    """The rows at key positions start … start + rows − 1 that are text and come after at least one span."""
    segments, ordered = [], spans.ordered
    for prefix, span in enumerate(ordered):
        next_start = ordered[prefix + 1].start if prefix + 1 < len(ordered) else start + rows
        first, last = max(span.end - start, 0), min(next_start - start, rows)
        if first < last:
            segments.append(RowSegment(first, last, prefix))
    return segments


def first_position(module: nn.Module, rows: int, keys: int, mask: Tensor | None) -> int:
    """The key position of a forward pass's first row, from its mask where there is one.

    No mask: Transformers leaves it out for one row that sees every key, and for a prefill from position 0 (a
    static cache may then hold more keys than rows). A mask (bool or additive, [B, 1, S, K]) must be plainly
    causal and the same for the whole batch: ValueError otherwise, which is what padding gets.
    """
    if mask is None:
        return keys - 1 if rows == 1 else 0
    visible = (mask if mask.dtype == torch.bool else mask == 0)[..., :keys]
    start = int(visible[0, 0, 0].sum()) - 1
    position = torch.arange(start, start + rows, device=mask.device)[:, None]
    causal = torch.arange(keys, device=mask.device) <= position  # [S, K]
    if start < 0 or not bool((visible == causal).all()):
        raise ValueError(
            f"attention_mask: {type(module).__name__} got padding or a mask that is not plainly causal; "
            "accepted while steering are unpadded batches"
        )
    return start


def refuse_call(module: nn.Module, layer: int, rows: int, keys: int, kwargs: Mapping[str, object]) -> None:
    """Refuse what only shows in an attention call. Steering must know each key's position and own the scores."""
    name = type(module).__name__
    window = kwargs.get("sliding_window")
    if window is not None and keys >= window:  # type: ignore[operator]
        raise UnsteerableModelError(
            f"{name}: layer {layer} slides a window of {window} keys and the context, or its "
            f"static cache, has {keys}; accepted are contexts shorter than the window"
        )
    for key, meaning in _OWN_SCORES.items():
        if kwargs.get(key) is not None and kwargs[key] is not False:
            raise UnsteerableModelError(f"{name}: layer {layer} asks for {key} ({meaning}); steering can't give that")
    if kwargs.get("is_causal") is False and rows > 1:
        raise ValueError(f"is_causal: False in {name}; accepted while steering is causal attention")
    if kwargs.get("dropout"):
        raise ValueError(f"dropout: {kwargs['dropout']} in {name}; accepted while steering is 0, call model.eval()")
