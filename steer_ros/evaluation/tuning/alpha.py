"""`steer-ros tune alpha`: search over law, strength, gate and schedule on the tuning scenes, with Optuna.

The quality of a setting is the share of whole answers right (`answer_grammar.exact_match`; "pick" and "describe",
regions from true boxes), as the mean over half its strength, its strength and twice that, less the accuracy that it
costs in questions about something else than the region (as in `harm`): a setting that is right at one point and falls
off beside it, or that answers every question with its region, is not what a robot wants. What is found becomes the
model's default; the suites judge it on other scenes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...commands.arguments import output_file, whole_number
from ...lab.scenes.instructions import OPEN
from ...lab.seeds import ALPHA_SEEDS
from ...perception import Perceiver
from ...reasoning import Reasoner
from ...steering import Gate, Guard, SteeringConfig, make_law
from ...steering.schedule import Schedule
from ...steering.steering_file import SteeringFile, load_steering_file, save_steering_file
from ..harness.answer_grammar import NAMING, another, exact_match
from ..harness.cases import Case, cases
from ..harness.optional_packages import import_optional
from ..harness.steering_setup import UNSTEERED, SteeringSetup, scaled
from ..harness.turns import ask
from ..suites.harm import off_region
from ..suites.redirect import MEAN_AREA

RANGE = (0.5, 1.0, 2.0)  # of the strength, over which a setting must hold
_PLAIN = {"gate": "all", "prompt": 1.0, "plausibility": None, "guidance": None, "schedule": "constant"}
STARTS = (  # where the search begins: the research note's setting, our plain one, and what a grid by hand gave
    _PLAIN | {"law": "additive", "alpha": 2.0},
    _PLAIN | {"law": "conserving", "alpha": 2.0},
    _PLAIN
    | {"law": "conserving", "alpha": 8.0, "prompt": 0.0, "plausibility": 0.02}
    | {"schedule": "confidence", "confidence_threshold": 0.9},
)
CURVE = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)  # strengths of the plot
LAWS = ("conserving", "additive", "share", "target")
SALT = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros tune alpha``."""
    count = whole_number(1)
    parser.add_argument("--scenes", type=count, default=8, help="tuning scenes")
    parser.add_argument("--trials", type=count, default=60, help="settings that are tried")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of the search")
    parser.add_argument("--plot", type=output_file, help="draw quality against strength here (PNG)")


