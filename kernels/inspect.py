"""What the Triton kernels become on a card, found out without one: compiled for sm_90 and sm_120, then read.

The kernels' real host functions are called with small CPU tensors while a stand-in driver claims to be the
card and every launch is compiled and kept instead of run. So signature, constants, alignment and options
are those of a real launch, and a launch that changes is inspected as it changed. Needs Triton (its wheel
brings ptxas and cuobjdump) and a process without TRITON_INTERPRET; the machine code comes from `ptxas`, so
shared memory, registers and instructions are the card's own.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .impl.reference import LAWS

KERNELS = ("decode", "merge", "prefill", "update")
HEAD_SIZES = (64, 80, 96, 128)
ARCHS = (90, 120)
DTYPES = ("bf16", "fp16", "fp32")
GROUPS = (6, 1, 8, 12, 16)  # query heads of a key head: R1-1.5B's first; each whole or ragged, in one part and in two
MAX_SHARED_BYTES = {120: 101_376, 90: 232_448}  # a block's most, of each card
MAX_ADDITIVE_RATIO = 1.10
NOP, LOCAL = 0x918, (0x983, 0x387)  # codes of machine instructions: padding; LDL and STL, local memory
MISSING = "triton is not installed here: pip install 'triton>=3.6' (the extra steer_ros[kernels])"


@dataclass(frozen=True)
class KernelConfig:
    """One thing to compile: a host function's launches, for a law and a shape, on a card (arch 90 or 120)."""

    entry: str  # decode (which launches merge too), prefill or update
    law: str
    arch: int
    head_size: int
    dtype: str = "bf16"
    focus: bool = False
    gaps: bool = False  # two frames with text between them
    gated: bool = False  # a row gate
    group: int = 6


@dataclass(frozen=True)
class Row:
    """One compiled kernel. Bytes of shared memory and of the local-memory stack are per block and per thread;
    spills counts instructions that read or write local memory; instructions leaves out padding;
    instructions_ratio is to the same kernel with law none, no focus, gaps or gate, 0.0 where that was not
    compiled. head_size and group are 0 for a kernel that no head size changes."""

    kernel: str
    law: str
    arch: int
    head_size: int
    dtype: str
    focus: bool
    gaps: bool
    gated: bool
    group: int
    shared_bytes: int
    spills: int
    stack_bytes: int
    registers: int
    instructions: int
    instructions_ratio: float = 0.0
    launch: int = 1  # 2: the case launches this kernel twice, for other rows, and this is the second one

    @property
    def name(self) -> str:
        """What a message calls this row."""
        words = [self.kernel + (f" (launch {self.launch})" if self.launch > 1 else ""), f"sm_{self.arch}"]
        if self.head_size:
            words += [f"law {self.law}", f"head size {self.head_size}", self.dtype, f"group {self.group}"]
        return ", ".join([*words, *["focus"] * self.focus, *["gaps"] * self.gaps, *["gated"] * self.gated])

    @property
    def shape(self) -> tuple:
        """What the row shares with the one it is compared with."""
        return self.kernel, self.arch, self.head_size, self.dtype, self.group


