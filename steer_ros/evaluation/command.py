"""`steer-ros evaluate steering`: suites of questions with known answers, with intervals, JSON and a report."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ..commands.arguments import output_file, renamed_to
from ..models.loading import ModelLoadError
from ..steering import LAW_NAMES, SteeringConfig, UnsteerableModelError, make_law
from ..steering.config import FIELDS
from .harness.eval_config import EvalConfig
from .harness.intervals import Row
from .harness.optional_packages import MissingPackageError, restart_with_optional
from .report import write_report

# suite -> its module: run(options: EvalConfig) -> {key: {"value", "n", "low", "high"}}, KEYS: {key: what it says}, and
# perhaps optional_modules(options) -> modules for `restart_with_optional`
SUITES = {
    "redirect": "steer_ros.evaluation.suites.redirect",
    "refer": "steer_ros.evaluation.suites.refer",
    "pope": "steer_ros.evaluation.suites.pope.suite",
    "vqa": "steer_ros.evaluation.suites.easy_vqa.suite",
    "public": "steer_ros.evaluation.suites.public_sets.suite",
    "text": "steer_ros.evaluation.suites.text.suite",
    "harm": "steer_ros.evaluation.suites.harm",
    "compare": "steer_ros.evaluation.suites.compare",
}
OWN_DATA = ("vqa", "public", "text")  # suites that a folder of foreign scenes says nothing to
ERRORS = (ValueError, OSError, MissingPackageError, ModelLoadError, UnsteerableModelError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros evaluate``."""
    parser.add_argument("what", choices=("steering",), help="what is evaluated")
    parser.add_argument("--suite", choices=(*SUITES, "all"), required=True, help="which questions are asked")
    parser.add_argument(
        "--json", type=output_file, help="write the rows here: {key: {value, n, low, high}}; all: by suite"
    )
    parser.add_argument("--report", type=output_file, help="write a Markdown report here, plots beside it in images/")
    parser.add_argument("--limit", type=int, help="scenes (or questions, where there are none); default by suite")
    parser.add_argument("--seed", type=int, help="the first scene's seed; default: the suite's held-out seeds")
    parser.add_argument(
        "--data", type=Path, help="folder of foreign scenes with truth.json, or (public) of a published set"
    )
    parser.add_argument("--kind", choices=("vqav2", "gqa", "pope"), help="of the public set; default: by its files")
    parser.add_argument("--perception", help="vision-language model; default by suite")
    parser.add_argument("--reasoning", help="reasoner; default by suite")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:<n> or auto")
    parser.add_argument("--law", choices=LAW_NAMES, help="default of this and the next five: the model's own")
    parser.add_argument("--alpha", type=float, help="the law's alpha; share and target need none")
    parser.add_argument("--setpoint", type=float, help="what share and target aim at")
    parser.add_argument("--mark", type=renamed_to("--setpoint"), help=argparse.SUPPRESS)
    parser.add_argument("--gate", help='where the law holds: "all", or, say, "layers=2-3;phases=think"')
    parser.add_argument("--schedule", help='what scales the law: "constant", or, say, "think=1;act=0;half_life=20"')
    parser.add_argument("--guard", help='when an answer is rolled back: "on", "off", or, say, "retry_scales=1,0.5,0"')


def main(args: argparse.Namespace) -> int:
    """Run the suites; prints a table for each. Returns 0, 1 when a suite of several failed, 2 after one line."""
    if args.suite == "vqa" and args.data is not None:
        args.suite = "public"
    names, left_out = [args.suite], []
    if args.suite == "all":
        without = () if args.data is None else OWN_DATA
        left_out = [name for name in SUITES if name in without and name != "public"]
        names = [name for name in SUITES if name not in (*without, "public")]  # public's data can't be had for all
    try:
        options = options_of(args)
        prepare(names, options)
    except ERRORS as error:
        return _refuse(error)
    if left_out:
        print(f"steer-ros evaluate: without {' and '.join(left_out)}: the scenes of --data say nothing to them")
    results: dict[str, dict[str, Row]] = {}
    failed = 0
    for name in names:
        try:
            results[name] = run_suite(name, options)
        except ERRORS as error:
            failed = _refuse(error, name)
            if len(names) == 1:
                return failed
            continue
        print_rows(name, results[name])
        _write(args, results)
    return 1 if failed else 0


