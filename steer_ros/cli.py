"""``steer-ros <command>``: the package's tools on the command line. ROS nodes are started with ros2 run or launch."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from .commands.arguments import OneLineParser

# command -> (module with add_arguments and main, one line of help); imported only when asked for
COMMANDS = {
    "simulate": ("steer_ros.commands.simulate", "the research note's numbers, with their closed form"),
    "demo": (
        "steer_ros.lab.demo.command",
        "replay a bench clip through ROS 2 into the VTA loop, steered and unsteered",
    ),
    "bag": ("steer_ros.lab.bag", "write a bench clip as a rosbag2 with its truth"),
    "train": ("steer_ros.lab.training.train", "train the built-in models"),
    "bench": ("steer_ros.commands.bench", "what the attention kernels cost, without a GPU"),
    "tune": ("steer_ros.evaluation.tuning.command", "find the heads, strength and schedule that steer a model best"),
    "evaluate": ("steer_ros.evaluation.command", "what steering does to answers: suites with known answers"),
    "examine": ("steer_ros.evaluation.examine", "examine the built-in models on held-out scenes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser(prog="steer-ros", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    chosen = next((a for a in argv if not a.startswith("-")), None)
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if name == chosen:  # the others' modules, and torch with them, stay unimported
            command = importlib.import_module(module)
            command.add_arguments(sub)
            sub.set_defaults(run=command.main)
    args = parser.parse_args(argv)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"steer-ros {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # nobody reads on, as after `| head`; nor would what Python flushes as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"steer-ros {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
