"""`steer-ros tune strength`: train the network that sets each head's strength, and try it against the best fixed one.

The model is frozen. On tuning scenes the right whole answer about the region's object is read under the conserving law
with the network's strengths, and its loss goes back through the law into the network. Nothing else is learnt. Then the
network and the best of some fixed strengths, chosen on the same scenes, are judged on other scenes, both with the gate
and schedule that the model has: it becomes the model's default only if it is right more often there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import whole_number
from ..lab.instructions import OPEN, open_action, open_thought
from ..models import Perceiver, Reasoner
from ..models.context import embed
from ..regions.mask import pool_to_tokens
from ..steering import make_law
from ..steering.strength import StrengthNet, head_features, learnable_attention, save_strength
from ..steering.tuned import Tuned, load_tuned, save_tuned
from .answers import NAMING
from .learning import attending
from .scenes import Case, cases
from .settings import Setting
from .tune_alpha import CURVE, share_right

SEED, JUDGED_SEED = 520_000, 525_000
SALT = 11
BATCH = 4


@dataclass(frozen=True)
class Lesson:
    """One answer to be read: embeds [1, L, hidden] of context and answer, its tokens, and where the region is. All on
    the model's device."""

    embeds: Tensor
    answer: Tensor
    start: int
    weights: Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros tune strength``."""
    count = whole_number(1)
    parser.add_argument("--scenes", type=count, default=40, help="tuning scenes to learn from")
    parser.add_argument("--judged", type=count, default=20, help="other scenes to judge on")
    parser.add_argument("--steps", type=count, default=150, help="steps of training")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of what is drawn")


def tune(perceiver: Perceiver, reasoner: Reasoner, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Train, judge, and keep the network if it is better; what was measured.

    Raises:
        ValueError: an argument.
    """
    started = time.perf_counter()
    target = args.out or folder
    before = load_tuned(target, weights=folder) or load_tuned(folder) or Tuned(make_law("conserving"))

    def setting(alpha: float) -> Setting:  # gate and schedule are the model's own, for both
        return Setting("strength", make_law("conserving", alpha), before.gate, before.schedule, guard=False)

    seen = list(cases(perceiver, SEED, args.scenes, names=2))
    net = train(reasoner, seen, args.steps, args.seed)
    fixed = max(CURVE, key=lambda alpha: share_right(reasoner, seen, setting(alpha)))
    judged = list(cases(perceiver, JUDGED_SEED, args.judged, names=2))
    rows: dict[str, object] = {
        "fixed_alpha": fixed,
        "fixed": share_right(reasoner, judged, setting(fixed)),
        "adaptive": share_right(reasoner, judged, replace(setting(1.0), strength=net)),
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": time.perf_counter() - started,
    }
    better = rows["adaptive"] > rows["fixed"]
    said = (
        f"steer-ros tune strength: adaptive {rows['adaptive']:.1%}, fixed alpha {fixed:g} {rows['fixed']:.1%} of "
        f"whole answers right on {args.judged} scenes: {'kept' if better else 'not better, so not used'}"
    )
    print(said)
    tuned = replace(before, found={**before.found, "strength": said})
    if better:
        target.mkdir(parents=True, exist_ok=True)
        save_strength(target, net)
        tuned = replace(tuned, law=make_law("conserving", 1.0), strength=net)
    print(save_tuned(target, tuned, weights=folder))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return rows


def train(reasoner: Reasoner, seen: list[Case], steps: int, seed: int) -> StrengthNet:
    """A network trained on the right answers about the objects of these scenes: where the model is, but left on the
    CPU."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = StrengthNet().to(reasoner.device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    lessons = [lesson for case in seen for lesson in lessons_of(reasoner, case)]
    mean = 0.0
    for step in range(steps):
        picked = torch.randint(len(lessons), (BATCH,), generator=generator).tolist()
        loss = torch.stack([loss_of(reasoner, net, lessons[i]) for i in picked]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        value = loss.item()
        mean = value if step == 0 else 0.9 * mean + 0.1 * value
        if (step + 1) % 25 == 0:
            print(f"strength: step {step + 1} of {steps}, loss {mean:.4f}", flush=True)
    return net.eval().requires_grad_(False).cpu()


@torch.no_grad()
def lessons_of(reasoner: Reasoner, case: Case) -> Iterator[Lesson]:
    """Each object of a scene as the region once, with the right answer to an instruction."""
    rng, tokenizer = case.rng(SALT), reasoner.tokenizer
    table = reasoner.model.get_input_embeddings()
    for index, fact in enumerate(case.facts):
        kind = NAMING[index % len(NAMING)]
        context = reasoner.layout.with_tokens(str(rng.choice(OPEN[kind])), [int(case.features.tokens.shape[0])])
        answer = f"{open_thought(kind, fact)}\n</think>\n\n{open_action(kind, fact)}{tokenizer.eos_token}"
        ids = torch.tensor(tokenizer(answer, add_special_tokens=False).input_ids, device=reasoner.device)
        before = embed(reasoner.model, context, [case.features.tokens], reasoner.bridge)
        pooled = pool_to_tokens(case.weights(fact), case.features.grid.merge).reshape(-1)
        weights = torch.from_numpy(pooled).to(reasoner.device)
        yield Lesson(torch.cat([before, table(ids[None, :-1])], 1), ids, context.spans[0][0], weights)


def loss_of(reasoner: Reasoner, net: StrengthNet, lesson: Lesson) -> Tensor:
    """Next-token loss of the answer, read under the law with the network's strengths."""
    with learning(reasoner, net, lesson):
        logits = reasoner.model(inputs_embeds=lesson.embeds, use_cache=False, logits_to_keep=len(lesson.answer)).logits
    return F.cross_entropy(logits[0].float(), lesson.answer)


@contextmanager
def learning(reasoner: Reasoner, net: StrengthNet, lesson: Lesson) -> Iterator[None]:
    """The model's attention as the law has it, differentiable in the network's parameters."""
    layers = reasoner.attachment.num_layers
    visual = torch.ones_like(lesson.weights, dtype=torch.bool)
    context = lesson.embeds.shape[1] - len(lesson.answer) + 1

    def attend(module, q, k, v, mask, scaling=None, **kwargs):
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        depth = module.layer_idx / max(1, layers - 1)
        row, keys = q[:, :, context - 1 : context], k[:, :, :context]
        alpha = net(head_features(row, keys, lesson.weights, visual, lesson.start, scale, depth))
        return learnable_attention(q, k, v, lesson.weights, lesson.start, alpha, scale), None

    with attending(reasoner.model, attend):
        yield
