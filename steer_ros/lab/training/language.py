"""Train the built-in language models on frozen visual tokens: lab-vl to ground, lab-r1 to answer.

Both see a scene only through the vision tower's tokens, computed once for each training scene. Nothing here knows of
steering: lab-r1 learns that any object is a right answer to an open instruction, and no attention is ever biased.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..scenes.render import SIDE
from ..scenes.visible_objects import VisibleObject
from .attention_losses import AttentionTaps
from .loop import TrainingRun, mixed_precision
from .token_dataset import Sample, TokenSet, thin_out
from .token_labels import CELL

log = logging.getLogger(__name__)

ROWS = SIDE // CELL  # visual tokens along each side of a frame
PLACES_WEIGHT = 0.2


def assemble(
    samples: list[Sample], frames: list[torch.Tensor], embedding: nn.Module
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lay samples out with their visual tokens, padded on the right.

    Args:
        frames: visual tokens ``[n, hidden]`` of each sample, in the language model's space.

    Returns:
        input embeddings ``[B, L, hidden]``, labels ``[B, L]`` (-100 off the answer), their weights ``[B, L]``, and
        each sample's number of positions before its answer's first token, ``[B]``.
    """
    length = max(len(s.before) + len(f) + len(s.after) + len(s.answer) for s, f in zip(samples, frames))
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    labels = torch.full((len(samples), length), -100)
    weights = torch.ones(len(samples), length)
    starts = []
    for i, (s, f) in enumerate(zip(samples, frames)):
        a, b = len(s.before), len(s.before) + len(f)
        c = b + len(s.after)
        ids[i, :a], ids[i, b:c] = torch.tensor(s.before), torch.tensor(s.after)
        ids[i, c : c + len(s.answer)] = labels[i, c : c + len(s.answer)] = torch.tensor(s.answer)
        if s.weights:
            weights[i, c : c + len(s.answer)] = torch.tensor(s.weights)
        starts.append(c)
    embeds = embedding(ids)
    rows = [
        torch.cat([e[: len(s.before)], f.to(e.dtype), e[len(s.before) + len(f) :]])
        for e, s, f in zip(embeds, samples, frames)
    ]
    return torch.stack(rows), labels, weights, torch.tensor(starts)


def mrope_positions(samples: list[Sample], rows: int, cols: int, length: int) -> torch.Tensor:
    """Qwen2-VL's three position indices ``[3, B, length]`` for one ``rows x cols`` frame in each sample."""
    positions = torch.zeros(3, len(samples), length, dtype=torch.long)
    grid = torch.stack(torch.meshgrid(torch.arange(1), torch.arange(rows), torch.arange(cols), indexing="ij"))
    grid = grid.reshape(3, -1)
    for i, s in enumerate(samples):
        a = len(s.before)
        tail = length - a - rows * cols
        positions[:, i, :a] = torch.arange(a)
        positions[:, i, a : a + rows * cols] = grid + a
        positions[:, i, a + rows * cols :] = torch.arange(tail) + a + max(rows, cols)
    return positions


def train_language(
    forward: Callable[[list[Sample], list[torch.Tensor], list[torch.Tensor]], tuple[torch.Tensor, ...]],
    parameters: list[nn.Parameter],
    state: nn.Module,
    data: TokenSet,
    sampler: Callable[[np.random.Generator, tuple[VisibleObject, ...]], Sample],
    *,
    steps: int,
    batch: int = 32,
    lr: float = 1e-3,
    minutes: float = 40.0,
    seed: int = 0,
    thin: float = 0.0,
    checkpoint: Path | None = None,
    name: str = "language",
) -> None:
    """Train in place on next-token loss over the answers.

    Args:
        forward: samples, their visual tokens and, of each object, which of those are its own (bool
            ``[objects, n]``) to logits ``[n, vocabulary]``, labels ``[n]`` and weights ``[n]`` of the answers,
            and a further loss.
        state: the module whose state is checkpointed.
        thin: share of the samples whose bare cells are thinned out.
        minutes: wall-clock budget; the learning-rate schedule follows whichever of steps and minutes is further on.
    """
    run = TrainingRun(parameters, lr=lr, steps=steps, minutes=minutes, checkpoint=checkpoint, every=250, state=state)
    rng = np.random.default_rng([seed, run.step])
    mean, right = None, 0.0
    while run.goes_on():
        pick = rng.integers(len(data.objects), size=batch)
        samples = [sampler(rng, data.objects[i]) for i in pick]
        kept = [thin_out(data.bare[i], rng) if rng.random() < thin else torch.ones_like(data.bare[i]) for i in pick]
        frames = [data.tokens[i][keep].float() for i, keep in zip(pick, kept)]
        objects = [data.object_tokens(i)[:, keep] for i, keep in zip(pick, kept)]
        with mixed_precision():
            logits, labels, weights, further = forward(samples, frames, objects)
        every = F.cross_entropy(logits.float(), labels, reduction="none")
        loss = (every * weights).sum() / weights.sum()
        run.learn(loss + further)
        value, hit = loss.item(), (logits.argmax(-1) == labels).float().mean().item()
        mean = value if mean is None else 0.97 * mean + 0.03 * value
        right = hit if run.step == 1 else 0.97 * right + 0.03 * hit
        if run.step % 100 == 0:
            log.info(
                "%s step %d, %.0f s: loss %.4f, tokens right %.4f, further loss %.4f",
                name, run.step, run.elapsed, mean, right, float(further),
            )  # fmt: skip


