"""`steer-ros demo`: the VTA loop on a bag of bench clips, unsteered and steered, with pictures and a score.

The bag goes through DDS into `vta`, frame by frame in lockstep. The instruction never names an object; `look_for`
names one after the other, and only the steering field carries that to the reasoner. Both runs see the same frames,
prompts and tokens; the strength alone differs, and is 0 in the first.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ...commands.arguments import output_folder, real_number
from ...steering.laws import MAX_ALPHA
from ..seeds import DEMO_SEED, FIRST_TRAINING_SEED
from .plan import INSTRUCTION, DemoPlan, judge, make_plan, share
from .processes import Stage, StageError

RUNS = ("unsteered", "steered")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros demo``."""
    parser.add_argument(
        "--out", type=output_folder, default=Path("demo"), help="folder of the bag, the pictures and the logs"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=DEMO_SEED,
        help=f"seed of the first scene; training seeds begin at {FIRST_TRAINING_SEED}",
    )
    parser.add_argument("--frames", type=int, default=48, help="frames of the bag")
    parser.add_argument("--scenes", type=int, default=3, help="scenes that share the frames")
    parser.add_argument("--objects", type=int, default=4, help="objects of each scene, 2 to 6")
    parser.add_argument(
        "--alpha",
        type=real_number(-MAX_ALPHA, MAX_ALPHA),
        help="alpha of the steered run (default: the model's own)",
    )
    parser.add_argument("--perception", default="builtin:lab-vl", help="vision-language model")
    parser.add_argument("--reasoning", default="builtin:lab-r1", help="reasoner")
    parser.add_argument(
        "--timeout", type=real_number(0, above=True), default=120.0, help="seconds for the start, and for each turn"
    )


def main(args: argparse.Namespace) -> int:
    """Run the demo; its last two lines are the scores. 0, or 1 with a line that says what failed."""
    before = signal.signal(signal.SIGTERM, _terminated)  # the processes that were started must not outlive us
    try:
        return _demo(args)
    except (ValueError, OSError, StageError) as error:
        print(f"steer-ros demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("steer-ros demo: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def _demo(args: argparse.Namespace) -> int:
    began = time.monotonic()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    alpha = "model" if args.alpha is None else args.alpha
    plan = make_plan(out / "bag", args.seed, frames=args.frames, scenes=args.scenes, objects=args.objects)
    print(f'{len(plan.truth.frames)} frames of {args.scenes} scenes in {plan.bag}; the instruction is "{INSTRUCTION}"')
    runs: dict[str, list[dict[str, Any]]] = {}
    with Stage(out, perception=args.perception, reasoning=args.reasoning, timeout=args.timeout) as stage:
        for name, strength in zip(RUNS, (0.0, alpha)):
            print(f"\n{name}, alpha {strength}\n{HEADING}", flush=True)
            runs[name] = []
            for turn in stage.run(plan, plan.script(strength), name):
                runs[name].append(turn)
                print(line(plan, len(runs[name]), turn), flush=True)
            missing = len(plan.truth.frames) - len(runs[name])
            if missing:
                raise StageError(f"{missing} of {len(plan.truth.frames)} frames were not answered ({name})")
    check_alike(runs["unsteered"], runs["steered"])

    from .video import write_contact_sheet, write_film  # Pillow's fonts load slowly

    sheet = write_contact_sheet(out / "contact_sheet.png", plan, runs)
    film = write_film(out / "vta", plan, runs)
    print(f"\n{film} and {sheet}, {time.monotonic() - began:.0f} s in all")
    for name in RUNS:
        print(f"{name}: {share(judge(plan, runs[name])):.1f}%")
    return 0


def check_alike(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    """See that two runs had the same frames, instructions and regions, whatever they answered.

    Raises:
        StageError: they had not: their scores can't be compared.
    """
    for one, other in zip(a, b):
        for name in ("stamp_ns", "instruction", "region_labels"):
            if one[name] != other[name]:
                raise StageError(f"frame {one['stamp_ns']}: {name} differs between the runs")
        for mine, theirs in zip(one["regions"], other["regions"]):
            if mine["weights"] != theirs["weights"]:
                raise StageError(f"frame {one['stamp_ns']}: the regions' weights differ between the runs")


HEADING = f"{'frame':>5}  {'look for':16} {'region':20} {'action':28} {'focus':>12} {'time':>8}"


def line(plan: DemoPlan, number: int, turn: dict[str, Any]) -> str:
    """One turn in a row of the table."""
    look_for = plan.part_of(turn["stamp_ns"]).look_for
    names = [f"{label} #{key}" if key else label for label, key in zip(turn["region_labels"], turn["region_ids"])]
    region = ", ".join(names) or "none"
    action = turn["text"] or f"({turn['cut_reason'] or 'no action'})"
    region, action = (text if len(text) <= n else text[: n - 1] + "…" for text, n in ((region, 20), (action, 28)))
    verdict = {True: "hit", False: "miss", None: "not in sight"}[judge(plan, [turn])[0]]
    return (
        f"{number:5d}  {look_for:16} {region:20} {action:28} {focus(turn):>12} {turn['total_ms']:5.0f} ms  {verdict}"
    )


def focus(turn: dict[str, Any]) -> str:
    """``12% -> 55%``: the region's part of the attention before and after the law."""
    before, after = turn["focus_before"], turn["focus_after"]
    return "-" if before is None or after is None else f"{before:.0%} -> {after:.0%}"
