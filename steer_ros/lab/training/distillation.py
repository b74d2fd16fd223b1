"""Teach lab-vl's tower scenes of any style and frames of any format, without the language models noticing.

The tower as it is teaches its own copy: for the same scene drawn in a style of its own, the copy is to give the tokens
that the teacher gives for the plain bench (distillation across domains, as Gupta et al. 2016, arXiv 1507.00448, across
modalities). The language models, which read these tokens, stay as they are. Frames that aren't square, which it
doesn't know, are learnt from what their tokens should say, as linear heads read it from the teacher's.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...commands.processes import spawned
from ..scenes.render import SIDE, render
from ..scenes.scene import make_scene
from ..scenes.styles import render_styled
from .image_dataset import Frames, arrays_of, draw_frames
from .loop import Means, TrainingRun, mixed_precision
from .token_labels import CELL
from .vision import WEIGHTS, TokenHeads, kind_weight, to_patches, tower_forward

log = logging.getLogger(__name__)

SIZES = (0.075, 0.155)  # of the objects; the plain bench's, and somewhat beyond
# Rows and columns of visual tokens that frames of 4:3, 3:4 and 16:9 become.
FORMATS = ((10, 13), (13, 10), (9, 16))
STYLED = 2  # styled pictures of each scene
SQUARE = 0.8  # of the steps
BATCH, PLAIN = 16, 8  # frames of a batch, and of those the plain bench's
DISTILLED = 2.0  # weight of the loss against the teacher's tokens
OBJECT = 4.0  # weight in it of an object's token, to 1 of the background's


def _plain(seed: int) -> tuple[np.ndarray, ...]:
    return arrays_of(render(make_scene(seed, size=SIZES)))


def _styled(seed: int, picture: int) -> tuple[np.ndarray, ...]:
    return arrays_of(render_styled(make_scene(seed, size=SIZES), seed * STYLED + picture))


def _other_format(seed: int, rows: int, cols: int) -> tuple[np.ndarray, ...]:
    scene = make_scene(seed, size=SIZES)
    size = cols * CELL, rows * CELL
    return arrays_of(render(scene, *size) if seed % 3 == 0 else render_styled(scene, seed, *size))


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
    weight = kind_weight()
    for _ in range(steps):
        pick = torch.randint(len(plain), (batch,))
        losses = heads.losses(tokens[pick], plain.kind[pick], plain.box[pick], weight)
        optimiser.zero_grad(set_to_none=True)
        _weighed(losses).backward()
        optimiser.step()
        schedule.step()
    log.info("heads on the teacher's tokens: %s", {k: round(v.item(), 4) for k, v in losses.items()})
    return heads.requires_grad_(False)


def distillation(tokens: torch.Tensor, taught: torch.Tensor, mine: Frames, plain: Frames) -> torch.Tensor:
    """Squared distance to the teacher's tokens where both pictures show the same object, or the bench."""
    same = (mine.object_index == plain.object_index) & (mine.kind >= 0) & (plain.kind >= 0)
    weight = torch.where(mine.object_index >= 0, OBJECT, 1.0) * same
    distance = (tokens.float() - taught.float()).square().mean(-1)
    return (weight * distance).sum() / weight.sum()


def train_styles(
    tower: nn.Module,
    *,
    scenes: int,
    steps: int,
    minutes: float,
    workers: int,
    first_seed: int,
    checkpoint: Path,
) -> None:
    """Train the tower in place; as it comes in it is the teacher.

    Args:
        tower: lab-vl's, trained by the stage ``vision`` and read by the language models.
        scenes: each is drawn plain and in two styles; a third as many more come in other formats.
        steps, minutes, checkpoint: as `loop.TrainingRun` has them.
    """
    began = time.monotonic()
    teacher = copy.deepcopy(tower).eval().requires_grad_(False)
    seeds = range(first_seed, first_seed + scenes)
    with spawned(workers) as pool:
        plain = draw_frames(pool, _plain, seeds)
        styled = [draw_frames(pool, _styled, seeds, [k] * scenes) for k in range(STYLED)]
        others, start = [], first_seed + scenes
        for rows, cols in FORMATS:
            count = max(BATCH, scenes // (3 * len(FORMATS)))
            others.append(
                draw_frames(pool, _other_format, range(start, start + count), [rows] * count, [cols] * count)
            )
            start += count
    log.info("drew %d scenes in %.0f s", scenes, time.monotonic() - began)
    taught = teach(teacher, plain.images)
    heads = read_heads(taught, plain)
    log.info("the teacher's tokens and heads: %.0f s", time.monotonic() - began)

    run = TrainingRun(
        tower.parameters(),
        lr=6e-4,
        steps=steps,
        minutes=minutes,
        warm=100,
        decay=0.01,
        checkpoint=checkpoint,
        tower=tower,
    )
    generator = torch.Generator().manual_seed(first_seed + run.step)
    weight, means = kind_weight(), Means()
    while run.goes_on():
        gain = 0.85 + 0.3 * torch.rand(BATCH, generator=generator)
        if torch.rand((), generator=generator) < SQUARE:
            pick = torch.randint(scenes, (BATCH,), generator=generator)
            drawn = styled[int(torch.randint(STYLED, (), generator=generator))]
            mine = plain[pick[:PLAIN]] + drawn[pick[PLAIN:]]
            gain[:PLAIN] = 1.0  # the teacher's tokens were made with the frame's own light
            tokens = _tokens(tower, mine.images, gain)
            losses = heads.losses(tokens, mine.kind, mine.box, weight)
            distilled = distillation(tokens, taught[pick], mine, plain[pick])
            run.learn(_weighed(losses) + DISTILLED * distilled)
            means.add({**losses, "distilled": distilled})
        else:
            other = others[int(torch.randint(len(FORMATS), (), generator=generator))]
            mine = other[torch.randint(len(other), (BATCH,), generator=generator)]
            losses = heads.losses(_tokens(tower, mine.images, gain), mine.kind, mine.box, weight, place=False)
            run.learn(_weighed(losses))
            means.add({f"other_{name}": value for name, value in losses.items()})
        if run.step % 50 == 0:
            log.info("styles step %d, %.0f s: %s", run.step, run.elapsed, means)


def _weighed(losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return sum(WEIGHTS[name] * value for name, value in losses.items())