def tune(perceiver: Perceiver, reasoner: Reasoner, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Search, write the winner to steering.json, draw the plot; what was measured.

    Raises:
        ValueError: an argument.
    """
    optuna = import_optional("optuna")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # an interrupted trial is no error
    started = time.perf_counter()
    before = load_steering_file(args.out or folder, weights=folder) or load_steering_file(folder)
    heads = None if before is None else before.heads
    asked = list(cases(perceiver, ALPHA_SEEDS.start, args.scenes, names=2))
    plain = off_region_hits(reasoner, asked, UNSTEERED)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=args.seed))

    for start in STARTS:
        study.enqueue_trial(start)

    def quality(trial) -> float:
        setup = suggest(trial, heads)
        points = [share_right(reasoner, asked, scaled(setup, step, MEAN_AREA)) for step in RANGE]
        hits = off_region_hits(reasoner, asked, setup)
        lost = (sum(plain) - sum(hits)) / max(1, len(hits))
        for name, value in (("setting", str(setup)), ("points", points), ("off_region_loss", lost)):
            trial.set_user_attr(name, value)
        found = sum(points) / len(points) - lost
        print(f"alpha: trial {trial.number + 1}, {found:.3f} {points} - {lost:.3f}: {setup}", flush=True)
        return found

    def trials() -> list[dict[str, object]]:
        return [{"quality": t.value, **t.user_attrs} for t in study.trials if t.value is not None]

    try:
        study.optimize(quality, n_trials=args.trials)
    except KeyboardInterrupt:
        if args.json:
            args.json.write_text(json.dumps({"trials": trials()}, indent=2) + "\n", encoding="utf-8")
        raise
    best = suggest(optuna.trial.FixedTrial(study.best_params), heads)
    said = (
        f"steer-ros tune alpha: whole answers right over half to twice the strength, less the loss off the region: "
        f"{study.best_value:.1%}, best of {args.trials} settings on {args.scenes} tuning scenes"
    )
    provenance = {**(before.provenance if before else {}), "alpha": said}
    provenance.pop("strength", None)  # of a network that this replaces
    config = replace(best.config, guard=before.config.guard if before else Guard())  # which no trial had
    tuned = SteeringFile(config, provenance, heads)
    rows: dict[str, object] = {
        "best": str(best),
        "quality": study.best_value,
        "trials": trials(),
        "seconds": time.perf_counter() - started,
    }
    print(f"best: {best}")
    if args.plot:
        rows["curves"] = curves(reasoner, asked, best)
        draw(rows["curves"], args.plot)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(save_steering_file(args.out or folder, tuned, weights=folder))
    return rows


def suggest(trial, heads: Gate | None) -> SteeringSetup:
    """A setting drawn by Optuna. heads: the discovered ones, if there are any: all heads or those."""
    name = trial.suggest_categorical("law", LAWS)
    if name == "share":
        law = make_law(name, 0.0, trial.suggest_float("share", 0.5, 0.995))
    elif name == "target":
        law = make_law(name, 0.0, trial.suggest_float("target", 0.1, 0.95))
    else:
        law = make_law(name, trial.suggest_float("alpha", 1.0, 16.0, log=True))
    gate = heads if heads is not None and trial.suggest_categorical("gate", ("all", "heads")) == "heads" else Gate()
    prompt = trial.suggest_categorical("prompt", (1.0, 0.0))
    plausibility = trial.suggest_categorical("plausibility", (None, 0.005, 0.02, 0.1))
    guidance = trial.suggest_categorical("guidance", (None, 0.5, 1.0, 2.0))
    kind = trial.suggest_categorical("schedule", ("constant", "think", "confidence", "half_life"))
    more = {
        "constant": lambda: {},
        "think": lambda: {"act": 0.0},
        "confidence": lambda: {"confidence_threshold": trial.suggest_float("confidence_threshold", 0.5, 0.99)},
        "half_life": lambda: {"half_life": trial.suggest_float("half_life", 2.0, 32.0, log=True)},
    }[kind]()
    schedule = Schedule(prompt=prompt, plausibility=plausibility, guidance=guidance, **more)
    return SteeringSetup("tuned", SteeringConfig(law, gate, schedule, guard=None))


def share_right(reasoner: Reasoner, asked: Sequence[Case], setup: SteeringSetup) -> float:
    """The share of whole answers right: two objects of each scene, one of each kind of question."""
    hits = hits_right(reasoner, asked, setup)
    return sum(hits) / len(hits)


def hits_right(reasoner: Reasoner, asked: Sequence[Case], setup: SteeringSetup) -> list[bool]:
    """Which of those are right: two for each scene."""
    hits = []
    for case in asked:
        rng = case.rng(SALT)
        first = case.objects[int(rng.integers(len(case.objects)))]
        for kind, target in zip(NAMING, (first, another(case.objects, first)), strict=True):
            prompt = str(rng.choice(OPEN[kind]))
            hits.append(exact_match(kind, ask(reasoner, case.features, prompt, setup, case.weights(target)), target))
    return hits


def off_region_hits(reasoner: Reasoner, asked: Sequence[Case], setup: SteeringSetup) -> list[bool]:
    """Which questions about something else than the region are answered right: one object of each scene the region."""
    hits = []
    for case in asked:
        rng = case.rng(SALT + 1)
        region = case.objects[int(rng.integers(len(case.objects)))]
        for _, question, right in off_region(case.objects, region, rng):
            turn = ask(reasoner, case.features, question.prompt, setup, case.weights(region))
            hits.append(turn.action.strip() in right)
    return hits


def curves(reasoner: Reasoner, asked: Sequence[Case], best: SteeringSetup) -> dict[str, list[tuple[float, float]]]:
    """(strength, share right) for the laws that have an alpha: on all heads throughout, and as the winner is run."""
    found = {}
    for name in ("additive", "conserving"):
        for label, gate, schedule in (
            ("all heads, constant", Gate(), Schedule()),
            ("as found", best.config.gate, best.config.schedule),
        ):
            found[f"{name}, {label}"] = []
            for alpha in CURVE:
                config = SteeringConfig(make_law(name, alpha), gate, schedule, guard=None)
                found[f"{name}, {label}"].append((alpha, share_right(reasoner, asked, replace(best, config=config))))
    return found


def draw(found: dict[str, list[tuple[float, float]]], file: Path) -> None:
    """Quality against strength, one line a law and way of running it."""
    import_optional("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, points in found.items():
        dashed = label == list(found)[-1]  # it lies on another where both are good
        axes.plot(*zip(*points), marker="o", linestyle="--" if dashed else "-", label=label)
    axes.set(xscale="log", xlabel="alpha", ylabel="whole answers right", ylim=(0, 1.02))
    axes.set_xticks(CURVE, [f"{alpha:g}" for alpha in CURVE], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