def prepare(names: Sequence[str], options: EvalConfig) -> None:
    """Install the optional modules of these suites before any of them starts: the process may be restarted."""
    for name in names:
        modules = getattr(importlib.import_module(SUITES[name]), "optional_modules", None)
        if modules is not None:
            with suppress(MissingPackageError):  # the suite will say so itself, and others can do without
                restart_with_optional(modules(options), options.progress)


def options_of(args: argparse.Namespace) -> EvalConfig:
    """The arguments as an `EvalConfig`, checked. ValueError names the argument."""
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit: {args.limit}; accepted is at least 1")
    if args.seed is not None and args.seed < 0:
        raise ValueError(f"--seed: {args.seed}; accepted are seeds from 0")
    if args.data is not None and not args.data.is_dir():
        raise ValueError(f"--data: {args.data}: no such folder")
    if args.data is not None and args.suite == "text":
        raise ValueError(f"--data: {args.data}: accepted is none with --suite text, which has prompts of its own")
    if args.data is None and args.suite == "public":
        raise ValueError("--data: none; --suite public needs the folder of a published set")
    if args.kind is not None and args.suite != "public":
        raise ValueError(f"--kind: {args.kind}; accepted with --suite public and the --data of a published set")
    overrides = {name: getattr(args, name) for name in FIELDS}
    try:
        check_overrides(overrides)
    except ValueError as error:
        option = str(error).partition(":")[0]
        raise ValueError(f"{'--' if option in FIELDS else ''}{error}") from error
    return EvalConfig(
        limit=args.limit,
        seed=args.seed,
        data=args.data,
        kind=args.kind,
        perception=args.perception,
        reasoning=args.reasoning,
        overrides=overrides,
        device=args.device,
    )


def check_overrides(overrides: Mapping[str, object]) -> None:
    """ValueError for one that no model takes, before anything is loaded. Without a law, alpha and setpoint are of the
    model's own law, which is not known yet."""
    setpoint = overrides["setpoint"]
    if overrides["law"] is None and setpoint is not None:
        make_law("share", setpoint=setpoint)  # whose range has target's in it
        overrides = {**overrides, "setpoint": None}
    SteeringConfig().override(**overrides)


def run_suite(name: str, options: EvalConfig) -> dict[str, Row]:
    """One suite's rows. Torch's threads are as they were afterwards."""
    module = importlib.import_module(SUITES[name])
    threads, started = torch.get_num_threads(), time.perf_counter()
    try:
        rows = module.run(options)
    finally:
        torch.set_num_threads(threads)
    options.progress(f"{name}: done in {time.perf_counter() - started:.0f} s")
    return rows


def print_rows(name: str, rows: dict[str, Row]) -> None:
    """A suite's table on stdout."""
    width = max(map(len, rows), default=0)
    print(f"\n{name}\n{'':{width}}   value      95% interval      n")
    for key, row in rows.items():
        print(f"{key:{width}} {row['value']:7.3f}  {row['low']:7.3f} – {row['high']:7.3f} {row['n']:6.0f}")


def _write(args: argparse.Namespace, results: dict[str, dict[str, Row]]) -> None:
    """JSON and report of what is there so far: a later suite that fails takes nothing away."""
    if args.json:
        content = results if args.suite == "all" else results[args.suite]
        args.json.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.report:
        modules = {name: importlib.import_module(SUITES[name]) for name in results}
        write_report(args.report, results, modules, command_line(args))


def command_line(args: argparse.Namespace) -> str:
    """The call that gave a report, without the places that it wrote to."""
    said: list[str] = ["steer-ros evaluate", args.what, "--suite", args.suite]
    for name in ("limit", "seed", "data", "kind", "perception", "reasoning", *FIELDS):
        value = getattr(args, name)
        if value is not None:
            said += [f"--{name}", f'"{value}"' if ";" in str(value) else str(value)]
    return " ".join(said)


def _refuse(error: Exception, suite: str | None = None) -> int:
    where = "steer-ros evaluate" if suite is None else f"steer-ros evaluate: {suite}"
    print(f"{where}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