def vl_forward(model: nn.Module, rows: int, cols: int) -> Callable:
    """Forward of lab-vl's language model over given visual tokens."""

    def forward(samples: list[Sample], frames: list[torch.Tensor], objects: list[torch.Tensor]) -> tuple:
        text = model.model.language_model
        embeds, labels, weights, _ = assemble(samples, frames, text.embed_tokens)
        positions = mrope_positions(samples, rows, cols, embeds.shape[1])
        hidden = text(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
        return *_answers(model.lm_head, hidden, labels, weights), embeds.new_zeros(())

    return forward


def r1_forward(
    model: nn.Module, bridge: nn.Module, undecided: float, sight: float, places: nn.Module | None = None
) -> Callable:
    """Forward of lab-r1 over bridged visual tokens; ``undecided`` and ``sight`` weigh the losses of those names.

    ``places`` reads the place of the object under a token from that bridged token. It is thrown away: without it the
    bridge passes places on so faintly (3% of its tokens' variance) that the decoder does not learn to read them.
    """
    taps = AttentionTaps(model)

    def forward(samples: list[Sample], frames: list[torch.Tensor], objects: list[torch.Tensor]) -> tuple:
        bridged = bridge(torch.cat(frames)).split([len(f) for f in frames])
        embeds, labels, weights, starts = assemble(samples, list(bridged), model.get_input_embeddings())
        hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        with torch.autocast("cpu", enabled=False):
            further = undecided * taps.decidedness(*_before_naming(samples, starts, objects, embeds.shape[1]))
            if sight:
                further = further + sight * taps.sight(*_saying_where(samples, starts, objects, embeds.shape[1]))
            taps.forget()
            if places is not None:
                further = further + PLACES_WEIGHT * _places_loss(places, bridged, objects, samples)
        return *_answers(model.lm_head, hidden, labels, weights), further

    return forward


def _places_loss(places: nn.Module, bridged: tuple, objects: list[torch.Tensor], samples: list[Sample]):
    """Cross-entropy of the object's place, over the tokens that lie on an object."""
    on_object = [own.any(0) for own in objects]
    tokens = torch.cat([tokens[some] for tokens, some in zip(bridged, on_object)])
    true = torch.cat(
        [torch.tensor(s.places)[own.int().argmax(0)[some]] for s, own, some in zip(samples, objects, on_object)]
    )
    return F.cross_entropy(places(tokens.float()), true)


def _saying_where(
    samples: list[Sample], starts: torch.Tensor, objects: list[torch.Tensor], length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For ``AttentionTaps.sight``: the rows that a place word follows, and the keys of the object that it is about."""
    sizes = torch.tensor([s.place[1] - s.place[0] for s in samples])
    offsets = torch.arange(max(1, int(sizes.max())))
    first = starts + torch.tensor([s.place[0] for s in samples]) - 1
    rows = (first[:, None] + offsets).clamp(min=0, max=length - 1)
    keys = torch.zeros(len(samples), length, dtype=torch.bool)
    for i, (s, own) in enumerate(zip(samples, objects)):
        if s.named >= 0:
            keys[i, len(s.before) : len(s.before) + own.shape[1]] = own[s.named]
    valid = (offsets < sizes[:, None]) & keys.any(1)[:, None]  # an object may have no token
    return rows, valid, keys


def _before_naming(
    samples: list[Sample], starts: torch.Tensor, objects: list[torch.Tensor], length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For ``AttentionTaps.decidedness``: rows from the frame's end to the last before the name; objects' keys."""
    count = max(len(s.after) + s.undecided for s in samples)
    offsets = torch.arange(count)
    sizes = torch.tensor([len(s.after) + s.undecided for s in samples])
    first = starts - torch.tensor([len(s.after) for s in samples])
    rows = (first[:, None] + offsets).clamp(max=length - 1)
    open_ended = torch.tensor([s.undecided > 0 for s in samples])
    valid = (offsets < sizes[:, None]) & open_ended[:, None]
    keys = torch.zeros(len(samples), max(len(o) for o in objects), length, dtype=torch.bool)
    for i, (s, own) in enumerate(zip(samples, objects)):
        keys[i, : len(own), len(s.before) : len(s.before) + own.shape[1]] = own
    return rows, valid, keys


def _answers(head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> tuple:
    """Logits, labels and weights; the vocabulary is read out only where an answer's token comes next."""
    learn = labels[:, 1:] != -100
    return head(hidden[:, :-1][learn]), labels[:, 1:][learn], weights[:, 1:][learn]
