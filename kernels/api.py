"""Steered attention as one operator: checks, the choice of implementation, and its registration with PyTorch."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from . import checks
from .fields import KeyField
from .impl.reference import steered_attention_by_reference
from .impl.sdpa.call import steered_attention_sdpa

_LAST_ROWS = -1  # q_start of the op: the rows are the context's last
_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? weights, Tensor? visual, Tensor? weight_extrema, Tensor? gains, "
    "SymInt start, bool has_gaps, str law, Tensor alpha, Tensor? setpoint, Tensor? rows, float scale, SymInt q_start, "
    "SymInt length, Tensor? length_on_device, bool focus, str impl) -> (Tensor, Tensor)"
)


def steered_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    field: KeyField | None,
    law: str,
    *,
    alpha: float | Tensor | None = None,
    setpoint: float | Tensor | None = None,
    rows: Tensor | None = None,
    scale: float | None = None,
    q_start: int | None = None,
    valid_length: int | Tensor | None = None,
    focus: bool = False,
    impl: str = "auto",
    **unknown: object,
) -> tuple[Tensor, Tensor | None]:
    """Causal attention whose text rows are steered by `law` (impl/reference.py says what the laws do).

    Args:
        q: [B, Hq, S, D], one of float16, bfloat16, float32, float64.
        k, v: [B, Hk, K, D] and [B, Hk, K, Dv] of q's dtype and device; Hk divides Hq, and query head h reads key
            head h // (Hq / Hk). Any strides; "triton" wants a last stride of 1.
        field: the weights by key position and the gains; None is plain attention. Rows inside V are never
            steered; text rows after it are, those between two frames too.
        law: "none", "additive", "conserving", "share", "target".
        alpha: what weight 1 adds to a score, a number within ±64 or one float32 number on the device. None is 2 for
            additive and conserving, 0 for share and target.
        setpoint: ρ of share (0 to 1) or ψ of target (between 0 and 1), a number or one float32 number on the device;
            required for these two, None for the others.
        rows: bool [S] on the device, which rows the law may hold for; None is all.
        scale: of the scores, 1e−20 to 1e20; None is D ** −0.5.
        q_start: the key position of row 0. Row i sees the keys up to q_start + i. None is valid_length − S.
        valid_length: how many keys are real; what lies beyond may be anything. A whole number, or one int32 or
            int64 number on the device (a static cache, a captured graph: Triton's decode reads it there; several
            rows, and the other implementations, wait for it). None is K.
        focus: whether to return the focus of each row.
        impl: "auto" (on CUDA "triton" where it can, else "sdpa"), "reference", "sdpa", "triton". A named one never
            falls back. With TRITON_INTERPRET=1 "triton" takes CPU tensors.

    Returns:
        out [B, Hq, S, Dv] in q's dtype, contiguous; focus float32 [B, Hq, S, 2], the mass of R before and after the
        law (equal where a row is not steered), or None.

    There are no gradients; PyTorch warns if they are asked for. Numbers and CPU tensors are checked. A CUDA tensor's
    value is not read, which would wait for the device: NaN in alpha or setpoint gives NaN there, and a weight below
    0 under share or target is a bias outside R.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device, stride or range; the message names it.
        RuntimeError: the implementation named is not there, or not for this card.
        TypeError: there is no such argument; if it was renamed, the message gives the new name.
    """
    if unknown:
        checks.refuse_keywords("steered_attention", unknown)
    checks.check_tensors(q, k, v)
    checks.check_law(law, setpoint)
    if impl not in checks.IMPLS:
        raise ValueError(f"impl: {impl!r}; accepted are {', '.join(checks.IMPLS)}")
    if isinstance(focus, Tensor) or focus not in (False, True):
        raise ValueError(f"focus: {focus!r}; accepted are False and True")
    checks.check_rows(rows, q)
    n_rows, keys = q.shape[2], k.shape[2]
    length, on_device = keys, None
    if isinstance(valid_length, Tensor):
        checks.check_length_tensor(valid_length, q)
        on_device = valid_length
    elif valid_length is not None:
        length = checks.whole("valid_length", valid_length)
    checks.check_length(length, n_rows, keys)
    first = _LAST_ROWS
    if q_start is not None:
        first = checks.whole("q_start", q_start)
        checks.check_first(first, n_rows, length)
    elif on_device is None:
        first = length - n_rows
    checks.check_field(field, q, length if on_device is None else None, keys)
    alpha = _scalar_tensor("alpha", law, alpha, q)
    setpoint = None if setpoint is None else _scalar_tensor("setpoint", law, setpoint, q)
    scale = q.shape[3] ** -0.5 if scale is None else checks.check_scale(scale)
    if _is_plain_call(q, k, v, field, alpha, setpoint):
        return _run(q, k, v, field, law, alpha, setpoint, rows, scale, first, length, on_device, bool(focus), impl)
    tables = (None, None, None, None, 0, False)
    if field is not None:
        tables = (field.weights, field.visual, field.weight_extrema, field.gains, field.start, field.has_gaps)
    out, masses = torch.ops.steer_ros.steered_attention.default(
        q, k, v, *tables, law, alpha, setpoint, rows, scale, first, length, on_device, bool(focus), impl
    )
    return out, masses if focus else None


def _is_plain_call(
    q: Tensor, k: Tensor, v: Tensor, field: KeyField | None, alpha: Tensor, setpoint: Tensor | None
) -> bool:
    """Whether nobody is there to see the operator: no compiler, tracer or mode, and no gradient is asked for. Then it
    is run without PyTorch's dispatcher, which takes a seventh of a CPU's decoding step."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack():
        return False
    if not type(q) is type(k) is type(v) is Tensor:
        return False
    if not torch.is_grad_enabled():
        return True
    needs_grad = alpha.requires_grad or (setpoint is not None and setpoint.requires_grad)
    needs_grad = needs_grad or (field is not None and field.gains is not None and field.gains.requires_grad)
    return not (needs_grad or q.requires_grad or k.requires_grad or v.requires_grad)


