"""What was measured, side by side: the table, the goals and the environment."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

import torch
from cases import LAWS, BenchmarkCase

_FORMS = {
    "error": "{:.1e}", "warm_us": "{:.2f}", "cold_us": "{:.2f}", "gb_s": "{:.0f}", "tflop_s": "{:.2f}",
    "over_ours_none": "{:.3f}", "over_sdpa_none": "{:.3f}",
}  # fmt: skip
_OURS = {law: ("ours", law) for law in LAWS}
_UNBIASED, _FLEX = ("sdpa", "none"), ("flex", "additive")
_DECODE, _PREFILL, _ODD = ("decode",), ("prefill", "text rows"), (5, 6, 7)
# In words, of the stages and groups (None: all): (name, law) over (name, law) is at most; at least, where negative.
GOALS = (
    ("additive over unsteered, decode", _DECODE, None, _OURS["additive"], _OURS["none"], 1.02),
    ("conserving over unsteered, decode", _DECODE, None, _OURS["conserving"], _OURS["none"], 1.02),
    ("share over unsteered, decode", _DECODE, None, _OURS["share"], _OURS["none"], 1.05),
    ("target over unsteered, decode", _DECODE, None, _OURS["target"], _OURS["none"], 1.05),
    ("additive over unsteered, prefill", _PREFILL, None, _OURS["additive"], _OURS["none"], 1.03),
    ("conserving over unsteered, prefill", _PREFILL, None, _OURS["conserving"], _OURS["none"], 1.03),
    ("share over unsteered, prefill", _PREFILL, None, _OURS["share"], _OURS["none"], 1.03),
    ("target over unsteered, prefill", _PREFILL, None, _OURS["target"], _OURS["none"], 1.03),
    ("steered over PyTorch's best unbiased, decode", _DECODE, _ODD, _OURS["additive"], _UNBIASED, 1.05),
    ("steered over PyTorch's best unbiased, prefill", ("prefill",), None, _OURS["additive"], _UNBIASED, 1.25),
    ("FlexAttention over ours, same bias, decode", _DECODE, _ODD, _FLEX, _OURS["additive"], -2.0),
)
CPU_GOALS = tuple(
    (f"{law} over plain SDPA, decode", _DECODE, None, _OURS[law], _UNBIASED, 1.3) for law in LAWS if law != "none"
)


def environment(device: torch.device, source: str) -> dict[str, object]:
    """Card or CPU, versions; source says whose kernels were measured."""
    found: dict[str, object] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "kernels": source,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "card": None,
        "driver": None,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found.update(
            card=card.name,
            capability=f"{card.major}.{card.minor}",
            memory_gib=round(card.total_memory / 2**30, 1),
            l2_mib=round(card.L2_cache_size / 2**20),
            multiprocessors=card.multi_processor_count,
            cuda=torch.version.cuda,
            driver=_driver_version(),
        )
    else:
        found["processor"] = _processor()
    return found


def goals(rows: Sequence[dict], cuda: bool) -> list[dict]:
    """The issue's goals against what was measured: the worst ratio of the cases that a goal names. Warm and cold are
    both looked at."""
    found = []
    for words, stages, groups, over, under, limit in GOALS if cuda else CPU_GOALS:
        ratios = []
        for row in rows:
            if row["stage"] in stages and (groups is None or row["group"] in groups) and _is(row, over):
                for base in (r for r in rows if _is(r, under) and _case(r) == _case(row)):
                    for time in ("warm_us", "cold_us"):
                        if row[time] and base[time]:
                            where = f"{row['stage']}, {row['keys']} keys, group {row['group']}, {time[:4]}"
                            ratios.append((row[time] / base[time], where))
        if not ratios:
            found.append({"goal": words, "limit": abs(limit), "worst": None, "where": None, "met": None})
            continue
        worst, where = max(ratios) if limit > 0 else min(ratios)
        met = worst <= limit if limit > 0 else worst >= -limit
        found.append({"goal": words, "limit": abs(limit), "worst": round(worst, 3), "where": where, "met": met})
    return found


def whole_goals(turn: dict, memory: dict, cuda: bool) -> list[dict]:
    """The goals of a whole turn (milliseconds that steering adds, on a GPU) and of memory (bytes)."""
    sizes = [("masks of 2,304 tokens, bytes", memory["field_bytes"], 16 * 1024)]
    if memory["workspace_bytes"]:
        whole = memory["field_bytes"] + max(memory["workspace_bytes"].values())
        sizes.append(("masks and workspace of 2,304 tokens, bytes", whole, 1_500_000))
    if cuda:
        sizes += [(f"added to a turn by {law}, ms", turn["added_ms"][law], 0.3) for law in LAWS if law != "none"]
    return [{"goal": words, "limit": most, "worst": n, "where": None, "met": n < most} for words, n, most in sizes]


def add_ratios(rows: list[dict]) -> None:
    """Write into each row its warm time over ours unsteered and over PyTorch's best unbiased, of the same case."""
    for row in rows:
        for name, base in (("over_ours_none", ("ours", "none")), ("over_sdpa_none", ("sdpa", "none"))):
            same = [r for r in rows if _is(r, base) and _case(r) == _case(row) and r["warm_us"]]
            row[name] = round(row["warm_us"] / same[0]["warm_us"], 3) if same and row["warm_us"] else None


def table(rows: Iterable[dict]) -> str:
    """The rows as aligned text."""
    head = (
        "stage",
        "keys",
        "group",
        "who",
        "law",
        "how",
        "error",
        "warm us",
        "cold us",
        "GB/s",
        "TFLOP/s",
        "/ours",
        "/sdpa",
    )
    lines: list[tuple[str, ...]] = [head]
    for r in rows:
        where = (r["stage"], str(r["keys"]), str(r["group"]), r["name"], r["law"])
        if r["warm_us"] is None:
            lines.append((*where, r["note"], *[""] * 7))
            continue
        numbers = ("" if r[name] is None else form.format(r[name]) for name, form in _FORMS.items())
        lines.append((*where, r["how"] + ("" if r["graphed"] is not False else " (launched)"), *numbers))
    return align(lines, left=(0, 3, 4, 5))


def align(lines: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Text in columns; those in `left` are left-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    )


def goals_table(found: Sequence[dict]) -> str:
    """The goals as aligned text."""
    lines = [("goal", "limit", "worst", "met", "where")]
    for g in found:
        met = {None: "not measured", True: "yes", False: "NO"}[g["met"]]
        lines.append(
            (g["goal"], f"{g['limit']}", "" if g["worst"] is None else f"{g['worst']}", met, g["where"] or "")
        )
    return align(lines, left=(0, 3, 4))


def is_of(row: dict, case: BenchmarkCase) -> bool:
    """Whether the row is of the case."""
    return _case(row) == (case.stage, case.keys, case.group)


def _is(row: dict, who: tuple[str, str]) -> bool:
    return (row["name"], row["law"]) == who


def _case(row: dict) -> tuple:
    return row["stage"], row["keys"], row["group"]


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__


def _driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
