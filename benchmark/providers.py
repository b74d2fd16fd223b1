"""Who computes the attention that is timed: ours, and what PyTorch and Transformers offer.

A provider makes, from the inputs of a case, one function of k and v [1, Hk, K, D] that enqueues one attention call
and returns its output [1, Hq, S, D].
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from cases import LAWS, Inputs
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from steer_ros.kernels import steered_attention

Attend = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Provider:
    """name: of the implementation. law: what it computes. how: its variant; of several variants of one name and law
    the fastest is reported. make: inputs → the attention; raises where it can't."""

    name: str
    law: str
    how: str
    make: Callable[[Inputs], Attend]

    def calls(self, inputs: Inputs) -> list[Callable[[], Tensor]]:
        """One call for each copy of K and V."""
        attend = self.make(inputs)
        return [partial(attend, k, v) for k, v in zip(inputs.k, inputs.v)]


def providers(device: torch.device, *, flex: bool) -> list[Provider]:
    """All of them, ours first."""
    cuda = device.type == "cuda"
    impl = "triton" if cuda else "sdpa"
    chosen = [Provider("ours", law, impl, partial(_ours, law, impl)) for law in LAWS]
    if cuda:
        backends = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
        layouts = ("gqa", "packed", "repeated")
    else:  # plain SDPA as one calls it, and its fastest layout apart
        backends, layouts = ("DEFAULT",), ("gqa", "packed")
    for law in ("none", "additive"):
        for backend in backends:
            for layout in layouts:
                name = "sdpa" if cuda or layout == "gqa" else "sdpa packed"
                how = f"{backend.removesuffix('_ATTENTION').lower()}, {layout}"
                chosen.append(Provider(name, law, how, partial(_sdpa, law, backend, layout)))
    if flex:
        chosen.append(Provider("flex", "additive", "score_mod", _flex))
    return [*chosen, *(Provider("eager", law, "repeated", partial(_eager, law)) for law in ("none", "additive"))]


def plain_pytorch(inputs: Inputs) -> list[tuple[str, Callable[[], Tensor]]]:
    """The calls whose error against float64 is the measure of everybody's: (law, call)."""
    k, v, bias, q, case = inputs.k[0], inputs.v[0], inputs.bias("none", inputs.dtype), inputs.q, inputs.case
    group = case.heads[0] // case.heads[1]
    calls = [
        ("none", lambda: scaled_dot_product_attention(q, _repeated(k, group), _repeated(v, group), attn_mask=bias)),
        ("none", partial(_eager("none", inputs), k, v)),
        ("additive", partial(_eager("additive", inputs), k, v)),
    ]
    if case.rows == 1:  # PyTorch sums in another order, and errs more on a CPU, with a group's heads as rows
        packed = q.reshape(1, case.heads[1], group, case.head_size)
        calls.append(("none", lambda: scaled_dot_product_attention(packed, k, v).reshape(q.shape)))
    return calls


def _ours(law: str, impl: str, inputs: Inputs) -> Attend:
    """As the models call it: alpha, setpoint and, at decode, the length on the device."""
    case, q = inputs.case, inputs.q
    field = None if law == "none" else inputs.field
    length = inputs.length if case.stage == "decode" and impl == "triton" else case.keys
    arguments = dict(alpha=inputs.alpha[law], setpoint=inputs.setpoint[law], valid_length=length, impl=impl)
    return lambda k, v: steered_attention(q, k, v, field, law, **arguments)[0]


def _sdpa(law: str, backend: str, layout: str, inputs: Inputs) -> Attend:
    """backend: of SDPBackend, or "DEFAULT": PyTorch's own choice, without the 10 µs that asking for one costs a CPU.
    layout: "gqa" by PyTorch's own flag, "packed" (decode: a group's heads as rows of one key head), "repeated"
    (K and V repeated in the call, as Transformers does)."""
    q, case = inputs.q, inputs.case
    q_heads, k_heads = case.heads
    group = q_heads // k_heads
    if group == 1 and layout != "gqa":
        raise ValueError("a group of one needs no such layout")
    options: dict[str, object] = {"enable_gqa": layout == "gqa" and group > 1}
    if law == "additive":
        options["attn_mask"] = inputs.bias(law, q.dtype)
    elif case.stage == "prefill":
        options["is_causal"] = True
    elif case.stage == "text rows":
        options["attn_mask"] = causal_lower_right(case.rows, case.keys) if q.is_cuda else inputs.causal()
    if layout == "packed":
        if case.rows > 1:
            raise ValueError("packed is for one row")
        q = q.reshape(1, k_heads, group, case.head_size)

    def attend(k: Tensor, v: Tensor) -> Tensor:
        if layout == "repeated":
            k, v = _repeated(k, group), _repeated(v, group)
        with nullcontext() if backend == "DEFAULT" else sdpa_kernel(getattr(SDPBackend, backend)):
            out = scaled_dot_product_attention(q, k, v, **options)
        return out.reshape(1, q_heads, case.rows, case.head_size)

    return attend


def _flex(inputs: Inputs) -> Attend:
    """FlexAttention, compiled for the case, with the additive bias as its score_mod."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, case, text = inputs.q, inputs.case, inputs.text
    bias, first = LAWS["additive"][0] * inputs.w, case.keys - case.rows

    def steer_one(score, batch, head, row, key):
        return score + bias[key]

    def steer_text(score, batch, head, row, key):
        return score + torch.where(text[row], bias[key], 0.0)

    def causal(batch, head, row, key):
        return key <= row + first

    options: dict[str, object] = {"score_mod": steer_one, "enable_gqa": case.heads[0] != case.heads[1]}
    if case.rows > 1:
        mask = create_block_mask(causal, None, None, case.rows, case.keys, device=inputs.device)
        options.update(score_mod=steer_text, block_mask=mask)
    torch._dynamo.reset()  # past the recompile limit it would quietly run uncompiled
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda k, v: compiled(q, k, v, **options)


def _eager(law: str, inputs: Inputs) -> Attend:
    bias = inputs.bias(law, inputs.dtype)
    return lambda k, v: eager_attention(inputs.q, k, v, bias)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """What Transformers' eager attention does for these models: K and V repeated, the mask added to the scores in
    q's dtype, softmax in float32. q [1, Hq, S, D]; bias [1, 1, S, K] or None."""
    group = q.shape[1] // k.shape[1]
    scores = torch.matmul(q, _repeated(k, group).transpose(2, 3)) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    return torch.matmul(scores.softmax(-1, dtype=torch.float32).to(q.dtype), _repeated(v, group))


def _repeated(t: Tensor, group: int) -> Tensor:
    """[1, Hk, K, D] → [1, Hk · group, K, D]."""
    return t if group == 1 else t[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2)