def choose_configs(
    kernels: Sequence[str] = KERNELS,
    laws: Sequence[str] = tuple(LAWS),
    head_sizes: Sequence[int] = HEAD_SIZES,
    archs: Sequence[int] = ARCHS,
    dtypes: Sequence[str] = DTYPES,
    groups: Sequence[int] = GROUPS,
) -> list[KernelConfig]:
    """Every shipped configuration: all laws and head sizes, with focus and without, in the first dtype for the first
    group; none and additive, of which the ratio is budgeted, also in 16 bits of either kind, with gaps, gates and the
    other groups; at the largest head size, where registers and shared memory are scarcest, every law with any of
    these. "none" is always among the laws: it is what the others are compared with."""
    for name, given, known in (
        ("kernels", kernels, KERNELS),
        ("laws", laws, tuple(LAWS)),
        ("arch", archs, ARCHS),
        ("head-sizes", head_sizes, HEAD_SIZES),
        ("dtypes", dtypes, DTYPES),
        ("groups", groups, range(1, 17)),
    ):
        if wrong := [item for item in given if item not in known]:
            raise ValueError(f"{name}: {wrong[0]}; accepted are {', '.join(map(str, known))}")
    laws = ["none", *(law for law in laws if law != "none")]
    entries = [e for e, its in (("decode", ("decode", "merge")), ("prefill", ("prefill",))) if set(its) & set(kernels)]
    configs = []
    for arch in archs:
        for entry in entries:
            for law in laws:
                first = KernelConfig(entry, law, arch, head_sizes[0], dtypes[0], group=groups[0])
                for size in head_sizes:
                    config, scarce = replace(first, head_size=size), size == max(head_sizes)
                    configs += [config, replace(config, focus=True)]
                    if scarce or law in ("none", "additive"):
                        configs += [replace(config, dtype=dtype) for dtype in dtypes[1:] if scarce or dtype != "fp32"]
                    if entry == "decode":  # prefill takes the heads of a group one by one
                        some = scarce or (law in ("none", "additive") and size == min(head_sizes))
                        configs += [replace(config, group=group) for group in groups[1:] if some]
                        gates = groups if law == "additive" and size == min(head_sizes) else groups[:1]
                        if law == "additive" or (scarce and law != "none"):
                            configs += [replace(config, gated=True, group=group) for group in gates]
                    elif law == "additive":
                        configs += [replace(config, gaps=True), replace(config, gated=True)]
                        configs.append(replace(config, gaps=True, gated=True))
                    elif scarce and law != "none":
                        configs.append(replace(config, gaps=True, gated=True))
        if "update" in kernels:
            configs.append(KernelConfig("update", "none", arch, 0))
    return configs


def compile_config(config: KernelConfig, kernels: Sequence[str] = KERNELS) -> list[Row]:
    """Compile what one case launches. A RuntimeError says what was wrong: no Triton, TRITON_INTERPRET set, or
    a kernel that does not compile."""
    compiled: list = []
    with recording(config.arch, lambda name: short_name(name) in kernels, compiled):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # Triton prints all of a kernel that fails
                _launch(config)
        except Exception as error:  # Triton's own do not survive the way back from a process
            raise RuntimeError(f"{config} does not compile: {type(error).__name__}: {error}") from None
    rows: list[Row] = []
    for kernel in compiled:
        row = measure(kernel, short_name(kernel.name), config)
        if row not in rows:
            rows.append(replace(row, launch=1 + sum(row.kernel == other.kernel for other in rows)))
    return rows


def short_name(function: str) -> str:
    """_decode_kernel → decode."""
    return function.strip("_").removesuffix("_kernel")


def _launch(config: KernelConfig) -> None:
    """Call the host function of a case as the API does: one sequence, two key heads, a static cache at decode."""
    import torch

    from .fields import make_key_field

    keys, key_heads, n_rows = 640, 2, 64
    spans = [(0, 280), (296, 280)] if config.gaps else [(0, 576)]
    weights = torch.zeros(keys, dtype=torch.int8)
    weights[100:200] = 127  # within a span in either case
    if config.entry == "update":
        from .update import update_field

        field = make_key_field(weights, spans, device="cpu")
        update_field(field, torch.stack([field.weights] * 2), torch.ones(2), impl="triton", arch=config.arch)
        return
    q_heads = key_heads * config.group
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[config.dtype]
    gains = torch.ones(q_heads).to(torch.float8_e4m3fn)
    plain = config.law == "none" and not config.focus
    field = None if plain else make_key_field(weights, spans, gains=gains, device="cpu")
    k = torch.zeros(1, key_heads, keys, config.head_size, dtype=dtype)
    one = torch.ones(1)
    rows = torch.ones(1 if config.entry == "decode" else n_rows, dtype=torch.bool) if config.gated else None
    shared = dict(scale=config.head_size**-0.5, rows=rows, focus=config.focus, arch=config.arch)
    if config.entry == "decode":
        from .impl.triton.decode import decode

        q = torch.zeros(1, q_heads, 1, config.head_size, dtype=dtype)
        decode(q, k, k, field, config.law, one, one, length=torch.tensor([keys], dtype=torch.int32), **shared)
    else:
        from .impl.triton.prefill import prefill

        q = torch.zeros(1, q_heads, n_rows, config.head_size, dtype=dtype)
        prefill(q, k, k, field, config.law, one, one, q_start=keys - n_rows, length=keys, **shared)


