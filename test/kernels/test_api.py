"""The operator: one node for torch.compile, any strides and lengths, and never another implementation."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from kernel_cases import STEERING, attention_cases

from steer_ros.kernels import KeyField, api, make_key_field, steered_attention
from steer_ros.kernels.impl.sdpa import call as sdpa_call

torch.set_num_threads(1)
OP = torch.ops.steer_ros.steered_attention.default
SETPOINT = {"share": 0.8, "target": 0.3}


def inputs(rows=3, keys=20, gains=None, head_size=16):
    torch.manual_seed(0)
    q = torch.randn(1, 4, rows, head_size)
    k, v = torch.randn(2, 1, 2, keys, head_size)
    weights = torch.zeros(keys, dtype=torch.int8)
    weights[5:8] = torch.tensor([127, 60, 5])
    return q, k, v, make_key_field(weights, [(4, 6)], gains=gains)


def test_alpha_has_each_law_s_usual_value():
    q, k, v, field = inputs()
    for law, alpha in (("additive", 2.0), ("conserving", 2.0), ("share", 0.0), ("target", 0.0)):
        usual, _ = steered_attention(q, k, v, field, law, setpoint=SETPOINT.get(law))
        given_it, _ = steered_attention(q, k, v, field, law, alpha=alpha, setpoint=SETPOINT.get(law))
        assert torch.equal(usual, given_it)


@pytest.mark.parametrize("law", STEERING)
@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_strengths_and_lengths_may_be_tensors(law, impl):
    q, k, v, field = inputs()
    k[:, :, 15:], v[:, :, 15:] = math.nan, math.inf
    numbers = steered_attention(
        q, k, v, field, law, alpha=1.5, setpoint=SETPOINT.get(law), valid_length=15, focus=True, impl=impl
    )
    setpoint = SETPOINT.get(law)
    for length in (torch.tensor(15), torch.tensor([15], dtype=torch.int32)):
        tensors = steered_attention(
            q, k, v, field, law, alpha=torch.tensor(1.5),
            setpoint=None if setpoint is None else torch.tensor([setpoint]), valid_length=length, focus=True,
            impl=impl,
        )  # fmt: skip
        assert torch.allclose(tensors[0], numbers[0], atol=1e-6)
        assert torch.allclose(tensors[1], numbers[1], atol=1e-6)
    placed = steered_attention(
        q, k, v, field, law, alpha=1.5, setpoint=setpoint, valid_length=torch.tensor(18), q_start=12, focus=True,
        impl=impl,
    )  # fmt: skip
    assert torch.equal(placed[0], numbers[0])


@pytest.mark.parametrize("law", STEERING)
@pytest.mark.parametrize("impl", ["reference", "sdpa", "triton"])
def test_another_models_load_changes_nothing(law, impl, another_load):
    def run(rows):
        q, k, v, _ = tensors
        q = q[:, :, -rows:]
        if impl == "triton" and api.triton_unsupported_reason(q, k, v):
            pytest.skip(api.triton_unsupported_reason(q, k, v))
        dense = torch.zeros(20, dtype=torch.int8)
        dense[5:8] = 100
        field = make_key_field(dense, [(4, 6)], gains=[0.3, 1.0, 0.0, 2.0])
        for this in (field, None):
            yield from steered_attention(q, k, v, this, law, setpoint=SETPOINT.get(law), focus=True, impl=impl)

    tensors = inputs(head_size=64)
    for rows in (1, 3):
        wanted = list(run(rows))
        with another_load():
            found = list(run(rows))
        assert all(
            a.dtype == b.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(wanted, found, strict=True)
        )


@settings(max_examples=40, deadline=None)
@given(attention_cases(laws=("none", *STEERING)))
def test_strides_do_not_matter(case):
    """K and V as slices of a larger cache, with a stride of 0 over heads, and q as the model hands it over."""
    length = case.length
    q, k, v = case.q.float(), case.k.float(), case.v.float()
    k[:, :, length:] = v[:, :, length:] = 0.0
    strided_q = q.transpose(1, 2).contiguous().transpose(1, 2)
    one_k, one_v = k[:, :1].expand_as(k), v[:, :1].expand_as(v)  # stride 0
    turned_v = one_v.contiguous().transpose(2, 3).contiguous().transpose(2, 3)  # last stride not 1
    options = {"alpha": case.alpha, "setpoint": case.setpoint, "q_start": case.q_start, "valid_length": length}
    plain, _ = steered_attention(q, one_k.contiguous(), one_v.contiguous(), case.field, case.law, **options)
    other, _ = steered_attention(strided_q, one_k, turned_v, case.field, case.law, **options)
    assert torch.allclose(plain, other, atol=1e-5)
    assert plain.is_contiguous()
    assert other.is_contiguous()


IMPLS = ["reference", "sdpa"] + ["triton"] * (os.environ.get("TRITON_INTERPRET") == "1" and api._triton_installed())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("n_rows", [1, 5])
@pytest.mark.parametrize("law", STEERING)
def test_a_field_s_strides_do_not_matter(law, n_rows, impl):
    """A field for each sequence, cut short; gains that are a column of a table; a row gate of stride 0."""
    torch.manual_seed(0)
    q = torch.randn(2, 4, n_rows, 64)
    k, v = torch.randn(2, 2, 2, 30, 64)
    weights = torch.zeros(2, 30, dtype=torch.int8)
    weights[:, 3:9], weights[:, 12:18] = torch.randint(0, 128, (2, 2, 6), dtype=torch.int8)
    gains = torch.tensor([[1.0, 9.0], [0.0, 9.0], [1.0, 9.0], [0.5, 9.0]])[:, 0]
    cut = make_key_field(weights, [(3, 6), (12, 8)], gains=gains).truncated(15)
    strided = KeyField(cut.weights, cut.visual, cut.weight_extrema, gains, cut.start)
    whole = make_key_field(weights[:, :15], [(3, 6), (12, 3)], gains=gains.contiguous())
    options = {"setpoint": SETPOINT.get(law), "focus": True}
    wanted = steered_attention(q, k, v, whole, law, impl="reference", **options)
    got = steered_attention(q, k, v, strided, law, rows=torch.tensor([True]).expand(n_rows), impl=impl, **options)
    for one, other in zip(got, wanted):
        assert torch.allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("law", ["none", *STEERING])
def test_the_call_and_the_op_are_the_same(law):
    """Where nothing traces, the op is run without PyTorch's dispatcher; with gradients it is not."""
    for rows in (1, 3):
        q, k, v, field = inputs(rows)
        alpha = torch.tensor([1.5])
        direct, _ = steered_attention(q, k, v, field, law, alpha=alpha, setpoint=SETPOINT.get(law))
        assert not api._is_plain_call(q.requires_grad_(), k, v, field, alpha, None)
        by_op, _ = steered_attention(q, k, v, field, law, alpha=alpha, setpoint=SETPOINT.get(law))
        assert torch.equal(direct, by_op.detach())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("law", ["none", *STEERING])
