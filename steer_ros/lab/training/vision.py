"""Train lab-vl's vision tower: every visual token predicts what stands under it.

Dense supervision teaches in minutes what captions alone do not in hours: besides kind, each token predicts its own row
and column and its object's box (rotary positions reach attention, not values, so place must be learnt into the token).
The heads are thrown away afterwards; the language models read the same things from the tokens.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...commands.processes import spawned
from ..scenes.render import render
from ..scenes.scene import make_scene
from ..seeds import VISION_SEEDS
from .image_dataset import arrays_of, draw_frames
from .loop import Means, TrainingRun, mixed_precision
from .token_labels import KINDS

log = logging.getLogger(__name__)

MEAN, STD = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)  # CLIP's, as Qwen2-VL uses


def to_patches(
    images: torch.Tensor, gain: torch.Tensor | None = None, patch: int = 14, merge: int = 2
) -> torch.Tensor:
    """uint8 ``[B, H, W, 3]`` to normalised patches ``[B, patches, 3 * patch * patch]`` in Qwen2-VL's order.

    The order walks the merged cells row by row and the ``merge x merge`` patches inside each. ``gain [B]`` is a
    brightness for each image.
    """
    b, h, w, _ = images.shape
    rows, cols = h // (patch * merge), w // (patch * merge)
    x = images.view(b, rows, merge, patch, cols, merge, patch, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(b, rows * cols * merge * merge, 3, patch * patch)
    mean, std = torch.tensor(MEAN).view(3, 1), torch.tensor(STD).view(3, 1)
    if gain is None:
        return ((x.float() / 255.0 - mean) / std).flatten(2)
    return (x.float() * (gain.view(b, 1, 1, 1) / (255.0 * std)) - mean / std).flatten(2)


def tower_forward(tower: nn.Module, patches: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """Qwen2-VL's vision tower over a batch of equal grids: ``[B, patches, 3*14*14]`` to ``[B, tokens, hidden]``.

    The same weights and the same result as the tower's own forward (a test compares them), without its loop over
    images, and with the two identical temporal halves of the patch embedding added up beforehand.
    """
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    b, n, _ = patches.shape
    weight = tower.patch_embed.proj.weight.sum(2).flatten(1)  # [embed, 3*14*14]
    x = F.linear(patches, weight)
    merge = tower.spatial_merge_size
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    ids = torch.stack([r, c], -1).view(rows // merge, merge, cols // merge, merge, 2).transpose(1, 2).reshape(n, 2)
    cos, sin = tower.rotary_pos_emb(x, ids.to(x.device))
    heads = tower.blocks[0].attn.num_heads
    for block in tower.blocks:
        qkv = block.attn.qkv(block.norm1(x)).view(b, n, 3, heads, -1)
        q, k, v = qkv.unbind(2)  # [B, n, heads, d]
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        a = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + block.attn.proj(a.transpose(1, 2).reshape(b, n, -1))
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x.reshape(b * n, -1)).view(b, n // merge**2, -1)


class TokenHeads(nn.Module):
    """Linear heads on visual tokens, used in training only.

    ``kind`` is linear so that the language models can read colour and shape without further work; ``digits`` holds the
    hundreds and tens of the four box coordinates as Qwen2-VL writes them (0-999).
    """

    def __init__(self, hidden: int, rows: int, cols: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.kind = nn.Linear(hidden, KINDS + 1)
        self.row, self.col = nn.Linear(hidden, rows), nn.Linear(hidden, cols)
        self.box = nn.Linear(hidden, 4)
        self.digits = nn.Linear(hidden, 4 * 2 * 10)

    def losses(
        self, tokens: torch.Tensor, kind: torch.Tensor, box: torch.Tensor, weight: torch.Tensor, *, place: bool = True
    ) -> dict[str, torch.Tensor]:
        """Losses of ``tokens [B, T, hidden]``; ``kind [B, T]``, ``box [B, T, 4]`` with NaN off the objects.

        Rows and columns (``place``) are only asked for of a grid of as many as the heads were made for.
        """
        x = self.norm(tokens.float())
        b, t, _ = x.shape
        cols = self.col.out_features
        on_object = ~box[..., 0].isnan()
        target = box[on_object]
        mille = (target * 1000).clamp(0, 999).long()  # [n, 4]
        pairs = torch.stack([mille // 100, mille // 10 % 10], -1)  # [n, 4, 2]
        digits = self.digits(x[on_object]).view(-1, 10)
        losses = {
            "kind": F.cross_entropy(self.kind(x).flatten(0, 1), kind.flatten(), weight=weight, ignore_index=-100),
            "box": (self.box(x[on_object]) - target).abs().mean(),
            "digits": F.cross_entropy(digits, pairs.flatten()),
        }
        if place:
            row, col = torch.arange(t) // cols, torch.arange(t) % cols
            losses["place"] = F.cross_entropy(self.row(x).flatten(0, 1), row.repeat(b)) + F.cross_entropy(
                self.col(x).flatten(0, 1), col.repeat(b)
            )
        return losses


WEIGHTS = {"kind": 1.0, "place": 0.15, "box": 5.0, "digits": 0.3}


def kind_weight() -> torch.Tensor:
    """Weights of the kinds in the loss, ``[KINDS + 1]``: most of a frame is background."""
    weight = torch.ones(KINDS + 1)
    weight[0] = 0.15
    return weight


def _draw(seed: int) -> tuple[np.ndarray, ...]:
    return arrays_of(render(make_scene(seed)))


def train_tower(
    tower: nn.Module,
    *,
    scenes: int = 16000,
    steps: int = 3000,
    batch: int = 32,
    lr: float = 1.5e-3,
    minutes: float = 60.0,
    workers: int = 2,
    first_seed: int = VISION_SEEDS.start,
    checkpoint: Path | None = None,
) -> TokenHeads:
    """Train the tower in place and return its heads.

    Args:
        tower: a ``Qwen2VisionTransformerPretrainedModel`` with patch 14 and merge 2.
        minutes: wall-clock budget; the learning-rate schedule follows whichever of steps and minutes is further on.
        checkpoint: file that the state is saved to every 200 steps and resumed from.
    """
    began = time.monotonic()
    with spawned(workers) as pool:
        frames = draw_frames(pool, _draw, range(first_seed, first_seed + scenes))
    log.info("rendered %d scenes in %.0f s", scenes, time.monotonic() - began)
    rows = cols = frames.images.shape[1] // 14
    heads = TokenHeads(tower.config.hidden_size, rows // 2, cols // 2)
    run = TrainingRun(
        [*tower.parameters(), *heads.parameters()],
        lr=lr,
        steps=steps,
        minutes=minutes,
        checkpoint=checkpoint,
        tower=tower,
        heads=heads,
    )
    generator = torch.Generator().manual_seed(first_seed + run.step)
    weight, means = kind_weight(), Means()
    while run.goes_on():
        picked = frames[torch.randint(scenes, (batch,), generator=generator)]
        x, kind, box = augment(picked.images, picked.kind, picked.box, generator)
        with mixed_precision():
            tokens = tower_forward(tower, x, rows, cols)
        losses = heads.losses(tokens, kind, box, weight)
        run.learn(sum(WEIGHTS[name] * value for name, value in losses.items()))
        means.add(losses)
        if run.step % 50 == 0:
            log.info("vision step %d, %.0f s: %s", run.step, run.elapsed, means)
    return heads


def augment(images: torch.Tensor, kind: torch.Tensor, box: torch.Tensor, generator: torch.Generator) -> tuple:
    """Mirror half of the batch left to right and vary brightness; returns patches, kinds and boxes."""
    b, h, w, _ = images.shape
    rows, cols = h // 28, w // 28
    gain = 0.85 + 0.3 * torch.rand(b, generator=generator)
    flip = torch.rand(b, generator=generator) < 0.5
    images = torch.where(flip.view(b, 1, 1, 1), images.flip(2), images)
    mirrored = kind.view(b, rows, cols).flip(2).flatten(1)
    kind = torch.where(flip.view(b, 1), mirrored, kind)
    turned = box.view(b, rows, cols, 4).flip(2).reshape(b, -1, 4)
    turned = torch.stack([1 - turned[..., 2], turned[..., 1], 1 - turned[..., 0], turned[..., 3]], -1)
    box = torch.where(flip.view(b, 1, 1), turned, box)
    return to_patches(images, gain), kind, box
