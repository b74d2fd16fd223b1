#!/usr/bin/env python3
"""What steered attention costs: correct first, then timed beside PyTorch's and Transformers' attention.

One command, without ROS:  python benchmark/kernels.py [--device cuda|cpu] [--json FILE] [--quick]
benchmark/README.md says what is measured and how. Exits with 1 if one of our implementations is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path


def find_package() -> str:
    """Make steer_ros importable: the installed one, else this checkout's. Says which."""
    try:
        importlib.import_module("steer_ros.kernels")
    except ImportError:
        root = Path(__file__).resolve().parent.parent
        sys.path.append(str(root))
        spec = importlib.util.spec_from_file_location("steer_ros.kernels", root / "kernels" / "__init__.py")
        sys.modules["steer_ros.kernels"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return "checkout"
    return "installed"


SOURCE = find_package()
sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH leaves it out

import report  # noqa: E402  (these need the package)
import torch  # noqa: E402
from cases import LAWS, BenchmarkCase, Inputs, decode_cases, error_of, exact_outputs, plain_error, prefill_cases  # noqa: E402
from extras import measure_memory, measure_sweep, measure_turn  # noqa: E402
from providers import Provider, plain_pytorch, providers  # noqa: E402
from timing import copies_to_flush, time_calls, time_once  # noqa: E402

FP8_SCORES = "not tried"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class WrongKernelError(Exception):
    """One of our implementations is not within the error that plain PyTorch makes."""


def measure_case(case: BenchmarkCase, dtype: torch.dtype, device: torch.device, rounds: int, flex: bool) -> list[dict]:
    """Check and time every provider on one case. A row for each name and law."""
    copies = copies_to_flush(device, case.bytes_moved(dtype.itemsize))
    inputs = Inputs(case, dtype, device, copies)
    exact = exact_outputs(inputs, tuple(LAWS))
    everyone = providers(device, flex=flex)
    allowed = plain_error(plain_pytorch(inputs), exact)
    chosen: dict[tuple[str, str], tuple[Provider, list, float, float]] = {}
    notes: dict[tuple[str, str], str] = {}
    for provider in everyone:
        key = (provider.name, provider.law)
        notes.setdefault(key, "no variant ran")
        try:
            calls = provider.calls(inputs)
            error = error_of(calls[0](), exact[provider.law])
        except Exception as problem:  # a backend that does not take this case; ours must
            if provider.name == "ours":
                raise
            notes[key] = f"{provider.how}: {type(problem).__name__}: {' '.join(str(problem).split())[:100]}"
            continue
        if not error.within(allowed):
            words = f"{case}: {provider.name}, law {provider.law}, {provider.how}: error {error}; PyTorch's {allowed}"
            if provider.name == "ours":
                raise WrongKernelError(words)
            notes[key] = f"{provider.how}: wrong by {error.whole:.1e}"
            continue
        quick = time_once([calls[0]] * 5, device) if provider.name == "sdpa" else 0.0  # the one with variants
        if key not in chosen or quick < chosen[key][3]:
            chosen[key] = (provider, calls, error.whole, quick)
    times = time_calls({key: calls for key, (_, calls, _, _) in chosen.items()}, device, rounds)
    rows = []
    for key, note in notes.items():
        row = {"stage": case.stage, "keys": case.keys, "group": case.group, "name": key[0], "law": key[1], "how": "",
               "error": None, "warm_us": None, "cold_us": None, "spread": None, "gb_s": None, "tflop_s": None,
               "graphed": None, "note": note}  # fmt: skip
        if key in chosen:
            provider, _, error, _ = chosen[key]
            took = times[key]
            fastest = min(filter(None, (took.warm_us, took.cold_us)))
            row.update(how=provider.how, error=error, warm_us=took.warm_us, cold_us=took.cold_us, spread=took.spread,
                       gb_s=case.bytes_moved(dtype.itemsize) / (took.cold_us or took.warm_us) / 1e3,
                       tflop_s=case.flop / fastest / 1e6, graphed=took.graphed if device.type == "cuda" else None,
                       note="")  # fmt: skip
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure everything; 0, or 1 if one of our implementations is wrong, or 2 if there is no such device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if gpu else "cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to this file")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="timed rounds (default 15)")
    parser.add_argument("--quick", action="store_true", help="R1-1.5B's heads and 640 keys alone")
    parser.add_argument("--keys", type=int, metavar="K", help="with --quick: another number of keys")
    parser.add_argument("--no-flex", action="store_true", help="leave FlexAttention out: it compiles for each case")
    parser.add_argument(
        "--seconds", type=float, default=360, metavar="S", help="then leave the rest out (default 360)"
    )
    args = parser.parse_args(argv)
    if args.device == "cuda" and not gpu:
        print("kernels.py: --device cuda: PyTorch sees no GPU here; accepted is cpu", file=sys.stderr)
        return 2
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    dtype = DTYPES[args.dtype or ("bf16" if cuda else "fp32")]
    begun = time.perf_counter()
    result: dict[str, object] = {
        "environment": report.environment(device, SOURCE),
        "settings": {"dtype": str(dtype).removeprefix("torch."), "rounds": args.rounds, "laws": LAWS},
        "fp8_scores": FP8_SCORES,
    }
    print(json.dumps(result["environment"]))
    quick = args.quick or not cuda  # R1-1.5B's heads are enough where nothing but SDPA runs
    cases = [*decode_cases(quick), *prefill_cases(quick)]
    cases.sort(key=lambda case: case.group != 6)  # R1-1.5B first, should time run out
    if args.keys:
        cases = [BenchmarkCase(case.stage, args.keys, case.group) for case in cases]
    rows: list[dict] = []
    left_out: list[str] = []
    try:
        for case in cases:
            if time.perf_counter() - begun > args.seconds:
                left_out.append(str(case))
                continue
            rows += measure_case(case, dtype, device, args.rounds, flex=cuda and not args.no_flex)
            report.add_ratios(rows)
            print(report.table([r for r in rows if report.is_of(r, case)]), flush=True)
            if cuda:
                torch.cuda.empty_cache()
        result["rows"] = rows
        for name, measure in (("turn", measure_turn), ("sweep", measure_sweep), ("memory", measure_memory)):
            result[name], words = measure(dtype, device, args.rounds, args.keys or 640)
            print(words, flush=True)
    except WrongKernelError as error:
        print(f"kernels.py: refused to time a wrong kernel: {error}", file=sys.stderr)
        return 1
    result["goals"] = [*report.goals(rows, cuda), *report.whole_goals(result["turn"], result["memory"], cuda)]
    result["left_out"] = left_out
    result["seconds"] = round(time.perf_counter() - begun, 1)
    print(report.goals_table(result["goals"]))
    print(
        f"FP8 tensor-core scores: {FP8_SCORES}. {result['seconds']} s" + "".join(f"\nleft out: {c}" for c in left_out)
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
