"""``steer-ros bench compile``: what the Triton kernels cost on sm_90 and sm_120, found out without a GPU.

Compiles every shipped kernel, law, head size and dtype, prints a table of shared memory, registers, spills, stack and
instructions with the ratio to the unsteered kernel, and exits with 1 naming each row that breaks a budget: 101,376
bytes of shared memory on sm_120, no spill, no stack, at most 1.10 times the instructions for the additive law.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

from steer_ros.kernels import LAWS, inspect

from .arguments import output_file, real_number, whole_number
from .processes import spawned

_COLUMNS = ("kernel", "sm", "law", "head", "dtype", "group", "with", "shared B", "spills", "stack B", "regs", "instr")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="what")
    sub = what.add_parser(
        "compile", help="compile-only, no GPU", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    sub.add_argument("--json", type=output_file, metavar="FILE", help="also write the rows to this file")
    sub.add_argument("--arch", type=int, nargs="+", default=list(inspect.ARCHS), metavar="N", help="90, 120 or both")
    sub.add_argument("--kernels", nargs="+", default=list(inspect.KERNELS), metavar="K", help=_any(inspect.KERNELS))
    sub.add_argument("--laws", nargs="+", default=list(LAWS), metavar="LAW", help=_any(LAWS) + "; none comes with any")
    sizes = inspect.HEAD_SIZES
    sub.add_argument("--head-sizes", type=int, nargs="+", default=list(sizes), metavar="D", help=_any(sizes))
    sub.add_argument("--dtypes", nargs="+", default=list(inspect.DTYPES), metavar="T", help=_any(inspect.DTYPES))
    groups = inspect.GROUPS
    sub.add_argument(
        "--groups", type=int, nargs="+", default=list(groups), metavar="G", help="of 1 to 16; %(default)s unless given"
    )
    jobs = min(2, os.cpu_count() or 1)
    sub.add_argument(
        "--jobs", type=whole_number(1), default=jobs, metavar="N", help="processes, %(default)s unless given"
    )
    sub.add_argument(
        "--max-shared", type=whole_number(1), metavar="BYTES", help="another budget of shared memory on sm_120"
    )
    sub.add_argument(
        "--max-ratio",
        type=real_number(0, above=True),
        metavar="X",
        help="another budget of the additive law's instructions",
    )


def main(args: argparse.Namespace) -> int:
    """Compile, print, write; 1 if a budget is broken, 2 if nothing could be compiled."""
    if importlib.util.find_spec("triton") is None:
        print(f"steer-ros bench compile: {inspect.MISSING}", file=sys.stderr)
        return 2
    try:
        configs = inspect.choose_configs(args.kernels, args.laws, args.head_sizes, args.arch, args.dtypes, args.groups)
    except ValueError as error:
        print(f"steer-ros bench compile: {error}", file=sys.stderr)
        return 2
    begun = time.perf_counter()
    try:
        rows = compile_rows(configs, args.kernels, args.jobs)
    except RuntimeError as error:
        print(f"steer-ros bench compile: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - begun
    broken = inspect.broken_budgets(rows, max_shared=args.max_shared, max_ratio=args.max_ratio)
    print(table(rows))
    print(f"{len(rows)} kernels compiled in {seconds:.0f} s by {args.jobs} processes")
    if args.json:
        args.json.write_text(json.dumps(document(rows, broken, seconds), indent=1) + "\n")
    for line in broken:
        print(f"over budget: {line}", file=sys.stderr)
    return 1 if broken else 0


def compile_rows(configs: Sequence[inspect.KernelConfig], kernels: Sequence[str], jobs: int) -> list[inspect.Row]:
    """Compile the cases in `jobs` fresh processes: kernels must be imported where TRITON_INTERPRET is not set."""
    found: dict[inspect.Row, None] = {}
    with _compiler_environment(), spawned(jobs) as pool:
        for rows in pool.map(partial(inspect.compile_config, kernels=tuple(kernels)), configs):
            found.update(dict.fromkeys(rows))
    return inspect.with_ratios(sorted(found, key=_order))


def document(rows: Sequence[inspect.Row], broken: Sequence[str], seconds: float) -> dict[str, object]:
    """The JSON form: `rows`, and what they were compiled with and held against."""
    import torch
    import triton

    return {
        "triton": triton.__version__,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "budgets": {
            "shared_bytes": {f"sm_{arch}": most for arch, most in inspect.MAX_SHARED_BYTES.items()},
            "spills": 0,
            "stack_bytes": 0,
            "additive_instructions_ratio": inspect.MAX_ADDITIVE_RATIO,
        },
        "over_budget": list(broken),
        "rows": [asdict(row) for row in rows],
    }


def table(rows: Sequence[inspect.Row]) -> str:
    """The rows as aligned text."""
    lines = [(*_COLUMNS, "ratio")]
    for r in rows:
        shape = (str(r.head_size), r.dtype, str(r.group)) if r.head_size else ("-", r.dtype, "-")
        costs = (r.shared_bytes, r.spills, r.stack_bytes, r.registers, r.instructions)
        asked = "+".join(name for name in ("focus", "gaps", "gated") if getattr(r, name)) or "-"
        kernel = r.kernel if r.launch == 1 else f"{r.kernel}/{r.launch}"
        lines.append((kernel, str(r.arch), r.law, *shape, asked, *map(str, costs), f"{r.instructions_ratio:.3f}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    )


def _order(row: inspect.Row) -> tuple:
    laws = list(LAWS)
    kernel = inspect.KERNELS.index(row.kernel)
    asked = row.focus, row.gaps, row.gated
    return kernel, row.arch, row.dtype, asked, row.group, row.head_size, laws.index(row.law), row.launch


def _any(names: object) -> str:
    return "any of " + ", ".join(map(str, names))


@contextmanager
def _compiler_environment() -> Iterator[None]:
    """What the processes that compile inherit; this process gets its own back."""
    before = dict(os.environ)
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
