"""Which heads route region content: found without labels, by what steering a head alone changes.

For each head and each of some regions of a frame, the law holds in that head alone; the answer that the model gives
unsteered is read under it, teacher-forced, in one forward pass. A head that carries what is in a region makes the
next-token distributions differ from region to region; one that carries grammar, or the rest of the text, does not. The
score of a head is that difference: the Jensen-Shannon divergence between the regions' distributions, in nats, the
largest of the answer's rows, as the mean over frames. Nobody says what is in a region, so photos do as well as scenes.

Gaze Heads (arXiv 2606.14703) finds heads by where they look. This asks what their look does to the answer: attention
is not cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...steering.attachment import Attachment
from ...steering.field import Span, SteeringField
from ...steering.laws import Law

PROBE = Law("conserving", 8.0)  # near saturation: what the head could do, not what a little does


@dataclass(frozen=True)
class Probe:
    """One frame's question: the context and the unsteered answer, embedded, and the regions to steer to.

    embeds: [1, L, hidden]. spans: the key positions of V. rows: how many of the last rows predict the answer's
    tokens. regions: for each one an int8 array for each span.
    """

    embeds: Tensor
    spans: tuple[Span, ...]
    rows: int
    regions: tuple[Sequence[np.ndarray], ...]


def effect(attachment: Attachment, probe: Probe, table: Tensor, law: Law = PROBE) -> float:
    """How far apart the regions' answers are when the law holds where table [layers, heads] is not 0, in nats."""
    rows = []
    for weights in probe.regions:
        field = SteeringField(probe.spans, weights, gain=table, device=probe.embeds.device)
        with attachment.steer(field, law, measure_focus=False):
            logits = attachment.model(inputs_embeds=probe.embeds, use_cache=False, logits_to_keep=probe.rows).logits
        rows.append(logits[0].float().log_softmax(-1))
    return float(divergence(torch.stack(rows)).max())


def divergence(log_p: Tensor) -> Tensor:
    """Jensen-Shannon divergence between R distributions, log_p [R, rows, vocabulary] → [rows], in nats."""
    mean = torch.logsumexp(log_p, 0) - np.log(len(log_p))
    return (log_p.exp() * (log_p - mean)).sum(-1).mean(0).clamp(min=0.0)


@torch.no_grad()
def score_heads(
    attachment: Attachment,
    probes: Iterable[Probe],
    law: Law = PROBE,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The mean effect of each head alone, float32 [layers, heads].

    Args:
        progress: called with the number of frames done.
    Raises:
        ValueError: no probe, or one with fewer than two regions: there is nothing to tell apart.
    """
    layers, heads = attachment.num_layers, attachment.num_heads
    total, count = torch.zeros(layers, heads), 0
    for probe in probes:
        if len(probe.regions) < 2:
            raise ValueError(f"regions: {len(probe.regions)}; accepted are at least 2 in a frame")
        for layer in range(layers):
            for head in range(heads):
                table = torch.zeros(layers, heads)
                table[layer, head] = 1.0
                total[layer, head] += effect(attachment, probe, table, law)
        count += 1
        if progress is not None:
            progress(count)
    if not count:
        raise ValueError("probes: none; accepted is at least one frame")
    return total / count


def choose_heads(scores: Tensor, part: float = 0.9) -> tuple[tuple[int, int], ...]:
    """The fewest heads that together have `part` of all the effect, as (layer, head) pairs, best first.

    Raises:
        ValueError: part outside (0, 1], or no head has any effect.
    """
    if not 0.0 < part <= 1.0:
        raise ValueError(f"part: {part}; accepted is above 0, at most 1")
    flat = scores.flatten()
    if not bool((flat > 0).any()):
        raise ValueError("scores: no head changes anything; accepted is a model that looks at its visual keys")
    order = flat.argsort(descending=True)
    running = flat[order].cumsum(0) / flat.sum()
    count = int((running < part - 1e-6).sum()) + 1
    return tuple((int(i) // scores.shape[1], int(i) % scores.shape[1]) for i in order[:count])
