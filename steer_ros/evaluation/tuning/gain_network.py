"""`steer-ros tune strength`: train the network that sets each head's gain, and try it against what there is.

The model is frozen. On tuning scenes the right whole answer about the region's object is read under the conserving law
with the network's gains, through the model's own gate and with its schedule's scales, and its loss goes back
through the law into the network. Nothing else is learnt. (What a schedule makes of a plain pass, confidence_threshold,
plausibility and guidance, is left out of the learning, not of the judging.)

Then the network, the best of some fixed alphas, chosen on the same scenes, and the model's own setting are judged
on other scenes, all with that gate and schedule. The network becomes the model's default only if it is right more
often than both, and by so much that chance is ruled out (95%).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...commands.arguments import whole_number
from ...lab.scenes.instructions import OPEN, open_action, open_thought
from ...lab.seeds import GAIN_NETWORK_JUDGED_SEEDS, GAIN_NETWORK_SEEDS
from ...perception import Perceiver
from ...reasoning import Reasoner
from ...reasoning.prompt import embed
from ...regions.mask import pool_to_tokens
from ...steering import Gate, make_law
from ...steering.head_gains import HeadGainNet, head_features, learnable_attention
from ...steering.schedule import Schedule
from ...steering.steering_file import SteeringFile, load_steering_file, save_steering_file
from ..harness.answer_grammar import NAMING
from ..harness.cases import Case, cases
from ..harness.intervals import difference
from ..harness.steering_setup import SteeringSetup
from ..harness.turns import must_see
from .alpha import CURVE, hits_right, share_right
from .attention_override import override_attention

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
    before = load_steering_file(target, weights=folder) or load_steering_file(folder) or SteeringFile()

    plain = replace(before.config, guard=None)

    def setup(alpha: float) -> SteeringSetup:  # gate and schedule are the model's own, for all
        return SteeringSetup("strength", replace(plain, law=make_law("conserving", alpha), head_gains=None))

    own = SteeringSetup("own", plain)
    seen = list(cases(perceiver, GAIN_NETWORK_SEEDS.start, args.scenes, names=2))
    net = train(reasoner, seen, args.steps, args.seed, plain.gate, plain.schedule)
    fixed = best_of({alpha: share_right(reasoner, seen, setup(alpha)) for alpha in CURVE})
    judged = list(cases(perceiver, GAIN_NETWORK_JUDGED_SEEDS.start, args.judged, names=2))
    hits = {
        "fixed": hits_right(reasoner, judged, setup(fixed)),
        "own": hits_right(reasoner, judged, own),
        "network": hits_right(reasoner, judged, SteeringSetup("network", replace(setup(1.0).config, head_gains=net))),
    }
    scenes = [case.scene for case in judged for _ in NAMING]
    gains = {name: difference(hits["network"], hits[name], scenes) for name in ("fixed", "own")}
    rows: dict[str, object] = {
        "fixed_alpha": fixed,
        **{name: sum(found) / len(found) for name, found in hits.items()},
        "gain_over_fixed": gains["fixed"],
        "gain_over_own": gains["own"],
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": time.perf_counter() - started,
    }
    better = all(row["low"] > 0 for row in gains.values())
    said = (
        f"steer-ros tune strength: network {rows['network']:.1%}, fixed alpha {fixed:g} {rows['fixed']:.1%}, the "
        f"model's own setting {rows['own']:.1%} of whole answers right on {args.judged} scenes: "
        f"{'kept' if better else 'not told to be better, so the own setting stays'}"
    )
    print(said)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    tuned = replace(before, provenance={**before.provenance, "strength": said})
    if better:
        tuned = replace(tuned, config=replace(before.config, law=make_law("conserving", 1.0), head_gains=net))
    print(save_steering_file(target, tuned, weights=folder))
    return rows


def best_of(right: dict[float, float]) -> float:
    """The strength with the highest share; the middle of those that share it."""
    best = [alpha for alpha, share in right.items() if share == max(right.values())]
    return best[len(best) // 2]


def train(
    reasoner: Reasoner,
    seen: list[Case],
    steps: int,
    seed: int,
    gate: Gate | None = None,
    schedule: Schedule | None = None,
) -> HeadGainNet:
    """A network trained on the right answers about the objects of these scenes, read through a gate with a schedule's
    scales: where the model is, but left on the CPU."""
    gate, schedule = gate or Gate(), schedule or Schedule()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = HeadGainNet().to(reasoner.device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    lessons = [lesson for case in seen for lesson in lessons_of(reasoner, case)]
    mean = 0.0
    for step in range(steps):
        picked = torch.randint(len(lessons), (BATCH,), generator=generator).tolist()
        loss = torch.stack([loss_of(reasoner, net, lessons[i], gate, schedule) for i in picked]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        pace.step()
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
    for index, target in enumerate(case.objects):
        must_see(reasoner, case.features)
        kind = NAMING[index % len(NAMING)]
        laid_out = reasoner.prompts.with_tokens(str(rng.choice(OPEN[kind])), [int(case.features.tokens.shape[0])])
        answer = f"{open_thought(kind, target)}\n</think>\n\n{open_action(kind, target)}{tokenizer.eos_token}"
        ids = torch.tensor(tokenizer(answer, add_special_tokens=False).input_ids, device=reasoner.device)
        before = embed(reasoner.model, laid_out, [case.features.tokens], reasoner.bridge)
        pooled = pool_to_tokens(case.weights(target), case.features.grid.merge).reshape(-1)
        weights = torch.from_numpy(pooled).to(reasoner.device)
        yield Lesson(torch.cat([before, table(ids[None, :-1])], 1), ids, laid_out.spans[0][0], weights)


def loss_of(reasoner: Reasoner, net: HeadGainNet, lesson: Lesson, gate: Gate, schedule: Schedule) -> Tensor:
    """Next-token loss of the answer, read under the law with the network's gains."""
    with learning(reasoner, net, lesson, gate, schedule):
        logits = reasoner.model(inputs_embeds=lesson.embeds, use_cache=False, logits_to_keep=len(lesson.answer)).logits
    return F.cross_entropy(logits[0].float(), lesson.answer)


