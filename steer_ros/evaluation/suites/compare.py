"""Suite `compare`: the same questions to all methods of pointing at a region, side by side.

For each object of each held-out scene as the region, every method is asked to pick up or describe one object (judged
whole, as in `redirect`), to name the region's colour or shape (as in `refer`), and a question about another object
(as in `harm`). Methods that steer are asked again at four more strengths from half to twice theirs.

The strengths of the methods that we compare with are those that give most whole answers on tuning scenes (the middle
one of equals). For the built-in pair `python -m steer_ros.evaluation.suites.compare` has chosen them, on 20 scenes,
and they lie in compare.json; for other weights the suite chooses them first, on fewer. Ours is what the model's
steering.json says. The `strength` rows give the range that was tried: a better one may lie beyond an end that was
chosen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...lab.scenes.instructions import OPEN
from ...lab.scenes.visible_objects import VisibleObject
from ...lab.seeds import COMPARE_SEEDS, COMPARE_TUNING_SEEDS
from ...models import resolve
from ...perception import Perceiver
from ...reasoning import Reasoner, Turn
from ...steering.steering_file import fingerprint
from ..harness.answer_grammar import NAMING, exact_match, first_mention, malformed
from ..harness.cases import Case, cases, check
from ..harness.eval_config import PERCEPTION, REASONING, EvalConfig
from ..harness.intervals import Row, worst
from ..harness.results import Results, run_parallel
from ..harness.steering_setup import STEPS, scaled
from ..harness.turns import ask
from .baselines import Method, methods
from .harm import off_region
from .redirect import MEAN_AREA
from .refer import named

SALT = 4
SCENES = 12  # some 40 objects, 1,900 turns over all methods
TUNING_SCENES = 6  # of a model that has no strengths kept
KEPT_SCENES = 20
# {"models": fingerprints of the pair, "tried": {method: {strength: [whole answers right, of]}}}
KEPT = Path(__file__).with_name("compare.json")

# measure -> (what it says, whether more of it is better)
MEASURES = {
    "whole_answer": ("pick and describe right from first word to last, about the region's object", True),
    "first_mention": ("the first object named is the region's", True),
    "malformed": ("answers that the grammar does not have, or that were cut", False),
    "range4x_min": ("whole_answer at the worst of five strengths from half to twice (half of the objects)", True),
    "naming": ("colour or shape of what the region holds", True),
    "off_region_loss": ("accuracy of questions about another object: unsteered less this", False),
    "turn_ms": ("milliseconds a question, encoding a frame of the method's own included", False),
}
KEYS = {f"<method>.{measure}": text for measure, (text, _) in MEASURES.items()} | {
    "<method>.strength": "alpha, setpoint or context that the tuning scenes chose (low and high: the range tried)"
}


def run(options: EvalConfig) -> dict[str, Row]:
    """Ask all and judge. Keys: ``<method>.<measure>``, see KEYS; `baselines.methods` names the methods."""
    check(options, SCENES)
    reasoner = options.reasoner()
    candidates = methods(reasoner, options.setup_for(reasoner))
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    if kept["models"] == pair(options):
        tuning = kept["tried"]
    else:
        fewer = min(TUNING_SCENES, options.size(TUNING_SCENES))
        options.progress("compare: choosing the strengths of the other methods on tuning scenes")
        tuning = counted(candidates, run_parallel(replace(options, limit=fewer), tune, fewer))
    chosen, rows = choose(candidates, tuning)
    results = run_parallel(options, partial(part, chosen), options.size(SCENES))
    for method in chosen:
        rows |= measured(method, results)
    order = [f"{m.name}.{measure}" for m in chosen for measure in (*MEASURES, "strength")]
    return {key: rows[key] for key in order if key in rows}


def pair(options: EvalConfig) -> list[str]:
    """What tells the weights of the two models from others'."""
    names = options.perception or PERCEPTION, options.reasoning or REASONING
    return [fingerprint(resolve(name)) for name in names]


def counted(candidates: Sequence[Method], results: Results) -> dict[str, dict[str, list[int]]]:
    """{method: {strength: [whole answers right, of]}} on the tuning scenes."""
    found: dict[str, dict[str, list[int]]] = {}
    for method in candidates:
        for strength in method.strengths:
            values = results.values(f"{method.name}.{strength:g}")
            found.setdefault(method.name, {})[f"{strength:g}"] = [int(sum(values)), len(values)]
    return found


