"""`steer-ros tune`: find the heads, strength and schedule that steer a model best, and keep them in its folder."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from ...commands.arguments import output_file, output_folder
from ...models.loading import ModelLoadError, resolve
from ...perception import Perceiver
from ...reasoning import Reasoner
from ...steering import UnsteerableModelError
from ...steering.steering_file import FILE, SteeringFileError
from ..harness.eval_config import PERCEPTION, REASONING
from ..harness.optional_packages import MissingPackageError

TEXT = "text"  # its module has tune(args): a language model alone
PARTS = {  # part -> its module: add_arguments(parser) and tune(perceiver, reasoner, folder, args)
    "heads": ("steer_ros.evaluation.tuning.heads", "which layers and heads route region content, without labels"),
    "alpha": ("steer_ros.evaluation.tuning.alpha", "law, strength, gate and schedule, searched on the tuning scenes"),
    "strength": (
        "steer_ros.evaluation.tuning.gain_network",
        "a small network that sets each head's gain",
    ),
    TEXT: (
        "steer_ros.evaluation.tuning.text_gains",
        "each head's gain for a language model that is steered to words",
    ),
}
ERRORS = (ValueError, OSError, MissingPackageError, ModelLoadError, SteeringFileError, UnsteerableModelError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros tune``."""
    parts = parser.add_subparsers(dest="tuned", required=True, metavar="part")
    for name, (module, text) in PARTS.items():
        sub = parts.add_parser(name, help=text, description=text)
        if name == TEXT:
            sub.add_argument("--reasoning", help="language model that is tuned; default: SmolLM2-135M-Instruct")
        else:
            sub.add_argument("--perception", default=PERCEPTION, help="vision-language model")
            sub.add_argument("--reasoning", default=REASONING, help="reasoner that is tuned")
        sub.add_argument("--device", default="cpu", help="cpu, cuda, cuda:<n> or auto")
        sub.add_argument("--out", type=output_folder, help="folder of steering.json; default: the model's own")
        sub.add_argument("--json", type=output_file, help="also write what was measured here")
        importlib.import_module(module).add_arguments(sub)


def _check_writable(folder: Path) -> None:
    """Told before minutes of work. ValueError names the folder."""
    try:
        output_folder(str(folder))
        output_file(str(folder / FILE))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{error}; or give another one with --out") from error


def main(args: argparse.Namespace) -> int:
    """Tune one part. Returns 0, or 2 after one line that says what was wrong."""
    try:
        module = importlib.import_module(PARTS[args.tuned][0])
        if args.tuned == TEXT:
            module.tune(args)
            return 0
        reasoner = Reasoner.from_pretrained(args.reasoning, args.device)
        perceiver = Perceiver.from_pretrained(args.perception, args.device)
        folder = resolve(args.reasoning)
        if args.out is None:
            _check_writable(folder)
        module.tune(perceiver, reasoner, folder, args)
    except ERRORS as error:
        print(f"steer-ros tune {args.tuned}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