@contextlib.contextmanager
def recording(arch: int, wanted: Callable[[str], bool], into: list) -> Iterator[None]:
    """Inside, every launch of a wanted @triton.jit function is compiled for the card and put `into` the list;
    nothing runs. For one thread at a time."""
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise RuntimeError("TRITON_INTERPRET is set: the interpreter compiles nothing; accepted is a process without")
    try:
        from triton.runtime import JITFunction, driver
    except ImportError:
        raise RuntimeError(MISSING) from None
    run, active = JITFunction.run, driver._active

    def compile_only(self, *args, grid, warmup, **kwargs):
        if not wanted(self.fn.__name__):
            return None
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        into.append(kernel)
        return kernel

    JITFunction.run = compile_only
    driver.set_active(_Card(arch))
    try:
        yield
    finally:
        JITFunction.run = run
        driver.set_active(active)


class _Card:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch  # a number of its own, so that Triton keeps the cards' kernels apart

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)


def _operations(cubin: bytes) -> list[int]:
    """The operation codes of a kernel's machine code, 16 bytes an instruction, read from the ELF file that a cubin is:
    a disassembler takes as long as compiling. The test holds it against cuobjdump's listing."""
    (sections,) = struct.unpack_from("<Q", cubin, 40)
    size, count, of_names = struct.unpack_from("<HHH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQ", cubin, sections + index * size) for index in range(count)]
    names = headers[of_names][4]
    found = []
    for name, _, _, _, offset, length in headers:
        if cubin.startswith(b".text.", names + name):
            found += [low & 0xFFF for low, _ in struct.iter_unpack("<QQ", cubin[offset : offset + length])]
    return found


def measure(kernel, name: str, config: KernelConfig) -> Row:
    """Read a compiled kernel's machine code."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        command = [str(tool), "-res-usage", str(cubin)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    if usage is None:
        raise RuntimeError(f"cuobjdump said nothing about the resources of {name} on sm_{config.arch}")
    registers, stack, static, local = map(int, usage.groups())
    counted = [code for code in _operations(kernel.asm["cubin"]) if code != NOP]
    headless = config.head_size == 0
    return Row(
        kernel=name,
        law=config.law,
        arch=config.arch,
        head_size=config.head_size,
        dtype="int8" if headless else config.dtype,
        focus=config.focus,
        gaps=config.gaps,
        gated=config.gated,
        group=0 if headless else config.group,
        shared_bytes=int(kernel.metadata.shared) + static,
        spills=sum(code in LOCAL for code in counted),
        stack_bytes=stack + local,
        registers=registers,
        instructions=len(counted),
    )


def with_ratios(rows: Iterable[Row]) -> list[Row]:
    """The rows with instructions_ratio filled in."""
    rows = list(rows)
    plain = {r.shape: r.instructions for r in rows if r.law == "none" and not (r.focus or r.gaps or r.gated)}
    ratios = [row.instructions / plain[row.shape] if row.shape in plain else 0.0 for row in rows]
    return [replace(row, instructions_ratio=round(ratio, 4)) for row, ratio in zip(rows, ratios)]


def broken_budgets(rows: Iterable[Row], *, max_shared: int | None = None, max_ratio: float | None = None) -> list[str]:
    """One line for each budget that a row breaks. max_shared (sm_120) and max_ratio stand in for the package's
    own limits. The ratio is held without focus, which is paid for when asked for, and reported."""
    lines = []
    for row in rows:
        shared = MAX_SHARED_BYTES[row.arch] if max_shared is None or row.arch != 120 else max_shared
        ratio = MAX_ADDITIVE_RATIO if max_ratio is None else max_ratio
        if row.shared_bytes > shared:
            lines.append(f"{row.name}: {row.shared_bytes} bytes of shared memory; at most {shared}")
        if row.spills:
            lines.append(f"{row.name}: {row.spills} spills; at most 0")
        if row.stack_bytes:
            lines.append(f"{row.name}: a stack of {row.stack_bytes} bytes; at most 0")
        if row.law == "additive" and not row.focus and row.instructions_ratio > ratio:
            lines.append(f"{row.name}: {row.instructions_ratio:.3f} times the instructions; at most {ratio:.3f}")
    return lines


def decode_workspace_bytes(
    keys: int, q_heads: int, k_heads: int, head_size: int, law: str, arch: int, processors: int
) -> int:
    """Bytes of the decode kernel's workspace for one row over `keys` keys on a card (arch 90 is sm_90).

    Raises ImportError where Triton is not installed.
    """
    from .impl.triton.decode import config, split_count, workspace_bytes

    tile = config("decode", head_size, law, arch)["BLOCK_N"]
    return workspace_bytes(1, q_heads, head_size, split_count(keys, k_heads, processors, tile), law)
