"""`steer-ros bench compile`: the kernels' machine code for sm_90 and sm_120, read without a GPU."""

import argparse
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from steer_ros.commands import bench
from steer_ros.kernels import LAWS, inspect
from steer_ros.kernels.inspect import KernelConfig, Row, broken_budgets, choose_configs, with_ratios

COLUMNS = {
    "kernel", "law", "arch", "head_size", "dtype", "focus", "gaps", "gated", "group", "shared_bytes", "spills",
    "stack_bytes", "registers", "instructions", "instructions_ratio", "launch",
}  # fmt: skip
SUBSET = ("--kernels", "decode", "merge", "--laws", "additive", "--head-sizes", "64", "--arch", "120")
SUBSET += ("--dtypes", "bf16", "--groups", "6", "--jobs", "1")


def run_here(capsys, *words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    code = bench.main(parser.parse_args(["compile", *words]))
    out, err = capsys.readouterr()
    return code, out, err


def row(**changes):
    given = dict(kernel="decode", law="none", arch=120, head_size=128, dtype="bf16", focus=False, gaps=False)
    given |= dict(gated=False, group=6, shared_bytes=65_536, spills=0, stack_bytes=0, registers=128, instructions=1000)
    return Row(**(given | changes))


@pytest.mark.timeout(900)  # ten seconds of a processor, which others may want as well
def test_a_subset_is_within_budget_and_written_down(tmp_path):
    out = tmp_path / "new folder" / "out.json"
    # As in a test run: the command has to clear it, since the interpreter compiles nothing.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "steer_ros.cli", "bench", "compile", *SUBSET, "--json", str(out)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads(out.read_text())
    assert written["over_budget"] == []
    rows = written["rows"]
    assert all(set(r) == COLUMNS for r in rows)
    found = {(r["kernel"], r["law"], r["focus"], r["gated"]) for r in rows}
    asked = {("none", False, False), ("none", True, False)}
    asked |= {("additive", False, False), ("additive", True, False), ("additive", False, True)}
    assert found == {(kernel, *a) for kernel in ("decode", "merge") for a in asked}
    for r in rows:
        assert (r["arch"], r["head_size"], r["dtype"], r["group"]) == (120, 64, "bf16", 6)
        assert r["shared_bytes"] <= 101_376
        assert r["spills"] == r["stack_bytes"] == 0
        assert 50 < r["instructions"] < 10_000 and 8 <= r["registers"] <= 255
        if r["law"] == "none" and not r["focus"] and not r["gated"]:
            assert r["instructions_ratio"] == 1
        if r["law"] == "additive" and not r["focus"] and not r["gated"]:
            assert 0.9 < r["instructions_ratio"] <= 1.1
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["kernel", "sm", "law"] and lines[0].endswith("ratio")
    assert len(lines) == 1 + len(rows) + 1
    assert f"{len(rows)} kernels compiled in" in lines[-1]


def test_a_broken_budget_exits_with_1_and_names_the_row(capsys, monkeypatch, tmp_path):
    rows = [row(), row(law="additive", instructions=1060, instructions_ratio=1.06), row(law="share", spills=2)]
    monkeypatch.setattr(bench, "compile_rows", lambda configs, kernels, jobs: rows)
    out = tmp_path / "out.json"
    code, table, err = run_here(capsys, "--json", str(out), "--max-ratio", "1.05", "--max-shared", "65536")
    assert code == 1
    assert err.splitlines() == [
        "over budget: decode, sm_120, law additive, head size 128, bf16, group 6: 1.060 times the instructions; "
        "at most 1.050",
        "over budget: decode, sm_120, law share, head size 128, bf16, group 6: 2 spills; at most 0",
    ]
    assert len(table.splitlines()) == 5
    written = json.loads(out.read_text())
    assert written["over_budget"] == [line.removeprefix("over budget: ") for line in err.splitlines()]
    assert [r["spills"] for r in written["rows"]] == [0, 0, 2]
    assert run_here(capsys, "--max-ratio", "1.06")[0] == 1  # the spills
    rows.pop()
    assert run_here(capsys, "--max-ratio", "1.06")[0] == 0
    assert run_here(capsys, "--max-shared", "65535")[0] == 1


def test_a_kernel_that_does_not_compile_is_one_line(capsys, monkeypatch):
    def fail(configs, kernels, jobs):
        raise RuntimeError("KernelConfig(...) does not compile: CompilationError: at 3:1")

    monkeypatch.setattr(bench, "compile_rows", fail)
    code, out, err = run_here(capsys)
    assert (code, out) == (2, "")
    assert err == "steer-ros bench compile: KernelConfig(...) does not compile: CompilationError: at 3:1\n"


SPILLING = """
import re
import subprocess
from pathlib import Path

import torch
import triton
import triton.language as tl

from steer_ros.kernels import inspect

@triton.jit
def _keep_kernel(x, y, B: tl.constexpr):
    at = tl.arange(0, B)
    a = tl.load(x + at)
    tl.store(y + at, a * tl.sum(a * a))

for registers in (None, 32):
    compiled = []
    with inspect.recording(120, lambda name: name == "_keep_kernel", compiled):
        x = torch.zeros(4096)
        _keep_kernel[(1,)](x, x, B=4096, num_warps=1, maxnreg=registers)
    config = inspect.KernelConfig("update", "none", 120, 0)
    row = inspect.measure(compiled[0], inspect.short_name(compiled[0].name), config)
    file = Path(__file__).with_suffix(".cubin")
    file.write_bytes(compiled[0].asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    listing = subprocess.run([str(tool), "-sass", str(file)], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\\s+/\\*[0-9a-f]{4,}\\*/\\s+(?:@!?U?P\\w+\\s+)?([A-Z]\\w*)", listing, re.MULTILINE)
    assert row.instructions == sum(op != "NOP" for op in found)
    assert row.spills == sum(op in ("LDL", "STL") for op in found)
    print(row.kernel, row.registers, row.spills, row.stack_bytes)
"""


@pytest.mark.timeout(900)
def test_spills_and_stack_are_seen(tmp_path):
    (tmp_path / "spilling.py").write_text(SPILLING)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(tmp_path / "spilling.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    roomy, tight = (line.split() for line in done.stdout.splitlines())
    assert roomy[0] == tight[0] == "keep"
    assert (int(roomy[2]), int(roomy[3])) == (0, 0) and int(roomy[1]) > 64
    assert int(tight[1]) == 32 and int(tight[2]) > 100 and int(tight[3]) > 100


def test_every_law_head_size_card_and_dtype_is_among_the_configs():
    configs = choose_configs()
    for entry in ("decode", "prefill"):
        mine = [c for c in configs if c.entry == entry]
        assert {(c.law, c.head_size, c.arch) for c in mine} == {
            (law, size, arch) for law in LAWS for size in (64, 80, 96, 128) for arch in (90, 120)
        }
        sixteen = {(c.law, c.head_size, c.dtype) for c in mine if c.law in ("none", "additive") and c.dtype != "fp32"}
        assert len(sixteen) == 2 * 4 * 2
        assert {(c.law, c.head_size) for c in mine if c.focus} == {(c.law, c.head_size) for c in mine}
        assert {(c.law, c.head_size) for c in mine if c.dtype == "fp32"} == {(law, 128) for law in LAWS}
        assert {c.head_size for c in mine if c.gated and c.law == "additive"} == {64, 80, 96, 128}
    gaps = {(c.head_size, c.gaps, c.gated) for c in configs if c.entry == "prefill" and c.law == "additive"}
    assert len(gaps) == 4 * 4
    groups = {(c.law, c.head_size, c.group) for c in configs if c.entry == "decode"}
    assert groups >= {(law, size, g) for law in ("none", "additive") for size in (64, 128) for g in (1, 6, 8, 12, 16)}
    assert {c.arch for c in configs if c.entry == "update"} == {90, 120}
    assert len(set(configs)) == len(configs)


def test_none_is_compiled_beside_any_law():
    assert {c.law for c in choose_configs(("merge",), ("share",))} == {"none", "share"}
    assert {c.entry for c in choose_configs(("merge",), ("share",))} == {"decode"}


def test_ratios_are_to_the_same_kernel_unsteered():
    rows = with_ratios(
        [
            row(),
            row(focus=True, instructions=1200),
            row(law="additive", instructions=1080),
            row(law="share", instructions=1700),
            row(law="share", arch=90, instructions=1700),  # nothing to compare with
        ]
    )
    assert [r.instructions_ratio for r in rows] == [1.0, 1.2, 1.08, 1.7, 0.0]


def test_each_budget():
    assert (
        broken_budgets([row(), row(law="additive", instructions_ratio=1.1), row(law="share", instructions_ratio=3)])
        == []
    )
    asked = [
        row(law="additive", focus=True, instructions_ratio=1.5),
        row(law="additive", gated=True, instructions_ratio=1.1),
    ]
    assert broken_budgets(asked) == []
    (line,) = broken_budgets([row(law="additive", gaps=True, instructions_ratio=1.101)])
    assert line.endswith("group 6, gaps: 1.101 times the instructions; at most 1.100")
    assert broken_budgets([row(shared_bytes=101_376), row(shared_bytes=101_377)]) == [
        "decode, sm_120, law none, head size 128, bf16, group 6: 101377 bytes of shared memory; at most 101376"
    ]
    assert broken_budgets([row(arch=90, shared_bytes=150_000)]) == []
    (line,) = broken_budgets([row(spills=3, focus=True)])
    assert line == "decode, sm_120, law none, head size 128, bf16, group 6, focus: 3 spills; at most 0"
    assert "a stack of 16 bytes; at most 0" in broken_budgets([row(stack_bytes=16)])[0]
    (line,) = broken_budgets([row(law="additive", instructions_ratio=1.101)])
    assert line.endswith("1.101 times the instructions; at most 1.100")
    assert broken_budgets([row(kernel="update", head_size=0, group=0, dtype="int8", spills=1)]) == [
        "update, sm_120: 1 spills; at most 0"
    ]


@pytest.mark.parametrize(
    "words, message",
    [
        (("--laws", "gentle"), "laws: gentle; accepted are none, additive, conserving, share, target"),
        (("--arch", "70"), "arch: 70; accepted are 90, 120"),
        (("--head-sizes", "100"), "head-sizes: 100; accepted are 64, 80, 96, 128"),
        (("--kernels", "encode"), "kernels: encode; accepted are decode, merge, prefill, update"),
    ],
)
def test_what_is_not_accepted_is_named(capsys, words, message):
    assert run_here(capsys, *words) == (2, "", f"steer-ros bench compile: {message}\n")


@pytest.mark.parametrize(
    "words", [("--jobs", "0"), ("--max-shared", "-1"), ("--max-ratio", "nan"), ("--json", "/proc/nowhere/out.json")]
)
def test_what_could_not_be_judged_or_written_is_refused_before_compiling(capsys, monkeypatch, words):
    monkeypatch.setattr(bench, "compile_rows", lambda *arguments: pytest.fail("compiled"))
    with pytest.raises(SystemExit, match="2"):
        run_here(capsys, *words)
    assert f"argument {words[0]}: " in capsys.readouterr().err


def test_without_triton_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    code, out, err = run_here(capsys)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "triton is not installed here" in err


def test_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET is set"):
        inspect.compile_config(KernelConfig("decode", "none", 90, 64))


def test_this_process_gets_its_environment_back(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    before = dict(os.environ)
    with bench._compiler_environment():
        assert "TRITON_INTERPRET" not in os.environ
    assert dict(os.environ) == before
