"""`steer-ros tune text`: learn each head's gain for a language model that is steered to words of its prompt.

The model is frozen. On prompts of several competing facts (`prompts.TUNING`, never those that suite text judges)
an answer is begun and the fact that is steered to is read on, under the conserving law with a gain of its own for
each head; the loss of that goes back through the law into the gains, and nothing else is learnt. They become the
model's default in place of one alpha for all heads only if they do better where they were not learnt: half of the
kinds of prompts teach, the other half judges, and then the other way about.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...commands.arguments import whole_number
from ...lab.seeds import TEXT_GAINS_JUDGED_SEED, TEXT_GAINS_SEED
from ...models.tokenization import encode_plain
from ...steering import make_law
from ...steering.head_gains import learnable_attention
from ...steering.schedule import chosen_by
from ...steering.steering_file import SteeringFile, load_steering_file, save_steering_file
from ..harness.batch_decoder import pick
from ..harness.eval_config import EvalConfig
from ..harness.optional_packages import restart_with_optional
from ..harness.results import Results
from ..harness.steering_setup import SteeringSetup
from ..suites.text.model import FULL, Reading, TextModel, all_threads
from ..suites.text.prompts import TUNING, FactPrompt, Kind, draw_prompts
from ..suites.text.suite import SETUP, Batch, batches, judge_begun, model_of, optional_modules
from .attention_override import override_attention

BATCH = 12
START = 4.0  # the alpha of every head to begin with
RATE = 0.15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros tune text``."""
    count = whole_number(1)
    parser.add_argument(
        "--prompts", type=count, default=24, help="prompts of each kind, to learn from and to judge on"
    )
    parser.add_argument("--steps", type=count, default=150, help="steps of training, each of the three times")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of what is drawn")


def tune(args: argparse.Namespace) -> dict[str, object]:
    """Learn, judge, and keep the strengths if they are better; what was measured.

    Raises:
        ValueError: an argument.
    """
    if str(args.reasoning).startswith("builtin:"):
        raise ValueError(
            f"--reasoning: {args.reasoning}; accepted is a folder or a hub id: the built-in models know no words but "
            "the bench's"
        )
    options = EvalConfig(reasoning=args.reasoning, device=args.device)
    restart_with_optional(optional_modules(options), options.progress)
    started = time.perf_counter()
    all_threads()
    model, weights, home = model_of(options)
    home = args.out or home
    before = load_steering_file(home, weights=weights)  # a wrong one is told before minutes of work
    halves = TUNING[::2], TUNING[1::2]
    fixed, learnt = Results(), Results()
    for taught, judged in (halves, halves[::-1]):
        gains = learn(model, taught, args.prompts, args.steps, args.seed)
        for results, setup in ((fixed, SETUP), (learnt, setup_of(gains))):
            judge(model, judged, args.prompts, setup, results)
    rows: dict[str, object] = {"fixed": fixed.share("steered"), "learnt": learnt.share("steered")}
    better = rows["learnt"]["value"] > rows["fixed"]["value"]
    said = (
        f"steer-ros tune text: {rows['learnt']['value']:.1%} of {rows['learnt']['n']} answers name the fact that is "
        f"steered to, on kinds of prompts that did not teach; with {SETUP} {rows['fixed']['value']:.1%}: "
        f"{'kept' if better else 'not better, so not used'}"
    )
    print(said)
    if better:
        best = setup_of(learn(model, TUNING, args.prompts, args.steps, args.seed))
        tuned = SteeringFile(best.config, {"text": said})
        if before is not None:
            tuned = replace(tuned, provenance={**before.provenance, "text": said}, heads=before.heads)
        print(save_steering_file(home, tuned, weights=weights))
    rows["seconds"] = time.perf_counter() - started
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return rows


def setup_of(gains: Tensor) -> SteeringSetup:
    """How a model with these strengths is steered."""
    return SteeringSetup("ours", replace(SETUP.config, law=make_law("conserving", 1.0), head_gains=gains))