def _scalar_tensor(name: str, law: str, value: float | Tensor | None, q: Tensor) -> Tensor:
    """alpha or setpoint as one number on q's device. Filled there, so that a graph being captured takes it."""
    if isinstance(value, Tensor):
        checks.check_scalar_tensor(name, value, q)
        return value
    if name == "setpoint":
        number = checks.check_setpoint(law, value)
    elif value is None:
        number = 0.0 if law in checks.SETPOINT_LAWS else 2.0
    else:
        number = checks.check_alpha(value)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.full((1,), number, dtype=dtype, device=q.device)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    field: KeyField | None,
    law: str,
    alpha: Tensor,
    setpoint: Tensor | None,
    rows: Tensor | None,
    scale: float,
    q_start: int,
    length: int,
    length_on_device: Tensor | None,
    focus: bool,
    impl: str,
) -> tuple[Tensor, Tensor | None]:
    """What `steered_attention` asks for, its arguments checked but for values. q_start −1: the last rows; the
    length is the tensor's where there is one."""
    kind = q.device.type
    if torch.is_autocast_enabled(kind):  # what is promised of a dtype holds for q's
        options = (field, law, alpha, setpoint, rows, scale, q_start, length, length_on_device, focus, impl)
        with torch.autocast(kind, enabled=False):
            return _run(q, k, v, *options)
    _check_values(field, law, alpha, setpoint)
    if impl == "auto":
        impl = "triton" if q.is_cuda and not triton_unsupported_reason(q, k, v) else "sdpa"
    n_rows = q.shape[2]
    if impl == "triton":
        reason = triton_unsupported_reason(q, k, v)
        if reason:
            raise (ValueError if ": " in reason else RuntimeError)(f"impl: triton; {reason}")
        on_device = length_on_device is not None and q.is_cuda and n_rows == 1 and q_start == _LAST_ROWS
        if not on_device:
            length, q_start = _read_length(length, length_on_device, n_rows, q_start, field)
        q = q if q.stride(3) == 1 else q.contiguous()
        rows = None if rows is None else rows.contiguous()
        field = None if field is None else field.contiguous()
        alpha, setpoint = _fp32(alpha), _fp32(alpha if setpoint is None else setpoint)
        if n_rows == 1:  # a row that is not the last sees fewer keys, that is all
            visible_keys = length_on_device.reshape(1) if on_device else q_start + 1
            if not on_device and field is not None:
                field = field.truncated(q_start + 1)
            out, masses = _triton("decode").decode(
                q, k, v, field, law, alpha, setpoint, rows=rows, scale=scale, length=visible_keys, focus=focus
            )
        else:
            out, masses = _triton("prefill").prefill(
                q, k, v, field, law, alpha, setpoint, rows=rows, scale=scale, q_start=q_start, length=length,
                focus=focus,
            )  # fmt: skip
    else:
        length, q_start = _read_length(length, length_on_device, n_rows, q_start, field)
        run = steered_attention_sdpa if impl == "sdpa" else steered_attention_by_reference
        out, masses = run(q, k, v, field, law, alpha, setpoint, rows, scale, q_start, length, focus)
    return out.contiguous(), masses


