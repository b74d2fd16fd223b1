"""Suite `text`: a stock language model, several facts in its prompt, steered to the span of one: is that one used?

The model is SmolLM2-135M-Instruct, as it is: no training, no projector, no image. Each prompt lists three to five
facts that compete and asks a question that any of them answers, so that unsteered the model names one of them by
habit. V is the sentences of the facts, R the one that is steered to; the rows of the question and of the answer are
steered. It goes through `steer_ros.steering.attach`, as any Transformers model may.

An answer is judged by the facts that it names (see `prompts.mentions`). It is right when the first fact that it
names is the target: any of the target's words, before any word of another fact. An answer that names none is wrong.
- Begun: the answer is begun for the model, up to where the value comes, and has 12 tokens. Every fact of every prompt
  is the target in turn.
- Alone: the same, unsteered, of a prompt that holds no other fact than the target: the most that leaving the others
  out of the prompt would do.
- Free: the model answers as it likes, in at most 60 tokens. One fact of each prompt is the target. Here an answer is
  also judged as a whole: `_only` wants the target named and no other fact anywhere in it.

SmolLM2 is steered as `steer-ros tune text` found it best, by smollm2/steering.json: conserving with a gain of its own
for each of its 270 heads, learnt on prompts of other kinds, wordings and values (`prompts.TUNING`), and guidance. That
command judges what it learns on kinds of prompts that did not teach: 100.0% of 960 answers there, with one alpha for
all heads (SETUP, which other models get) 97.8%. The judged prompts have seen five settings. The four before, each with
one alpha: without guidance alpha 4 had 91.6% (`--alpha 4 --schedule constant`), and alpha 6 on layers 8 to 29, which
did better on the tuning prompts, 90.2% (`--alpha 6 --gate layers=8-29 --schedule constant`); guidance that did not
follow the model's doubt had 96.3%, numbers 76.9%, colours 97.2%; SETUP has 96.3%, numbers 83.3%, colours 91.7%, and
87.0% free (`--alpha 4`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ....lab.seeds import TEXT_SEED
from ....models.loading import resolve
from ....reasoning import Reasoner
from ....steering import SteeringConfig
from ....steering.steering_file import load_steering_file
from ...harness.eval_config import EvalConfig
from ...harness.intervals import Row
from ...harness.results import Results, run_parallel
from ...harness.steering_setup import UNSTEERED, SteeringSetup, override
from .model import OPTIONAL_MODULES, SMOLLM2_HOME, Laid, Reading, TextModel, all_threads, load_smollm2, smollm2_folder
from .prompts import JUDGED, FactPrompt, draw_prompts, mentions

PROMPTS = 216  # 9 of each of 24 wordings; some 860 with each fact as the target
BEGUN, FREE = 12, 60  # the longest answers, tokens
BATCH = 16  # prompts of one shape read at once
FEWEST = 32  # prompts for which a second process, with a model of its own to load, is worth while
SETUP = SteeringSetup(
    "ours",
    SteeringConfig.parse({"law": "conserving", "alpha": 4.0, "schedule": "guidance=1"}),
    "conserving, on all heads, with guidance",
)

KEYS = {
    "steered": "answers begun for the model name the fact that is steered to, first of all facts",
    "unsteered": "the same without steering",
    "alone": "the same without steering, of a prompt with no other fact in it",
    "wrong_span": "the same, of the fact before the one that is steered to: how far another span's pull helps it",
    "steered_free": "answers of up to 60 tokens of the model's own name the fact that is steered to first",
    "unsteered_free": "the same without steering",
    "steered_free_only": "such answers name the fact that is steered to and no other",
    "unsteered_free_only": "the same without steering",
    **{f"steered_{kind.name}": f"steered, over the prompts about {kind.name}" for kind in JUDGED},
    **{f"unsteered_{kind.name}": f"unsteered, over the prompts about {kind.name}" for kind in JUDGED},
}


@dataclass
class Batch:
    """Prompts of one shape, each with its number and the fact that is its target when it answers freely."""

    numbers: list[int] = field(default_factory=list)
    prompts: list[FactPrompt] = field(default_factory=list)
    laid: list[Laid] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)


def run(options: EvalConfig) -> dict[str, Row]:
    """Ask and judge. Keys: see KEYS."""
    if _wants_smollm2(options):
        smollm2_folder(options.progress)  # fetched once, before there are two processes
    threads = torch.get_num_threads()
    try:
        return run_parallel(options, part, options.size(PROMPTS), FEWEST).shares(KEYS)
    finally:
        torch.set_num_threads(threads)


def part(options: EvalConfig, index: int, of: int) -> Results:
    """Every of-th batch of the prompts from `index` on."""
    if of > 1:
        torch.set_num_threads(1)
    else:
        all_threads()
    model, *folders = model_of(options)
    prompts = draw_prompts(JUDGED, options.size(PROMPTS), options.first_seed(TEXT_SEED))
    setup = override(options.setup or setup_for(*folders), options.overrides)
    dealt = sorted(batches(model, prompts), key=lambda batch: -len(batch.prompts) * len(batch.laid[0].spans))
    return judge(model, dealt[index::of], setup, options.progress)


def judge(model: TextModel, dealt: Sequence[Batch], setup: SteeringSetup, say: Callable[[str], None]) -> Results:
    """The answers to all prompts of the batches, steered and unsteered, begun and free."""
    results, done, count = Results(), 0, sum(len(batch.prompts) for batch in dealt)
    for batch in dealt:
        reading = model.read(batch.laid)
        judge_begun(model, batch, reading, setup, results)
        judge_free(model, batch, reading, setup, results)
        judge_alone(model, batch, results)
        done += len(batch.prompts)
        say(f"text: {done / count:.0%} of the prompts")
    return results


def batches(model: TextModel, prompts: Sequence[FactPrompt], most: int = BATCH) -> list[Batch]:
    """The prompts by shape. A wording's free target is the next place among its facts after that of the wording before
    it with as many: so a wording's prompts share a batch, and all places are targets."""
    found: dict[tuple, list[Batch]] = {}
    targets: dict[tuple[str, str], int] = {}
    wordings: Counter[int] = Counter()
    for number, prompt in enumerate(prompts):
        laid = model.lay_out(prompt)
        group = found.setdefault(laid.shape, [Batch()])
        if len(group[-1].prompts) == most:
            group.append(Batch())
        wording, count = (prompt.kind, prompt.question), len(prompt.facts)
        if wording not in targets:
            targets[wording] = wordings[count] % count
            wordings[count] += 1
        group[-1].numbers.append(number)
        group[-1].prompts.append(prompt)
        group[-1].laid.append(laid)
        group[-1].targets.append(targets[wording])
    return [batch for group in found.values() for batch in group]