def test_torch_compile_sees_one_node(backend, law):
    q, k, v, field = inputs()
    setpoint = SETPOINT.get(law)
    graphs = []

    def keep(graph, example_inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, example_inputs)

    @torch.compile(fullgraph=True, backend=keep)
    def model(q, k, v, field):
        out, focus = steered_attention(q * 2, k, v, field, law, alpha=1.5, setpoint=setpoint, focus=True)
        return out + 1, focus

    out, focus = model(q, k, v, field)
    wanted, wanted_focus = steered_attention(q * 2, k, v, field, law, alpha=1.5, setpoint=setpoint, focus=True)
    assert torch.equal(out, wanted + 1)
    assert torch.equal(focus, wanted_focus)
    (graph,) = graphs
    assert sum(node.target in (OP, OP.overloadpacket) for node in graph.graph.nodes) == 1
    torch._dynamo.reset()


def test_torch_compile_takes_any_length():
    @torch.compile(fullgraph=True, backend="eager", dynamic=True)
    def model(q, k, v, field):
        return steered_attention(q, k, v, field, "conserving", alpha=2.0)[0]

    for keys in (20, 23, 31):
        q, k, v, field = inputs(keys=keys)
        assert torch.equal(model(q, k, v, field), steered_attention(q, k, v, field, "conserving", alpha=2.0)[0])
    torch._dynamo.reset()


@pytest.mark.parametrize("law", ["none", *STEERING])
@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_the_op_is_registered_as_pytorch_wants_it(law, impl):
    setpoint = SETPOINT.get(law)
    for focus, on_device, gains in ((True, None, None), (False, torch.tensor([18]), torch.tensor([1.0, 0, 2, -1]))):
        q, k, v, field = inputs(gains=gains)
        arguments = (
            q, k, v, field.weights, field.visual, field.weight_extrema, field.gains, field.start, field.has_gaps, law,
            torch.tensor([1.5]), None if setpoint is None else torch.tensor([setpoint]),
            torch.tensor([True, False, True]), 0.25, 17 if on_device is None else -1, 20, on_device, focus, impl,
        )  # fmt: skip
        torch.library.opcheck(OP, arguments)
    options = ("none", torch.zeros(1), None, None, 0.25, 17, 20, None, False, impl)
    torch.library.opcheck(OP, (q, k, v, None, None, None, None, 0, False, *options))


def test_a_named_implementation_never_falls_back(monkeypatch):
    q, k, v, field = inputs()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r"impl: triton; .*accepted"):
        steered_attention(q, k, v, field, "additive", impl="triton")
    monkeypatch.setattr(api, "_triton_installed", lambda: False)
    with pytest.raises(RuntimeError, match="impl: triton; Triton is not installed; accepted"):
        steered_attention(q, k, v, field, "additive", impl="triton")
    steered_attention(q, k, v, field, "additive", impl="auto")