def _run_as_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    visual: Tensor | None,
    weight_extrema: Tensor | None,
    gains: Tensor | None,
    start: int,
    has_gaps: bool,
    *options,
) -> tuple[Tensor, Tensor]:
    """`_run`, called by the dispatcher: nothing inside is recorded, the op as a whole has no gradient. The second
    result is empty unless focus is asked for."""
    field = None if weights is None else KeyField(weights, visual, weight_extrema, gains, start, has_gaps)
    with torch.no_grad():
        out, masses = _run(q, k, v, field, *options)
    return out, q.new_empty(0, dtype=torch.float32) if masses is None else masses


def _fake(
    q, k, v, weights, visual, weight_extrema, gains, start, has_gaps, law, alpha, setpoint, rows, scale, q_start,
    length, length_on_device, focus, impl,
):  # fmt: skip
    """Shapes and dtypes of `_run_as_op`'s results."""
    out = q.new_empty(*q.shape[:3], v.shape[3])
    return out, q.new_empty((*q.shape[:3], 2) if focus else 0, dtype=torch.float32)


# Registered by hand: torch.library.custom_op does the same and takes 10 µs more a call.
_LIBRARY = torch.library.Library("steer_ros", "FRAGMENT")
_LIBRARY.define("steered_attention" + _SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("steered_attention", _run_as_op, _key)
torch.library.register_fake("steer_ros::steered_attention", _fake, lib=_LIBRARY)


def _check_values(field: KeyField | None, law: str, alpha: Tensor, setpoint: Tensor | None) -> None:
    """What can be read without waiting for a device."""
    if not alpha.is_cuda:
        checks.check_alpha(float(alpha))
    if setpoint is not None and not setpoint.is_cuda:
        checks.check_setpoint(law, float(setpoint))
    readable = field is not None and not field.weights.is_cuda
    if law in checks.SETPOINT_LAWS and readable and int(field.weights.min()) < 0:
        raise ValueError(f"field: weights below 0 with law {law}; accepted are 0 to 127")


def _read_length(
    length: int, on_device: Tensor | None, n_rows: int, q_start: int, field: KeyField | None
) -> tuple[int, int]:
    """The valid length and the first row's position as numbers, checked."""
    if on_device is not None:
        keys, length = length, int(on_device)
        checks.check_length(length, n_rows, keys)
        if field is not None and field.end > length:
            raise ValueError(f"field: keys {field.start} to {field.end}; accepted are 0 to valid_length, {length}")
        if q_start != _LAST_ROWS:
            checks.check_first(q_start, n_rows, length)
    return length, length - n_rows if q_start == _LAST_ROWS else q_start


def _fp32(number: Tensor) -> Tensor:
    return number.reshape(1).to(torch.float32)


@cache
def _triton(name: str) -> ModuleType:
    """decode or prefill, imported when first asked for: Triton need not be there for the rest."""
    return importlib.import_module(f".impl.triton.{name}", __package__)


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def triton_unsupported_reason(q: Tensor, k: Tensor, v: Tensor) -> str:
    """Why the Triton kernels can't take this call, "" if they can. With ": " it is about an argument."""
    if not _triton_installed():
        return "Triton is not installed; accepted here are sdpa and reference"
    if not q.is_cuda:
        if q.device.type != "cpu" or os.environ.get("TRITON_INTERPRET") != "1":
            return f"q is on {q.device}; accepted are CUDA tensors, or CPU tensors with TRITON_INTERPRET=1"
    elif _capability(q.device.index) < (8, 0):
        major, minor = _capability(q.device.index)
        return f"this card has compute capability {major}.{minor}; accepted is 8.0 and up"
    if q.dtype == torch.float64:
        return "q: dtype torch.float64; accepted are float16, bfloat16, float32"
    if q.shape[3] != v.shape[3] or q.shape[3] not in (64, 80, 96, 128):
        return f"q: head sizes {q.shape[3]} and {v.shape[3]}; accepted are 64, 80, 96, 128, the same for q, k and v"
    if q.shape[1] // k.shape[1] > 16:
        return f"q: {q.shape[1] // k.shape[1]} query heads for a key head; accepted are 1 to 16"
    for name, tensor in (("k", k), ("v", v)):
        if tensor.stride(3) != 1:
            return f"{name}: last stride {tensor.stride(3)}; accepted is 1, call .contiguous()"
    return ""