def judge_begun(model: TextModel, batch: Batch, reading: Reading, setup: SteeringSetup, results: Results) -> None:
    """Every fact of each prompt in turn."""

    def enough(row: int, text: str) -> bool:
        return bool(mentions(text, batch.prompts[row].facts, ended=False))

    plain = _answers(model, reading, True, None, UNSTEERED, BEGUN, enough)
    count = len(reading.laid[0].spans)
    for target in range(count):
        steered = _answers(model, reading, True, target, setup, BEGUN, enough)
        for row, prompt in enumerate(batch.prompts):
            named, number = mentions(steered[row], prompt.facts), batch.numbers[row]
            hit, plain_hit = named[:1] == [target], mentions(plain[row], prompt.facts)[:1] == [target]
            results.add("steered", hit, number)
            results.add("unsteered", plain_hit, number)
            results.add("wrong_span", named[:1] == [(target - 1) % count], number)
            results.add(f"steered_{prompt.kind}", hit, number)
            results.add(f"unsteered_{prompt.kind}", plain_hit, number)


def judge_alone(model: TextModel, batch: Batch, results: Results) -> None:
    """Every fact of each prompt as its only one; those of one shape are read at once."""
    alone = [
        (number, replace(prompt, facts=(fact,)))
        for number, prompt in zip(batch.numbers, batch.prompts, strict=True)
        for fact in prompt.facts
    ]
    for own in batches(model, [prompt for _, prompt in alone]):
        prompts = own.prompts

        def enough(row: int, text: str, prompts: Sequence[FactPrompt] = prompts) -> bool:
            return bool(mentions(text, prompts[row].facts, ended=False))

        texts = _answers(model, model.read(own.laid), True, None, UNSTEERED, BEGUN, enough)
        for row, text in enumerate(texts):
            results.add("alone", mentions(text, prompts[row].facts) == [0], alone[own.numbers[row]][0])


def judge_free(model: TextModel, batch: Batch, reading: Reading, setup: SteeringSetup, results: Results) -> None:
    """One fact of each prompt."""
    for target in sorted(set(batch.targets)):
        rows = [row for row, its in enumerate(batch.targets) if its == target]
        prompts, part = [batch.prompts[row] for row in rows], reading.pick(rows)

        def enough(row: int, text: str, prompts: Sequence[FactPrompt] = prompts, target: int = target) -> bool:
            return bool(set(mentions(text, prompts[row].facts, ended=False)) - {target})  # both judges know by now

        for key, its, how in (("steered", target, setup), ("unsteered", None, UNSTEERED)):
            for row, text in enumerate(_answers(model, part, False, its, how, FREE, enough)):
                named = mentions(text, prompts[row].facts)
                results.add(f"{key}_free", named[:1] == [target], batch.numbers[rows[row]])
                results.add(f"{key}_free_only", named == [target], batch.numbers[rows[row]])


def _answers(
    model: TextModel,
    reading: Reading,
    begun: bool,
    target: int | None,
    setup: SteeringSetup,
    limit: int,
    enough: Callable[[int, str], bool],
) -> list[str]:
    return model.answer(reading, begun, target if setup.steers else None, setup.config, limit, enough)


def optional_modules(options: EvalConfig) -> tuple[str, ...]:
    """Optional modules that Transformers must find when it is imported."""
    return OPTIONAL_MODULES if _wants_smollm2(options) else ()


def _wants_smollm2(options: EvalConfig) -> bool:
    return options.reasoning is None or options.reasoning.startswith("builtin:")


def model_of(options: EvalConfig) -> tuple[TextModel, Path, Path]:
    """SmolLM2, or the reasoner that was asked for; the built-in one knows no words but the bench's. Also the folder of
    its weights, and the one of its steering.json."""
    if _wants_smollm2(options):
        return load_smollm2(options.progress, options.device), smollm2_folder(options.progress), SMOLLM2_HOME
    reasoner = Reasoner.from_pretrained(options.reasoning, options.device)
    reasoner.close()
    folder = resolve(options.reasoning)
    return TextModel(reasoner.model, reasoner.tokenizer), folder, folder


def setup_for(weights: Path, home: Path) -> SteeringSetup:
    """What `steer-ros tune text` found for a model, else SETUP.

    Raises:
        SteeringFileError: its steering.json can't be used.
    """
    tuned = load_steering_file(home, weights=weights)
    if tuned is None or tuned.config.gain_table is None:
        return SETUP
    return replace(
        SETUP,
        config=tuned.config,
        description="what steer-ros tune text learnt: a gain for each head, with guidance",
    )
