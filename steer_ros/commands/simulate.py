"""`steer-ros simulate`: the research note's numbers, from random Q and K, in the note's own format."""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
from dataclasses import dataclass

import torch

from steer_ros.kernels import steered_attention_reference

from ..steering.laws import make_law

PATCHES = 576  # the note's visual feature map: 24×24
ROWS = 128  # its reasoning tokens, each a row
HEAD_SIZE = 64
DEFAULT_KEYS = (128, 128 + PATCHES)
DEFAULT_ROI = "50-99"  # the note's "center region, 50 patches"
RULE = "=" * 50


@dataclass(frozen=True)
class Measured:
    """One seed: attention for each region key, mean over rows, before and after; the region's mass before."""

    baseline: float
    steered: float
    mass: float

    @property
    def increase(self) -> float:
        """How much more attention the region gets, in percent."""
        return 100.0 * (self.steered / self.baseline - 1.0)


def measure(keys: int, roi: range, alpha: float, seed: int) -> Measured:
    """Additive law, weight 1 on the region, over random Gaussian Q [128, 64] and K [keys, 64] in float64.

    The last 576 keys are the visual ones (all of them if there are no more); `roi` counts from their first.
    """
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, ROWS, 1, HEAD_SIZE, generator=generator, dtype=torch.float64)
    k = torch.randn(1, 1, keys, HEAD_SIZE, generator=generator, dtype=torch.float64)
    first = max(0, keys - PATCHES)
    visual = torch.arange(keys) >= first
    weights = torch.zeros(keys, dtype=torch.int8)
    weights[first + roi.start : first + roi.stop] = 127
    # The note's rows see every key, so each is the last: 128 heads of one row that share K. No value is asked for.
    result = steered_attention_reference(q, k, k, weights, visual, law="additive", gain=alpha)
    before, after = float(result.focus_before.mean()), float(result.focus_after.mean())
    return Measured(before / len(roi), after / len(roi), before)


def closed_form(mass: float, alpha: float) -> float:
    """The factor e^α / (1 + p (e^α − 1)) by which a region of base mass p grows."""
    return math.exp(alpha) / (1.0 + mass * math.expm1(alpha))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments. Values are checked in `main`, which answers with one line."""
    parser.add_argument("--alpha", default="2.0", help="bias on the region's scores (default 2.0, the note's)")
    parser.add_argument(
        "--keys",
        nargs="+",
        default=[str(k) for k in DEFAULT_KEYS],
        metavar="N",
        help="key counts, one block for each (default 128 704: what gives the note's headline, and what its text "
        "describes); the last 576 keys are visual, those before them text",
    )
    parser.add_argument(
        "--roi",
        default=DEFAULT_ROI,
        metavar="START-END|COUNT",
        help="the region's visual keys, both ends included, or how many from the first on (default 50-99)",
    )
    parser.add_argument("--seed", default="0", help="the first seed (default 0)")
    parser.add_argument("--seeds", default="8", help="how many seeds, for mean and spread (default 8)")


def main(args: argparse.Namespace) -> int:
    """Print one block for each key count. Returns 0, or 2 after one line on stderr about a wrong argument."""
    try:
        alpha = make_law("additive", _number("--alpha", args.alpha, float)).alpha
        key_counts = [_whole("--keys", text, 1, 65536) for text in args.keys]
        first_seed = _whole("--seed", args.seed, 0, 2**63 - 1 - 1000)
        seeds = _whole("--seeds", args.seeds, 1, 1000)
        rois = [_roi(args.roi, keys) for keys in key_counts]
    except ValueError as error:
        print(f"steer-ros simulate: {error}", file=sys.stderr)
        return 2
    for keys, roi in zip(key_counts, rois, strict=True):
        print_block(keys, roi, alpha, range(first_seed, first_seed + seeds))
    return 0


def print_block(keys: int, roi: range, alpha: float, seeds: range) -> None:
    """Measure and print one setting."""
    text = max(0, keys - PATCHES)
    what = f"{text} text and {keys - text} visual" if text else "all visual"
    print(f"{keys} keys ({what}), region {roi.start}-{roi.stop - 1} ({len(roi)} keys), alpha {alpha:g}")
    runs = [measure(keys, roi, alpha, seed) for seed in seeds]
    increases = [run.increase for run in runs]
    mass = statistics.mean(run.mass for run in runs)
    print(f"\n{RULE}\nRESULTS\n{RULE}")
    print(f"Baseline ROI Focus: {statistics.mean(run.baseline for run in runs):.6f}")
    print(f"Steered ROI Focus: {statistics.mean(run.steered for run in runs):.6f}")
    print(f"Focus Increase: {statistics.mean(increases):.2f}%")
    print(RULE)
    spread = statistics.stdev(increases) if len(increases) > 1 else 0.0
    print(
        f"Seeds {seeds.start}-{seeds.stop - 1}, {ROWS} rows each: standard deviation {spread:.2f} points, "
        f"{min(increases):.2f}% to {max(increases):.2f}%"
    )
    expected = len(roi) / keys
    print(
        f"Closed form e^α / (1 + p (e^α − 1)): {100 * (closed_form(expected, alpha) - 1):+.2f}% "
        f"at p = {len(roi)}/{keys} = {expected:.4f} (mean base mass measured: {mass:.4f})\n"
    )


def _number(name: str, text: str, kind: type) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r}; accepted is a number") from None


def _whole(name: str, text: str, least: int, most: int) -> int:
    value = int(text) if re.fullmatch(r"\d{1,19}", str(text)) else -1
    if not least <= value <= most:
        raise ValueError(f"{name}: {text!r}; accepted are whole numbers from {least} to {most}")
    return value


def _roi(text: str, keys: int) -> range:
    """The region as a range of visual keys of a setting."""
    visual = min(keys, PATCHES)
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", str(text))
    if match is None:
        raise ValueError(f"--roi: {text!r}; accepted is START-END or a count of visual keys, from 0")
    first, last = (0, int(match[1]) - 1) if match[2] is None else (int(match[1]), int(match[2]))
    if not first <= last < visual:
        raise ValueError(f"--roi: {text!r} for {keys} keys; accepted are visual keys 0 to {visual - 1}, at least one")
    return range(first, last + 1)
