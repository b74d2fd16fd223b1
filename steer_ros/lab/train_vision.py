"""Train lab-vl's vision tower: every visual token predicts what stands under it.

Dense supervision teaches in minutes what captions alone do not in hours: besides kind, each token predicts its own row
and column and its object's box (rotary positions reach attention, not values, so place must be learnt into the token).
The heads are thrown away afterwards; the language models read the same things from the tokens.
"""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .render import render
from .scene import make_scene
from .targets import KINDS, token_targets

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


def mixed_precision() -> torch.autocast:
    """bfloat16 where the processor computes in it; elsewhere it is emulated, several times slower than float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
        owned = ~box[..., 0].isnan()
        target = box[owned]
        mille = (target * 1000).clamp(0, 999).long()  # [n, 4]
        pairs = torch.stack([mille // 100, mille // 10 % 10], -1)  # [n, 4, 2]
        digits = self.digits(x[owned]).view(-1, 10)
        losses = {
            "kind": F.cross_entropy(self.kind(x).flatten(0, 1), kind.flatten(), weight=weight, ignore_index=-100),
            "box": (self.box(x[owned]) - target).abs().mean(),
            "digits": F.cross_entropy(digits, pairs.flatten()),
        }
        if place:
            row, col = torch.arange(t) // cols, torch.arange(t) % cols
            losses["place"] = F.cross_entropy(self.row(x).flatten(0, 1), row.repeat(b)) + F.cross_entropy(
                self.col(x).flatten(0, 1), col.repeat(b)
            )
        return losses


WEIGHTS = {"kind": 1.0, "place": 0.15, "box": 5.0, "digits": 0.3}


def _make(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frame = render(make_scene(seed))
    targets = token_targets(frame)
    return frame.image, targets.kind, targets.box


def make_frames(seeds: range, workers: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Render the scenes of ``seeds``: images uint8 ``[n, 336, 336, 3]``, kinds ``[n, 144]``, boxes ``[n, 144, 4]``."""
    first = _make(seeds[0])
    out = [np.empty((len(seeds), *a.shape), a.dtype) for a in first]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for i, made in enumerate(pool.map(_make, seeds, chunksize=64)):
            for store, value in zip(out, made):
                store[i] = value
    return tuple(torch.from_numpy(a) for a in out)


def train_tower(
    tower: nn.Module,
    *,
    scenes: int = 16000,
    steps: int = 3000,
    batch: int = 32,
    lr: float = 1.5e-3,
    minutes: float = 60.0,
    workers: int = 2,
    first_seed: int = 1_000_000,
    checkpoint: Path | None = None,
) -> TokenHeads:
    """Train the tower in place and return its heads.

    Args:
        tower: a ``Qwen2VisionTransformerPretrainedModel`` with patch 14 and merge 2.
        minutes: wall-clock budget; the learning-rate schedule follows whichever of steps and minutes is further on.
        checkpoint: file that the state is saved to every 200 steps and resumed from.
    """
    began = time.monotonic()
    images, kinds, boxes = make_frames(range(first_seed, first_seed + scenes), workers)
    log.info("rendered %d scenes in %.0f s", scenes, time.monotonic() - began)
    rows = cols = images.shape[1] // 14
    heads = TokenHeads(tower.config.hidden_size, rows // 2, cols // 2)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    weight = torch.ones(KINDS + 1)
    weight[0] = 0.15
    step, spent = 0, 0.0
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["spent"]
    generator = torch.Generator().manual_seed(first_seed + step)
    began, means = time.monotonic(), {}
    while True:
        elapsed = spent + time.monotonic() - began
        progress = max(step / steps, elapsed / (60 * minutes))
        if progress >= 1:
            break
        warm = min(1.0, (step + 1) / 150)
        for group in optimiser.param_groups:
            group["lr"] = lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        pick = torch.randint(scenes, (batch,), generator=generator)
        x, kind, box = augment(images[pick], kinds[pick], boxes[pick], generator)
        with mixed_precision():
            tokens = tower_forward(tower, x, rows, cols)
        losses = heads.losses(tokens, kind, box, weight)
        loss = sum(WEIGHTS[name] * value for name, value in losses.items())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        for name, value in losses.items():
            means[name] = 0.95 * means.get(name, value.item()) + 0.05 * value.item()
        if step % 50 == 0:
            log.info("vision step %d, %.0f s: %s", step, elapsed, {k: round(v, 4) for k, v in means.items()})
        if checkpoint and step % 200 == 0:
            state = {
                "tower": tower.state_dict(),
                "heads": heads.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
            torch.save({**state, "step": step, "spent": elapsed}, checkpoint)
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
