"""Teach lab-vl's tower scenes of any style and frames of any format, without the language models noticing.

The tower as it is teaches its own copy: for the same scene drawn in a style of its own, the copy is to give the tokens
that the teacher gives for the plain bench (distillation across domains, as Gupta et al. 2016, arXiv 1507.00448, across
modalities). The language models, which read these tokens, stay as they are. Frames that aren't square, which it
doesn't know, are learnt from what their tokens should say, as linear heads read it from the teacher's.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .render import SIDE, RenderedScene, render
from .scene import make_scene
from .styles import render_styled
from .targets import CELL, KINDS, token_targets
from .train_vision import WEIGHTS, TokenHeads, mixed_precision, to_patches, tower_forward

log = logging.getLogger(__name__)

SIZES = (0.075, 0.155)  # of the objects; the plain bench's, and somewhat beyond
# Rows and columns of visual tokens that frames of 4:3, 3:4 and 16:9 become.
FORMATS = ((10, 13), (13, 10), (9, 16))
STYLED = 2  # styled pictures of each scene
SQUARE = 0.8  # of the steps
PLAIN = 4  # of a batch's frames, those of the plain bench
DISTILLED = 2.0  # weight of the loss against the teacher's tokens
OBJECT = 4.0  # weight in it of an object's token, to 1 of the background's

Frame = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Frames:
    """Pictures with their targets; see `targets.TokenTargets`.

    Attributes:
        images: uint8 ``[n, height, width, 3]``.
        kind, owner: int64 ``[n, tokens]``.
        box: float32 ``[n, tokens, 4]``.
    """

    images: torch.Tensor
    kind: torch.Tensor
    box: torch.Tensor
    owner: torch.Tensor

    def __getitem__(self, index: torch.Tensor | slice) -> Frames:
        return Frames(self.images[index], self.kind[index], self.box[index], self.owner[index])

    def __len__(self) -> int:
        return len(self.images)


def _frame(frame: RenderedScene) -> Frame:
    targets = token_targets(frame)
    return frame.image, targets.kind, targets.box, targets.owner


def _plain(seed: int) -> Frame:
    return _frame(render(make_scene(seed, size=SIZES)))


def _styled(seed: int, picture: int) -> Frame:
    return _frame(render_styled(make_scene(seed, size=SIZES), seed * STYLED + picture))


def _other_format(seed: int, rows: int, cols: int) -> Frame:
    scene = make_scene(seed, size=SIZES)
    size = cols * CELL, rows * CELL
    return _frame(render(scene, *size) if seed % 3 == 0 else render_styled(scene, seed, *size))


def _pictures(pool: ProcessPoolExecutor, make, *arguments: Sequence[int]) -> Frames:
    """make(*one of each), for all, in order."""
    stores: list[np.ndarray] = []
    for i, made in enumerate(pool.map(make, *arguments, chunksize=4)):
        stores = stores or [np.empty((len(arguments[0]), *np.shape(a)), a.dtype) for a in made]
        for store, value in zip(stores, made, strict=True):
            store[i] = value
    return Frames(*(torch.from_numpy(store) for store in stores))


def _tokens(tower: nn.Module, images: torch.Tensor, gain: torch.Tensor | None = None) -> torch.Tensor:
    with mixed_precision():
        return tower_forward(tower, to_patches(images, gain), images.shape[1] // 14, images.shape[2] // 14)


@torch.inference_mode()
def teach(teacher: nn.Module, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """The teacher's tokens, float16 ``[n, tokens, hidden]``."""
    return torch.cat([_tokens(teacher, part).half() for part in images.split(batch)])


def read_heads(tokens: torch.Tensor, plain: Frames, *, steps: int = 600, batch: int = 64) -> TokenHeads:
    """Heads that read kinds, places and boxes from the teacher's tokens; frozen."""
    side = SIDE // CELL
    heads = TokenHeads(tokens.shape[-1], side, side)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    weight = _kind_weight()
    for _ in range(steps):
        pick = torch.randint(len(plain), (batch,))
        losses = heads.losses(tokens[pick], plain.kind[pick], plain.box[pick], weight)
        optimiser.zero_grad(set_to_none=True)
        sum(WEIGHTS[name] * value for name, value in losses.items()).backward()
        optimiser.step()
        schedule.step()
    log.info("heads on the teacher's tokens: %s", {k: round(v.item(), 4) for k, v in losses.items()})
    return heads.requires_grad_(False)