def choose(
    candidates: Sequence[Method], tuning: Mapping[str, Mapping[str, Sequence[int]]]
) -> tuple[list[Method], dict[str, Row]]:
    """Each method at the strength that had most whole answers on the tuning scenes, the middle one of equals.

    Raises:
        ValueError: strengths of a method were not tried.
    """
    chosen, rows = [], {}
    for method in candidates:
        if method.strengths:
            tried = tuning.get(method.name, {})
            if missing := [s for s in method.strengths if f"{s:g}" not in tried]:
                raise ValueError(f"{KEPT.name}: {method.name} was not tried at {missing[0]:g}; make it anew")
            hits = {strength: tried[f"{strength:g}"][0] for strength in method.strengths}
            best = [strength for strength in method.strengths if hits[strength] == max(hits.values())]
            strength = best[len(best) // 2]
            low, high = min(method.strengths), max(method.strengths)
            rows[f"{method.name}.strength"] = {
                "value": strength, "n": tried[f"{strength:g}"][1], "low": low, "high": high
            }  # fmt: skip
            method = method.at(strength)
        chosen.append(method)
    return chosen, rows


def tune(options: EvalConfig, index: int, of: int) -> Results:
    """The tuning scenes, every of-th from `index` on: each method at each of its strengths."""
    perceiver, reasoner = options.perceiver(), options.reasoner()
    results, count = Results(), options.size(TUNING_SCENES)
    candidates = [m for m in methods(reasoner, options.setup_for(reasoner)) if m.strengths]
    for case in cases(perceiver, COMPARE_TUNING_SEEDS.start, count, names=2, part=(index, of)):
        prompts = {kind: str(case.rng(SALT).choice(OPEN[kind])) for kind in NAMING}
        for number, target in enumerate(case.objects):
            kind = NAMING[number % len(NAMING)]
            for method in candidates:
                for strength in method.strengths:
                    turn = _ask(perceiver, reasoner, method.at(strength), case, target, prompts[kind], Results())
                    results.add(f"{method.name}.{strength:g}", exact_match(kind, turn, target), case.scene)
    return results


def part(chosen: list[Method], options: EvalConfig, index: int, of: int) -> Results:
    """The questions about every of-th scene from `index` on, to each method."""
    perceiver, reasoner = options.perceiver(), options.reasoner()
    results, count = Results(), options.size(SCENES)
    first = options.first_seed(COMPARE_SEEDS.start)
    for done, case in enumerate(cases(perceiver, first, count, options.data, names=2, part=(index, of)), 1):
        compare(perceiver, reasoner, case, chosen, results)
        if done % 2 == 0:
            options.progress(f"compare: {done * of} of {count} scenes")
    return results


def compare(perceiver: Perceiver, reasoner: Reasoner, case: Case, chosen: list[Method], results: Results) -> None:
    """All questions about one scene to all methods."""
    rng = case.rng(SALT)
    prompts = {kind: str(rng.choice(OPEN[kind])) for kind in (*NAMING, "colour", "shape")}
    for number, target in enumerate(case.objects):
        kind, asked = NAMING[number % 2], ("colour", "shape")[number // 2 % 2]
        others = list(off_region(case.objects, target, rng))
        other = others[int(rng.integers(len(others)))] if others else None
        for method in chosen:
            name = method.name
            turn = _ask(perceiver, reasoner, method, case, target, prompts[kind], results)
            hit = exact_match(kind, turn, target)
            results.add(f"{name}.whole_answer", hit, case.scene)
            results.add(f"{name}.first_mention", first_mention(turn) == target.name, case.scene)
            results.add(f"{name}.malformed", malformed(kind, turn), case.scene)
            turn = _ask(perceiver, reasoner, method, case, target, prompts[asked], results)
            results.add(f"{name}.naming", named(asked, turn, target), case.scene)
            if other is not None:
                turn = _ask(perceiver, reasoner, method, case, target, other[1].prompt, results)
                results.add(f"{name}.off_region", turn.action.strip() in other[2], case.scene)
            if method.setup.steers and number % 4 < 2:  # both kinds, half of the objects
                _range(reasoner, method, case, target, kind, prompts[kind], hit, results)


def measured(method: Method, results: Results) -> dict[str, Row]:
    """The rows of one method."""
    name = method.name
    rows = results.shares(f"{name}.{m}" for m in ("whole_answer", "first_mention", "malformed", "naming"))
    points = results.shares(f"{name}.range4x_{i + 1}" for i in range(len(STEPS)))
    if points:
        rows[f"{name}.range4x_min"] = worst(list(points.values()))
    if f"{name}.off_region" in results:
        rows[f"{name}.off_region_loss"] = results.paired_difference("unsteered.off_region", f"{name}.off_region")
    rows[f"{name}.turn_ms"] = results.mean(f"{name}.turn_ms")
    return rows


def _range(
    reasoner: Reasoner,
    method: Method,
    case: Case,
    target: VisibleObject,
    kind: str,
    prompt: str,
    hit: bool,
    results: Results,
) -> None:
    """The same question at five strengths; `hit` is what the middle one gave."""
    for number, step in enumerate(STEPS):
        if step != 1.0:
            setup = scaled(method.setup, step, MEAN_AREA)
            turn = ask(reasoner, case.features, prompt, setup, case.weights(target))
            results.add(f"{method.name}.range4x_{number + 1}", exact_match(kind, turn, target), case.scene)
        else:
            results.add(f"{method.name}.range4x_{number + 1}", hit, case.scene)


def _ask(
    perceiver: Perceiver,
    reasoner: Reasoner,
    method: Method,
    case: Case,
    target: VisibleObject,
    text: str,
    results: Results,
) -> Turn:
    """One question to one method, timed from the frame that it needs to the answer."""
    started = time.perf_counter()
    features = method.features(perceiver, case, target)
    turn = ask(reasoner, features, method.prompt(text, case, target), method.setup, method.weights(case, target))
    results.add(f"{method.name}.turn_ms", (time.perf_counter() - started) * 1e3, case.scene)
    return turn


def main() -> int:
    """Choose the strengths of the built-in pair's methods anew, and keep what was counted."""
    options = EvalConfig(limit=KEPT_SCENES)
    reasoner = options.reasoner()
    candidates = methods(reasoner, options.setup_for(reasoner))
    found = counted(candidates, run_parallel(options, tune, KEPT_SCENES))
    KEPT.write_text(json.dumps({"models": pair(options), "tried": found}, indent=1) + "\n", encoding="utf-8")
    for method in choose(candidates, found)[1].items():
        print(*method)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