def learn(model: TextModel, kinds: Sequence[Kind], prompts: int, steps: int, seed: int) -> Tensor:
    """The alpha of each head, float32 [layers, query heads], as a field keeps them (e4m3)."""
    generator = torch.Generator().manual_seed(seed)
    taught = [
        (batch, model.read(batch.laid)) for batch in batches(model, _drawn(kinds, prompts, TEXT_GAINS_SEED), BATCH)
    ]
    shape = model.attachment.num_layers, model.attachment.num_heads
    softened = torch.nn.Parameter(torch.full(shape, math.log(math.expm1(START))))
    optimiser = torch.optim.Adam([softened], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    mean = 0.0
    for step in range(steps):
        batch, reading = taught[int(torch.randint(len(taught), (), generator=generator))]
        spans = len(reading.laid[0].spans)
        targets = torch.randint(spans, (len(batch.prompts),), generator=generator).tolist()
        loss = loss_of(model, batch, reading, targets, F.softplus(softened))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        mean = loss.item() if step == 0 else 0.9 * mean + 0.1 * loss.item()
        if (step + 1) % 25 == 0:
            print(f"text: step {step + 1} of {steps}, loss {mean:.4f}", flush=True)
    return F.softplus(softened).detach().to(torch.float8_e4m3fn).float()


def loss_of(model: TextModel, batch: Batch, reading: Reading, targets: Sequence[int], alpha: Tensor) -> Tensor:
    """Next-token loss of each prompt's target fact, by its first word, behind the answer's opening: the mean of that
    of the steered model alone and that of what a token is chosen by.

    Args:
        targets: a fact of each prompt, by index.
        alpha: [layers, query heads], with a gradient.
    """
    rows, laid = range(len(batch.prompts)), reading.laid
    words = [
        encode_plain(model.tokenizer, f" {prompt.facts[target].words[0]}")
        for prompt, target in zip(batch.prompts, targets, strict=True)
    ]
    longest = max(map(len, words))
    filled = [[*word, *[0] * (longest - len(word))] for word in words]
    device = model.model.device
    ids = torch.tensor([[*laid[row].tail, *laid[row].opening, *filled[row][:-1]] for row in rows], device=device)
    wanted = torch.tensor([[*word, *[-100] * (longest - len(word))] for word in words], device=device)
    spans = laid[0].spans
    weights = torch.zeros(len(words), spans[-1].end - spans[0].start, dtype=torch.int8, device=device)
    for row, target in enumerate(targets):
        span = spans[target]
        weights[row, span.start - spans[0].start : span.end - spans[0].start] = FULL

    def attend(module, q, k, v, mask, scaling=None, **kwargs):
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        return learnable_attention(q, k, v, weights, spans[0].start, alpha[module.layer_idx].to(device), scale), None

    with torch.no_grad():
        plain = model.logits(pick(reading.cache, rows), ids, longest)
    with override_attention(model.model, attend):
        steered = model.logits(pick(reading.cache, rows), ids, longest)
    schedule, wanted = SETUP.config.schedule, wanted.flatten()
    steered, plain = steered.flatten(0, 1), plain.flatten(0, 1)
    chosen = chosen_by(steered, plain, schedule)
    return (F.cross_entropy(steered, wanted) + F.cross_entropy(chosen, wanted)) / 2


def judge(model: TextModel, kinds: Sequence[Kind], prompts: int, setup: SteeringSetup, results: Results) -> None:
    """Answers begun for the model, every fact of each prompt in turn, as suite text judges them."""
    for batch in batches(model, _drawn(kinds, prompts, TEXT_GAINS_JUDGED_SEED)):
        judge_begun(model, batch, model.read(batch.laid), setup, results)


def _drawn(kinds: Sequence[Kind], prompts: int, seed: int) -> list[FactPrompt]:
    return draw_prompts(kinds, prompts * len(kinds), seed)
