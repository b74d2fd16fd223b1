"""What no single call shows: a whole turn, growth with the number of keys, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from cases import LAWS, TEXT_ROWS, BenchmarkCase, Inputs
from providers import providers
from report import align
from timing import time_calls
from torch import Tensor

from steer_ros.kernels import inspect, update_field

LAYERS = 28  # R1-1.5B
TOKENS = 32  # a turn: 28 · 32 calls at decode and 28 of prefill, "900 attention calls"
SWEEP = tuple(2**n for n in range(9, 17))
MEMORY_TOKENS = 2304  # four 672×672 frames, or one of 1344×1344


def measure_turn(dtype: torch.dtype, device: torch.device, rounds: int, keys: int) -> tuple[dict, str]:
    """What steering adds to the attention of one turn of R1-1.5B: 28 layers, each with its own K and V; prefill of
    `keys` and 32 tokens, in microseconds. One layer's calls follow the other's, as in a captured token."""
    rounds = rounds if device.type == "cuda" else min(rounds, 3)  # where a prefill takes a second
    per_pass: dict[str, dict[str, float]] = {}
    for stage in ("decode", "prefill"):
        inputs = Inputs(BenchmarkCase(stage, keys, 6), dtype, device, LAYERS)
        calls = {law: [_in_turn(layers)] for law, layers in _ours(inputs).items()}
        per_pass[stage] = {law: times.warm_us for law, times in time_calls(calls, device, rounds).items()}
    merge_us = _update_us(device, rounds, keys)
    found: dict[str, object] = {
        "layers": LAYERS, "tokens": TOKENS, "keys": keys, "attention_calls": LAYERS * (TOKENS + 1),
        "us_per_forward": per_pass, "update_us": merge_us, "added_ms": {},
    }  # fmt: skip
    for law in LAWS:
        added = [TOKENS * (per_pass["decode"][law] - per_pass["decode"]["none"])]
        added += [per_pass["prefill"][law] - per_pass["prefill"]["none"], merge_us if law != "none" else 0.0]
        found["added_ms"][law] = round(sum(added) / 1e3, 4)
    words = ", ".join(f"{law} {ms:+.3f} ms" for law, ms in found["added_ms"].items() if law != "none")
    said = f"steering adds to a turn of {found['attention_calls']} attention calls: {words}"
    return found, f"{said} (a mask update of {merge_us:.1f} us included)"


def measure_sweep(dtype: torch.dtype, device: torch.device, rounds: int, keys: int) -> tuple[list, str]:
    """Decode of R1-1.5B's heads over key counts: time must grow no faster than the keys."""
    counts = SWEEP if device.type == "cuda" else tuple(keys * 2**n for n in range(4))
    found, lines = [], [("keys", *LAWS, "GB/s")]
    for count in counts:
        case = BenchmarkCase("decode", count, 6)
        calls = {law: copies[:1] for law, copies in _ours(Inputs(case, dtype, device)).items()}
        times = {law: t.warm_us for law, t in time_calls(calls, device, rounds).items()}
        rate = case.bytes_moved(dtype.itemsize) / times["additive"] / 1e3
        found.append({"keys": count, "us": times, "gb_s": rate})
        lines.append((str(count), *(f"{times[law]:.2f}" for law in LAWS), f"{rate:.0f}"))
    return found, "decode over key counts, us for one call:\n" + align(lines, left=())


def measure_memory(dtype: torch.dtype, device: torch.device, rounds: int, keys: int) -> tuple[dict, str]:
    """Bytes that steering holds for 2,304 tokens and R1-1.5B's heads: the field of a layer and the decode kernel's
    workspace. The gains of all 28 layers are a table of 28 · 12 bytes more."""
    del dtype, rounds, keys
    field = Inputs(BenchmarkCase("decode", MEMORY_TOKENS + TEXT_ROWS, 6), torch.float32, torch.device("cpu")).field
    found: dict[str, object] = {"tokens": MEMORY_TOKENS, "field_bytes": field.memory_bytes, "workspace_bytes": None}
    words = f"memory for {MEMORY_TOKENS} tokens: field {field.memory_bytes} bytes"
    processors, arch = 132, 90
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        processors, arch = card.multi_processor_count, 10 * card.major + card.minor
    q_heads, k_heads = BenchmarkCase("decode", MEMORY_TOKENS, 6).heads
    try:
        sizes = {
            law: inspect.decode_workspace_bytes(
                MEMORY_TOKENS + TEXT_ROWS, q_heads, k_heads, 128, law, arch, processors
            )
            for law in LAWS
        }
    except ImportError:  # no Triton: the CPU path has no workspace of its own
        return found, words
    found["workspace_bytes"] = sizes
    return found, words + ", workspace " + ", ".join(f"{law} {size}" for law, size in sizes.items())


def _ours(inputs: Inputs) -> dict[str, list[Callable[[], Tensor]]]:
    """Our calls of each law, one for each copy of K and V."""
    return {p.law: p.calls(inputs) for p in providers(inputs.device, flex=False) if p.name == "ours"}


def _in_turn(layers: Sequence[Callable[[], Tensor]]) -> Callable[[], None]:
    def forward() -> None:
        for layer in layers:
            layer()

    return forward


def _update_us(device: torch.device, rounds: int, keys: int) -> float:
    """Microseconds to merge two regions into a field's weights: once a frame."""
    field = Inputs(BenchmarkCase("decode", keys, 6), torch.float32, device).field
    parts = torch.stack([field.weights, field.weights.flip(0)])
    strengths = torch.tensor([1.0, 0.5], device=device)
    return time_calls({"update": [lambda: update_field(field, parts, strengths)]}, device, rounds)["update"].warm_us