def runs_of(reasoner: Reasoner, lesson: Lesson, gate: Gate, schedule: Schedule) -> list[tuple[int, int, float]]:
    """Rows [first, last) of a lesson that have the same part of the strength, and that part; as a turn has them."""
    context, answer = lesson.embeds.shape[1] - len(lesson.answer) + 1, lesson.answer.tolist()
    think_end = reasoner.prompts.think_end
    ends = answer.index(think_end) if think_end in answer else len(answer)
    phases = ["think"] * context + ["think" if i < ends else "act" for i in range(len(answer) - 1)]
    scales = [schedule.strength_scale("prompt", 0)] * context
    scales += [schedule.strength_scale(phase, n) for n, phase in enumerate(phases[context:], 1)]
    scales = [part if phase in gate.phases else 0.0 for part, phase in zip(scales, phases, strict=True)]
    edges = [0, *(i for i in range(1, len(scales)) if scales[i] != scales[i - 1]), len(scales)]
    return [(first, last, scales[first]) for first, last in pairwise(edges)]


@contextmanager
def learning(reasoner: Reasoner, net: HeadGainNet, lesson: Lesson, gate: Gate, schedule: Schedule) -> Iterator[None]:
    """The model's attention as the law has it, differentiable in the network's parameters."""
    layers = reasoner.attachment.num_layers
    visual = torch.ones_like(lesson.weights, dtype=torch.bool)
    context = lesson.embeds.shape[1] - len(lesson.answer) + 1
    table = gate.table(layers, reasoner.attachment.num_heads).to(reasoner.device)
    runs = runs_of(reasoner, lesson, gate, schedule)

    def attend(module, q, k, v, mask, scaling=None, **kwargs):
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        depth = module.layer_idx / max(1, layers - 1)
        row, keys = q[:, :, context - 1 : context], k[:, :, :context]
        alpha = net(head_features(row, keys, lesson.weights, visual, lesson.start, scale, depth))
        alpha = alpha * table[module.layer_idx]
        pieces = [
            learnable_attention(
                q[:, :, a:b], k[:, :, :b], v[:, :, :b], lesson.weights, lesson.start, alpha * part, scale
            )
            for a, b, part in runs
        ]
        return torch.cat(pieces, 1), None

    with override_attention(reasoner.model, attend):
        yield