@pytest.mark.skipif(not api._triton_installed(), reason="Triton is not installed")
def test_what_triton_cannot_take_is_named(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for change, name in (
        ({"head_size": 16}, "q: head sizes"),
        ({"head_size": 64, "dtype": torch.float64}, "q: dtype"),
        ({"head_size": 64, "turned": True}, "v: last stride"),
    ):
        q, k, v, field = inputs(head_size=change["head_size"])
        q, k, v = (t.to(change.get("dtype", torch.float32)) for t in (q, k, v))
        if change.get("turned"):
            v = v.transpose(2, 3).contiguous().transpose(2, 3)
        with pytest.raises(ValueError, match=f"impl: triton; {name}.*accepted"):
            steered_attention(q, k, v, field, "additive", impl="triton")


def test_a_card_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(api, "_triton_installed", lambda: True)
    monkeypatch.setattr(api, "_capability", lambda index: (7, 5))
    on_card = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0))
    reason = api.triton_unsupported_reason(on_card, on_card, on_card)
    assert reason == "this card has compute capability 7.5; accepted is 8.0 and up"
    q, k, v, field = inputs()
    monkeypatch.setattr(api, "triton_unsupported_reason", lambda q, k, v: reason)
    with pytest.raises(RuntimeError, match=r"impl: triton; this card .*accepted is 8\.0"):
        steered_attention(q, k, v, field, "additive", impl="triton")


CUDA = torch.cuda.is_available()


@pytest.mark.skipif(
    not api._triton_installed() or not (CUDA or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs a GPU, or Triton's interpreter",
)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(attention_cases(laws=("none", *STEERING), head_sizes=(64, 80), max_rows=3))
def test_triton_is_the_specification(case):
    case = case.rounded(torch.float32)
    wanted, wanted_focus = case.call("reference")
    if case.gains is not None:
        case.gains = case.gains.to(torch.float8_e4m3fn)  # 0, ±0.5 and ±1, which it holds
    out, focus = case.call("triton", torch.float32, device="cuda" if CUDA else "cpu")
    tolerance = 1e-2 if CUDA else 1e-4  # tensor cores round fp32 to TF32
    assert torch.allclose(out.double().cpu(), wanted, atol=tolerance)
    assert torch.allclose(focus.cpu(), wanted_focus, atol=tolerance)


def test_without_triton_the_rest_works():
    """In a process of its own, where importing triton fails."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from steer_ros.kernels import make_key_field, steered_attention\n"
        "q, k = torch.randn(1, 4, 2, 64), torch.randn(1, 2, 9, 64)\n"
        "field = make_key_field(torch.ones(9, dtype=torch.int8)[:4], [(0, 4)])\n"
        "out, _ = steered_attention(q, k, k, field, 'additive')\n"
        "print(out.shape[-1])\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=240)
    assert done.stdout.strip() == "64", done.stderr


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("rows", [1, 3])
def test_autocast_changes_nothing(impl, rows):
    q, k, v, field = inputs(rows)
    for law in STEERING:
        plain = steered_attention(q, k, v, field, law, setpoint=SETPOINT.get(law), impl=impl, focus=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = steered_attention(q, k, v, field, law, setpoint=SETPOINT.get(law), impl=impl, focus=True)
        assert cast[0].dtype == torch.float32
        assert all(torch.equal(*pair) for pair in zip(plain, cast, strict=True))


@pytest.mark.filterwarnings("ignore:.*autograd kernel was not registered")
@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_gains_that_learn_give_no_gradient_and_leave_none_behind(impl):
    gains = torch.nn.Parameter(torch.tensor([0.5, 1.0, 2.0, 1.0]))
    q, k, v, made = inputs(1, gains=gains)
    own = KeyField(made.weights, made.visual, made.weight_extrema, gains, made.start)
    first, _ = steered_attention(q, k, v, own, "conserving", impl=impl)  # by the operator, which has no gradient
    then, _ = steered_attention(q, k, v, made, "conserving", impl=impl)
    assert not then.requires_grad and torch.equal(first, then)
    if impl == "sdpa":
        kept = [row_bias for *_, row_bias in sdpa_call._CACHE.values() if row_bias is not None]
        tensors = [t for row_bias in kept for t in vars(row_bias).values() if torch.is_tensor(t)]
        assert kept and not any(t.requires_grad for t in tensors)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_a_strength_may_be_any_tensor_of_one_number(impl):
    q, k, v, field = inputs()
    one, _ = steered_attention(q, k, v, field, "additive", alpha=torch.tensor([3.0]), impl=impl)
    for shape in ((), (1, 1)):
        assert torch.equal(
            steered_attention(q, k, v, field, "additive", alpha=torch.full(shape, 3.0), impl=impl)[0], one
        )
