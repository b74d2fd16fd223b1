"""Two auxiliary losses on lab-r1's attention while it trains, beside the next-token loss. Neither biases it.

*Undecided*: any object of the scene is a right answer to an open instruction, so the next-token loss does not say how
the model is to arrive at one, and the model is free to settle on a favourite long before its first word. A model that
has decided by then can't be asked what decided it. Until the object is named, each head's attention over the objects
(each object's share of what the objects get together) is pulled towards an even split.

*Sight*: once an object is named, the words that say where it is should be read from that object. With the next-token
loss alone no head ever learnt to attend to an object by its name (each object got an even share), and places were
guessed. In the rows that predict a place word, a few heads are pulled towards the named object's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..scenes.visible_objects import VisibleObject

NAME = "lab_tapped"
SIGHT_LAYERS, SIGHT_HEADS = (2, 3), 2  # the layers whose first heads are to attend to the named object
COVERED = 0.4  # share of a token's cell that a box must cover for the token to count as its object's


def object_tokens(objects: Sequence[VisibleObject], rows: int, cols: int) -> Tensor:
    """bool ``[objects, rows * cols]``: the visual tokens in each object's box; no token counts for two objects."""
    y, x = torch.arange(rows)[:, None] / rows, torch.arange(cols)[None] / cols
    cover = []
    for obj in objects:
        x0, y0, x1, y1 = obj.box
        w = (torch.clamp(x + 1 / cols, max=x1) - torch.clamp(x, min=x0)).clamp(min=0) * cols
        h = (torch.clamp(y + 1 / rows, max=y1) - torch.clamp(y, min=y0)).clamp(min=0) * rows
        cover.append((w * h).flatten())
    stacked = torch.stack(cover)
    best = stacked.argmax(0)
    return (torch.arange(len(cover))[:, None] == best) & (stacked >= COVERED)


class AttentionTaps:
    """Records the queries and keys of every attention call of one model while it trains."""

    def __init__(self, model) -> None:
        self.seen: list[tuple[Tensor, Tensor, float]] = []
        AttentionInterface.register(NAME, self._attend)
        model.set_attn_implementation(NAME)

    def _attend(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        self.seen.append((query, key, scaling))
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, is_causal=True)

    def forget(self) -> None:
        """Drop the records of one forward pass."""
        self.seen.clear()

    def sight(self, rows: Tensor, valid: Tensor, target: Tensor) -> Tensor:
        """Mean of -log of the attention that the named object's tokens get, in nats, over `SIGHT_HEADS` and rows.

        Args:
            rows, valid: as for ``decidedness``.
            target: bool ``[B, L]``, the key positions of the named object.
        """
        total = rows.new_zeros((), dtype=torch.float32)
        for layer in SIGHT_LAYERS:
            query, key, scaling = self.seen[layer]
            heads, keys = query.shape[1], torch.arange(key.shape[2])
            q = _rows_of(query[:, :SIGHT_HEADS], rows)
            k = key.float().repeat_interleave(heads // key.shape[1], 1)[:, :SIGHT_HEADS]
            scores = (q @ k.transpose(2, 3)) * scaling
            attention = scores.masked_fill(keys > rows[:, None, :, None], float("-inf")).softmax(-1)
            share = (attention * target[:, None, None]).sum(-1).clamp(min=1e-6)  # [B, H, R]
            total = total - (share.log().mean(1) * valid).sum() / valid.sum().clamp(min=1)
        return total / len(SIGHT_LAYERS)

    def decidedness(self, rows: Tensor, valid: Tensor, objects: Tensor) -> Tensor:
        """Mean divergence from attention that is even over the objects, in nats, over layers, heads and rows.

        Args:
            rows: int64 ``[B, R]``, positions of the rows that count; ``valid`` bool ``[B, R]`` says which are real.
            objects: bool ``[B, N, L]``, the key positions of each object; samples may have fewer than N.
        """
        count = objects.any(-1).sum(-1).clamp(min=1)  # [B]
        anywhere = objects.any(1)[:, None, None]  # [B, 1, 1, L]
        total, n = rows.new_zeros((), dtype=torch.float32), 0
        for query, key, scaling in self.seen:
            heads = query.shape[1]
            q = _rows_of(query, rows)
            k = key.float().repeat_interleave(heads // key.shape[1], 1)  # [B, H, L, D]
            scores = (q @ k.transpose(2, 3)) * scaling
            attention = scores.masked_fill(~anywhere, float("-inf")).softmax(-1).nan_to_num(0.0)
            share = attention @ objects.float().transpose(1, 2)[:, None]  # [B, H, R, N]
            share = share.clamp(min=1e-6)  # the slope at nothing is infinite
            divergence = (share * share.log()).sum(-1) + count.float().log()[:, None, None]
            total = total + (divergence.mean(1) * valid).sum() / valid.sum().clamp(min=1)
            n += 1
        return total / max(n, 1)


def _rows_of(query: Tensor, rows: Tensor) -> Tensor:
    """``[B, H, L, D]`` at rows ``[B, R]``: ``[B, H, R, D]`` in fp32."""
    b, heads, _, d = query.shape
    return query.float().gather(2, rows[:, None, :, None].expand(b, heads, rows.shape[1], d))