def _kind_weight() -> torch.Tensor:
    weight = torch.ones(KINDS + 1)
    weight[0] = 0.15
    return weight


def distillation(tokens: torch.Tensor, taught: torch.Tensor, mine: Frames, plain: Frames) -> torch.Tensor:
    """Squared distance to the teacher's tokens where both pictures show the same object, or the bench."""
    same = (mine.owner == plain.owner) & (mine.kind >= 0) & (plain.kind >= 0)
    weight = torch.where(mine.owner >= 0, OBJECT, 1.0) * same
    distance = (tokens.float() - taught.float()).square().mean(-1)
    return (weight * distance).sum() / weight.sum()


def train_styles(
    tower: nn.Module,
    *,
    scenes: int = 6000,
    steps: int = 4000,
    batch: int = 16,
    lr: float = 6e-4,
    minutes: float = 60.0,
    workers: int = 2,
    first_seed: int = 3_000_000,
    checkpoint: Path | None = None,
) -> None:
    """Train the tower in place; as it comes in it is the teacher.

    Args:
        tower: lab-vl's, trained by the stage ``vision`` and read by the language models.
        scenes: each is drawn plain and in two styles; a third as many more come in other formats.
        minutes: wall-clock budget; the learning-rate schedule follows whichever of steps and minutes is further on.
        checkpoint: file that the state is saved to every 200 steps and resumed from.
    """
    began = time.monotonic()
    teacher = copy.deepcopy(tower).eval().requires_grad_(False)
    seeds = range(first_seed, first_seed + scenes)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        plain = _pictures(pool, _plain, seeds)
        styled = [_pictures(pool, _styled, seeds, [k] * scenes) for k in range(STYLED)]
        others, start = [], first_seed + scenes
        for rows, cols in FORMATS:
            count = max(batch, scenes // (3 * len(FORMATS)))
            others.append(_pictures(pool, _other_format, range(start, start + count), [rows] * count, [cols] * count))
            start += count
    log.info("drew %d scenes in %.0f s", scenes, time.monotonic() - began)
    taught = teach(teacher, plain.images)
    heads = read_heads(taught, plain)
    log.info("the teacher's tokens and heads: %.0f s", time.monotonic() - began)

    parameters = list(tower.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    step, spent = 0, 0.0
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(state["tower"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["spent"]
    generator = torch.Generator().manual_seed(first_seed + step)
    weight = _kind_weight()
    began, means = time.monotonic(), {}
    while True:
        elapsed = spent + time.monotonic() - began
        progress = max(step / steps, elapsed / (60 * minutes))
        if progress >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        gain = 0.85 + 0.3 * torch.rand(batch, generator=generator)
        if torch.rand((), generator=generator) < SQUARE:
            pick = torch.randint(scenes, (batch,), generator=generator)
            drawn = styled[int(torch.randint(STYLED, (), generator=generator))]
            mine = _joined(plain[pick[:PLAIN]], drawn[pick[PLAIN:]])
            gain[:PLAIN] = 1.0  # the teacher's tokens were made with the frame's own light
            tokens = _tokens(tower, mine.images, gain)
            losses = heads.losses(tokens, mine.kind, mine.box, weight)
            losses["distilled"] = distillation(tokens, taught[pick], mine, plain[pick])
        else:
            other = others[int(torch.randint(len(FORMATS), (), generator=generator))]
            mine = other[torch.randint(len(other), (batch,), generator=generator)]
            losses = heads.losses(_tokens(tower, mine.images, gain), mine.kind, mine.box, weight, place=False)
            losses = {f"other_{name}": value for name, value in losses.items()}
        loss = sum(
            value * {**WEIGHTS, "distilled": DISTILLED}[name.removeprefix("other_")] for name, value in losses.items()
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        for name, value in losses.items():
            means[name] = 0.95 * means.get(name, value.item()) + 0.05 * value.item()
        if step % 50 == 0:
            log.info("styles step %d, %.0f s: %s", step, elapsed, {k: round(v, 4) for k, v in means.items()})
        if checkpoint and step % 200 == 0:
            torch.save(
                {"tower": tower.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "spent": elapsed},
                checkpoint,
            )


def _joined(first: Frames, second: Frames) -> Frames:
    return Frames(
        torch.cat([first.images, second.images]),
        torch.cat([first.kind, second.kind]),
        torch.cat([first.box, second.box]),
        torch.cat([first.owner, second.owner]),
    )
